"""Alarms: recall and lead time at a fixed number of false alarms per hour (a free-response operating characteristic).

An alarm is raised where a score reaches the threshold, and stands for `hold_s`; while it stands no other is raised. So
one event costs one alarm, however many windows show it, and a score that stays high costs an alarm per `hold_s`.

An event is *forecast* by an alarm in the `hold_s` before its onset: every alarm says "within hold_s". It is *observed* by
an alarm between its onset and its end. An alarm that fits no event is false. It is not judged where the record ends
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


def alarms(recording: Recording, threshold: float, hold_s: float) -> np.ndarray:
    """Times at which an alarm is raised.

    Example:
        >>> scores = np.array([0.1, 0.9, 0.9, 0.9, 0.2])
        >>> video = forecast_recording(np.arange(5.0), scores, [], 2.0, 9.0, "a")
        >>> alarms(video, 0.5, hold_s=2.0).tolist()
        [1.0, 3.0]
    """
    raised: list[float] = []
    for time_s in recording.times_s[recording.scores >= threshold]:
        if not raised or time_s >= raised[-1] + hold_s - 1e-9:
            raised.append(float(time_s))
    return np.array(raised)


@dataclass(frozen=True)
class Counts:
    """What the alarms of one threshold were worth."""

    false_alarms: int
    """alarms that fit no event"""
    leads_s: list[float]
    """onset minus the first alarm that fits, per event; NaN for a missed one. Negative: seconds after the onset"""
    groups: list[str]
    """group of each event"""


def count_alarms(recordings: Sequence[Recording], threshold: float, hold_s: float) -> Counts:
    """Judges the alarms of all videos at one threshold."""
    false, leads, groups = 0, [], []
    for video in recordings:
        raised = alarms(video, threshold, hold_s)
        fits = (raised[:, None] >= video.first_s - 1e-9) & (raised[:, None] <= video.last_s)
        false += int((~fits.any(1) & (raised <= video.judged_s + 1e-9)).sum())
        for event, onset in enumerate(video.onsets_s):
            own = raised[fits[:, event]]
            leads.append(float(onset - own[0]) if len(own) else float("nan"))
            groups.append(video.group)
    return Counts(false, leads, groups)


def recall_at_false_alarms(
    recordings: Sequence[Recording],
    hours: float,
    hold_s: float,
    rates_per_hour: Sequence[float] = RATES_PER_HOUR,
) -> list[dict[str, Any]]:
    """The highest recall with at most so many false alarms per hour, and its lead time.

    With a short recording a low rate means none at all: 1 per hour allows no false alarm in 35 minutes. The threshold is
    chosen on the same recordings, as in any such curve; it is a point of it, not a promise for other videos.

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
    if len(scores) > _THRESHOLDS:  # the highest ones are kept, where the low rates of false alarms are decided
        kept = np.unique(np.r_[np.linspace(0, len(scores) - 1, _THRESHOLDS // 2).astype(int)])
        scores = np.unique(np.r_[scores[kept], scores[-_THRESHOLDS // 2 :]])
    curve = [(float(t), count_alarms(recordings, float(t), hold_s)) for t in scores[::-1]]
    return [_operating_point(curve, rate, hours) for rate in rates_per_hour]


def _operating_point(curve: Sequence[tuple[float, Counts]], rate: float, hours: float) -> dict[str, Any]:
    """The point of highest recall at a rate; among equals the one with the highest threshold."""
    best: tuple[float, Counts] | None = None
    found = -1
    for threshold, counts in curve:
        recalled = int(np.isfinite(counts.leads_s).sum())
        if counts.false_alarms <= rate * hours + 1e-9 and recalled > found:
            best, found = (threshold, counts), recalled
    events = len(curve[0][1].leads_s) if curve else 0
    row: dict[str, Any] = {"false_alarms_per_hour": float(rate), "events": events}
    if best is None:
        return row | {
            "threshold": None, "recall": 0.0, "interval": [0.0, 0.0], "median_lead_s": None, "false_alarms": 0,
            "per_hour": 0.0,
        }  # fmt: skip
    threshold, counts = best
    leads = np.array(counts.leads_s)
    hit = np.isfinite(leads).astype(float)
    return row | {
        "threshold": threshold,
        "recall": float(hit.mean()) if events else None,
        "interval": list(group_bootstrap(hit, counts.groups)) if events else None,
        "median_lead_s": float(np.median(leads[hit > 0])) if hit.any() else None,
        "false_alarms": counts.false_alarms,
        "per_hour": counts.false_alarms / hours,
    }
