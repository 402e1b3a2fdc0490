"""Alarms: recall and lead time at a fixed number of false alarms per hour (a free-response operating characteristic).

An alarm is raised where a score reaches the threshold, and stands for `hold_s`; while it stands no other is raised. So
one event costs one alarm, however many windows show it, and a score that stays high costs an alarm per `hold_s`.

An event is *forecast* by an alarm in the `hold_s` before its onset: every alarm says "within hold_s". It is *observed*
by an alarm between its onset and its end. An alarm that fits no event is false. It is not judged where the record ends
before what it says could have come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa.probes.evaluation.metrics import group_bootstrap

RATES_PER_HOUR = (1.0, 6.0, 60.0)
_THRESHOLDS = 2000
_SAME = 1e-9
"""times and rates closer than this are equal"""


@dataclass(frozen=True)
class Recording:
    """The scores of one video, and what happens in it."""

    times_s: np.ndarray
    """ends of its windows [n], rising"""
    scores: np.ndarray
    """one score per window [n]"""
    onsets_s: np.ndarray
    """starts of its events [e]"""
    first_s: np.ndarray
    """for each event the earliest time at which an alarm counts for it [e]"""
    last_s: np.ndarray
    """and the latest [e]"""
    judged_s: float
    """alarms after this time are false only if they are known to be"""
    group: str
    """videos of one group are resampled together"""


def forecast_recording(
    times_s: np.ndarray,
    scores: np.ndarray,
    onsets_s: Sequence[float],
    horizon_s: float,
    end_s: float,
    group: str,
) -> Recording:
    """A video whose alarms say that an event starts within the horizon; an alarm at the onset is too late.

    Args:
        times_s: ends of the windows [n].
        scores: probability of a start within the horizon [n].
        onsets_s: starts of the events.
        horizon_s: for how long an alarm stands.
        end_s: end of the record.
        group: of the video.

    Example:
        >>> forecast_recording(np.arange(3.0), np.zeros(3), [2.0], 1.5, 3.0, "a").first_s.tolist()
        [0.5]
    """
    onsets = np.asarray([onset for onset in onsets_s if len(times_s) and onset > times_s[0]], float)
    late = np.nextafter(onsets, -np.inf)
    return Recording(times_s, scores, onsets, onsets - horizon_s, late, end_s - horizon_s, group)


def observed_recording(
    times_s: np.ndarray,
    scores: np.ndarray,
    events_s: Sequence[tuple[float, float]],
    group: str,
) -> Recording:
    """A video whose alarms say that an event goes on; they fit from its start to its end.

    Args:
        times_s: ends of the windows [n].
        scores: probability that the event goes on [n].
        events_s: start and end of each event.
        group: of the video.

    Example:
        >>> observed_recording(np.arange(3.0), np.zeros(3), [(1.0, 2.0)], "a").last_s.tolist()
        [2.0]
    """
    starts, ends = np.asarray(events_s, float).reshape(-1, 2).T
    return Recording(times_s, scores, starts, starts, ends, np.inf, group)


@dataclass(frozen=True)
class Sweep:
    """What the alarms of T thresholds were worth, over all videos."""

    thresholds: np.ndarray
    """[T], falling"""
    false_alarms: np.ndarray
    """alarms that fit no event [T]"""
    leads_s: np.ndarray
    """onset minus the first alarm that fits [T, events]; NaN for a missed one. Negative: seconds after the onset"""
    groups: list[str]
    """group of each event"""


def sweep(recordings: Sequence[Recording], thresholds: np.ndarray, hold_s: float) -> Sweep:
    """Judges the alarms of all videos at every threshold, in one pass over the windows.

    Example:
        >>> scores = np.array([0.1, 0.9, 0.9, 0.9, 0.2])
        >>> video = forecast_recording(np.arange(5.0), scores, [], 2.0, 9.0, "a")
        >>> sweep([video], np.array([0.95, 0.5]), hold_s=2.0).false_alarms.tolist()  # at 1 s and at 3 s
        [0, 2]
    """
    false, leads, groups = np.zeros(len(thresholds), int), [], []
    for video in recordings:
        until = np.full(len(thresholds), -np.inf)
        first = np.full((len(thresholds), len(video.onsets_s)), np.nan)
        for time_s, score in zip(video.times_s, video.scores, strict=True):
            raised = (score >= thresholds) & (time_s >= until - _SAME)
            if not raised.any():
                continue
            until[raised] = time_s + hold_s
            fits = (time_s >= video.first_s - _SAME) & (time_s <= video.last_s)
            if fits.any():
                new = raised[:, None] & fits & np.isnan(first)
                first = np.where(new, time_s, first)
            elif time_s <= video.judged_s + _SAME:
                false += raised
        leads.append(video.onsets_s - first)
        groups += [video.group] * len(video.onsets_s)
    return Sweep(thresholds, false, np.concatenate(leads, axis=1), groups)


def recall_at_false_alarms(
    recordings: Sequence[Recording],
    hours: float,
    hold_s: float,
    rates_per_hour: Sequence[float] = RATES_PER_HOUR,
) -> list[dict[str, Any]]:
    """The highest recall with at most so many false alarms per hour, and its lead time.

    With a short recording a low rate means none at all: 1 per hour allows no false alarm in 35 minutes. The threshold
    is chosen on the same recordings, as in any such curve; it is a point of it, not a promise for other videos.

    Args:
        recordings: tested videos.
        hours: their total length.
        hold_s: for how long an alarm stands.
        rates_per_hour: false alarms per hour.

    Returns:
        For each rate: threshold (None where none is low enough in false alarms), events, recall, its 95 % interval over
        groups at that threshold, median_lead_s of the events found, false_alarms and per_hour, those that were raised.

    Example:
        >>> scores = np.array([0.1, 0.8, 0.2, 0.6])
        >>> video = forecast_recording(np.arange(4.0), scores, [2.0], 2.0, 9.0, "a")
        >>> (row,) = recall_at_false_alarms([video], hours=1.0, hold_s=2.0, rates_per_hour=[0.0])
        >>> row["recall"], row["median_lead_s"], row["threshold"]
        (1.0, 1.0, 0.8)
    """
    scores = np.unique(np.concatenate([video.scores for video in recordings]))
    if (
        len(scores) > _THRESHOLDS
    ):  # all of the highest, which decide the low rates, and a selection of the others
        few = scores[np.linspace(0, len(scores) - 1, _THRESHOLDS // 2).astype(int)]
        scores = np.unique(np.r_[few, scores[-_THRESHOLDS // 2 :]])
    judged = sweep(recordings, scores[::-1], hold_s)
    return [_operating_point(judged, rate, hours) for rate in rates_per_hour]


def _operating_point(judged: Sweep, rate: float, hours: float) -> dict[str, Any]:
    """The point of highest recall at a rate; among equals the one with the highest threshold."""
    events = len(judged.groups)
    row: dict[str, Any] = {
        "false_alarms_per_hour": float(rate), "events": events, "threshold": None, "recall": 0.0 if events else None,
        "interval": [0.0, 0.0] if events else None, "median_lead_s": None, "false_alarms": 0, "per_hour": 0.0,
    }  # fmt: skip
    allowed = np.flatnonzero(judged.false_alarms <= rate * hours + _SAME)
    if not len(allowed):
        return row
    best = allowed[np.isfinite(judged.leads_s[allowed]).sum(1).argmax()]
    leads, raised = judged.leads_s[best], int(judged.false_alarms[best])
    hit = np.isfinite(leads).astype(float)
    row |= {"threshold": float(judged.thresholds[best]), "false_alarms": raised, "per_hour": raised / hours}
    if events:
        row |= {"recall": float(hit.mean()), "interval": list(group_bootstrap(hit, judged.groups))}
    return row | ({"median_lead_s": float(np.median(leads[hit > 0]))} if hit.any() else {})
