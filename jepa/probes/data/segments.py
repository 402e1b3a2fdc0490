"""Segment lists as questions about the future.

A list says when each action starts and ends in a video. From it come two kinds of question, each asked at a
moment t with only the window before t in view:

- *next action*: t lies `tau_s` before a segment's **start**; what is the segment? (The published evaluation's
clip ends
  before the segment's end instead, which often shows the action itself: reference facebookresearch/vjepa2,
  evals/action_anticipation_frozen, where the anchor point defaults to the end.)
- *hazard*: t runs over the video in even steps; when does the next hazard of each category start?
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jepa.errors import UserError
from jepa.probes.config import AnticipateSettings, ProbeData
from jepa.probes.data.labels import PATH_COLUMNS, Sample, column, find_video, read_rows, seconds

NOTHING = "(none)"
"""label of a moment that lies in no segment"""


@dataclass(frozen=True)
class Segment:
    """One action."""

    start_s: float
    end_s: float
    label: str


@dataclass
class Timeline:
    """What happens in one video, and when."""

    path: Path
    name: str
    group: str
    split: str | None
    segments: list[Segment]
    """in the order of their starts"""
    hazards: dict[str, list[float]] = field(default_factory=dict)
    """seconds at which each category of hazard starts"""

    def label_at(self, moment_s: float) -> str:
        """The action going on at a moment: the latest one that has started and not ended."""
        current = [s.label for s in self.segments if s.start_s <= moment_s < s.end_s]
        return current[-1] if current else NOTHING

    @property
    def end_s(self) -> float:
        """End of what the list describes."""
        return max(segment.end_s for segment in self.segments)


@dataclass
class HazardQuestions:
    """Moments, and what the future holds for each category of hazard."""

    samples: list[Sample]
    """windows that end at the moment; the label is the action going on then"""
    event: np.ndarray
    """[n, H] number of the time bin in which the next onset falls; K where it falls in none"""
    observed: np.ndarray
    """[n] bins that lie wholly before the end of the list; later ones are unknown"""


def read_timelines(data: ProbeData, settings: AnticipateSettings) -> tuple[list[Timeline], list[str]]:
    """Reads segments (path, start_s, end_s, label) and, beside them, `truth/<name>.json` with hazards where
    present.

    Returns:
        One timeline per video, and the categories of hazards.

    Raises:
        UserError: a column or file is missing, a segment ends before it starts, or a hazard label never
            occurs.
    """
    folder, rows = read_rows(data.root, "segments.csv")
    path_name = column(rows, data.path_column, PATH_COLUMNS, "path")
    label_name = column(rows, data.label_column, ("label",), "label")
    for name in ("start_s", "end_s"):
        column(rows, name, (), "time")
    group_name = data.group_column or ("group" if "group" in rows[0] else None)
    if group_name is not None:
        column(rows, group_name, (), "group")
    timelines: dict[str, Timeline] = {}
    for row in rows:
        name = row[path_name]
        start, end = seconds(row, "start_s"), seconds(row, "end_s")
        if start is None or end is None or not end > start:
            raise UserError(f"{name!r} has a segment from {start} to {end} s: no time in it. Correct it.")
        if name not in timelines:
            group = (row[group_name] if group_name else "") or name
            path = find_video(folder, name)
            timelines[name] = Timeline(path, name, group, row.get("split") or None, [])
        timelines[name].segments.append(Segment(start, end, row[label_name].strip()))
    for timeline in timelines.values():
        timeline.segments.sort(key=lambda segment: segment.start_s)
    return list(timelines.values()), _read_hazards(folder, list(timelines.values()), settings.hazards)


def _read_hazards(folder: Path, timelines: Sequence[Timeline], wanted: Sequence[str]) -> list[str]:
    """Fills in the onsets: from segment labels that are named as hazards, else from truth files."""
    labels = {segment.label for timeline in timelines for segment in timeline.segments}
    found: list[dict[str, list[float]]] = []
    for timeline in timelines:
        truth = folder / "truth" / f"{timeline.path.stem}.json"
        onsets: dict[str, list[float]] = {}
        if truth.is_file():
            for hazard in json.loads(truth.read_text(encoding="utf-8")).get("hazards", []):
                onsets.setdefault(hazard["category"], []).append(float(hazard["onset_s"]))
        for segment in timeline.segments:
            if segment.label in wanted:
                onsets.setdefault(segment.label, []).append(segment.start_s)
        found.append(onsets)
    known = {category for onsets in found for category in onsets}
    for name in wanted:
        if name not in labels | known:
            raise UserError(
                f"anticipate.hazards names {name!r}, which never occurs; the labels are "
                f"{', '.join(sorted(labels))}."
            )
    categories = sorted(wanted) if wanted else sorted(known)
    for timeline, onsets in zip(timelines, found, strict=True):
        timeline.hazards = {name: sorted(onsets.get(name, [])) for name in categories}
    return categories


def next_action_questions(timelines: Sequence[Timeline], tau_s: float, window_s: float) -> list[Sample]:
    """Windows that end `tau_s` before a segment starts, labelled with the segment.

    Segments that start less than `tau_s` plus half a window after the video's first moment are left out:
    there is nothing to see before them.
    """
    return [
        _window(timeline, segment.start_s - tau_s, window_s, segment.label)
        for timeline in timelines
        for segment in timeline.segments
        if segment.start_s - tau_s >= window_s / 2
    ]


def hazard_questions(
    timelines: Sequence[Timeline],
    categories: Sequence[str],
    horizons_s: Sequence[float],
    stride_s: float,
    window_s: float,
) -> HazardQuestions:
    """Windows at even steps through every video, with the bin of the next onset of each category.

    Bin k covers the time from horizon k-1 (or now) to horizon k after the window's end; an onset at the very
    end of the window has happened and is not forecast.
    """
    edges = np.asarray(horizons_s)
    samples, events, observed = [], [], []
    for timeline in timelines:
        moments = np.arange(window_s / 2, timeline.end_s - 1e-6, stride_s)
        for moment in moments:
            row = []
            for category in categories:
                ahead = [onset - moment for onset in timeline.hazards[category] if onset > moment]
                row.append(int(np.searchsorted(edges, ahead[0])) if ahead else len(edges))
            samples.append(_window(timeline, float(moment), window_s, timeline.label_at(float(moment))))
            events.append(row)
            observed.append(int(np.searchsorted(edges, timeline.end_s - moment, side="right")))
    return HazardQuestions(
        samples, np.array(events, dtype=np.int64).reshape(len(samples), len(categories)), np.array(observed)
    )


def _window(timeline: Timeline, moment_s: float, window_s: float, label: str) -> Sample:
    return Sample(
        timeline.path, timeline.name, label, timeline.group, timeline.split, moment_s - window_s, moment_s
    )
