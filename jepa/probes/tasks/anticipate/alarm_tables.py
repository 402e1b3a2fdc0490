"""Recall and lead time at fixed false alarms per hour, for hazards forecast and for hazards observed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jepa.data.manifest import Item
from jepa.probes.data.segments import Timeline
from jepa.probes.evaluation.alarms import (
    Recording,
    forecast_recording,
    observed_recording,
    recall_at_false_alarms,
)
from jepa.probes.evaluation.cross_validate import HeadRun
from jepa.probes.evaluation.problem import Problem

OBSERVED_HOLD_S = 2.0
"""how long an alarm that something goes on stands"""


def forecast_alarms(
    problem: Problem,
    timelines: Sequence[Timeline],
    hazards: Sequence[str],
    horizons_s: Sequence[float],
    rates_per_hour: Sequence[float],
) -> list[dict[str, Any]]:
    """Alarms "it starts within the longest horizon": one entry per category and run, with a point per rate.

    Args:
        problem: hazards, evaluated; predictions [seeds, n, H, K]. Scores are means over seeds.
        timelines: of the videos.
        hazards: H categories.
        horizons_s: K horizons; an alarm stands for the last one.
        rates_per_hour: false alarms per hour.
    """
    horizon_s = float(horizons_s[-1])

    def record(timeline: Timeline, times_s: np.ndarray, scores: np.ndarray, category: str) -> Recording:
        onsets = timeline.hazards[category]
        return forecast_recording(times_s, scores, onsets, horizon_s, timeline.end_s, timeline.group)

    return [
        _entry(
            category,
            run,
            run.prediction[..., number, -1].mean(0),
            problem,
            timelines,
            horizon_s,
            record,
            rates_per_hour,
        )
        for number, category in enumerate(hazards)
        for run in problem.runs
    ]


def observed_alarms(
    problem: Problem,
    classes: Sequence[str],
    timelines: Sequence[Timeline],
    hazards: Sequence[str],
    rates_per_hour: Sequence[float],
) -> list[dict[str, Any]]:
    """Alarms "it goes on", for the categories that are actions of the list too; a lead below zero is a delay.

    Args:
        problem: current action, evaluated; predictions [seeds, n, classes].
        classes: names of the actions.
        timelines: of the videos.
        hazards: categories.
        rates_per_hour: false alarms per hour.
    """

    def record(timeline: Timeline, times_s: np.ndarray, scores: np.ndarray, category: str) -> Recording:
        events = [(s.start_s, s.end_s) for s in timeline.segments if s.label == category]
        return observed_recording(times_s, scores, events, timeline.group)

    return [
        _entry(
            category,
            run,
            run.prediction[..., list(classes).index(category)].mean(0),
            problem,
            timelines,
            OBSERVED_HOLD_S,
            record,
            rates_per_hour,
        )
        for category in hazards
        if category in classes
        for run in problem.runs
    ]


def _entry(
    category: str,
    run: HeadRun,
    scores: np.ndarray,
    problem: Problem,
    timelines: Sequence[Timeline],
    hold_s: float,
    record: Any,
    rates_per_hour: Sequence[float],
) -> dict[str, Any]:
    by_video: dict[str, list[int]] = {}
    for i in problem.tested:
        by_video.setdefault(problem.samples[i].name, []).append(int(i))
    own = {timeline.name: timeline for timeline in timelines}
    recordings, length_s = [], 0.0
    for name, rows in by_video.items():
        rows.sort(key=lambda i: _end_s(problem.samples[i]))
        times_s = np.array([_end_s(problem.samples[i]) for i in rows])
        recordings.append(record(own[name], times_s, scores[rows], category))
        length_s += own[name].end_s
    return {
        "category": category,
        "features": run.features,
        "head": run.head,
        "hold_s": hold_s,
        "hours": length_s / 3600,
        "points": recall_at_false_alarms(recordings, length_s / 3600, hold_s, rates_per_hour),
    }


def _end_s(sample: Item) -> float:
    assert sample.end_s is not None
    return sample.end_s


def print_alarms(console: Any, title: str, entries: Sequence[dict[str, Any]]) -> None:
    """One table per category: recall, and the median lead in seconds, at each rate."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    for category in dict.fromkeys(entry["category"] for entry in entries):
        own = [entry for entry in entries if entry["category"] == category]
        events = own[0]["points"][0]["events"]
        console.print(
            f"{title} {escape(category)!s}: recall and median lead in seconds at so many false alarms per hour "
            f"({events} events in {own[0]['hours']:.2f} h; an alarm stands for {own[0]['hold_s']:g} s)."
        )
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("features", no_wrap=True)
        table.add_column("head", no_wrap=True)
        for point in own[0]["points"]:
            table.add_column(f"{point['false_alarms_per_hour']:g} per h", justify="right", no_wrap=True)
        for entry in own:
            table.add_row(entry["features"], entry["head"], *map(_cell, entry["points"]))
        console.print(table)


def _cell(point: dict[str, Any]) -> str:
    if point["recall"] is None:
        return "-"
    lead = "" if point["median_lead_s"] is None else f", {point['median_lead_s']:+.1f} s"
    low, high = point["interval"]
    return f"{point['recall']:.2f} ({low:.2f}-{high:.2f}){lead}"
