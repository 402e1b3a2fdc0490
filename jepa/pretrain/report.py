"""One HTML page about one or several runs that needs no network: `jepa report run=RUN` or `run=[A,B]`.

It reads what the trainer wrote (`config.yaml`, `metrics.jsonl`, `events.jsonl`) and nothing else, so it can be made
while a run goes on. Every text goes through Jinja's autoescaping, and the page carries a content security policy that
lets it load nothing and run one script, whose hash it names.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import markupsafe
import yaml

from jepa.errors import UserError
from jepa.files import write_text
from jepa.pretrain import charts

# Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6bd6", "#8a8a00")
_READINGS = 800  # steps that the page's slider stops at
_EXPLAINED_FLOOR = (
    -0.25
)  # a young predictor is far worse than the mean; that part of the axis would hide the rest

# Group -> column of metrics.jsonl -> title and what to make of it.
_GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Does it learn?": {
        "loss": ("Loss", "May rise in a healthy run: targets that say more are harder to guess."),
        "explained": ("Explained share", "Of the hidden targets' variance; 0 is guessing their mean, 1 is perfect."),
    },
    "Does it collapse?": {
        "rank": ("RankMe", "Directions in use by the target encoder's tokens. A fall to a few is collapse."),
        "target_varies": ("Targets that differ", "Part of the targets that differs between tokens; 0 is collapse."),
        "guess_varies": ("Guesses that differ", "The same of the guesses; near 0 they are the mean, whatever is seen."),
        "lidar": ("LiDAR", "Directions that tell hidden tokens apart; compare at equal settings and steps."),
        "spread": ("Spread per dimension", "Standard deviation over tokens, mean of all dimensions."),
        "spread_least": ("Spread, weakest tenth", "Standard deviation that a tenth of the dimensions stay below."),
        "spread_clips": ("Spread across clips", "Of clip means: are videos told apart?"),
        "spread_time": ("Spread across time", "Within a clip, at one place: is change seen?"),
    },
    "How does it train?": {
        "grad_norm": ("Gradient norm", "Before clipping."),
        "lr": ("Learning rate", ""),
        "weight_decay": ("Weight decay", ""),
        "ema": ("Target momentum", "Nearer to 1 is slower."),
        "clips_per_s": ("Clips per second", ""),
        "bad_videos": ("Unreadable videos", "Replaced by others, so far."),
    },
}  # fmt: skip
_DRAWN_APART = ("spectrum/", "explained/slot", "mask")


@dataclass
class ReportConfig:
    """What the page shows and where it goes."""

    run: Any = "???"
    """run folder, or several as [A,B]; several are drawn over each other"""
    out: str | None = None
    """page to write; null for report.html in the first run folder"""

    def __post_init__(self) -> None:
        self.run = [str(folder) for folder in self.run] if isinstance(self.run, list) else [str(self.run)]
        if not self.run:
            raise UserError("run=[] names no run folder; give at least one, as run=FOLDER.")


class Run(NamedTuple):
    """What a run folder says."""

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
    for row in rows:
        for key in [key for key in row if key.startswith("unexplained")]:
            value = row.pop(key)
            row[key.removeprefix("un")] = None if value is None else 1 - value
    known = yaml.safe_load(settings.read_text("utf-8")) if settings.exists() else {}
    return Run(name, rows, _json_lines(folder / "events.jsonl"), _flat(known))


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
    """Nested settings -> {"train.steps": "2000", "masks.0.kind": "slots", ...}."""
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
    """The page."""
    script = _asset("run_report.js")
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(runs))]
    groups = _groups(runs)
    stamp = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _environment().get_template("run_report.html.j2").render(
        runs=runs,
        colours=colours,
        groups=groups,
        spectrum=_spectrum(runs),
        slots=_slots(runs),
        masks=_masks(runs),
        settings=_settings(runs),
        box=charts,
        data=_readings(runs, groups),
        script=markupsafe.Markup(script),
        script_hash=stamp,
        style=markupsafe.Markup(_asset("run_report.css")),
    )  # fmt: skip


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jepa.pretrain", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = lambda value: "unknown" if value is None else charts.number(value)
    environment.filters["percent"] = lambda value: "unknown" if value is None else f"{100 * value:.1f} %"
    return environment


@functools.cache
def _asset(name: str) -> str:
    return resources.files("jepa.pretrain").joinpath(f"assets/{name}").read_text("utf-8")


def _groups(runs: Sequence[Run]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Charts over the steps, in the order above; columns that nobody foresaw come last under their own names."""
    columns = list(dict.fromkeys(key for run in runs for row in run.rows for key in row if key != "step"))
    plain = [key for key in columns if not key.startswith(_DRAWN_APART)]
    if "explained/mask1" not in plain:  # the only mask says what the whole says
        plain = [key for key in plain if key not in ("explained/mask0", "loss_mask0")]
    if not any(row.get("bad_videos") for run in runs for row in run.rows):
        plain = [key for key in plain if key != "bad_videos"]
    x = charts.step_scale(max(run.rows[-1]["step"] or 0 for run in runs))
    known = {key: group for group, members in _GROUPS.items() for key in members}
    placed: dict[str, list[str]] = {
        group: [key for key in members if key in plain] for group, members in _GROUPS.items()
    }
    placed["Also logged"] = []
    for key in plain:
        if key not in known:
            stem = "loss" if key.startswith("loss_") else key.partition("/")[0]
            placed[known.get(stem, "Also logged")].append(key)
    return [(group, [_over_steps(key, runs, x) for key in keys]) for group, keys in placed.items() if keys]


def _over_steps(key: str, runs: Sequence[Run], x: charts.Scale) -> dict[str, Any]:
    stem, _, part = key.partition("/")
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
        for place in (-1, 0)
        for row in (run.rows[place] for run in runs)
    ]  # fmt: skip
    if not any(lines):
        return None
    # Directions that hold nothing would stretch the axis over all decades of float32.
    lines = [[(k, value if value and value > 1e-7 else None) for k, value in line] for line in lines]
    x = charts.step_scale(max(k for line in lines for k, _ in line), first=1.0, log=True)
    return charts.chart(lines, x)


def _slots(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Explained share per time slot, over the last quarter of the rows: one batch alone is noisy."""
    lines: list[charts.Line] = []
    for run in runs:
        recent = run.rows[-max(1, len(run.rows) // 4) :]
        names = sorted({key for row in recent for key in row if key.startswith("explained/slot")})
        lines.append([(i, _mean([row.get(name) for row in recent])) for i, name in enumerate(names)])
    if not any(lines):
        return None
    x = charts.step_scale(max(i for line in lines for i, _ in line))
    return charts.chart(lines, x, _EXPLAINED_FLOOR)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _masks(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Per run and mask, the share of each time slot that was seen, guessed and neither, averaged over all rows."""
    found = []
    for run in runs:
        columns = dict.fromkeys(
            key for row in run.rows for key in row if key.startswith("mask") and "/" in key
        )
        mean = {key: _mean([row.get(key) for row in run.rows]) or 0.0 for key in columns}
        for mask in sorted({key.partition("/")[0] for key in columns}):
            seen = [mean[key] for key in sorted(columns) if key.startswith(f"{mask}/context_slot")]
            guessed = [mean[key] for key in sorted(columns) if key.startswith(f"{mask}/target_slot")]
            bars = [(a, b, max(0.0, 1 - a - b)) for a, b in zip(seen, guessed, strict=True)]
            kind = run.settings.get(f"masks.{mask.removeprefix('mask')}.kind", "")
            found.append(
                {
                    "run": run.name,
                    "mask": f"{mask} {kind}".strip(),
                    "bars": bars,
                    "shares": [_mean(part) for part in zip(*bars, strict=True)],
                }
            )
    return found


def _settings(runs: Sequence[Run]) -> list[tuple[str, list[str], bool]]:
    """(key, value of each run, whether they differ), those that differ first."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = [(key, [run.settings.get(key, "") for run in runs]) for key in keys]
    return sorted(((key, values, len(set(values)) > 1) for key, values in rows), key=lambda row: not row[2])


def _readings(runs: Sequence[Run], groups: Sequence[tuple[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """What the page's script reads: the values of every chart at the steps of every run."""
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
