"""Probes on arrays: fit and evaluate heads on features in memory, without a config or a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa.data.manifest import Item
from jepa.errors import UserError
from jepa.files import write_json
from jepa.probes.config import CALIBRATIONS, HeadSettings
from jepa.probes.data.splits import make_folds
from jepa.probes.evaluation.calibration import softmax_calibrator
from jepa.probes.evaluation.cross_validate import HeadRun, majority
from jepa.probes.evaluation.metrics import classification_report, group_bootstrap
from jepa.probes.evaluation.problem import Problem
from jepa.probes.evaluation.results import compare, result_row, verdict
from jepa.probes.features.build import ENCODER
from jepa.probes.features.feature_set import FeatureSet
from jepa.probes.heads.base import class_targets
from jepa.probes.saved import Probe, today
from jepa.probes.tasks.base import RESULTS_SCHEMA
from jepa.probes.tasks.classify import ClassifyProbe, class_probe

Array = np.ndarray | Tensor


@dataclass(frozen=True)
class Results:
    """Results of a probe: rows of metrics, and comparisons with baselines."""

    document: dict[str, Any]
    """plain JSON values, as `jepa probe` writes them to results.json"""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row of metrics per head and feature set."""
        return self.document["rows"]

    @property
    def accuracy(self) -> float:
        """Test accuracy of the head that validation prefers."""
        return float(self.document["comparison"]["accuracy"])

    @property
    def comparison(self) -> dict[str, Any]:
        """The preferred head against each baseline, sample by sample."""
        return self.document["comparison"]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes a JSON file."""
        write_json(Path(path), self.document)
        return Path(path)

    def __str__(self) -> str:
        lines = [
            f"{row['features']}, {row['head']}: accuracy {row['accuracy']:.3f}, 95 % interval "
            f"{row['interval'][0]:.2f}-{row['interval'][1]:.2f}"
            for row in self.rows
        ]
        head = self.comparison["head"]
        for name, entry in self.comparison["against"].items():
            lines.append(f"{head} is {verdict(entry['interval'])} {name} ({entry['difference']:+.3f})")
        return "\n".join(lines)


def fit(
    features: Array,
    labels: Sequence[Any],
    groups: Sequence[Any] | None = None,
    heads: Sequence[str] = ("linear",),
    *,
    baselines: Mapping[str, Array] | None = None,
    splits: Sequence[str] | None = None,
    folds: int | None = None,
    val_fraction: float = 0.2,
    time_steps: int = 1,
    settings: HeadSettings | None = None,
    seeds: Sequence[int] = (0,),
    split_seed: int = 0,
    calibration: str = "temperature",
) -> tuple[Results, Probe]:
    """Fits and tests class probes on features: settings chosen on validation, metrics from test parts.

    Args:
        features: vectors [n, D] or tokens [n, N, D].
        labels: class of each sample [n].
        groups: what must not be divided between training and testing [n]; by default every sample is a group.
        heads: names of heads, see `jepa.probes.heads.base.list_heads`.
        baselines: further features of the same samples, by name; the first head that can read them is used.
        splits: train, val or test for each sample; without val, part of train is taken.
        folds: number of folds where there are no splits (5 by default), 0 to leave one group out at a time.
        val_fraction: fraction of the training groups that chooses settings and calibrates.
        time_steps: t of the tokens' grid, so that pooled vectors show change over time.
        settings: grid, steps and batch size.
        seeds: of the heads.
        split_seed: decides which groups fall into which fold.
        calibration: temperature or isotonic.

    Returns:
        The results, whose rows are cross-validated; and a probe with the preferred head of the first fold, fitted on
        its training part and calibrated on its validation part. `probe.metadata["results"]["test"]` is the accuracy of
        exactly these weights on that fold's test part; `probe.domain` tells samples like these from others.

    Raises:
        UserError: shapes that do not fit, too few groups or classes, or a head that cannot read the features.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = ["left", "right"] * 40
        >>> features = rng.normal(size=(80, 6)) + np.array([[2.0 * (label == "left")] for label in labels])
        >>> results, probe = fit(features, labels, heads=("ridge", "knn"))
        >>> results.accuracy > 0.9, probe.classes
        (True, ('left', 'right'))
    """
    data = FeatureSet.of(ENCODER, features, time_steps)
    if calibration not in CALIBRATIONS:
        raise UserError(f"calibration={calibration!r} is unknown; it may be {', '.join(CALIBRATIONS)}.")
    others = [FeatureSet.of(name, values) for name, values in (baselines or {}).items()]
    count = len(data.features)
    names = [str(label) for label in labels]
    group_names = [str(group) for group in (range(count) if groups is None else groups)]
    parts = [None] * count if splits is None else [str(split) for split in splits]
    _check_lengths(count, {"labels": names, "groups": group_names, "splits": parts}, others)
    classes = sorted(set(names))
    if len(classes) < 2:
        raise UserError(f"All samples have the label {names[0]!r}; a probe needs at least two classes.")
    numbers = torch.tensor([classes.index(name) for name in names])
    made = make_folds(names, group_names, parts, folds, val_fraction, split_seed)
    samples = [
        Item(str(i), str(i), name, group)
        for i, (name, group) in enumerate(zip(names, group_names, strict=True))
    ]
    targets = class_targets(numbers, len(classes), softmax_calibrator(calibration))
    problem = Problem(
        "classes", samples, targets, made, [data, *others], [majority(numbers, len(classes), made)]
    )
    settings = HeadSettings() if settings is None else settings
    for other in others:
        problem.runs.append(problem.evaluate("ridge", other, settings, seeds))
    for kind in heads:
        problem.runs.append(problem.evaluate(kind, data, settings, seeds))
    probe = _array_probe(problem.best(ENCODER), problem, classes, time_steps)
    probe.add_domain(problem.domain(ENCODER))
    return _results(problem, classes), probe


def _results(problem: Problem, classes: list[str]) -> Results:
    """Metrics of every run, and the comparison with the baselines."""
    return Results(
        {
            "schema": RESULTS_SCHEMA,
            "task": "classify",
            "created": today(),
            "classes": classes,
            "folds": [
                {"name": f.name, "train": len(f.train), "val": len(f.val), "test": len(f.test)}
                for f in problem.folds
            ],
            "rows": [result_row(run, problem) for run in problem.runs],
            "comparison": compare(problem),
        }
    )


def _check_lengths(count: int, columns: Mapping[str, Sequence[Any]], others: Sequence[FeatureSet]) -> None:
    """One label, group and split, and one row of every baseline, for each row of features."""
    for what, values in columns.items():
        if len(values) != count:
            raise UserError(
                f"There are {count} rows of features and {len(values)} {what}; give one for each row."
            )
    for other in others:
        if len(other.features) != count:
            raise UserError(f"The baseline {other.name!r} has {len(other.features)} rows, not {count}.")


def _array_probe(run: HeadRun, problem: Problem, classes: list[str], time_steps: int) -> ClassifyProbe:
    fold, shape = problem.folds[0], list(problem.sets[0].features.shape[2:])
    parts = {"trained_on": fold.train, "calibration": fold.val, "tested_on": fold.test}
    sizes = {
        name: {"samples": len(part), "groups": len({problem.groups[i] for i in part})}
        for name, part in parts.items()
    }
    metadata = {
        "window": None,
        "encoder": None,
        "array_shape": shape,
        "time_slots": time_steps,
        "data": {"name": "arrays", "samples": len(problem.samples)},
        **sizes,
    }
    return class_probe(run, problem, classes, metadata)


def evaluate(
    probe: Probe, features: Array, labels: Sequence[Any], groups: Sequence[Any] | None = None
) -> Results:
    """Tests a class probe on samples that it was not trained on.

    Args:
        probe: from `fit` or `jepa.load_probe`.
        features: what `probe.predict` takes: arrays [m, ...] like those it was fitted on, or encoder tokens.
        labels: class of each sample [m].
        groups: resampled together for the interval; by default every sample is a group.

    Returns:
        Results with one row for the probe, and the comparison with the test labels' own majority class.

    Raises:
        UserError: not a class probe, a label that it does not know, or shapes that do not fit.

    Example:
        >>> labels = ["a", "b"] * 30
        >>> features = np.random.default_rng(0).normal(size=(60, 4)) + [[3.0 * (label == "a")] for label in labels]
        >>> _, probe = fit(features[:40], labels[:40], heads=("ridge",))
        >>> evaluate(probe, features[40:], labels[40:]).accuracy > 0.9
        True
    """
    if probe.task != "classify":
        raise UserError(f"jepa.probes.evaluate tests class probes, and this one is for {probe.task}.")
    names = [str(label) for label in labels]
    unknown = sorted(set(names) - set(probe.classes))
    if unknown:
        raise UserError(
            f"The probe does not know {', '.join(map(repr, unknown))}; its classes are {probe.classes}."
        )
    if len(names) != len(features):
        raise UserError(f"There are {len(features)} rows of features and {len(names)} labels.")
    group_names = [str(i) for i in range(len(names))] if groups is None else [str(group) for group in groups]
    truth = np.array([probe.classes.index(name) for name in names])
    p = probe.predict(torch.as_tensor(features)).probability.numpy()
    right = (p.argmax(1) == truth).astype(float)
    common = (truth == np.bincount(truth).argmax()).astype(float)
    row = {
        "features": ENCODER,
        "head": probe.metadata["head"],
        "interval": list(group_bootstrap(right, group_names)),
        **classification_report(p, truth, group_names),
    }
    against = {
        "head": "-",
        "accuracy": float(common.mean()),
        "difference": float((right - common).mean()),
        "interval": list(group_bootstrap(right - common, group_names)),
    }
    document = {
        "schema": RESULTS_SCHEMA,
        "task": "classify",
        "created": today(),
        "classes": list(probe.classes),
        "rows": [row],
        "comparison": {"head": row["head"], "accuracy": row["accuracy"], "against": {"majority": against}},
    }
    return Results(document)
