"""Metrics: classification report, group bootstrap intervals, expected calibration error (ECE), Brier score.

What scikit-learn has is taken from there.

Intervals resample entire groups, because samples of one group are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jepa.rng import generator


def classification_report(
    probability: np.ndarray, targets: np.ndarray, groups: Sequence[str]
) -> dict[str, Any]:
    """The metrics of one head on tested samples.

    Args:
        probability: [n, C], rows sum to 1.
        targets: class numbers [n].
        groups: group of each sample.

    Returns:
        accuracy, class_mean (mean recall over the classes present), top3, macro_f1, log_loss, brier, macro_auc,
        macro_map (the last two None where a class is absent or covers everything), the confusion matrix [true,
        predicted], reliability (equal-mass bins of the prediction's confidence), and per_group accuracy.

    Example:
        >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
        >>> classification_report(p, np.array([0, 1, 1]), ["a", "b", "b"])["class_mean"]
        0.75
    """
    from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, log_loss, roc_auc_score

    count = probability.shape[1]
    predicted = probability.argmax(1)
    confusion = confusion_matrix(targets, predicted, labels=range(count))
    present = confusion.sum(1) > 0
    top = np.argsort(-probability, axis=1)[:, :3]
    # Sums in single precision are off by more than scikit-learn puts up with.
    probability = probability / probability.sum(1, keepdims=True)
    report: dict[str, Any] = {
        "accuracy": float((predicted == targets).mean()),
        "class_mean": float((np.diag(confusion)[present] / confusion.sum(1)[present]).mean()),
        "top3": float((top == targets[:, None]).any(1).mean()),
        "macro_f1": float(
            f1_score(targets, predicted, labels=np.flatnonzero(present), average="macro", zero_division=0)
        ),
        "log_loss": float(log_loss(targets, probability, labels=range(count))),
        "brier": brier_classes(probability, targets),
        "macro_auc": None,
        "macro_map": None,
        "confusion": confusion.tolist(),
    }
    onehot = np.eye(count)[targets]
    if present.all():
        report["macro_auc"] = float(roc_auc_score(onehot, probability, average="macro"))
        report["macro_map"] = float(average_precision_score(onehot, probability, average="macro"))
    report["reliability"] = equal_mass_bins(probability.max(1), predicted == targets, 10)
    names = np.asarray(groups)
    report["per_group"] = {str(g): float((predicted == targets)[names == g].mean()) for g in np.unique(names)}
    return report


def group_bootstrap(
    values: np.ndarray, groups: Sequence[str], draws: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a mean when entire groups are drawn with replacement (Efron, 1979; cluster form).

    Args:
        values: one value per sample [n], for example 1 where a prediction was right.
        groups: group of each sample.
        draws: resamples.
        seed: of the draws.
        level: fraction of resamples inside.

    Returns:
        Lower and upper end.

    Example:
        >>> group_bootstrap(np.ones(4), ["a", "a", "b", "c"])
        (1.0, 1.0)
    """
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(group_of, values), np.bincount(group_of)
    rng = generator([seed, 0xB007])
    drawn = rng.integers(0, len(sums), (draws, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def calibration_error(probability: np.ndarray, happened: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error with bins of equal mass (Nixon et al., 2019; Roelofs et al., 2022).

    Args:
        probability: forecasts [n].
        happened: 0 or 1 for each [n].
        bins: at most this many; each holds the same number of forecasts, give or take one.

    Example:
        >>> calibration_error(np.full(4, 0.75), np.array([1, 1, 1, 0]), bins=1)
        0.0
    """
    parts = equal_mass_bins(probability, happened, bins)
    return sum(part["n"] * abs(part["confidence"] - part["right"]) for part in parts) / len(probability)


def equal_mass_bins(probability: np.ndarray, happened: np.ndarray, bins: int) -> list[dict[str, float]]:
    """Bins of a reliability diagram with the same number of forecasts each, give or take one.

    Args:
        probability: forecasts [n].
        happened: 0 or 1 for each [n].
        bins: at most this many.

    Returns:
        For each bin, from low to high: n, confidence (mean forecast), right (fraction that happened).

    Example:
        >>> equal_mass_bins(np.array([0.1, 0.9]), np.array([0, 1]), 2)
        [{'n': 1, 'confidence': 0.1, 'right': 0.0}, {'n': 1, 'confidence': 0.9, 'right': 1.0}]
    """
    order = np.argsort(probability, kind="stable")
    return [
        {"n": len(part), "confidence": float(probability[part].mean()), "right": float(happened[part].mean())}
        for part in np.array_split(order, min(bins, len(order)))
    ]


def brier(probability: np.ndarray, happened: np.ndarray) -> float:
    """Mean squared distance of forecasts [n] from what happened, 0 or 1 (Brier, 1950).

    Example:
        >>> round(brier(np.array([0.9, 0.2]), np.array([1, 0])), 3)
        0.025
    """
    return float(np.mean((probability - happened) ** 2))


def brier_classes(probability: np.ndarray, targets: np.ndarray) -> float:
    """Mean squared distance of forecasts [n, C] from the class that it was [n], as a one-hot vector (Brier, 1950).

    Example:
        >>> brier_classes(np.array([[0.5, 0.5]]), np.array([0]))
        0.5
    """
    return float(np.square(probability - np.eye(probability.shape[1])[targets]).sum(1).mean())


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for a single value).

    Example:
        >>> mean_and_std([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
