"""Classification probes: which class a clip belongs to, with every head beside its baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jepa.data.manifest import Item
from jepa.errors import UserError
from jepa.probes.config import PROTOCOLS
from jepa.probes.data.labels import class_names, fingerprint, read_labelled
from jepa.probes.data.splits import check_no_leak, missing_classes, select_test_part
from jepa.probes.evaluation.augment import augmented
from jepa.probes.evaluation.calibration import SoftmaxCalibration, softmax_calibrator
from jepa.probes.evaluation.conformal import check_conformal, conformal_report
from jepa.probes.evaluation.cross_validate import HeadRun, majority
from jepa.probes.evaluation.metrics import calibration_error
from jepa.probes.evaluation.problem import Problem
from jepa.probes.evaluation.protocols import run_protocols
from jepa.probes.evaluation.report import write_report
from jepa.probes.evaluation.results import (
    compare,
    correct,
    detection_rows,
    own_metrics,
    print_detection,
    print_results,
    result_row,
)
from jepa.probes.features.build import ENCODER, Encoded
from jepa.probes.heads.base import class_targets, get_head, list_heads
from jepa.probes.saved import Probe
from jepa.probes.tasks.base import Task, register_task

if TYPE_CHECKING:
    from jepa.models import Encoder

COPY_REMEDY = "Remove one of the copies, or give both the same group."


class ClassPrediction(NamedTuple):
    """Scores of a batch of windows."""

    probability: Tensor
    """[B, classes], calibrated, rows sum to 1"""
    distance: Tensor | None = None
    """[B], how unlike the training windows, 1 is typical; None, as the next two, without a domain check"""
    domain_p: Tensor | None = None
    """[B], conformal p-values"""
    in_domain: Tensor | None = None
    """[B], bool; what is outside was not assessed, whatever the scores say"""


class ClassifyProbe(Probe):
    """A saved classification head: reads encoder tokens, returns calibrated class probabilities."""

    task = "classify"

    def __init__(
        self, metadata: dict[str, Any], weights: dict[str, Tensor], weights_sha256: str = ""
    ) -> None:
        super().__init__(metadata, weights, weights_sha256)
        temperature = float(metadata["calibration"]["temperature"])
        self.calibration = SoftmaxCalibration(temperature, weights.get("isotonic"))
        self.kind = str(metadata["head"])
        own = {name: value for name, value in weights.items() if name != "isotonic"}
        self.fitted = get_head(self.kind).from_state(own)

    @torch.inference_mode()
    def predict(self, tokens: Tensor, future: Tensor | None = None) -> ClassPrediction:
        """Class probabilities of windows.

        Args:
            tokens: [B, N, D], the encoder's output for windows like `window`.
            future: not used by this task.

        Raises:
            UserError: tokens of another window size.
        """
        logits = self.fitted.logits(self.read(self.kind, tokens))[0, 0]
        return ClassPrediction(self.calibration(logits), *(self.domain_scores(tokens) or ()))


@register_task
class Classify(Task):
    """`jepa probe task=classify`."""

    name, probe = "classify", ClassifyProbe
    classes: list[str]

    def check(self) -> None:
        """Every setting has an effect, apart from those of other tasks."""
        self.config.check()
        self.config.refuse_unknown("heads.kinds", self.kinds, list_heads())
        self.config.refuse_unknown("protocols", self.config.protocols, PROTOCOLS)

    def read(self, encoder: Encoder) -> Sequence[Item]:
        """Labelled videos, those of other test parts left out."""
        data = self.config.data
        listed = read_labelled(data.root, data.label_column, data.group_column, data.path_column)
        if data.folds is None:
            listed, _ = select_test_part(listed, data.test_split)
        self.classes = class_names(listed, data.classes or None)
        if data.positive is not None and data.positive not in self.classes:
            raise UserError(
                f"data.positive={data.positive!r} is not a label of {data.root!r}; the labels are "
                f"{', '.join(self.classes)}."
            )
        return listed

    def problems(self, encoded: Encoded) -> list[Problem]:
        """One: the class of each sample. Copies of a video in two parts are refused."""
        samples, config = encoded.samples, self.config
        folds = self.split(samples)
        contents = [f"{fingerprint(s)} {s.start_s} {s.end_s}" for s in samples]
        names = {content: sample.name for content, sample in zip(contents, samples, strict=True)}
        for fold in folds:
            # The same pixels under two names in two parts leak as surely as a group in both.
            check_no_leak(fold, [names[content] for content in contents], "copied video", COPY_REMEDY)
        if config.conformal:
            check_conformal([samples[i].group for fold in folds for i in fold.test], config.conformal)
        numbers = torch.tensor([self.classes.index(sample.label) for sample in samples])
        targets = class_targets(numbers, len(self.classes), softmax_calibrator(config.calibration))
        runs = [majority(numbers, len(self.classes), folds)]
        return [Problem("classes", samples, targets, folds, encoded.sets, runs)]

    def evaluate(self, problem: Problem, encoded: Encoded) -> None:
        """Cross-validates the heads; augmented copies train them and are never tested."""
        wide = augmented(self.config, problem, encoded.extractors, encoded.report)
        wide.evaluate_all(self.kinds, self.config.heads, self.config.seeds)
        if wide is not problem:
            count = len(problem.samples)
            problem.runs += [dataclasses.replace(r, prediction=r.prediction[:, :count]) for r in wide.runs]

    def tables(self, problems: Sequence[Problem], encoded: Encoded) -> dict[str, Any]:
        """Rows, comparison, mistakes, conformal sets and protocols."""
        (problem,) = problems
        labels = [sample.label for sample in problem.samples]
        protocols = run_protocols(self.config, problem, encoded.extractors)
        best, tested = problem.best(ENCODER), problem.tested
        predicted, truth = best.prediction[:, tested].mean(0), problem.targets.values.numpy()[tested]
        groups = [problem.groups[i] for i in tested]
        return {
            "classes": self.classes,
            "folds": [
                {"name": f.name, "train": len(f.train), "val": len(f.val), "test": len(f.test),
                 "missing_classes": missing_classes(f, labels)} for f in problem.folds
            ],
            "rows": [result_row(run, problem) for run in problem.runs],
            "comparison": compare(problem),
            "detection": self._detection(problem),
            "wrong": most_wrong(predicted, truth, [problem.samples[i] for i in tested], self.classes),
            "abstention": conformal_report(predicted, truth, groups, self.config.conformal)
            if self.config.conformal
            else [],
            "protocols": protocols,
        }  # fmt: skip

    def _detection(self, problem: Problem) -> dict[str, Any] | None:
        positive = self.config.data.positive
        if positive is None:
            return None
        return {"positive": positive, "rows": detection_rows(problem, self.classes.index(positive))}

    def probes(
        self, problems: Sequence[Problem], encoded: Encoded, results: dict[str, Any]
    ) -> dict[str, Probe]:
        """The encoder's head that validation prefers."""
        (problem,) = problems
        run = problem.best(ENCODER)
        return {
            "probe": class_probe(run, problem, self.classes, self.common_metadata(problems, encoded, results))
        }

    def show(self, console: Any, results: dict[str, Any], encoded: Encoded) -> None:
        """The table, and OUT/report.html."""
        print_results(console, results, encoded.report)
        if results["detection"] is not None:
            print_detection(console, results["detection"]["positive"], results["detection"]["rows"])
        page = Path(self.config.out) / "report.html"
        write_report(page, results, encoded.samples)
        console.print(f"wrote {page}", markup=False, highlight=False, soft_wrap=True)


def class_probe(
    run: HeadRun, problem: Problem, classes: Sequence[str], metadata: dict[str, Any]
) -> ClassifyProbe:
    """The probe of a run: its head of the first fold, with the figure that this head reached on the test part.

    Args:
        run: a cross-validated head on class targets.
        problem: its problem.
        classes: names of the classes.
        metadata: further entries: the input, encoder, data and calibration set.
    """
    assert run.own is not None and isinstance(run.own.calibration, SoftmaxCalibration)
    assert run.own_val_logits is not None
    calibration, logits, fold = run.own.calibration, run.own_val_logits, problem.folds[0]
    weights = dict(run.own.fitted.state())
    if calibration.isotonic is not None:
        weights["isotonic"] = calibration.isotonic
    truth = problem.targets.values[fold.val].repeat_interleave(len(logits) // len(fold.val))

    def ece(p: Tensor) -> float:
        return calibration_error(p.amax(-1).numpy(), (p.argmax(-1) == truth).numpy())

    row = result_row(run, problem)
    others = dict.fromkeys(other.features for other in problem.runs if other.features != run.features)
    document = {
        "task": "classify",
        "classes": list(classes),
        "head": run.head,
        **metadata,
        "calibration": {
            "method": calibration.method,
            "temperature": calibration.temperature,
            **metadata.get("calibration", {}),
            "ece_before": ece(logits.softmax(-1)),
            "ece_after": ece(calibration(logits)),
            "accuracy": float((logits.argmax(-1) == truth).double().mean()),
        },
        "results": {
            "metric": "accuracy",
            "of": "the saved weights, on the test part of the first fold",
            **own_metrics(run, problem),
            "cross_validation": {
                "of": "heads with chosen settings, fitted on training and validation part, over all folds and seeds",
                **{key: row[key] for key in ("accuracy", "interval", "std_seeds", "std_folds")},
                "folds": len(problem.folds),
            },
            "baselines": {name: float(correct(problem.best(name), problem).mean()) for name in others},
        },
    }
    return ClassifyProbe(document, weights)


def most_wrong(
    probability: np.ndarray, targets: np.ndarray, samples: Sequence[Item], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Misclassified samples, those first whose own class got the lowest probability."""
    own, predicted = probability[np.arange(len(targets)), targets], probability.argmax(1)
    return [
        {
            "name": samples[i].name,
            "start_s": samples[i].start_s,
            "group": samples[i].group,
            "label": classes[targets[i]],
            "label_probability": float(own[i]),
            "predicted": classes[predicted[i]],
            "probability": float(probability[i].max()),
        }
        for i in np.argsort(own, kind="stable")
        if predicted[i] != targets[i]
    ]
