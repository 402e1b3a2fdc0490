"""Tables of anticipation: hazard metrics per category and horizon, and what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from jepa.files import atomic_path
from jepa.probes.evaluation.cross_validate import HeadRun
from jepa.probes.evaluation.metrics import brier, calibration_error, group_bootstrap, mean_and_std
from jepa.probes.evaluation.problem import Problem
from jepa.probes.features.encode import EncodeReport
from jepa.probes.tasks.anticipate.alarm_tables import print_alarms
from jepa.probes.tasks.anticipate.hazard import known_outcome

FORECASTS_FILE = "forecasts.npz"


def hazard_rows(
    problem: Problem, event: Tensor, observed: Tensor, horizons_s: Sequence[float]
) -> list[dict[str, Any]]:
    """One row per run of the problem; the first run must be the base rate.

    `metrics` are means over folds and seeds per category and horizon. Pooled over folds, scores of different folds
    would be compared with one another: even a constant forecast, whose level is highest where the tested video has
    the fewest hazards, would get an AUC far from one half. `mean` averages over categories and horizons; `gain` is
    the fall of the Brier score against the base rate over all known outcomes, with an interval that resamples groups.
    """
    base = problem.runs[0].prediction[0]
    return [_hazard_row(run, problem, base, event, observed, horizons_s) for run in problem.runs]


def _hazard_row(
    run: HeadRun,
    problem: Problem,
    base: np.ndarray,
    event: Tensor,
    observed: Tensor,
    horizons_s: Sequence[float],
) -> dict[str, Any]:
    tested = problem.tested
    names = [problem.groups[i] for i in tested]
    known = known_outcome(event[tested], observed[tested], len(horizons_s)).numpy()
    happened = event[tested].unsqueeze(-1).numpy() <= np.arange(len(horizons_s))
    per_seed = [
        _average_folds(
            [
                hazard_metrics(p[f.test], event[f.test], observed[f.test], base[f.test], horizons_s)
                for f in problem.folds
            ]
        )
        for p in run.prediction
    ]
    mean: dict[str, Any] = {}
    for name in ("ap", "auc", "skill", "ece"):
        values = [[entry[name] for entry in seed if entry[name] is not None] for seed in per_seed]
        mean[name], mean[f"{name}_std"] = mean_and_std([float(np.mean(v)) for v in values if v] or [0.0])
    error = ((run.prediction[:, tested] - happened) ** 2).mean(0)
    reference = (base[tested] - happened) ** 2
    better = np.where(known, reference - error, 0).sum((1, 2)) / np.maximum(known.sum((1, 2)), 1)
    decided = known.any((1, 2))
    chosen = [names[i] for i in np.flatnonzero(decided)]
    return {
        "features": run.features,
        "head": run.head,
        "val_loss": -run.val_score if np.isfinite(run.val_score) else None,
        "metrics": [_average(same) for same in zip(*per_seed, strict=True)],
        "mean": mean,
        "gain": float(better[decided].mean()),
        "gain_interval": list(group_bootstrap(better[decided], chosen)),
    }


def own_hazard_metrics(
    run: HeadRun, problem: Problem, event: Tensor, observed: Tensor, horizons_s: Sequence[float]
) -> dict[str, Any]:
    """Test metrics of the weights that a probe saves, averaged over categories and horizons."""
    assert run.own_prediction is not None
    test = problem.folds[0].test
    base = problem.runs[0].prediction[0, test]
    metrics = _average_folds(
        [hazard_metrics(run.own_prediction, event[test], observed[test], base, horizons_s)]
    )
    out: dict[str, Any] = {}
    for name in ("ap", "auc", "brier", "skill", "ece"):
        values = [entry[name] for entry in metrics if entry[name] is not None]
        out[name] = float(np.mean(values)) if values else None
    return out


def hazard_metrics(
    probability: np.ndarray, event: Tensor, observed: Tensor, base: np.ndarray, horizons_s: Sequence[float]
) -> list[dict[str, Any]]:
    """Metrics per category and horizon on windows whose outcome is known.

    Args:
        probability: [n, H, K] cumulative forecasts.
        event: [n, H].
        observed: [n].
        base: [n, H, K] forecasts of the base rate from the training part, for the skill.
        horizons_s: K horizons.

    Returns:
        One dict per (category number, horizon): windows, fraction that happened, AP, AUC, Brier, Brier skill
        over the base rate (1 perfect, 0 no better), ECE. AP and AUC are None where nothing or everything
        happened.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    bins = len(horizons_s)
    known = known_outcome(event, observed, bins).numpy()
    rows = []
    for category in range(event.shape[1]):
        for k, horizon in enumerate(horizons_s):
            here = known[:, category, k]
            happened = (event[:, category].numpy() <= k)[here].astype(float)
            p, q = probability[here, category, k], base[here, category, k]
            mixed = 0 < happened.sum() < len(happened)
            if not len(happened):
                happened = p = q = np.zeros(1)
            error, reference = brier(p, happened), brier(q, happened)
            rows.append(
                {
                    "category": category,
                    "horizon_s": float(horizon),
                    "windows": int(here.sum()),
                    "fraction": float(happened.mean()),
                    "ap": float(average_precision_score(happened, p)) if mixed else None,
                    "auc": float(roc_auc_score(happened, p)) if mixed else None,
                    "brier": error,
                    "base_brier": reference,
                    "ece": calibration_error(p, happened),
                }
            )
    return rows


def _average_folds(folds: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Means over folds: by the number of windows for errors, over folds with both outcomes for AP and AUC."""
    out = []
    for same in zip(*folds, strict=True):
        windows = np.array([row["windows"] for row in same], float)
        row: dict[str, Any] = {k: same[0][k] for k in ("category", "horizon_s")} | {
            "windows": int(windows.sum())
        }
        for name in ("fraction", "brier", "base_brier", "ece"):
            row[name] = float(np.average([r[name] for r in same], weights=windows)) if windows.sum() else 0.0
        for name in ("ap", "auc"):
            values = [r[name] for r in same if r[name] is not None]
            row[name] = float(np.mean(values)) if values else None
        row["skill"] = 1 - row["brier"] / row["base_brier"] if row["base_brier"] > 0 else None
        out.append(row)
    return out


def _average(same: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = same[0]
    out: dict[str, Any] = {
        k: first[k] for k in ("category", "horizon_s", "windows", "fraction", "base_brier")
    }
    for name in ("ap", "auc", "brier", "skill", "ece"):
        values = [row[name] for row in same]
        out[name] = None if values[0] is None else float(np.mean(values))
    return out


def write_forecasts(path: Path, problem: Problem, event: Tensor, observed: Tensor) -> None:
    """Every forecast for every tested window, for metrics that the tables do not hold.

    The file holds `video` and `end_s` of n windows, `event` [n, H] and `observed` [n] as in `hazard.hazard_problem`,
    `names` "features, head" of R runs, and `p0`, `p1`, ... each [seeds, n, H, K], NaN where no fold tested.
    """
    arrays: dict[str, Any] = {
        f"p{number}": run.prediction.astype(np.float32) for number, run in enumerate(problem.runs)
    }
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            video=np.array([sample.name for sample in problem.samples]),
            end_s=np.array([sample.end_s for sample in problem.samples], float),
            event=event.numpy(),
            observed=observed.numpy(),
            names=np.array([f"{run.features}, {run.head}" for run in problem.runs]),
            **arrays,
        )


def print_anticipation(console: Any, results: dict[str, Any], report: EncodeReport) -> None:
    """Both tables for the terminal, and what was left out."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    following = results["next_action"]
    console.print(
        f"Next action, {following['tau_s']:g} s before it starts, {results['window_s']:g} s observed: "
        f"{following['windows']} windows, {len(following['classes'])} classes, {len(results['folds'])} "
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
            f"{row['std_seeds']:.3f}", f"{row['class_mean']:.3f}", f"{row['top3']:.3f}",
            f"{row['ece']:.3f}",
        )  # fmt: skip
    console.print(table)
    current = results["current_action"]
    if current["rows"]:
        accuracies = ", ".join(f"{row['features']} {row['accuracy']:.3f}" for row in current["rows"])
        console.print(f"Current action, {len(current['classes'])} classes, accuracy: {accuracies}.")
    hazard = results["hazard"]
    if hazard is not None:
        horizons = results["horizons_s"]
        for number, category in enumerate(results["hazards"]):
            console.print(
                f"Hazard {escape(category)!s}: average precision that it starts within each horizon "
                f"({hazard['windows']} windows); skill = 1 - Brier / Brier of the base rate."
            )
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
            table.add_column("features", no_wrap=True)
            table.add_column("head", no_wrap=True)
            for horizon in horizons:
                table.add_column(f"{horizon:g} s", justify="right", no_wrap=True)
            for name in ("skill", "AUC", "ECE"):
                table.add_column(name, justify="right", no_wrap=True)
            for row in hazard["rows"]:
                own = [f for f in row["metrics"] if f["category"] == number]
                cells = [_show(f["ap"]) for f in own]
                for name in ("skill", "auc", "ece"):
                    values = [f[name] for f in own if f[name] is not None]
                    cells.append(_show(float(np.mean(values)) if values else None))
                table.add_row(row["features"], row["head"], *cells)
            console.print(table)
        print_alarms(console, "Hazard forecast", hazard["alarms"])
    print_alarms(console, "Observed", current["alarms"])
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
