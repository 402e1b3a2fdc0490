"""Event detection: from scores over time to observed spans, and to forecasts with their outcomes.

Everything here is a function of the scores and the policy, window by window and without looking ahead, so
that a reader can run it again over the scores that a document holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jepa.errors import UserError
from jepa.signals.decide.forecasts import ForecastTracker, Issue, resolve
from jepa.signals.detect.detector import Signal
from jepa.signals.document.objects import Anticipated, CurvePoint, Observed
from jepa.signals.document.run import HeadMetadata
from jepa.signals.document.tracks import Tracks
from jepa.signals.policy import Policy, SpanRule


class Run(NamedTuple):
    """An unbroken run of windows, first and last row included, with the row of its highest score."""

    first: int
    last: int
    peak: int


class SpanTracker:
    """Finds runs of high scores with two thresholds, so that a score that wavers around one makes one
    run (hysteresis).

    Example:
        >>> tracker = SpanTracker(SpanRule(start_at=0.6, end_at=0.4))
        >>> for row, p in enumerate([0.1, 0.7, 0.5, 0.8, 0.3]):
        ...     _ = tracker.push(row, p)
        >>> tracker.runs()
        [Run(first=1, last=3, peak=3)]
    """

    def __init__(self, rule: SpanRule) -> None:
        self._rule = rule
        self._best = 0.0
        self._open: Run | None = None
        self.closed: list[Run] = []

    @property
    def happening(self) -> bool:
        """Whether a run is open now."""
        return self._open is not None

    def push(self, row: int, p: float) -> bool:
        """Takes the next window's score; returns whether it is the highest of its run so far.

        NaN, a window that was not assessed, ends a run and opens none.
        """
        if math.isnan(p):
            self.closed += [] if self._open is None else [self._open]
            self._open = None
            return False
        if self._open is None:
            if p < self._rule.start_at:
                return False
            self._open, self._best = Run(row, row, row), p
            return True
        if p < self._rule.end_at:
            self.closed.append(self._open)
            self._open = None
            return False
        higher = p > self._best
        self._best = max(p, self._best)
        self._open = Run(self._open.first, row, row if higher else self._open.peak)
        return higher

    def runs(self) -> list[Run]:
        """All runs, one that is still open at the end included."""
        return self.closed + ([self._open] if self._open is not None else [])


@dataclass
class WindowEvents:
    """What a window brought: forecasts issued, and observed signals (columns) that reached a new height."""

    issues: list[Issue] = field(default_factory=list)
    """forecasts issued at this window's end"""
    peaks: list[int] = field(default_factory=list)
    """observed columns whose run is at its highest so far"""


def check_horizons(policy: Policy, horizons_ms: Sequence[int]) -> None:
    """Refuses a policy that asks for a horizon that the detectors do not forecast within.

    Args:
        policy: the customer's policy.
        horizons_ms: horizons of the anticipating heads, in milliseconds; empty where nothing is forecast.

    Raises:
        UserError: names the key, its value and the horizons there are.
    """
    for key, value in (
        ("forecast.horizon_ms", policy.forecast.horizon_ms),
        ("breaks.after_ms", policy.breaks.after_ms),
    ):
        if horizons_ms and value not in horizons_ms:
            raise UserError(
                f"the policy {policy.policy} asks for {key}={value}, but the detectors forecast within "
                f"{', '.join(map(str, horizons_ms))} ms. Choose one of these."
            )


class EventTracker:
    """Reads one window after the other and keeps runs and forecasts.

    Args:
        policy: thresholds of spans and forecasts.
        observed: what the observed scores are, [R].
        anticipated: what the rows of the anticipated scores are, [A, H].
        horizons_ms: what their columns are.

    Raises:
        UserError: the policy asks for a horizon that the detectors do not give.
    """

    def __init__(
        self,
        policy: Policy,
        observed: Sequence[Signal],
        anticipated: Sequence[Signal],
        horizons_ms: Sequence[int],
    ) -> None:
        check_horizons(policy, horizons_ms)
        self.policy, self.observed, self.anticipated = policy, list(observed), list(anticipated)
        self.horizons_ms = list(horizons_ms)
        self.span_trackers = [SpanTracker(policy.observed) for _ in observed]
        self._forecast_trackers = []
        if anticipated:
            column = self.horizons_ms.index(policy.forecast.horizon_ms)
            self._forecast_trackers = [
                ForecastTracker(i, column, policy.forecast) for i in range(len(self.anticipated))
            ]
        self.issues: list[Issue] = []

    def push(self, row: int, end_ms: int, observed: np.ndarray, anticipated: np.ndarray) -> WindowEvents:
        """Takes the next window: observed [R], anticipated [A, H], both rounded as the document keeps them, NaN where
        it was not assessed."""
        events = WindowEvents()
        for column, tracker in enumerate(self.span_trackers):
            if tracker.push(row, float(observed[column])):
                events.peaks.append(column)
        now = {
            signal.label
            for signal, tracker in zip(self.observed, self.span_trackers, strict=True)
            if tracker.happening
        }
        # Spans first: what is happening in this very window can no longer be forecast by it.
        for forecaster, signal, p in zip(self._forecast_trackers, self.anticipated, anticipated, strict=True):
            issue = forecaster.push(row, end_ms, p, signal.label in now)
            if issue is not None:
                events.issues.append(issue)
        self.issues += events.issues
        return events


def track_again(policy: Policy, tracks: Tracks) -> EventTracker:
    """Tracks events again over the scores of a document."""
    observed = [Signal(track.head, track.label) for track in tracks.observed]
    anticipated = list(dict.fromkeys(Signal(track.head, track.label) for track in tracks.anticipated))
    horizons = sorted({track.within_ms for track in tracks.anticipated})
    curves = {
        (Signal(track.head, track.label), track.within_ms): np.array(track.p, float)  # null becomes NaN
        for track in tracks.anticipated
    }
    tracker = EventTracker(policy, observed, anticipated, horizons)
    for row, end_ms in enumerate(tracks.window_end_ms):
        now = np.array([track.p[row] for track in tracks.observed], float)
        ahead = np.array([[curves[signal, h][row] for h in horizons] for signal in anticipated])
        tracker.push(row, end_ms, now, ahead)
    return tracker


def observed_spans(
    tracker: EventTracker,
    tracks: Tracks,
    stride_ms: int,
    duration_ms: int,
    heads: Mapping[str, HeadMetadata],
    evidence: Mapping[int, str],
) -> list[Observed]:
    """The runs as spans, in order of time. The window that ends at t stands for `[t, t + stride_ms)`.

    Args:
        tracker: after its last window.
        tracks: the same scores, as the document keeps them.
        stride_ms: time between two windows.
        duration_ms: length of the video.
        heads: by id.
        evidence: evidence id by row, for the rows at which a run is highest.
    """
    ends, found = tracks.window_end_ms, []
    for signal, spans, track in zip(tracker.observed, tracker.span_trackers, tracks.observed, strict=True):
        for run in spans.runs():
            p = track.p[run.peak]
            assert p is not None  # a run holds assessed windows only
            found.append((ends[run.first], signal, run, p))
    found.sort(key=lambda item: (item[0], item[1]))
    return [
        Observed(
            id=f"o{number}",
            head=signal.head,
            label=signal.label,
            cat=tracker.policy.category(signal.label),
            start_ms=start,
            end_ms=min(duration_ms, ends[run.last] + stride_ms),
            p=p,
            peak_ms=ends[run.peak],
            calibration=heads[signal.head].calibration,
            evidence=[evidence[run.peak]] if run.peak in evidence else [],
        )
        for number, (start, signal, run, p) in enumerate(found, start=1)
    ]


def forecasts(
    tracker: EventTracker,
    tracks: Tracks,
    observed: Sequence[Observed],
    duration_ms: int,
    heads: Mapping[str, HeadMetadata],
    contexts: Mapping[int, tuple[int, int]],
    evidence: Mapping[int, str],
) -> list[Anticipated]:
    """The issued forecasts with their resolutions, in order of issue.

    Args:
        tracker: after its last window.
        tracks: the same scores, as the document keeps them.
        observed: all spans.
        duration_ms: length of the video.
        heads: by id.
        contexts: by row, first and last frame time of the window.
        evidence: evidence id by row.
    """
    curves: dict[Signal, list[tuple[int, list[float | None]]]] = {}
    for track in sorted(tracks.anticipated, key=lambda track: track.within_ms):
        curves.setdefault(Signal(track.head, track.label), []).append((track.within_ms, track.p))
    horizon = tracker.policy.forecast.horizon_ms
    column = tracker.horizons_ms.index(horizon) if tracker.anticipated else 0
    onsets = [span for span in observed if tracks.shows_onset(span.head, span.label, span.start_ms)]
    made = []
    for number, issue in enumerate(tracker.issues, start=1):
        signal = tracker.anticipated[issue.signal]
        made.append(
            Anticipated(
                id=f"a{number}",
                head=signal.head,
                label=signal.label,
                cat=tracker.policy.category(signal.label),
                issued_at_ms=issue.issued_at_ms,
                context_ms=contexts[issue.row],
                last_frame=tracks.last_frame[issue.row],
                horizon_ms=horizon,
                curve=[
                    CurvePoint(within_ms=within, p=value)
                    for within, p in curves[signal]
                    if (value := p[issue.row]) is not None
                ],
                base_rate=rates[column]
                if (rates := heads[signal.head].base_rates.get(signal.label))
                else None,
                calibration=heads[signal.head].calibration,
                evidence=[evidence[issue.row]] if issue.row in evidence else [],
                resolution=resolve(
                    signal.label,
                    issue.issued_at_ms,
                    horizon,
                    onsets,
                    tracks.watched(signal.label, issue.issued_at_ms, issue.issued_at_ms + horizon),
                    duration_ms,
                ),
            )
        )
    return made
