"""Protocols beyond one accuracy: label efficiency, early recognition and robustness.

Each protocol takes the head that validation preferred for a set of features; hyper-parameters are chosen anew, on the
validation part of what is left. Heads learn from complete, clean clips and are tested on changed ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from jepa.errors import UserError
from jepa.probes.config import ProbeConfig
from jepa.probes.data.splits import Fold
from jepa.probes.evaluation.metrics import group_bootstrap
from jepa.probes.evaluation.problem import Problem
from jepa.probes.features.build import encode_samples
from jepa.probes.features.encode import Extractor
from jepa.probes.features.feature_set import FeatureSet
from jepa.probes.features.perturbations import EARLY, PERTURBATIONS, Perturbed
from jepa.rng import generator

LABEL_FRACTIONS = (0.01, 0.05, 0.1, 0.5, 1.0)


def run_protocols(
    config: ProbeConfig, problem: Problem, extractors: Sequence[Extractor]
) -> dict[str, list[dict[str, Any]]]:
    """The protocols that the config names.

    Args:
        config: the probe's.
        problem: class targets on complete, clean clips, evaluated; decides the head of each feature set.
        extractors: one for each of `problem.sets`.

    Returns:
        For each protocol, a list with one entry per feature set (and perturbation): features, head, unit, and points
        with at, accuracy and a 95 % interval over groups.

    Raises:
        UserError: a sample has frames that the main table did not need and that cannot be read.
    """
    out: dict[str, list[dict[str, Any]]] = {}
    if "label_efficiency" in config.protocols:
        out["label_efficiency"] = [_label_efficiency(problem, features, config) for features in problem.sets]
    settings: list[tuple[str, float]] = []
    if "early" in config.protocols:
        settings += [("early", fraction) for fraction in EARLY]
    if "robustness" in config.protocols:
        settings += [(kind, level) for kind, entry in PERTURBATIONS.items() for level in entry["levels"]]
    if not settings:
        return out
    changed: list[Extractor] = [
        Perturbed(base, kind, level) for base in extractors for kind, level in settings
    ]
    encoded = encode_samples(config, problem.samples, changed)
    if len(encoded.samples) < len(problem.samples):
        bad = encoded.report.bad[0]
        raise UserError(
            f"{bad.name!r} could be read for the main table, but not all of the frames that protocols="
            f"{config.protocols} need (cannot {bad.stage}: {bad.reason}). Remove the video or the protocols."
        )
    for number, clean in enumerate(problem.sets):
        own = encoded.sets[number * len(settings) : (number + 1) * len(settings)]
        kind = problem.best(clean.name).head
        points = _perturbed_points(problem, kind, clean, own, config)
        if "early" in config.protocols:
            line = [{"at": fraction, **points[1 + i]} for i, fraction in enumerate(EARLY)]
            out.setdefault("early", []).append(
                _entry(clean.name, kind, "fraction of the clip", [*line, {"at": 1.0, **points[0]}])
            )
        for name, entry in PERTURBATIONS.items() if "robustness" in config.protocols else ():
            line = [{"at": level, **points[1 + settings.index((name, level))]} for level in entry["levels"]]
            row = _entry(clean.name, kind, entry["unit"], [{"at": None, **points[0]}, *line])
            out.setdefault("robustness", []).append({**row, "perturbation": name})
    return out


def _entry(features: str, head: str, unit: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    return {"features": features, "head": head, "unit": unit, "points": points}


def _perturbed_points(
    problem: Problem, kind: str, clean: FeatureSet, perturbed: Sequence[FeatureSet], config: ProbeConfig
) -> list[dict[str, Any]]:
    """Accuracy on the clean clips and under each perturbation, of heads that learned from clean ones.

    Perturbed clips follow the clean samples as further samples that only test parts name, so that a head is fitted
    once.
    """
    count, copies = len(problem.samples), 1 + len(perturbed)
    folds = [
        Fold(f.name, f.train, f.val, np.concatenate([f.test + count * i for i in range(copies)]))
        for f in problem.folds
    ]
    values = problem.targets.values.repeat(copies)
    wide = dataclasses.replace(
        problem.with_folds(folds),
        samples=list(problem.samples) * copies,
        targets=dataclasses.replace(problem.targets, values=values),
    )
    run = wide.evaluate(kind, clean.extended(perturbed), config.heads, config.seeds)
    return [_point(problem, run.prediction[:, problem.tested + count * i]) for i in range(copies)]


def _point(problem: Problem, prediction: np.ndarray) -> dict[str, Any]:
    right = (prediction.argmax(-1) == problem.targets.values.numpy()[problem.tested]).mean(0)
    return {
        "accuracy": float(right.mean()),
        "interval": list(group_bootstrap(right, [problem.groups[i] for i in problem.tested])),
    }


def _label_efficiency(problem: Problem, features: FeatureSet, config: ProbeConfig) -> dict[str, Any]:
    points, kind, numbers = [], problem.best(features.name).head, problem.targets.values
    for fraction in LABEL_FRACTIONS:
        fewer = [
            Fold(
                f.name,
                thin(f.train, numbers, fraction, config.split_seed),
                thin(f.val, numbers, fraction, config.split_seed),
                f.test,
            )
            for f in problem.folds
        ]
        run = problem.with_folds(fewer).evaluate(kind, features, config.heads, config.seeds)
        labels = float(np.mean([len(f.train) + len(f.val) for f in fewer]))
        points.append(
            {"at": fraction, "labels": labels, **_point(problem, run.prediction[:, problem.tested])}
        )
    return _entry(features.name, kind, "fraction of the labels", points)


def thin(part: np.ndarray, targets: Tensor, fraction: float, seed: int) -> np.ndarray:
    """A fraction of the samples of a part, the same fraction of every class and at least one of each.

    Smaller fractions are contained in larger ones: each sample has a rank of its own that decides.

    Args:
        part: indices of samples.
        targets: class numbers of all samples [n].
        fraction: in (0, 1].
        seed: decides the ranks.

    Example:
        >>> import torch
        >>> thin(np.arange(6), torch.tensor([0, 0, 0, 0, 1, 1]), 0.5, seed=0).size
        3
    """
    rank = generator([seed, 0x1ABE1]).permutation(len(targets))
    labels, kept = targets.numpy()[part], []
    for label in np.unique(labels):
        members = part[labels == label]
        members = members[np.argsort(rank[members])]
        kept.append(members[: max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(kept))
