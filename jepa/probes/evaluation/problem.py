"""An evaluation problem: samples with targets and folds, its feature sets, and the predictions of every head."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from jepa.data.manifest import Item
from jepa.probes.config import HeadSettings
from jepa.probes.data.splits import Fold, tested_samples
from jepa.probes.evaluation.cross_validate import HeadRun, cross_validate
from jepa.probes.evaluation.domain import Domain, fit_domain
from jepa.probes.features.feature_set import FeatureSet
from jepa.probes.heads.base import Targets, get_head

NESTED = "best in validation"
"""name of the head that every fold chooses anew"""


@dataclass
class Problem:
    """One set of targets on one list of samples."""

    name: str
    """classes, next_action, hazard, tags, ..."""
    samples: Sequence[Item]
    """n samples; their groups are never divided"""
    targets: Targets
    """of the n samples"""
    folds: Sequence[Fold]
    """divisions of the n samples"""
    sets: Sequence[FeatureSet]
    """features of the n samples: the encoder's first, then those of the baselines"""
    runs: list[HeadRun] = field(default_factory=list)
    """what was evaluated so far, in the order of the tables"""

    @functools.cached_property
    def groups(self) -> list[str]:
        """Group of each sample."""
        return [sample.group for sample in self.samples]

    @functools.cached_property
    def tested(self) -> np.ndarray:
        """Sorted indices of the samples that some fold tests."""
        return tested_samples(self.folds)

    def evaluate(
        self, kind: str, features: FeatureSet, settings: HeadSettings, seeds: Sequence[int]
    ) -> HeadRun:
        """One head on one feature set, through all folds."""
        return cross_validate(
            get_head(kind), features, self.targets, self.groups, self.folds, settings, seeds
        )

    def evaluate_all(self, kinds: Sequence[str], settings: HeadSettings, seeds: Sequence[int]) -> None:
        """Every head on every feature set, baselines first; plain vectors get one head that reads vectors."""
        for features in self.sets[::-1]:
            for kind in kinds if features.time_slots else [self.plain_head]:
                self.runs.append(self.evaluate(kind, features, settings, seeds))

    @property
    def plain_head(self) -> str:
        """The head for pixel baselines."""
        return "ridge" if self.targets.classes is not None else "linear"

    def best(self, features: str) -> HeadRun:
        """The head that validation prefers on one feature set; among equals the first."""
        return max((run for run in self.runs if run.features == features), key=lambda run: run.val_score)

    def nested(self, features: str) -> HeadRun:
        """Each fold tested by the head that its own validation part prefers: the choice of a head is part of the
        procedure, so the figure does not profit from it. Predictions are means over seeds."""
        runs = [run for run in self.runs if run.features == features]
        prediction, chosen, scores = np.full_like(runs[0].prediction[:1], np.nan), [], []
        for number, fold in enumerate(self.folds):
            best = max(runs, key=lambda run: run.val_by_fold[number])
            prediction[0, fold.test] = best.prediction[:, fold.test].mean(0)
            chosen.append({"head": best.head})
            scores.append(best.val_by_fold[number])
        return HeadRun(features, NESTED, prediction, float(np.mean(scores)), chosen, scores)

    def domain(self, features: str) -> Domain | None:
        """The domain of the heads of the first fold: their training part describes it, and its validation and test
        part, neither of which trained them, calibrate it. None where there is too little."""
        data, fold = next(item for item in self.sets if item.name == features), self.folds[0]
        groups = [group for group in self.groups for _ in range(data.clips)]
        train, rest = (
            (part[:, None] * data.clips + np.arange(data.clips)).ravel()
            for part in (fold.train, np.concatenate([fold.val, fold.test]))
        )
        return fit_domain(data.pooled(), groups, train, rest)

    def with_folds(self, folds: Sequence[Fold]) -> Problem:
        """The same problem with other folds, and nothing evaluated yet."""
        return dataclasses.replace(self, folds=folds, runs=[])
