"""Cross-validation of probe heads: fitted on train, chosen on validation, looked at once on test.

For every fold a head's settings are chosen by their score on the validation part. The chosen setting is then fitted
once per seed and tested. Heads of class targets are fitted again on training and validation part together for that.
The head that a probe saves is the one of the first fold that was fitted on its training part alone: it is calibrated
on the validation part, and its own predictions for the test part are kept, so that its figure is that of its weights.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from jepa.probes.config import HeadSettings
from jepa.probes.data.splits import Fold
from jepa.probes.features.feature_set import FeatureSet
from jepa.probes.heads.base import Calibration, Candidate, FitData, FittedHeads, Head, Job, Targets


@dataclass(frozen=True)
class CalibratedHead:
    """One fitted head with its calibration: what a probe saves."""

    kind: str
    """name of its family"""
    fitted: FittedHeads
    """one head"""
    calibration: Calibration
    """fitted on the validation part"""

    def predict(self, inputs: Tensor, clips: int = 1) -> Tensor:
        """Predictions [m, ...] from inputs [m * clips, ...], averaged over the windows of a sample."""
        calibrated = self.calibration(self.fitted.logits(inputs)[0, 0])
        return calibrated.unflatten(0, (-1, clips)).mean(1)


@dataclass
class HeadRun:
    """What one head did on one set of features, over all folds."""

    features: str
    """what the head read"""
    head: str
    """name of the head; - for a baseline without one"""
    prediction: np.ndarray
    """test predictions [seeds, n, ...]; NaN for samples that no fold tested"""
    val_score: float
    """mean over folds of the validation score with the chosen settings"""
    chosen: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """settings of each fold"""
    val_by_fold: list[float] = dataclasses.field(default_factory=list)
    """validation score of each fold with the chosen settings"""
    seconds: float = 0.0
    """time of all fits"""
    own: CalibratedHead | None = None
    """the head of the first fold that was fitted on its training part alone"""
    own_prediction: np.ndarray | None = None
    """its predictions for that fold's test part [m, ...]"""
    own_val_logits: Tensor | None = None
    """its logits for the windows of that fold's validation part [v * clips, C]"""


def cross_validate(
    head: Head,
    features: FeatureSet,
    targets: Targets,
    groups: Sequence[str],
    folds: Sequence[Fold],
    settings: HeadSettings,
    seeds: Sequence[int],
) -> HeadRun:
    """Runs one family of heads through all folds.

    Args:
        head: the family, see `heads.base.get_head`.
        features: features of n samples.
        targets: what the heads learn, with loss, validation score and calibration.
        groups: group of each sample [n], for calibrations that hold out groups.
        folds: divisions of the n samples.
        settings: the grid to choose from, steps and batch size.
        seeds: one fit each, after the choice.

    Raises:
        UserError: the head cannot read these features, or a training part is empty.

    Example:
        >>> import torch
        >>> from jepa.probes.data.splits import make_folds
        >>> from jepa.probes.evaluation.calibration import softmax_calibrator
        >>> from jepa.probes.heads.base import class_targets, get_head
        >>> numbers = torch.arange(40) % 2
        >>> groups = [str(i) for i in range(40)]
        >>> features = FeatureSet.of("mine", torch.randn(40, 3) + 3 * numbers[:, None])
        >>> targets = class_targets(numbers, 2, softmax_calibrator("temperature"))
        >>> folds = make_folds([str(int(i)) for i in numbers], groups, [None] * 40, folds=2)
        >>> run = cross_validate(get_head("ridge"), features, targets, groups, folds, HeadSettings(), seeds=[0])
        >>> run.prediction.shape, run.chosen[0].keys()
        ((1, 40, 2), dict_keys(['strength']))
    """
    begin = time.perf_counter()
    data = FitData(features.read(head.reads), targets, features.clips, features.standardise)
    seeds = list(seeds) if head.seeded else list(seeds[:1])
    found = head.search(data, folds, settings, seeds[0])
    calibrations = [
        _calibrate(data, fold.val, groups, candidate.val_logits)
        for fold, candidate in zip(folds, found, strict=True)
    ]
    prediction: np.ndarray | None = None
    for fold, fitted, calibration in zip(
        folds, _fit_chosen(head, data, folds, found, settings, seeds), calibrations, strict=True
    ):
        logits = fitted.logits(data.inputs[data.windows(fold.test)])[:, 0]
        if not targets.refit:
            on_val = fitted.logits(data.inputs[data.windows(fold.val)])[:, 0]
        for number in range(len(seeds)):
            # A refitted head was trained on the validation part, which can then not calibrate it.
            own = calibration if targets.refit else _calibrate(data, fold.val, groups, on_val[number])
            p = own(logits[number]).unflatten(0, (len(fold.test), data.clips)).mean(1).numpy()
            if prediction is None:
                prediction = np.full((len(seeds), len(targets.values), *p.shape[1:]), np.nan)
            prediction[number, fold.test] = p
    assert prediction is not None
    first = CalibratedHead(head.name, found[0].fitted, calibrations[0])
    tested = data.inputs[data.windows(folds[0].test)]
    return HeadRun(
        features.name,
        head.name,
        prediction,
        float(np.mean([candidate.score for candidate in found])),
        [dataclasses.asdict(candidate.setting) for candidate in found],
        [candidate.score for candidate in found],
        time.perf_counter() - begin,
        first,
        first.predict(tested, data.clips).numpy(),
        found[0].val_logits,
    )


def _calibrate(data: FitData, val: np.ndarray, groups: Sequence[str], logits: Tensor) -> Calibration:
    names = [groups[i] for i in val for _ in range(data.clips)]
    return data.targets.calibrate(logits, data.window_targets[data.windows(val)], names)


def _fit_chosen(
    head: Head,
    data: FitData,
    folds: Sequence[Fold],
    found: Sequence[Candidate],
    settings: HeadSettings,
    seeds: Sequence[int],
) -> list[FittedHeads]:
    """The chosen setting of every fold, fitted once per seed."""
    jobs: list[Job] = [
        (np.concatenate([fold.train, fold.val]) if data.targets.refit else fold.train, candidate.setting)
        for fold, candidate in zip(folds, found, strict=True)
    ]
    if not data.targets.share_batches:
        return [head.fit(data, [job], settings, seeds) for job in jobs]
    fitted = head.fit(data, jobs, settings, seeds)
    return [fitted.take([number]) for number in range(len(jobs))]


def majority(targets: Tensor, classes: int, folds: Sequence[Fold]) -> HeadRun:
    """Class fractions of the training and validation part as the prediction for every test sample.

    Example:
        >>> import torch
        >>> fold = Fold("0", np.array([0, 1]), np.array([2]), np.array([3]))
        >>> majority(torch.tensor([0, 0, 1, 1]), 2, [fold]).prediction[0, 3].round(2).tolist()
        [0.67, 0.33]
    """
    prediction = np.full((1, len(targets), classes), np.nan)
    right = []
    for fold in folds:
        known = targets[np.concatenate([fold.train, fold.val])].numpy()
        prediction[0, fold.test] = np.bincount(known, minlength=classes) / len(known)
        right.append(float((targets[fold.val].numpy() == prediction[0, fold.test[0]].argmax()).mean()))
    return HeadRun("majority", "-", prediction, float(np.mean(right)))
