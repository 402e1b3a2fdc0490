"""Detection of one class: AUC, average precision (AP), precision at a fixed recall, and calibration, with intervals.

Intervals resample entire groups (cluster bootstrap). All draws are computed at once from one sorted order: a draw only
changes how often each sample counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jepa.probes.evaluation.metrics import calibration_error
from jepa.rng import generator

RECALL = 0.9


def detection_report(
    probability: np.ndarray, happened: np.ndarray, groups: Sequence[str], draws: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """How well a probability finds the samples of one class.

    Args:
        probability: of the class [n].
        happened: 1 for samples of the class, else 0 [n].
        groups: group of each sample.
        draws: bootstrap draws.
        seed: of the draws.

    Returns:
        auc, average_precision, precision_at_recall (the highest precision with a recall of at least 0.9), ece (15 bins
        of equal mass), each with `_interval` (95 %), and prevalence, the precision of a constant. Values are None where
        only one of both outcomes occurs.

    Example:
        >>> report = detection_report(np.array([0.9, 0.8, 0.3, 0.1]), np.array([1, 0, 1, 0]), ["a", "b", "c", "d"])
        >>> report["auc"], round(report["average_precision"], 3), round(report["precision_at_recall"], 3)
        (0.75, 0.833, 0.667)
    """
    happened = np.asarray(happened, float)
    out: dict[str, Any] = {"prevalence": float(happened.mean()), "recall": RECALL}
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    count = int(group_of.max()) + 1
    drawn = generator([seed, 0xDE7E]).multinomial(count, np.full(count, 1 / count), size=draws)
    weights = np.concatenate([np.ones((1, len(happened))), drawn[:, group_of]])
    for name, values in ranking_metrics(probability, happened, weights).items():
        known = values[1:][np.isfinite(values[1:])]
        out[name] = float(values[0]) if np.isfinite(values[0]) else None
        out[f"{name}_interval"] = np.quantile(known, [0.025, 0.975]).tolist() if len(known) else None
    out["ece"] = calibration_error(probability, happened)
    members = [np.flatnonzero(group_of == number) for number in range(count)]
    errors = []
    for times in drawn:
        rows = np.concatenate([np.tile(members[g], k) for g, k in enumerate(times) if k])
        errors.append(calibration_error(probability[rows], happened[rows]))
    out["ece_interval"] = np.quantile(errors, [0.025, 0.975]).tolist()
    return out


def ranking_metrics(
    scores: np.ndarray, happened: np.ndarray, weights: np.ndarray, recall: float = RECALL
) -> dict[str, np.ndarray]:
    """AUC, average precision and precision at a recall, for many weightings of the samples at once.

    Equal scores are one threshold, as in scikit-learn.

    Args:
        scores: [n].
        happened: 0 or 1 [n].
        weights: how often each sample counts [draws, n].
        recall: the precision is the highest one of the thresholds with at least this recall.

    Returns:
        auc, average_precision and precision_at_recall, each [draws]; NaN where a weighting lacks one outcome.

    Example:
        >>> metrics = ranking_metrics(np.array([0.9, 0.1]), np.array([1, 0]), np.ones((1, 2)))
        >>> [float(values[0]) for values in metrics.values()]
        [1.0, 1.0, 1.0]
    """
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    sorted_weights, hit = weights[:, order], np.asarray(happened, float)[order]
    true = np.cumsum(np.add.reduceat(sorted_weights * hit, starts, axis=1), axis=1)
    false = np.cumsum(np.add.reduceat(sorted_weights * (1 - hit), starts, axis=1), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, fallout = true / true[:, -1:], false / false[:, -1:]
        precision = true / (true + false)
        steps = np.diff(sensitivity, axis=1, prepend=0)
        heights = np.concatenate([np.zeros((len(weights), 1)), sensitivity], axis=1)
        auc = (np.diff(fallout, axis=1, prepend=0) * (heights[:, 1:] + heights[:, :-1]) / 2).sum(1)
        found = np.where(sensitivity >= recall - 1e-12, np.nan_to_num(precision), 0).max(1)
        average = (steps * np.nan_to_num(precision)).sum(1)
    mixed = (true[:, -1] > 0) & (false[:, -1] > 0)
    return {
        "auc": np.where(mixed, auc, np.nan),
        "average_precision": np.where(mixed, average, np.nan),
        "precision_at_recall": np.where(mixed, found, np.nan),
    }
