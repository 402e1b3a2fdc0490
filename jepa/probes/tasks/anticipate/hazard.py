"""Discrete-time survival analysis: the hazard that an event starts, over a few horizons.

The time after a window is cut into K bins at the horizons. A head gives one logit per category and bin; its
sigmoid is the probability that the hazard starts in that bin, given that it has not started before. The
probability that it starts within a horizon is one minus the product of the survivals up to there (Tutz and
Schmid, Modeling Discrete Time-to-Event Data, 2016): it cannot fall with the horizon, whatever the logits are.

Axes: n windows, H categories, K bins; S seeds and G heads as in `heads`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jepa.probes.evaluation.calibration import fit_platt
from jepa.probes.heads.base import Targets

_CALIBRATION_PARTS = 5


def cumulative(logits: Tensor) -> Tensor:
    """Probability of a start within each horizon: [..., H, K] hazard logits -> [..., H, K], never
    decreasing.

    Example:
        >>> cumulative(torch.zeros(1, 2)).tolist()
        [[0.5, 0.75]]
    """
    return 1 - functional.logsigmoid(-logits).cumsum(-1).exp()


def at_risk(event: Tensor, observed: Tensor, bins: int) -> Tensor:
    """Bins whose outcome is known and that were entered without a start: [n, H, K] bool.

    Args:
        event: [n, H] bin of the next onset, K for none.
        observed: [n] bins before the end of the record.
        bins: K.

    Example:
        >>> at_risk(torch.tensor([[1]]), torch.tensor([3]), 3).tolist()
        [[[True, True, False]]]
    """
    number = torch.arange(bins)
    known = (number < observed.view(-1, 1, 1)) | (number == event.unsqueeze(-1))
    return known & (number <= event.unsqueeze(-1))


def known_outcome(event: Tensor, observed: Tensor, bins: int) -> Tensor:
    """Horizons for which it is known whether a start fell within: [n, H, K] bool.

    Example:
        >>> known_outcome(torch.tensor([[3]]), torch.tensor([1]), 3).tolist()
        [[[True, False, False]]]
    """
    number = torch.arange(bins)
    return (number < observed.view(-1, 1, 1)) | (number >= event.unsqueeze(-1))


def hazard_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log likelihood per sample [S, G, B] of logits [S, G, B, H*K].

    Args:
        logits: hazard logits of all categories and bins.
        targets: [S, B, H, 2, K]; entry 0 is 1 in the bin of the onset, entry 1 is 1 for bins at risk.

    Example:
        >>> targets = hazard_targets(torch.tensor([[0]]), torch.tensor([2]), 2)
        >>> hazard_loss(torch.zeros(1, 1, 1, 2), targets[None]).shape
        torch.Size([1, 1, 1])
    """
    categories, bins = targets.shape[-3], targets.shape[-1]
    values = logits.unflatten(-1, (categories, bins))
    happened, risk = targets.unsqueeze(1).unbind(-2)
    each = functional.binary_cross_entropy_with_logits(values, happened.expand_as(values), reduction="none")
    return (each * risk).sum((-1, -2))


def hazard_targets(event: Tensor, observed: Tensor, bins: int) -> Tensor:
    """Targets [n, H, 2, K] for `hazard_loss`.

    Example:
        >>> hazard_targets(torch.tensor([[1]]), torch.tensor([2]), 2).tolist()
        [[[[0.0, 1.0], [1.0, 1.0]]]]
    """
    happened = torch.arange(bins) == event.unsqueeze(-1)
    return torch.stack([happened, at_risk(event, observed, bins)], dim=-2).float()


def base_logits(
    targets: Tensor, weight: Tensor | None = None, pull: float = 0.0, to: Tensor | None = None
) -> Tensor:
    """Logits [H, K] of the fraction of onsets among those at risk (the life-table estimate).

    Args:
        targets: [n, H, 2, K].
        weight: [n], weight of each window.
        pull: as many pseudo-observations with the rates `to`.
        to: logits [H, K].

    Example:
        >>> targets = hazard_targets(torch.tensor([[0], [1], [1], [1]]), torch.full((4,), 1), 1)
        >>> base_logits(targets).sigmoid().tolist()
        [[0.30000001192092896]]
    """
    w = torch.ones(len(targets)) if weight is None else weight
    happened, risk = (targets * w.view(-1, 1, 1, 1)).sum(0).unbind(-2)
    prior = torch.full_like(risk, 0.5) if to is None else to.sigmoid()
    amount = pull if to is not None else 1.0
    return torch.logit((happened + amount * prior) / (risk + amount), eps=1e-6)


def calibrate_hazards(logits: Tensor, targets: Tensor, groups: Sequence[str]) -> Tensor:
    """Scale and offset per category [H, 2] fitted on windows that trained nothing.

    Acting on the hazard's logit keeps the cumulative probability from falling, which a free map per horizon
    would not.

    A few dozen videos hold a few onsets of each hazard, each within many windows: a map fitted on them can be worse
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
        left_out = number % _CALIBRATION_PARTS == part
        fitted = _platt(logits[~left_out], targets[~left_out])
        mapped[left_out] = apply_calibration(logits[left_out], fitted)
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
    """Negative log likelihood per window and category [n, H]."""
    happened, risk = targets.unbind(-2)
    each = functional.binary_cross_entropy_with_logits(logits, happened, reduction="none")
    return (each * risk).sum(-1)


def apply_calibration(logits: Tensor, calibration: Tensor) -> Tensor:
    """Calibrated hazard logits [..., H, K].

    Example:
        >>> apply_calibration(torch.ones(1, 2), torch.tensor([[2.0, -1.0]])).tolist()
        [[1.0, 1.0]]
    """
    return logits * calibration[:, :1] + calibration[:, 1:]


@dataclass(frozen=True)
class HazardCalibration:
    """Probabilities of a start within each horizon from hazard logits: Platt scaling per category.

    Example:
        >>> HazardCalibration(torch.tensor([[1.0, 0.0]]), bins=2)(torch.zeros(3, 2)).shape
        torch.Size([3, 1, 2])
    """

    maps: Tensor
    """scale and offset per category [H, 2]"""
    bins: int
    """K"""

    def __call__(self, logits: Tensor) -> Tensor:
        """Probabilities [m, H, K] from logits [m, H * K], never decreasing along the last axis."""
        return cumulative(apply_calibration(logits.unflatten(-1, (len(self.maps), self.bins)), self.maps))


def hazard_problem(event: Tensor, observed: Tensor, bins: int) -> Targets:
    """Hazards as targets of heads: survival likelihood, started at the base rates, calibrated on validation windows.

    Args:
        event: [n, H] bin of the next onset, K for none.
        observed: [n] bins before the end of the record.
        bins: K.

    Example:
        >>> hazard_problem(torch.tensor([[0], [2]]), torch.tensor([2, 2]), bins=2).outputs
        2
    """
    values = hazard_targets(event, observed, bins)
    categories = event.shape[1]

    def score(logits: Tensor, targets: Tensor, clips: int) -> tuple[Tensor, Tensor]:
        loss = hazard_loss(logits.unsqueeze(0), targets.unsqueeze(0))[0].mean(-1)
        return -loss, loss

    def calibrate(logits: Tensor, targets: Tensor, groups: Sequence[str]) -> HazardCalibration:
        shaped = logits.unflatten(-1, (categories, bins))
        return HazardCalibration(calibrate_hazards(shaped, targets, groups), bins)

    return Targets(values, categories * bins, hazard_loss, score, calibrate, initial_bias=base_logits)
