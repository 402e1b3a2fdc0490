"""Action anticipation and hazard forecasting: windows of the past with their targets, from a list of segments.

A list states when each action and each hazard starts in a video. Two kinds of window come from it, each with only the
past before a time t in view:

- *next action*: t is the anticipation time `tau_s` before a segment's **start**, and the target is its label. (The
  published evaluation's clip ends before the segment's end instead, which often shows the action itself: reference
  facebookresearch/vjepa2, evals/action_anticipation_frozen, where the anchor point defaults to the end.)
- *hazard*: t runs over the video in even steps, and the target is the time bin of the next onset of each category.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from jepa.data.manifest import Item
from jepa.errors import UserError
from jepa.probes.config import AnticipateSettings, ProbeData
from jepa.probes.data.labels import read_labelled

NOTHING = "(none)"
"""label of a time without an action"""
ACTION, HAZARD = "action", "hazard"
LISTS = ("segments.csv",)
"""lists that are looked for in a folder"""


@dataclass(frozen=True)
class Segment:
    """One action."""

    start_s: float
    end_s: float
    label: str


@dataclass
class Timeline:
    """What happens in one video, and when."""

    video: Item
    """the entire video"""
    segments: list[Segment] = field(default_factory=list)
    """actions, in the order of their starts"""
    hazards: dict[str, list[float]] = field(default_factory=dict)
    """seconds at which each category of hazard starts"""

    @property
    def end_s(self) -> float:
        """End of what the list describes."""
        onsets = [onset for own in self.hazards.values() for onset in own]
        return max([segment.end_s for segment in self.segments] or onsets, default=0.0)

    @property
    def path(self) -> str:
        """The video file."""
        return self.video.path

    @property
    def name(self) -> str:
        """The file as its list calls it."""
        return self.video.name

    @property
    def group(self) -> str:
        """Videos of one group are never split between training and testing."""
        return self.video.group

    @property
    def split(self) -> str | None:
        """train, val or test, where the list states it."""
        return self.video.split

    def label_at(self, time_s: float) -> str:
        """The current action at a time: the latest one that has started and not ended.

        Example:
            >>> Timeline(Item("a.mp4"), [Segment(1.0, 2.0, "walk"), Segment(1.5, 3.0, "wave")]).label_at(1.7)
            'wave'
        """
        current = [s.label for s in self.segments if s.start_s <= time_s < s.end_s]
        return current[-1] if current else NOTHING

    def window(self, time_s: float, window_s: float, label: str) -> Item:
        """The part of `window_s` seconds that ends at a time."""
        return dataclasses.replace(self.video, label=label, start_s=time_s - window_s, end_s=time_s)


@dataclass
class HazardWindows:
    """Windows, and what the future holds for each category of hazard."""

    samples: list[Item]
    """the windows; the label is the current action at their end"""
    event: np.ndarray
    """[n, H] number of the time bin in which the next onset falls; K where it falls in none"""
    observed: np.ndarray
    """[n] bins that end before the list does; later ones are unknown"""


def read_timelines(data: ProbeData, settings: AnticipateSettings) -> tuple[list[Timeline], list[str]]:
    """Reads a list of segments: path, start_s, end_s, label, and optionally group, split and kind.

    `kind` is action (also where it is empty or absent) or hazard. A hazard row's label is its category and its start_s
    the onset. Actions that `anticipate.hazards` names are hazards as well.

    Returns:
        One timeline per video, and the categories of hazards.

    Raises:
        UserError: a column, file or time is missing, a kind is unknown, or a hazard label never occurs.
    """
    items = read_labelled(data.root, data.label_column, data.group_column, data.path_column, LISTS)
    timelines: dict[str, Timeline] = {}
    for item in items:
        kind = item.columns.get("kind", ACTION)
        if kind not in (ACTION, HAZARD):
            raise UserError(
                f"{item.name!r} has a row of kind {kind!r} in {data.root!r}; kind is {ACTION} or {HAZARD}. A list for "
                "reports goes to annotations=FILE."
            )
        if item.start_s is None or (item.end_s is None and kind == ACTION):
            raise UserError(
                f"{item.name!r} has a row without a time in {data.root!r}. task=anticipate reads segments: one row per "
                "action with the columns path, start_s, end_s and label; an optional column kind marks hazards."
            )
        uncut = dataclasses.replace(item, label="", start_s=None, end_s=None, columns={})
        timeline = timelines.setdefault(item.path, Timeline(uncut))
        if (timeline.group, timeline.split) != (item.group, item.split):
            raise UserError(
                f"{item.name!r} has rows with different groups or splits; give all of them the same."
            )
        if kind == HAZARD:
            timeline.hazards.setdefault(item.label, []).append(item.start_s)
        else:
            assert item.end_s is not None
            timeline.segments.append(Segment(item.start_s, item.end_s, item.label))
    for timeline in timelines.values():
        timeline.segments.sort(key=lambda segment: segment.start_s)
    return list(timelines.values()), _fill_hazards(list(timelines.values()), settings.hazards)


def _fill_hazards(timelines: Sequence[Timeline], named: Sequence[str]) -> list[str]:
    """Adds the actions that are named as hazards, and gives every timeline all categories."""
    labels = {segment.label for timeline in timelines for segment in timeline.segments}
    for timeline in timelines:
        for segment in timeline.segments:
            if segment.label in named:
                timeline.hazards.setdefault(segment.label, []).append(segment.start_s)
    known = {category for timeline in timelines for category in timeline.hazards}
    for name in named:
        if name not in known:
            raise UserError(
                f"anticipate.hazards names {name!r}, which never occurs; the labels are "
                f"{', '.join(sorted(labels | known))}."
            )
    categories = sorted(named) if named else sorted(known)
    for timeline in timelines:
        timeline.hazards = {name: sorted(set(timeline.hazards.get(name, []))) for name in categories}
    return categories


def next_action_windows(timelines: Sequence[Timeline], tau_s: float, window_s: float) -> list[Item]:
    """Windows that end `tau_s` before a segment starts, labelled with the segment.

    Segments that start less than `tau_s` plus half a window after the video's first frame are left out: there is
    nothing to see before them.
    """
    return [
        timeline.window(segment.start_s - tau_s, window_s, segment.label)
        for timeline in timelines
        for segment in timeline.segments
        if segment.start_s - tau_s >= window_s / 2
    ]


def hazard_windows(
    timelines: Sequence[Timeline],
    categories: Sequence[str],
    horizons_s: Sequence[float],
    stride_s: float,
    window_s: float,
) -> HazardWindows:
    """Windows at even steps through every video, with the bin of the next onset of each category.

    Bin k covers the time from horizon k-1 (or the window's end) to horizon k after the window's end; an onset at the
    very end of the window has happened and is not forecast.
    """
    edges = np.asarray(horizons_s)
    samples, events, observed = [], [], []
    for timeline in timelines:
        for time_s in np.arange(window_s / 2, timeline.end_s - 1e-6, stride_s):
            row = []
            for category in categories:
                ahead = [onset - time_s for onset in timeline.hazards[category] if onset > time_s]
                row.append(int(np.searchsorted(edges, ahead[0])) if ahead else len(edges))
            samples.append(timeline.window(float(time_s), window_s, timeline.label_at(float(time_s))))
            events.append(row)
            observed.append(int(np.searchsorted(edges, timeline.end_s - time_s, side="right")))
    return HazardWindows(
        samples, np.array(events, dtype=np.int64).reshape(len(samples), len(categories)), np.array(observed)
    )
