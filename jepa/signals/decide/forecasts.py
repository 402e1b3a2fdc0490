"""The forecast log: when each forecast was issued, and its outcome. A forecast that was wrong stays in the log."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jepa.signals.document.objects import Anticipated, Observed, Resolution
from jepa.signals.policy import ForecastRule


class Issue(NamedTuple):
    """A forecast when it is issued: `signal` is its column in the scores, `row` its window."""

    signal: int
    row: int
    issued_at_ms: int


class ForecastTracker:
    """Issues forecasts of one label, window by window, from what is known at that window's end.

    Args:
        signal: the label's column among the anticipated scores.
        column: which of the horizons `rule.horizon_ms` is.
        rule: when to issue.

    Example:
        >>> tracker = ForecastTracker(0, 0, ForecastRule(issue_at=0.5, rearm_at=0.3, horizon_ms=1000))
        >>> [tracker.push(row, 500 * row, np.array([p]), False) for row, p in enumerate([0.2, 0.6, 0.7])]
        [None, Issue(signal=0, row=1, issued_at_ms=500), None]
    """

    def __init__(self, signal: int, column: int, rule: ForecastRule) -> None:
        self._signal, self._column, self._rule = signal, column, rule
        self._quiet_until = -1
        self._armed = True

    def push(self, row: int, end_ms: int, p: np.ndarray, happening: bool) -> Issue | None:
        """Reads one window.

        Args:
            row: the window's number.
            end_ms: the window's end, which is the issue time.
            p: probabilities within each horizon, [H]; NaN where the window was not assessed, which issues nothing.
            happening: whether the label is being observed now, so that it can no longer be forecast.
        """
        now = float(p[self._column])
        if math.isnan(now):
            return None
        # One forecast per rise: the next one waits until the probability fell, or until this one's horizon is over.
        if now < self._rule.rearm_at or (end_ms >= self._quiet_until and not happening):
            self._armed = True
        if not self._armed or happening or now < self._rule.issue_at:
            return None
        self._armed, self._quiet_until = False, end_ms + self._rule.horizon_ms
        return Issue(self._signal, row, end_ms)


def resolve(
    label: str,
    issued_at_ms: int,
    horizon_ms: int,
    observed: Sequence[Observed],
    observable: bool,
    duration_ms: int,
) -> Resolution:
    """The outcome of a forecast by the end of the video.

    Args:
        label: what was forecast.
        issued_at_ms: when.
        horizon_ms: it was to start within this time.
        observed: all spans of the entire video whose start was seen.
        observable: whether heads that observe `label` assessed every window of the horizon. Otherwise the forecast
            stays open unless an onset confirms it.
        duration_ms: length of the video.
    """
    until = issued_at_ms + horizon_ms
    onsets = [span for span in observed if span.label == label and issued_at_ms < span.start_ms <= until]
    if onsets:
        first = min(onsets, key=lambda span: span.start_ms)
        lead = first.start_ms - issued_at_ms
        return Resolution(status="confirmed", by=first.id, onset_ms=first.start_ms, lead_ms=lead)
    if not observable:
        return Resolution(status="open")
    return Resolution(status="expired" if until > duration_ms else "refuted")


def statistics_of(forecasts: Sequence[Anticipated], duration_ms: int) -> dict[str, Any]:
    """Summary of a forecast log.

    Args:
        forecasts: all forecasts of one video.
        duration_ms: length of the video.

    Returns:
        Counts by status; `precision`, confirmed among confirmed and refuted, None if there are none;
        `median_lead_ms` of the confirmed; `false_alarms_per_hour`, for which expired forecasts count too.
    """
    counts = dict.fromkeys(("confirmed", "refuted", "expired", "open"), 0)
    for forecast in forecasts:
        counts[forecast.resolution.status] += 1
    leads = [forecast.resolution.lead_ms for forecast in forecasts if forecast.resolution.lead_ms is not None]
    judged = counts["confirmed"] + counts["refuted"]
    return {
        "issued": len(forecasts),
        **counts,
        "precision": counts["confirmed"] / judged if judged else None,
        "median_lead_ms": statistics.median(leads) if leads else None,
        "false_alarms_per_hour": (counts["refuted"] + counts["expired"]) * 3_600_000 / duration_ms,
    }
