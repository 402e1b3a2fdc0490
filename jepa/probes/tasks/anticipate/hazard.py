"""When does it start? Discrete-time hazards over a few horizons.

The time after a window is cut into K bins at the horizons. A head gives one logit per category and bin; its
sigmoid is the probability that the hazard starts in that bin, given that it has not started before. The
probability that it starts within a horizon is one minus the product of the survivals up to there (Tutz and
Schmid, Modeling Discrete Time-to-Event Data, 2016): it cannot fall with the horizon, whatever the head says.

Axes: n moments, H categories, K bins; S seeds and G heads as in `heads`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jepa.probes.evaluation.calibration import fit_platt
from jepa.probes.evaluation.metrics import brier, calibration_error

_CALIBRATION_PARTS = 5


def cumulative(logits: Tensor) -> Tensor:
    """Probability of a start within each horizon: [..., H, K] hazard logits -> [..., H, K], never
    decreasing."""
    return 1 - functional.logsigmoid(-logits).cumsum(-1).exp()


def at_risk(event: Tensor, observed: Tensor, bins: int) -> Tensor:
    """Bins whose outcome is known and that were entered without a start: [n, H, K] bool.

    Args:
        event: [n, H] bin of the next onset, K for none.
        observed: [n] bins that lie before the end of the record.
        bins: K.
    """
    number = torch.arange(bins)
    known = (number < observed.view(-1, 1, 1)) | (number == event.unsqueeze(-1))
    return known & (number <= event.unsqueeze(-1))


def known_outcome(event: Tensor, observed: Tensor, bins: int) -> Tensor:
    """Horizons for which it is known whether a start fell within: [n, H, K] bool."""
    number = torch.arange(bins)
    return (number < observed.view(-1, 1, 1)) | (number >= event.unsqueeze(-1))


def hazard_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log likelihood per sample [S, G, B] of logits [S, G, B, H*K].

    Args:
        logits: hazard logits of all categories and bins.
        targets: [S, B, H, 2, K]; entry 0 is 1 in the bin of the onset, entry 1 is 1 for bins at risk.
    """
    categories, bins = targets.shape[-3], targets.shape[-1]
    values = logits.unflatten(-1, (categories, bins))
    happened, risk = targets.unsqueeze(1).unbind(-2)
    each = functional.binary_cross_entropy_with_logits(values, happened.expand_as(values), reduction="none")
    return (each * risk).sum((-1, -2))


def hazard_targets(event: Tensor, observed: Tensor, bins: int) -> Tensor:
    """Targets [n, H, 2, K] for `hazard_loss`."""
    happened = torch.arange(bins) == event.unsqueeze(-1)
    return torch.stack([happened, at_risk(event, observed, bins)], dim=-2).float()


def base_logits(
    targets: Tensor, weight: Tensor | None = None, pull: float = 0.0, to: Tensor | None = None
) -> Tensor:
    """Logits [H, K] of the share of onsets among those at risk (the life-table estimate).

    Args:
        targets: [n, H, 2, K].
        weight: [n], weight of each moment.
        pull: as many imagined moments with the rates `to`.
        to: logits [H, K].
    """
    w = torch.ones(len(targets)) if weight is None else weight
    happened, risk = (targets * w.view(-1, 1, 1, 1)).sum(0).unbind(-2)
    prior = torch.full_like(risk, 0.5) if to is None else to.sigmoid()
    amount = pull if to is not None else 1.0
    return torch.logit((happened + amount * prior) / (risk + amount), eps=1e-6)


def calibrate_hazards(logits: Tensor, targets: Tensor, groups: Sequence[str]) -> Tensor:
    """Scale and offset per category [H, 2] fitted on moments that trained nothing.

    Acting on the hazard's logit keeps the cumulative probability from falling, which a free map per horizon
    would not.

    A few dozen videos hold a few onsets of each hazard, each seen from many moments: a map fitted on them can be worse
    than none, since heads start at the base rates and are fitted by likelihood. So a category keeps its map only if
    maps fitted on four fifths of the groups raise the likelihood of the last fifth, by more than one standard error
    over groups.

    Args:
        logits: hazard logits [n, H, K].
        targets: [n, H, 2, K], see `hazard_targets`.
        groups: [n] names of what belongs together, such as videos.
    """
    number = torch.from_numpy(np.unique(np.asarray(groups), return_inverse=True)[1])
    identity = torch.tensor([[1.0, 0.0]]).expand(logits.shape[-2], 2)
    count = int(number.max()) + 1
    if count < _CALIBRATION_PARTS:
        return identity.clone()
    mapped = torch.empty_like(logits)
    for part in range(_CALIBRATION_PARTS):
        held = number % _CALIBRATION_PARTS == part
        mapped[held] = apply_calibration(logits[held], _platt(logits[~held], targets[~held]))
    gain = torch.zeros(count, logits.shape[-2]).index_add_(
        0, number, _losses(logits, targets) - _losses(mapped, targets)
    )
    proven = gain.sum(0) > gain.std(0) * count**0.5
    return torch.where(proven.unsqueeze(-1), _platt(logits, targets), identity)


def _platt(logits: Tensor, targets: Tensor) -> Tensor:
    """Scale and offset per category [H, 2]."""
    fitted = []
    for category in range(logits.shape[-2]):
        happened, risk = targets[:, category].unbind(-2)
        scores = logits[:, category].flatten()
        if float((happened * risk).sum()) < 1:
            fitted.append((1.0, 0.0))  # no onset to learn from: left as it is
            continue
        fitted.append(fit_platt(scores, happened.flatten(), risk.flatten()))
    return torch.tensor(fitted).view(-1, 2)


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log likelihood per moment and category [n, H]."""
    happened, risk = targets.unbind(-2)
    each = functional.binary_cross_entropy_with_logits(logits, happened, reduction="none")
    return (each * risk).sum(-1)


def apply_calibration(logits: Tensor, calibration: Tensor) -> Tensor:
    """Calibrated hazard logits [..., H, K]."""
    return logits * calibration[:, :1] + calibration[:, 1:]


def hazard_figures(
    probability: np.ndarray, event: Tensor, observed: Tensor, base: np.ndarray, horizons_s: Sequence[float]
) -> list[dict[str, Any]]:
    """Figures per category and horizon on moments whose outcome is known.

    Args:
        probability: [n, H, K] cumulative forecasts.
        event: [n, H].
        observed: [n].
        base: [n, H, K] forecasts of the base rate from the training part, for the skill.
        horizons_s: K horizons.

    Returns:
        One dict per (category number, horizon): moments, share that happened, AP, AUC, Brier, Brier skill
        over the base rate (1 perfect, 0 no better), ECE. AP and AUC are None where nothing or everything
        happened.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    bins = len(horizons_s)
    known = known_outcome(event, observed, bins).numpy()
    rows = []
    for category in range(event.shape[1]):
        for k, horizon in enumerate(horizons_s):
            here = known[:, category, k]
            happened = (event[:, category].numpy() <= k)[here].astype(float)
            p, q = probability[here, category, k], base[here, category, k]
            mixed = 0 < happened.sum() < len(happened)
            if not len(happened):
                happened = p = q = np.zeros(1)
            error, reference = brier(p, happened), brier(q, happened)
            rows.append(
                {
                    "category": category,
                    "horizon_s": float(horizon),
                    "moments": int(here.sum()),
                    "share": float(happened.mean()),
                    "ap": float(average_precision_score(happened, p)) if mixed else None,
                    "auc": float(roc_auc_score(happened, p)) if mixed else None,
                    "brier": error,
                    "base_brier": reference,
                    "ece": calibration_error(p, happened),
                }
            )
    return rows
