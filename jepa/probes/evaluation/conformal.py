"""Conformal prediction: sets with a nominal coverage, and abstention, by MAPIE, calibrated on other groups.

A set is made large enough to hold the true class at a nominal coverage (split conformal prediction; Sadinle et al.,
2019, the score of MAPIE's "lac"). That is conformal risk control for the loss "the true class is not in the set"
(Angelopoulos et al., 2022). A head abstains where its set holds no single class.

The guarantee is for samples that are exchangeable. Clips of one source are not exchangeable with those of another, so
the sets of a group are calibrated on other groups only, and the measured coverage is reported beside the nominal one.

A video has several tags, so there the loss is the fraction of its tags that its set lacks, and MAPIE's conformal risk
control finds the one threshold for which the expected loss stays below the nominal one (same paper, section 4).
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jepa.errors import UserError

PARTS = 5
# Thresholds that are tried for tags: a rare one may need to be named at a probability far below MAPIE's own first step.
THRESHOLDS = np.concatenate([[0.0], np.geomspace(1e-3, 1, 60, endpoint=False)])


def conformal_report(
    probability: np.ndarray, targets: np.ndarray, groups: Sequence[str], levels: Sequence[float]
) -> list[dict[str, Any]]:
    """Metrics of sets at each level, with entire groups held out in turn.

    Args:
        probability: predictions for tested samples [n, C], rows sum to 1; the heads saw none of them.
        targets: class numbers [n].
        groups: group of each sample.
        levels: nominal coverages, in (0, 1).

    Returns:
        For each level: coverage, the lowest coverage of a group with ten samples or more (None without one), the
        mean size of a set, the fraction of samples with a single class, and the accuracy there (None without one).

    Raises:
        UserError: MAPIE is not installed, there is a single group, or too few samples for a level.

    Example:
        >>> p = np.tile([[0.9, 0.1], [0.2, 0.8]], (30, 1))
        >>> groups = [str(i // 4) for i in range(60)]
        >>> conformal_report(p, np.tile([0, 1], 30), groups, [0.8])[0]["mean_size"]
        1.0
    """
    check_conformal(groups, levels)
    in_set = np.zeros((len(levels), *probability.shape), bool)
    for rest, part in _other_groups(groups):
        in_set[:, part] = _sets(probability[rest], targets[rest], probability[part], levels)
    out = []
    for level, sets in zip(levels, in_set, strict=True):
        inside, size = sets[np.arange(len(targets)), targets], sets.sum(1)
        single = size == 1
        out.append(
            {
                "level": float(level),
                "coverage": float(inside.mean()),
                "lowest_group_coverage": _lowest(inside, groups),
                "mean_size": float(size.mean()),
                "answered": float(single.mean()),
                "accuracy_answered": float(inside[single].mean()) if single.any() else None,
            }
        )
    return out


def tag_report(
    probability: np.ndarray, tags: np.ndarray, groups: Sequence[str], levels: Sequence[float]
) -> list[dict[str, Any]]:
    """Metrics of sets of tags at each nominal recall, with entire groups held out in turn.

    Args:
        probability: predictions for tested videos [n, T], each tag by itself; the heads saw none of them.
        tags: whether a video has a tag [n, T], bool. A video without any has none to miss and is left out.
        groups: group of each video.
        levels: nominal fractions of a video's tags in its set, in (0, 1).

    Returns:
        For each level: recall (mean fraction of a video's tags that its set holds), the lowest mean recall of a group
        with ten videos or more (None without one), the mean number of tags in a set and on a video, the fraction of
        named tags that were right (None if none was named), and the number of videos.

    Raises:
        UserError: MAPIE is not installed, there is a single group, or too few videos for a level.
    """
    from mapie.risk_control import MultiLabelClassificationController

    some = tags.any(1)
    probability, tags = probability[some], tags[some]
    names = [groups[i] for i in np.flatnonzero(some).tolist()]
    check_conformal(names, levels)
    in_set = np.zeros((len(levels), *tags.shape), bool)
    for rest, part in _other_groups(names):
        control = MultiLabelClassificationController(
            lambda p: p, "recall", "crc", target_level=list(levels), predict_params=THRESHOLDS
        )
        control.calibrate(probability[rest], tags[rest].astype(int))
        in_set[:, part] = np.moveaxis(control.predict(probability[part]), 2, 0)
    out = []
    for level, sets in zip(levels, in_set, strict=True):
        recall = (sets & tags).sum(1) / tags.sum(1)
        out.append(
            {
                "level": float(level),
                "recall": float(recall.mean()),
                "lowest_group_recall": _lowest(recall, names),
                "mean_size": float(sets.sum(1).mean()),
                "mean_tags": float(tags.sum(1).mean()),
                "precision": float((sets & tags).sum() / sets.sum()) if sets.any() else None,
                "videos": len(tags),
            }
        )
    return out


def _other_groups(groups: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of (samples that calibrate, samples that are tested), without a group in common."""
    from sklearn.model_selection import GroupKFold

    yield from GroupKFold(min(PARTS, len(set(groups)))).split(groups, groups=groups)


def _lowest(values: np.ndarray, groups: Sequence[str]) -> float | None:
    """The lowest mean of a group with ten samples or more."""
    names = np.asarray(groups)
    large = [name for name, count in Counter(groups).items() if count >= 10]
    return min((float(values[names == name].mean()) for name in large), default=None)


def check_conformal(groups: Sequence[str], levels: Sequence[float]) -> None:
    """Refuses what the reports could not do, before heads are trained for it.

    Args:
        groups: group of each tested sample.
        levels: nominal coverages, in (0, 1).

    Raises:
        UserError: MAPIE is not installed, there is a single group, or too few samples for a level.
    """
    if importlib.util.find_spec("mapie") is None:
        raise UserError("conformal=[...] needs the package mapie: pip install mapie.")
    counts = Counter(groups)
    if len(counts) < 2:
        raise UserError(
            "All tested samples are of one group, so conformal sets cannot be calibrated on others."
        )
    known = len(groups) * (1 - 1 / min(PARTS, len(counts)))
    if known * (1 - max(levels)) < 2:
        raise UserError(
            f"A set with a nominal coverage of {max(levels)} needs {math.ceil(2 / (1 - max(levels)))} "
            f"samples to calibrate it, and there are about {known:.0f}. Lower the largest of conformal, or test "
            "on more samples."
        )


def _sets(known: np.ndarray, targets: np.ndarray, query: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Which classes are in the sets of `query` [L, m, C], calibrated on `known` [n, C]."""
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Prefitted(ClassifierMixin, BaseEstimator):
        """An estimator whose inputs are the predictions themselves."""

        def fit(self, x: np.ndarray, y: None = None) -> Prefitted:
            self.classes_ = np.arange(x.shape[1])
            return self

        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            return x

        def predict(self, x: np.ndarray) -> np.ndarray:
            return x.argmax(1)

    conformal = SplitConformalClassifier(
        Prefitted().fit(known), confidence_level=list(levels), prefit=True, conformity_score="lac"
    )
    with warnings.catch_warnings():
        # A class that the calibration part lacks: the score does not look at classes one by one.
        warnings.filterwarnings("ignore", message="WARNING: your conformalization dataset has less labels")
        conformal.conformalize(known, targets)
        _, sets = conformal.predict_set(query)
    return np.moveaxis(sets, 2, 0)
