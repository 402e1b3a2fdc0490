"""One HTML page of a probe's results that needs no network: figures, curves, confusions and the worst clips.

Geometry is worked out here, words and looks are in `assets/`. Every text goes through Jinja's autoescaping, and the
page carries a content security policy that lets it load nothing and run one script, whose hash it names.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jepa.errors import VideoError
from jepa.files import write_text
from jepa.probes.data.labels import Sample
from jepa.probes.evaluation.results import verdict
from jepa.probes.features.build import ENCODER

# Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6bd6", "#8a8a00")
_WIDE, _HIGH, _LEFT, _BOTTOM = 420.0, 230.0, 38.0, 34.0
_WORST = 12
_TITLES = {
    "label_efficiency": "With fewer labels",
    "early": "From the first part of a clip",
    "robustness": "On worse video",
}


def write_report(path: Path, results: dict[str, Any], samples: Sequence[Sample]) -> None:
    """Writes the page.

    Args:
        path: the file.
        results: the content of results.json.
        samples: the readable samples; the worst are shown with a frame.
    """
    names = list(dict.fromkeys(row["features"] for row in results["rows"]))
    names.sort(key=lambda name: name != ENCODER)
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    best = next(
        row
        for row in results["rows"]
        if row["features"] == ENCODER and row["head"] == results["comparison"]["head"]
    )
    script = _asset("report.js")
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            r=results,
            best=best,
            tested=sum(fold["test"] for fold in results["folds"]),
            colours=colours,
            bars=[_bar(row) for row in results["rows"]],
            chance=next(row["accuracy"] for row in results["rows"] if row["features"] == "majority"),
            verdicts=_verdicts(results["comparison"]),
            confusion=_confusion(best["confusion"]),
            reliability=_reliability(best["reliability"]),
            charts=_charts(results["protocols"], colours),
            groups=sorted(best["per_group"].items(), key=lambda item: (item[1], item[0])),
            worst=_worst(results["wrong"], samples),
            style=_markup(_asset("report.css")),
            script=_markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )
    write_text(path, page)


@functools.cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jepa.probes", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["f3"] = lambda value: f"{value:.3f}"
    environment.filters["f2"] = lambda value: f"{value:.2f}"
    environment.filters["pct"] = lambda p: f"{100 * p:.0f} %"
    return environment


def _markup(text: str) -> Any:
    import markupsafe

    return markupsafe.Markup(text)


@functools.cache
def _asset(name: str) -> str:
    return resources.files("jepa.probes").joinpath(f"assets/{name}").read_text("utf-8")


def _bar(row: dict[str, Any]) -> dict[str, Any]:
    low, high = row["interval"]
    return {"row": row, "at": 100 * row["accuracy"], "low": 100 * low, "width": 100 * (high - low)}


def _verdicts(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "verdict": verdict(entry["interval"]), **entry}
        for name, entry in comparison["against"].items()
    ]


def _confusion(counts: list[list[int]]) -> list[list[dict[str, Any]]]:
    """Counts with the share of their row, which shades a cell."""
    return [[{"n": n, "share": n / max(1, sum(line)), "right": i == j} for j, n in enumerate(line)]
            for i, line in enumerate(counts)]  # fmt: skip


def _x(share: float) -> float:
    return round(_LEFT + share * (_WIDE - _LEFT - 14), 1)


def _y(accuracy: float) -> float:
    return round((_HIGH - _BOTTOM) * (1 - accuracy) + 8, 1)


def _frame(
    title: str, unit: str, ticks: Sequence[tuple[float, str]], lines: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "title": title,
        "unit": unit,
        "width": _WIDE,
        "height": _HIGH + 14,
        "left": _LEFT,
        "right": _WIDE - 14,
        "bottom": _y(0),
        "grid": [(_y(share), f"{share:.1f}") for share in (0, 0.2, 0.4, 0.6, 0.8, 1)],
        "ticks": [(_x(at), text) for at, text in ticks],
        "lines": lines,
    }


def _line(
    name: str, head: str, colour: str, places: Sequence[float], points: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    dots = [
        {
            "x": _x(at),
            "y": _y(point["accuracy"]),
            "low": _y(point["interval"][0]),
            "high": _y(point["interval"][1]),
            "value": point["accuracy"],
        }
        for at, point in zip(places, points, strict=True)
    ]
    path = " ".join(f"{dot['x']},{dot['y']}" for dot in dots)
    return {"name": name, "head": head, "colour": colour, "dots": dots, "path": path}


def _charts(protocols: dict[str, Any], colours: dict[str, str]) -> list[dict[str, Any]]:
    """One chart per protocol, and per perturbation; points stand at equal distances."""
    sets: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, entries in protocols.items():
        for entry in entries:
            sets.setdefault((_TITLES[name], entry.get("perturbation", "")), []).append(entry)
    charts = []
    for (title, kind), entries in sets.items():
        marks = [point["at"] for point in entries[0]["points"]]
        places = [(i + 0.5) / len(marks) for i in range(len(marks))]
        if entries[0]["unit"].startswith("fraction"):
            words = [f"{100 * mark:g} %" for mark in marks]
        else:
            words = ["as it is" if mark is None else f"{mark:g}" for mark in marks]
        lines = [
            _line(e["features"], e["head"], colours[e["features"]], places, e["points"]) for e in entries
        ]
        heading = f"{title}: {kind}" if kind else title
        charts.append(_frame(heading, entries[0]["unit"], list(zip(places, words, strict=True)), lines))
    return charts


def _reliability(bins: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Confidence against how often it was right; a perfect forecast lies on the diagonal."""
    dots = [{"x": _x(b["confidence"]), "y": _y(b["right"]), "n": b["n"], **b} for b in bins]
    ticks = [(share, f"{share:.2g}") for share in (0, 0.25, 0.5, 0.75, 1)]
    frame = _frame("Calibration", "confidence of the prediction", ticks, [])
    return {**frame, "dots": dots, "diagonal": (_x(0), _y(0), _x(1), _y(1))}


def _worst(wrong: Sequence[dict[str, Any]], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    known = {(sample.name, sample.start_s): sample for sample in samples}
    return [{**item, "picture": _picture(known[item["name"], item["start_s"]])} for item in wrong[:_WORST]]


def _picture(sample: Sample) -> str | None:
    """The frame in the middle of a sample as a data address; None where it cannot be read now."""
    from PIL import Image

    from jepa.data import open_video

    try:
        with open_video(sample.path) as reader:
            start = reader.start_s if sample.start_s is None else sample.start_s
            end = reader.start_s + reader.duration_s if sample.end_s is None else sample.end_s
            frame = reader.frames_at([(start + end) / 2]).data[0]
    except VideoError:
        return None
    image = Image.fromarray(frame.permute(1, 2, 0).numpy())
    image.thumbnail((320, 240))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
