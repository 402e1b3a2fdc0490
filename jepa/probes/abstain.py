"""Answers that are held back: conformal prediction sets, by MAPIE, calibrated on other groups.

A set is made large enough to hold the truth at a promised rate (split conformal prediction; Sadinle et al., 2019, the
score of MAPIE's "lac"). That is conformal risk control for the loss "the truth is not in the set" (Angelopoulos et
al., 2022). A head abstains where its set holds no single class.

The promise is made for samples that are exchangeable. Clips of one source are not exchangeable with those of another,
so the sets of a group are calibrated on other groups only, and the coverage that came out is reported beside the one
that was promised.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jepa.errors import UserError

PARTS = 5


def conformal_report(
    probability: np.ndarray, targets: np.ndarray, groups: Sequence[str], levels: Sequence[float]
) -> list[dict[str, Any]]:
    """How sets at each level would have fared, with whole groups held out in turn.

    Args:
        probability: forecasts of tested samples [n, C], rows sum to 1; the heads saw none of them.
        targets: class numbers [n].
        groups: group of each sample.
        levels: promised shares of sets that hold the truth, in (0, 1).

    Returns:
        For each level: coverage, the lowest coverage of a group with ten samples or more (None without one), the
        mean size of a set, the share of samples with a single class, and the accuracy there (None without one).

    Raises:
        UserError: MAPIE is not installed, there is a single group, or too few samples for a level.
    """
    from sklearn.model_selection import GroupKFold

    check_conformal(groups, levels)
    names = np.asarray(groups)
    parts = min(PARTS, len(np.unique(names)))
    held = np.zeros((len(levels), *probability.shape), bool)
    for rest, part in GroupKFold(parts).split(probability, groups=names):
        held[:, part] = _sets(probability[rest], targets[rest], probability[part], levels)
    large = [name for name, count in Counter(groups).items() if count >= 10]
    out = []
    for level, sets in zip(levels, held, strict=True):
        inside, size = sets[np.arange(len(targets)), targets], sets.sum(1)
        single = size == 1
        out.append(
            {
                "level": float(level),
                "coverage": float(inside.mean()),
                "lowest_group_coverage": min((float(inside[names == g].mean()) for g in large), default=None),
                "mean_size": float(size.mean()),
                "answered": float(single.mean()),
                "accuracy_answered": float(inside[single].mean()) if single.any() else None,
            }
        )
    return out


def check_conformal(groups: Sequence[str], levels: Sequence[float]) -> None:
    """Refuses what `conformal_report` could not do, before heads are trained for it.

    Args:
        groups: group of each tested sample.
        levels: promised shares, in (0, 1).

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
            f"A set that holds the truth at a rate of {max(levels)} needs {math.ceil(2 / (1 - max(levels)))} "
            f"samples to calibrate it, and there are about {known:.0f}. Lower the largest of conformal, or test "
            "on more samples."
        )


def _sets(known: np.ndarray, targets: np.ndarray, asked: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Which classes are in the sets of `asked` [L, m, C], calibrated on `known` [n, C]."""
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Told(ClassifierMixin, BaseEstimator):
        """An estimator whose inputs are the forecasts themselves."""

        def fit(self, x: np.ndarray, y: None = None) -> Told:
            self.classes_ = np.arange(x.shape[1])
            return self

        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            return x

        def predict(self, x: np.ndarray) -> np.ndarray:
            return x.argmax(1)

    conformal = SplitConformalClassifier(
        Told().fit(known), confidence_level=list(levels), prefit=True, conformity_score="lac"
    )
    with warnings.catch_warnings():
        # A class that the calibration part lacks: the score does not look at classes one by one.
        warnings.filterwarnings("ignore", message="WARNING: your conformalization dataset has less labels")
        conformal.conformalize(known, targets)
        _, sets = conformal.predict_set(asked)
    return np.moveaxis(sets, 2, 0)
