"""Figures and tables of the anticipation task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from jepa.probes.data.splits import Fold
from jepa.probes.evaluation.metrics import group_bootstrap, mean_and_spread
from jepa.probes.features.encode import EncodeReport
from jepa.probes.tasks.anticipate.evaluate import HazardRun
from jepa.probes.tasks.anticipate.hazard import hazard_figures, known_outcome


def hazard_rows(
    runs: Sequence[HazardRun],
    event: Tensor,
    observed: Tensor,
    groups: Sequence[str],
    folds: Sequence[Fold],
    horizons_s: Sequence[float],
) -> list[dict[str, Any]]:
    """One row per forecaster; the first run must be the base rate.

    `figures` are means over folds and seeds per category and horizon: pooled over folds, scores of different
    folds would be compared with one another, and even a constant forecast, whose level is highest where the
    tested video has the fewest hazards, would get an AUC far from one half. `mean` averages over categories
    and horizons; `gain` is the fall of the Brier score against the base rate over all known outcomes, with an
    interval that resamples videos.
    """
    tested = np.sort(np.concatenate([fold.test for fold in folds]))
    ev, ob = event[tested], observed[tested]
    names = [groups[i] for i in tested]
    base = runs[0].probability[0, tested]
    known = known_outcome(ev, ob, len(horizons_s)).numpy()
    happened = ev.unsqueeze(-1).numpy() <= np.arange(len(horizons_s))
    rows = []
    for run in runs:
        per_seed = [
            _average_folds(
                [
                    hazard_figures(
                        p[f.test], event[f.test], observed[f.test], runs[0].probability[0, f.test], horizons_s
                    )
                    for f in folds
                ]
            )
            for p in run.probability
        ]
        figures = [_average(same) for same in zip(*per_seed, strict=True)]
        mean: dict[str, Any] = {}
        for name in ("ap", "auc", "skill", "ece"):
            values = [[f[name] for f in seed if f[name] is not None] for seed in per_seed]
            mean[name], mean[f"{name}_spread"] = mean_and_spread(
                [float(np.mean(v)) for v in values if v] or [0.0]
            )
        error = ((run.probability[:, tested] - happened) ** 2).mean(0)
        reference = (base - happened) ** 2
        better = np.where(known, reference - error, 0).sum((1, 2)) / np.maximum(known.sum((1, 2)), 1)
        seen = known.any((1, 2))
        chosen = [names[i] for i in np.flatnonzero(seen)]
        rows.append(
            {
                "features": run.features,
                "head": run.head,
                "val_loss": run.val_loss if np.isfinite(run.val_loss) else None,
                "figures": figures,
                "mean": mean,
                "gain": float(better[seen].mean()),
                "gain_interval": list(group_bootstrap(better[seen], chosen)),
            }
        )
    return rows


def _average_folds(folds: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Means over folds: by the number of moments for errors, over folds with both outcomes for AP and AUC."""
    out = []
    for same in zip(*folds, strict=True):
        moments = np.array([row["moments"] for row in same], float)
        row: dict[str, Any] = {k: same[0][k] for k in ("category", "horizon_s")} | {
            "moments": int(moments.sum())
        }
        for name in ("share", "brier", "base_brier", "ece"):
            row[name] = float(np.average([r[name] for r in same], weights=moments)) if moments.sum() else 0.0
        for name in ("ap", "auc"):
            values = [r[name] for r in same if r[name] is not None]
            row[name] = float(np.mean(values)) if values else None
        row["skill"] = 1 - row["brier"] / row["base_brier"] if row["base_brier"] > 0 else None
        out.append(row)
    return out


def _average(same: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = same[0]
    out: dict[str, Any] = {k: first[k] for k in ("category", "horizon_s", "moments", "share", "base_brier")}
    for name in ("ap", "auc", "brier", "skill", "ece"):
        values = [row[name] for row in same]
        out[name] = None if values[0] is None else float(np.mean(values))
    return out


def print_anticipation(console: Any, results: dict[str, Any], report: EncodeReport) -> None:
    """Both tables for the terminal, and what was left out."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    following = results["next_action"]
    console.print(
        f"Next action, {following['tau_s']:g} s before it starts, {results['window_s']:g} s observed: "
        f"{following['questions']} questions, {len(following['classes'])} classes, {len(results['folds'])} "
        "fold(s) by video. Intervals: 95 %, bootstrap over groups."
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("features", no_wrap=True)
    table.add_column("head", no_wrap=True)
    for name in ("accuracy", "interval", "seeds", "cls mean", "top 3", "ECE"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in following["rows"]:
        low, high = row["interval"]
        table.add_row(
            row["features"], row["head"], f"{row['accuracy']:.3f}", f"{low:.2f}-{high:.2f}",
            f"{row['spread_seeds']:.3f}", f"{row['class_mean']:.3f}", f"{row['top3']:.3f}",
            f"{row['ece']:.3f}",
        )  # fmt: skip
    console.print(table)
    now = results["now"]
    if now["rows"]:
        accuracies = ", ".join(f"{row['features']} {row['accuracy']:.3f}" for row in now["rows"])
        console.print(
            f"What is going on at a window's end, {len(now['classes'])} actions, accuracy: {accuracies}."
        )
    hazard = results["hazard"]
    if hazard is not None:
        horizons = results["horizons_s"]
        for number, category in enumerate(results["hazards"]):
            console.print(
                f"Hazard {escape(category)!s}: average precision that it starts within each horizon "
                f"({hazard['questions']} moments); skill = 1 - Brier / Brier of the base rate."
            )
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
            table.add_column("features", no_wrap=True)
            table.add_column("head", no_wrap=True)
            for horizon in horizons:
                table.add_column(f"{horizon:g} s", justify="right", no_wrap=True)
            for name in ("skill", "AUC", "ECE"):
                table.add_column(name, justify="right", no_wrap=True)
            for row in hazard["rows"]:
                here = [f for f in row["figures"] if f["category"] == number]
                cells = [_show(f["ap"]) for f in here]
                for name in ("skill", "auc", "ece"):
                    values = [f[name] for f in here if f[name] is not None]
                    cells.append(_show(float(np.mean(values)) if values else None))
                table.add_row(row["features"], row["head"], *cells)
            console.print(table)
    if report.bad:
        console.print(
            f"left out {len(report.bad)} windows of unreadable videos, first {escape(report.bad[0].name)}"
        )
    seconds = results["seconds"]
    console.print(
        f"decoded {report.decoded} videos, {report.cached} windows from the cache; features "
        f"{seconds['features']:.1f} s, heads {seconds['heads']:.1f} s"
    )


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
