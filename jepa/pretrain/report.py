"""HTML report of one or several training runs, with loss curves and collapse diagnostics: `jepa report run=RUN`.

It reads what the trainer wrote (`config.yaml`, `metrics.jsonl`, `events.jsonl`) and nothing else, so it can be made
while a run is still training. `run=[A,B]` draws several runs over each other.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jepa.errors import UserError, require
from jepa.fields import path_key
from jepa.files import write_text
from jepa.html import COLOURS, charts, render_page

_READINGS = 800  # steps that the page's slider stops at
# Early predictions are far worse than the mean; that part of the axis would hide the rest.
_EXPLAINED_FLOOR = -0.25

# Names in metrics.jsonl of earlier versions.
_RENAMED = {
    "guess_varies": "prediction_varies",
    "spread": "std",
    "spread_least": "std_low",
    "spread_clips": "std_clips",
    "spread_time": "std_time",
}

# Group -> column of metrics.jsonl -> title and how to read it.
_GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Prediction": {
        "loss": ("Loss", "May rise in a healthy run: richer targets are harder to predict."),
        "explained": ("Explained variance", "Of the masked targets; 0 is predicting their mean, 1 is perfect."),
    },
    "Representation collapse": {
        "rank": ("RankMe", "Effective rank of the target encoder's tokens. A fall to a few is collapse."),
        "target_varies": ("Target variation", "Fraction of the targets that differs between tokens; 0 is collapse."),
        "prediction_varies": ("Prediction variation", "The same of the predictions; near 0 they are constant."),
        "lidar": ("LiDAR", "Effective rank of the discriminant directions; compare at equal settings and steps."),
        "std": ("Standard deviation per dimension", "Over tokens, mean of all dimensions."),
        "std_low": ("Standard deviation, lowest tenth", "The 10th percentile over dimensions."),
        "std_clips": ("Standard deviation across clips", "Of clip means; 0 means that all videos look alike."),
        "std_time": ("Standard deviation across time", "Within a clip, at one spatial position."),
    },
    "Optimisation": {
        "grad_norm": ("Gradient norm", "Before clipping."),
        "lr": ("Learning rate", ""),
        "weight_decay": ("Weight decay", ""),
        "ema": ("EMA momentum", "Nearer to 1 is a slower target encoder."),
        "clips_per_s": ("Clips per second", ""),
        "bad_videos": ("Unreadable videos", "Reby_group by others, so far."),
    },
}  # fmt: skip
_DRAWN_APART = ("spectrum/", "explained/time", "mask")


@dataclass
class ReportConfig:
    """Which runs are shown and where the page is written.

    Example:
        >>> ReportConfig(run="runs/a").run
        ['runs/a']
    """

    run: Any = path_key("???")
    """run folder, or several as [A,B]; several are drawn over each other"""
    out: str | None = path_key(None)
    """page to write; null for report.html in the first run folder"""

    def __post_init__(self) -> None:
        self.run = [str(folder) for folder in self.run] if isinstance(self.run, list) else [str(self.run)]
        if not self.run:
            raise UserError("run=[] names no run folder; give at least one, as run=FOLDER.")


class Run(NamedTuple):
    """The content of a run folder."""

    name: str
    rows: list[dict[str, float | None]]
    events: list[dict[str, Any]]
    settings: dict[str, str]

    def line(self, key: str) -> charts.Line:
        """(step, value) of a column."""
        return [(row["step"] or 0, row.get(key)) for row in self.rows]

    def last(self, key: str) -> float | None:
        """The newest known value of a column."""
        return next((row[key] for row in reversed(self.rows) if row.get(key) is not None), None)

    def typical(self, key: str) -> float | None:
        """The median of a column."""
        known = [value for row in self.rows if (value := row.get(key)) is not None]
        return statistics.median(known) if known else None


def run(config: ReportConfig) -> Path:
    """Writes the page and returns its path.

    Raises:
        UserError: a folder is no run, or has not logged anything yet.

    Example:
        >>> run(ReportConfig(run="runs/a"))  # doctest: +SKIP
        PosixPath('runs/a/report.html')
    """
    folders = [Path(folder) for folder in config.run]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    out = Path(config.out) if config.out else folders[0] / "report.html"
    write_text(out, render([read_run(folder, name) for folder, name in zip(folders, names, strict=True)]))
    print(f"wrote {out}")
    return out


def read_run(folder: Path, name: str) -> Run:
    """Reads a run folder; a line that a kill cut short is left out.

    Raises:
        UserError: there is no run in the folder, or no finished log step.
    """
    metrics, settings = folder / "metrics.jsonl", folder / "config.yaml"
    if not metrics.exists():
        raise UserError(
            f"{folder} holds no metrics.jsonl, so it is no run folder. Name the folder that `jepa pretrain out=...` "
            "wrote, after its first log step (train.log_every)."
        )
    rows = _json_lines(metrics)
    if not rows:
        raise UserError(f"{metrics} has no row yet: the run has not reached its first log step.")
    rows = [dict(map(_current, row.items())) for row in rows]
    known = require("yaml", "train").safe_load(settings.read_text("utf-8")) if settings.exists() else {}
    return Run(name, rows, _json_lines(folder / "events.jsonl"), _flat(known))


def _current(item: tuple[str, float | None]) -> tuple[str, float | None]:
    """A column under its present name: explained rather than unexplained variance, and no names of earlier versions."""
    key, value = item
    stem, slash, part = key.partition("/")
    stem, part = _RENAMED.get(stem, stem), part.replace("slot", "time")
    if stem == "unexplained":
        stem, value = "explained", None if value is None else 1 - value
    return f"{stem}{slash}{part}", value


def _json_lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            found.append(row)
    return found


def _flat(tree: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings -> {"train.steps": "2000", "masks.0.kind": "temporal", ...}."""
    pairs = enumerate(tree) if isinstance(tree, list) else tree.items() if isinstance(tree, dict) else None
    if pairs is None:
        return {prefix: "null" if tree is None else str(tree)}
    if isinstance(tree, list) and not any(isinstance(value, (dict, list)) for value in tree):
        return {prefix: json.dumps(tree)}
    flat: dict[str, str] = {}
    for key, value in pairs:
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def render(runs: Sequence[Run]) -> str:
    """The page about some runs.

    Raises:
        UserError: Jinja is not installed.
    """
    groups = _groups(runs)
    return render_page(
        "jepa.pretrain",
        "run_report",
        "train",
        {
            "short": lambda value: "unknown" if value is None else charts.number(value),
            "percent": lambda value: "unknown" if value is None else f"{100 * value:.1f} %",
        },
        runs=runs,
        colours=[COLOURS[i % len(COLOURS)] for i in range(len(runs))],
        groups=groups,
        spectrum=_spectrum(runs),
        time_steps=_time_steps(runs),
        masks=_masks(runs),
        settings=_settings(runs),
        data=_readings(runs, groups),
    )


def _groups(runs: Sequence[Run]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Charts over the steps, in the order above; unknown columns come last under their own names."""
    columns = list(dict.fromkeys(key for run in runs for row in run.rows for key in row if key != "step"))
    plain = [key for key in columns if not key.startswith(_DRAWN_APART)]
    if "explained/mask1" not in plain:  # a single mask repeats the total
        plain = [key for key in plain if key not in ("explained/mask0", "loss_mask0")]
    if not any(row.get("bad_videos") for run in runs for row in run.rows):
        plain = [key for key in plain if key != "bad_videos"]
    x = charts.step_scale(max(run.rows[-1]["step"] or 0 for run in runs))
    known = {key: group for group, members in _GROUPS.items() for key in members}
    by_group: dict[str, list[str]] = {
        group: [key for key in members if key in plain] for group, members in _GROUPS.items()
    }
    by_group["Also logged"] = []
    for key in plain:
        if key not in known:
            stem = "loss" if key.startswith("loss_") else key.partition("/")[0]
            by_group[known.get(stem, "Also logged")].append(key)
    return [(group, [_over_steps(key, runs, x) for key in keys]) for group, keys in by_group.items() if keys]


def _over_steps(key: str, runs: Sequence[Run], x: charts.Scale) -> dict[str, Any]:
    stem, _, part = key.replace("loss_", "loss/").partition("/")
    words = next((members[stem] for members in _GROUPS.values() if stem in members), None)
    title, note = words or (key, "")
    floor = _EXPLAINED_FLOOR if stem == "explained" else None
    return {
        "key": key,
        "title": f"{title}, {part}".replace("mask", "mask ") if words and part else title,
        "note": note,
        "zero": stem == "explained",
        "warnings": [[x(event["step"]) for event in run.events] for run in runs],
        **charts.chart([run.line(key) for run in runs], x, floor),
    }


def _spectrum(runs: Sequence[Run]) -> dict[str, Any] | None:
    """The covariance spectra of the last rows, then of the first rows, both axes logarithmic."""
    lines = [
        sorted((float(key.partition("/")[2]), value) for key, value in row.items() if key.startswith("spectrum/"))
        for index in (-1, 0)
        for row in (run.rows[index] for run in runs)
    ]  # fmt: skip
    if not any(lines):
        return None
    # Directions without variance would stretch the axis over all decades of float32.
    lines = [[(k, value if value and value > 1e-7 else None) for k, value in line] for line in lines]
    x = charts.step_scale(max(k for line in lines for k, _ in line), first=1.0, log=True)
    return charts.chart(lines, x)


def _time_steps(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Explained variance per time step, over the last quarter of the rows: one batch alone is noisy."""
    lines: list[charts.Line] = []
    for run in runs:
        recent = run.rows[-max(1, len(run.rows) // 4) :]
        names = sorted({key for row in recent for key in row if key.startswith("explained/time")})
        lines.append([(i, _mean([row.get(name) for row in recent])) for i, name in enumerate(names)])
    if not any(lines):
        return None
    x = charts.step_scale(max(i for line in lines for i, _ in line))
    return charts.chart(lines, x, _EXPLAINED_FLOOR)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _masks(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Per run and mask, the fraction of each time step that is context, target and neither, averaged over all rows."""
    found = []
    for run in runs:
        columns = dict.fromkeys(
            key for row in run.rows for key in row if key.startswith("mask") and "/" in key
        )
        mean = {key: _mean([row.get(key) for row in run.rows]) or 0.0 for key in columns}
        for mask in sorted({key.partition("/")[0] for key in columns}):
            context = [mean[key] for key in sorted(columns) if key.startswith(f"{mask}/context_time")]
            target = [mean[key] for key in sorted(columns) if key.startswith(f"{mask}/target_time")]
            bars = [(a, b, max(0.0, 1 - a - b)) for a, b in zip(context, target, strict=True)]
            kind = run.settings.get(f"masks.{mask.removeprefix('mask')}.kind", "")
            found.append(
                {
                    "run": run.name,
                    "mask": f"Mask {mask.removeprefix('mask')}: {kind}"
                    if kind
                    else f"Mask {mask.removeprefix('mask')}",
                    "bars": bars,
                    "means": [_mean(part) for part in zip(*bars, strict=True)],
                }
            )
    return found


def _settings(runs: Sequence[Run]) -> list[tuple[str, list[str], bool]]:
    """(key, value of each run, whether they differ), those that differ first."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = [(key, [run.settings.get(key, "") for run in runs]) for key in keys]
    return sorted(((key, values, len(set(values)) > 1) for key, values in rows), key=lambda row: not row[2])


def _readings(runs: Sequence[Run], groups: Sequence[tuple[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """Input of the page's script: the values of every chart at the steps of every run."""
    keys = [chart["key"] for _, members in groups for chart in members]
    data: list[dict[str, Any]] = []
    for run in runs:
        rows = run.rows[:: -(-len(run.rows) // _READINGS)]
        rows = rows if rows[-1] is run.rows[-1] else [*rows, run.rows[-1]]
        columns = {key: [_rounded(row.get(key)) for row in rows] for key in keys}
        data.append({"name": run.name, "steps": [row["step"] for row in rows], "values": columns})
    x = charts.step_scale(max(entry["steps"][-1] for entry in data))
    return {"runs": data, "low": x.low, "high": x.high, "start": x.start, "end": x.end}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
