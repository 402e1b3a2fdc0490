"""From what heads said to the figures of a report: rows with intervals, comparisons sample by sample, a
table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from jepa.probes.data.splits import Fold, tested_samples
from jepa.probes.evaluation.cross_validate import HeadRun
from jepa.probes.evaluation.metrics import (
    calibration_error,
    classification_report,
    group_bootstrap,
    mean_and_spread,
)
from jepa.probes.features.encode import EncodeReport
from jepa.probes.features.sources import ENCODER


def majority(targets: Tensor, classes: int, folds: Sequence[Fold]) -> HeadRun:
    """Class shares of the training and validation part as the forecast for every test sample."""
    probability = np.full((1, len(targets), classes), np.nan)
    right = []
    for fold in folds:
        known = targets[np.concatenate([fold.train, fold.val])].numpy()
        probability[0, fold.test] = np.bincount(known, minlength=classes) / len(known)
        right.append(float((targets[fold.val].numpy() == probability[0, fold.test[0]].argmax()).mean()))
    return HeadRun("majority", "-", probability, float(np.mean(right)), [], 0.0)


def _correct(run: HeadRun, targets: Tensor, folds: Sequence[Fold]) -> np.ndarray:
    """Share of the seeds that are right, per tested sample."""
    tested = tested_samples(folds)
    return (run.probability[:, tested].argmax(-1) == targets.numpy()[tested]).mean(0)


def result_row(run: HeadRun, targets: Tensor, groups: Sequence[str], folds: Sequence[Fold]) -> dict[str, Any]:
    """The figures of one head: its mean over seeds, three kinds of spread, and what scikit-learn says."""
    tested = tested_samples(folds)
    truth, names = targets.numpy()[tested], [groups[i] for i in tested]
    right = run.probability.argmax(-1) == targets.numpy()  # [S, n]
    mean, over_seeds = mean_and_spread(right[:, tested].mean(1).tolist())
    by_fold = [float(right[:, fold.test].mean()) for fold in folds]
    averaged = run.probability[:, tested].mean(0)
    confidence, hit = averaged.max(1), averaged.argmax(1) == truth
    return {
        "features": run.features,
        "head": run.head,
        "accuracy": mean,
        "spread_seeds": over_seeds,
        "spread_folds": mean_and_spread(by_fold)[1],
        "interval": list(group_bootstrap(right[:, tested].mean(0), names)),
        "by_fold": by_fold,
        "val_accuracy": run.val_accuracy,
        "ece": calibration_error(confidence, hit),
        **{k: v for k, v in classification_report(averaged, truth, names).items() if k != "accuracy"},
        "chosen": run.chosen,
        "seconds": run.seconds,
    }


def compare(
    runs: Sequence[HeadRun],
    rows: Sequence[dict[str, Any]],
    targets: Tensor,
    groups: Sequence[str],
    folds: Sequence[Fold],
) -> dict[str, Any]:
    """The encoder's head that validation prefers, against the preferred head of everything else, sample by
    sample."""
    names = [groups[i] for i in tested_samples(folds)]

    def preferred(features: str) -> int:
        return max(
            (i for i, r in enumerate(rows) if r["features"] == features),
            key=lambda i: rows[i]["val_accuracy"],
        )

    best = preferred(ENCODER)
    own = _correct(runs[best], targets, folds)
    against = {}
    for name in dict.fromkeys(row["features"] for row in rows if row["features"] != ENCODER):
        other = preferred(name)
        difference = own - _correct(runs[other], targets, folds)
        against[name] = {
            "head": rows[other]["head"],
            "accuracy": rows[other]["accuracy"],
            "difference": float(difference.mean()),
            "interval": list(group_bootstrap(difference, names)),
        }
    return {"head": rows[best]["head"], "accuracy": rows[best]["accuracy"], "against": against}


def verdict(interval: Sequence[float]) -> str:
    """What the interval of a difference says of the first: above, below, or "not told apart from"."""
    low, high = interval
    return "above" if low > 0 else "below" if high < 0 else "not told apart from"


def table_console() -> Any:
    """A console that does not squeeze tables when its output goes to a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 110)


def print_unsaved(console: Any, layers: Sequence[int]) -> None:
    """Says why heads on chosen layers are not saved as a probe."""
    console.print(
        f"No probe is saved: it would be given the encoder's last tokens, and features.layers={list(layers)} "
        "trained the heads on others.",
        markup=False,
    )


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
            f"{row['spread_seeds']:.3f}",
            f"{row['spread_folds']:.3f}" if len(folds) > 1 else "-",
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
