"""Results of a classification: metrics with bootstrap intervals, paired comparisons, and the table to print."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from jepa.probes.evaluation.cross_validate import HeadRun
from jepa.probes.evaluation.detection import detection_report
from jepa.probes.evaluation.metrics import (
    calibration_error,
    classification_report,
    group_bootstrap,
    mean_and_std,
)
from jepa.probes.evaluation.problem import Problem
from jepa.probes.features.build import ENCODER
from jepa.probes.features.encode import EncodeReport


def correct(run: HeadRun, problem: Problem) -> np.ndarray:
    """Fraction of the seeds that are right, per tested sample."""
    truth = problem.targets.values.numpy()[problem.tested]
    return (run.prediction[:, problem.tested].argmax(-1) == truth).mean(0)


def result_row(run: HeadRun, problem: Problem) -> dict[str, Any]:
    """The metrics of one head: mean over seeds, standard deviations over seeds and folds, interval over groups."""
    tested, truth = problem.tested, problem.targets.values.numpy()
    names = [problem.groups[i] for i in tested]
    right = run.prediction.argmax(-1) == truth  # [S, n]
    mean, over_seeds = mean_and_std(right[:, tested].mean(1).tolist())
    by_fold = [float(right[:, fold.test].mean()) for fold in problem.folds]
    averaged = run.prediction[:, tested].mean(0)
    confidence, hit = averaged.max(1), averaged.argmax(1) == truth[tested]
    report = classification_report(averaged, truth[tested], names)
    return {
        "features": run.features,
        "head": run.head,
        "accuracy": mean,
        "std_seeds": over_seeds,
        "std_folds": mean_and_std(by_fold)[1],
        "interval": list(group_bootstrap(right[:, tested].mean(0), names)),
        "by_fold": by_fold,
        "val_accuracy": run.val_score,
        "ece": calibration_error(confidence, hit),
        **{k: v for k, v in report.items() if k != "accuracy"},
        "chosen": run.chosen,
        "seconds": run.seconds,
    }


def compare(problem: Problem, features: str = ENCODER) -> dict[str, Any]:
    """The features' head that validation prefers against the preferred head of everything else, sample by sample."""
    names = [problem.groups[i] for i in problem.tested]
    best = problem.best(features)
    own = correct(best, problem)
    against = {}
    for name in dict.fromkeys(run.features for run in problem.runs if run.features != features):
        other = problem.best(name)
        difference = own - correct(other, problem)
        against[name] = {
            "head": other.head,
            "accuracy": mean_and_std(correct(other, problem).tolist())[0],
            "difference": float(difference.mean()),
            "interval": list(group_bootstrap(difference, names)),
        }
    return {"head": best.head, "accuracy": float(own.mean()), "against": against}


def own_metrics(run: HeadRun, problem: Problem) -> dict[str, Any]:
    """Test accuracy of the weights that a probe saves: one head of the first fold, on that fold's test part."""
    assert run.own_prediction is not None
    fold = problem.folds[0]
    right = run.own_prediction.argmax(-1) == problem.targets.values.numpy()[fold.test]
    names = [problem.groups[i] for i in fold.test]
    return {"test": float(right.mean()), "interval": list(group_bootstrap(right.astype(float), names))}


def detection_rows(problem: Problem, positive: int) -> list[dict[str, Any]]:
    """How well every head finds one class, and the head that each fold's validation prefers, if there are several.

    Args:
        problem: class targets, evaluated; predictions are averaged over seeds.
        positive: number of the class.
    """
    names = [problem.groups[i] for i in problem.tested]
    truth = problem.targets.values.numpy()[problem.tested]
    runs = list(problem.runs)
    for features in dict.fromkeys(run.features for run in problem.runs):
        own = [run for run in problem.runs if run.features == features]
        runs += [problem.nested(features)] if len(own) > 1 else []
    rows = []
    for run in runs:
        averaged = run.prediction[:, problem.tested].mean(0)
        right = averaged.argmax(-1) == truth
        rows.append(
            {
                "features": run.features,
                "head": run.head,
                "accuracy": float(right.mean()),
                "accuracy_interval": list(group_bootstrap(right.astype(float), names)),
                **detection_report(averaged[:, positive], truth == positive, names),
            }
        )
    return rows


def print_detection(console: Any, positive: str, rows: Sequence[dict[str, Any]]) -> None:
    """The table of a class that is to be detected."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    console.print(
        f"Detection of {escape(positive)} ({rows[0]['prevalence']:.3f} of the samples), over all folds together: "
        f"value and 95 % interval."
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("features", no_wrap=True)
    table.add_column("head", no_wrap=True)
    columns = ("auc", "average_precision", "precision_at_recall", "ece")
    for name in ("AUC", "AP", f"precision at recall {rows[0]['recall']:g}", "ECE"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row["features"], row["head"], *(_with_interval(row, name) for name in columns))
    console.print(table)


def _with_interval(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return "-"
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.3f} ({low:.2f}-{high:.2f})"


def verdict(interval: Sequence[float]) -> str:
    """The sign of a difference that its interval allows.

    Example:
        >>> verdict([-0.01, 0.04])
        'not significantly different from'
    """
    low, high = interval
    return "above" if low > 0 else "below" if high < 0 else "not significantly different from"


def table_console() -> Any:
    """A console that does not squeeze tables when its output goes to a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 110)


def print_results(console: Any, results: dict[str, Any], report: EncodeReport) -> None:
    """The table for the terminal, with one sentence per comparison and every exclusion."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    folds = results["folds"]
    tested = sum(fold["test"] for fold in folds)
    console.print(
        f"{len(results['classes'])} classes, {tested} tested samples in {len(folds)} fold(s), "
        f"{results['data']['groups']} groups. Intervals: 95 %, bootstrap over groups."
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("features", no_wrap=True)
    table.add_column("head", no_wrap=True)
    for name in ("accuracy", "interval", "seeds", "folds", "cls mean", "ECE"):
        table.add_column(name, justify="right", no_wrap=True)
    chosen = results["comparison"]["head"]
    for row in results["rows"]:
        low, high = row["interval"]
        table.add_row(
            row["features"],
            row["head"],
            f"{row['accuracy']:.3f}",
            f"{low:.2f}-{high:.2f}",
            f"{row['std_seeds']:.3f}",
            f"{row['std_folds']:.3f}" if len(folds) > 1 else "-",
            f"{row['class_mean']:.3f}",
            f"{row['ece']:.3f}",
            style="bold" if row["features"] == ENCODER and row["head"] == chosen else None,
        )
    console.print(table)
    for name, entry in results["comparison"]["against"].items():
        low, high = entry["interval"]
        console.print(
            f"encoder ({chosen}) is {verdict(entry['interval'])} {name} ({entry['head']}): "
            f"{entry['difference']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"
        )
    for fold in folds:
        if fold["missing_classes"]:
            missing = escape(", ".join(fold["missing_classes"]))
            console.print(
                f"fold {escape(fold['name'])}: no training sample of {missing}; its test samples count as "
                "wrong"
            )
    if report.bad:
        first = report.bad[0]
        console.print(
            f"left out {len(report.bad)} unreadable video(s), first {escape(first.name)}: "
            f"cannot {first.stage}: {escape(first.reason)}"
        )
    seconds = results["seconds"]
    console.print(
        f"decoded {report.decoded} videos, {report.cached} samples from the cache; features "
        f"{seconds['features']:.1f} s, heads {seconds['heads']:.1f} s"
    )
