"""HTML report of a classification probe: accuracy, baselines, protocols, confusion matrix, calibration, worst clips.

Geometry is computed here; the template is `assets/report.html.j2` and the scaffold `jepa.html`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepa.data.manifest import Item
from jepa.errors import VideoError, require
from jepa.files import write_text
from jepa.html import COLOURS, charts, data_url, render_page
from jepa.probes.evaluation.results import verdict
from jepa.probes.features.build import ENCODER

_FRAME = charts.frame(width=420.0, height=244.0, left=38.0, right=14.0, top=8.0, bottom=40.0)
_X = charts.Scale(0.0, 1.0, _FRAME["left"], _FRAME["right"])
_Y = charts.Scale(0.0, 1.0, _FRAME["bottom"], _FRAME["top"])
_WORST = 12
_TITLES = {
    "label_efficiency": "Label efficiency",
    "early": "Early recognition, from the first part of a clip",
    "robustness": "Robustness",
}


def write_report(path: Path, results: dict[str, Any], samples: Sequence[Item]) -> None:
    """Writes the page.

    Args:
        path: the file.
        results: the content of results.json.
        samples: the readable samples; the worst are shown with a frame.

    Raises:
        UserError: Jinja is not installed.

    Example:
        >>> write_report(Path("report.html"), results, samples)  # doctest: +SKIP
    """
    names = list(dict.fromkeys(row["features"] for row in results["rows"]))
    names.sort(key=lambda name: name != ENCODER)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    best = next(
        row
        for row in results["rows"]
        if row["features"] == ENCODER and row["head"] == results["comparison"]["head"]
    )
    page = render_page(
        "jepa.probes",
        "report",
        "probes",
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
    )
    write_text(path, page)


def _bar(row: dict[str, Any]) -> dict[str, Any]:
    low, high = row["interval"]
    return {"row": row, "at": 100 * row["accuracy"], "low": 100 * low, "width": 100 * (high - low)}


def _verdicts(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """The difference from each baseline, with the class that colours it."""
    found = []
    for name, entry in comparison["against"].items():
        low, high = entry["interval"]
        look = "ok" if low > 0 else "bad" if high < 0 else "warn"
        found.append({"name": name, "verdict": verdict(entry["interval"]), "look": look, **entry})
    return found


def _confusion(counts: list[list[int]]) -> list[list[dict[str, Any]]]:
    """Counts with the fraction of their row, which shades a cell."""
    return [[{"n": n, "fraction": n / max(1, sum(line)), "right": i == j} for j, n in enumerate(line)]
            for i, line in enumerate(counts)]  # fmt: skip


def _chart(
    title: str, unit: str, ticks: Sequence[tuple[float, str]], lines: list[dict[str, Any]]
) -> dict[str, Any]:
    """A chart of accuracy, 0 to 1, over positions from 0 to 1."""
    return {
        "title": title,
        "unit": unit,
        "yticks": [(_Y(value), f"{value:.1f}") for value in (0, 0.2, 0.4, 0.6, 0.8, 1)],
        "xticks": [(_X(at), text) for at, text in ticks],
        "lines": lines,
        **_FRAME,
    }


def _line(
    name: str, head: str, colour: str, positions: Sequence[float], points: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    dots = [
        {
            "x": _X(at),
            "y": _Y(point["accuracy"]),
            "low": _Y(point["interval"][0]),
            "high": _Y(point["interval"][1]),
            "value": point["accuracy"],
        }
        for at, point in zip(positions, points, strict=True)
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
        positions = [(i + 0.5) / len(marks) for i in range(len(marks))]
        if entries[0]["unit"].startswith("fraction"):
            words = [f"{100 * mark:g} %" for mark in marks]
        else:
            words = ["unchanged" if mark is None else f"{mark:g}" for mark in marks]
        lines = [
            _line(e["features"], e["head"], colours[e["features"]], positions, e["points"]) for e in entries
        ]
        heading = f"{title}: {kind}" if kind else title
        charts.append(_chart(heading, entries[0]["unit"], list(zip(positions, words, strict=True)), lines))
    return charts


def _reliability(bins: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Reliability diagram: accuracy by confidence; perfect calibration is the diagonal."""
    dots = [{"x": _X(b["confidence"]), "y": _Y(b["right"]), "n": b["n"], **b} for b in bins]
    ticks = [(at, f"{at:.2g}") for at in (0, 0.25, 0.5, 0.75, 1)]
    chart = _chart("Calibration", "confidence of the prediction", ticks, [])
    return {**chart, "dots": dots, "diagonal": (_X(0), _Y(0), _X(1), _Y(1))}


def _worst(wrong: Sequence[dict[str, Any]], samples: Sequence[Item]) -> list[dict[str, Any]]:
    known = {(sample.name, sample.start_s): sample for sample in samples}
    return [{**item, "picture": _picture(known[item["name"], item["start_s"]])} for item in wrong[:_WORST]]


def _picture(sample: Item) -> str | None:
    """The middle frame of a sample as a data address; None where it cannot be read now."""
    from jepa.data.dataset import open_item

    try:
        with open_item(sample) as reader:
            start = reader.start_s if sample.start_s is None else sample.start_s
            end = reader.start_s + reader.duration_s if sample.end_s is None else sample.end_s
            frame = reader.frames_at([(start + end) / 2]).data[0]
    except VideoError:
        return None
    image = require("PIL.Image", "probes").fromarray(frame.permute(1, 2, 0).numpy())
    image.thumbnail((320, 240))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return data_url(buffer.getvalue())
