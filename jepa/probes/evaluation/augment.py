"""Augmentation of training clips: random copies, encoded live, never in a validation or test part.

The copies of a clip follow the clean samples as further samples that only training parts name, so that every kind of
head learns from them without knowing it. They are kept in memory only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jepa.errors import UserError
from jepa.probes.config import ProbeConfig
from jepa.probes.data.splits import Fold
from jepa.probes.evaluation.problem import Problem
from jepa.probes.features.build import encode_samples
from jepa.probes.features.encode import EncodeReport, Extractor
from jepa.probes.features.perturbations import Perturbed


def augmented(
    config: ProbeConfig, problem: Problem, extractors: Sequence[Extractor], report: EncodeReport
) -> Problem:
    """The problem with `features.augment` copies of every clip behind the n clean ones.

    Args:
        config: the probe's.
        problem: n clean samples.
        extractors: one for each of `problem.sets`.
        report: of the clean pass; the videos decoded here are added to it.

    Returns:
        The problem itself with `features.augment=0`, else one of n (1 + augment) samples.

    Raises:
        UserError: a video could be read for the clean clips and not again.
    """
    count, samples = config.features.augment, len(problem.samples)
    if not count:
        return problem
    numbers = [config.split_seed * 1000 + copy for copy in range(count)]
    changed: list[Extractor] = [
        Perturbed(base, "augmented", number) for base in extractors for number in numbers
    ]
    live = encode_samples(config, problem.samples, changed, stored=False)
    report.decoded += live.report.decoded
    if len(live.samples) < samples:
        bad = live.report.bad[0]
        raise UserError(
            f"{bad.name!r} could be read once, but not again for features.augment={count} (cannot {bad.stage}: "
            f"{bad.reason}). Check the disk that holds it, or remove the video."
        )
    folds = [
        Fold(f.name, np.concatenate([f.train + samples * copy for copy in range(1 + count)]), f.val, f.test)
        for f in problem.folds
    ]
    return dataclasses.replace(
        problem.with_folds(folds),
        samples=list(problem.samples) * (1 + count),
        targets=dataclasses.replace(problem.targets, values=problem.targets.values.repeat(1 + count)),
        sets=[clean.extended(live.sets[i * count : (i + 1) * count]) for i, clean in enumerate(problem.sets)],
    )
