"""From scores over time to events: observed spans, and forecasts with what became of them.

Everything here is a function of the scores and the policy, window by window and without looking ahead, so
that a reader can run it again over the scores that a document holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jepa.errors import UserError
from jepa.signals.decide.forecasts import ForecastDesk, Issue, resolve
from jepa.signals.detect.detector import DIGITS, Signal
from jepa.signals.document.objects import Anticipated, CurvePoint, Observed, ProbeFacts, Tracks
from jepa.signals.policy import Policy, SpanRule


class Run(NamedTuple):
    """An unbroken run of windows, first and last row included, with the row of its highest score."""

    first: int
    last: int
    peak: int


class SpanTracker:
    """Finds runs of high scores with two thresholds, so that a score that trembles around one makes one
    run."""

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
        """Takes the next window's score; says whether it is the highest of its run so far."""
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
class Moments:
    """What a window brought: forecasts issued, and observed signals (columns) that reached a new height."""

    issues: list[Issue] = field(default_factory=list)
    """forecasts issued at this window's end"""
    peaks: list[int] = field(default_factory=list)
    """observed columns whose run is at its highest so far"""


class EventDesk:
    """Reads one window after the other and keeps runs and forecasts.

    Raises:
        UserError: the policy asks for a horizon that the probes do not give.
    """

    def __init__(
        self,
        policy: Policy,
        observed: Sequence[Signal],
        anticipated: Sequence[Signal],
        horizons_ms: Sequence[int],
    ) -> None:
        self.policy, self.observed, self.anticipated = policy, list(observed), list(anticipated)
        self.horizons_ms = list(horizons_ms)
        self.trackers = [SpanTracker(policy.observed) for _ in observed]
        self._desks = []
        if anticipated:
            for key, wanted in (
                ("forecast.horizon_ms", policy.forecast.horizon_ms),
                ("breaks.after_ms", policy.breaks.after_ms),
            ):
                if wanted not in self.horizons_ms:
                    raise UserError(
                        f"the policy {policy.policy} asks for {key}={wanted}, but the probes forecast within "
                        f"{', '.join(map(str, self.horizons_ms))} ms. Choose one of these."
                    )
            column = self.horizons_ms.index(policy.forecast.horizon_ms)
            self._desks = [ForecastDesk(i, column, policy.forecast) for i in range(len(self.anticipated))]
        self.issues: list[Issue] = []

    def push(self, row: int, end_ms: int, observed: np.ndarray, anticipated: np.ndarray) -> Moments:
        """Takes the next window: observed [O], anticipated [A, H], both rounded as the document keeps
        them."""
        moments = Moments()
        for column, tracker in enumerate(self.trackers):
            if tracker.push(row, float(observed[column])):
                moments.peaks.append(column)
        now = {
            signal.label
            for signal, tracker in zip(self.observed, self.trackers, strict=True)
            if tracker.happening
        }
        for desk, signal, p in zip(self._desks, self.anticipated, anticipated, strict=True):
            issue = desk.push(row, end_ms, p, signal.label in now)
            if issue is not None:
                moments.issues.append(issue)
        self.issues += moments.issues
        return moments


def replay(policy: Policy, tracks: Tracks) -> EventDesk:
    """Runs the desk again over the scores of a document."""
    observed = [Signal(track.probe, track.label) for track in tracks.observed]
    anticipated = list(dict.fromkeys(Signal(track.probe, track.label) for track in tracks.anticipated))
    horizons = sorted({track.within_ms for track in tracks.anticipated})
    curves = {
        (Signal(track.probe, track.label), track.within_ms): np.array(track.p) for track in tracks.anticipated
    }
    desk = EventDesk(policy, observed, anticipated, horizons)
    for row, end_ms in enumerate(tracks.window_end_ms):
        seen = np.array([track.p[row] for track in tracks.observed])
        foreseen = np.array([[curves[signal, h][row] for h in horizons] for signal in anticipated])
        desk.push(row, end_ms, seen, foreseen)
    return desk


def observed_spans(
    desk: EventDesk,
    tracks: Tracks,
    stride_ms: int,
    duration_ms: int,
    probes: Mapping[str, ProbeFacts],
    evidence: Mapping[int, str],
) -> list[Observed]:
    """The runs as spans, in order of time. The window that ends at t speaks for `[t, t + stride_ms)`.

    Args:
        desk: after its last window.
        tracks: the same scores, as the document keeps them.
        stride_ms: time between two windows.
        duration_ms: length of the video.
        probes: by id.
        evidence: evidence id by row, for the rows at which a run is highest.
    """
    ends, found = tracks.window_end_ms, []
    for signal, tracker, track in zip(desk.observed, desk.trackers, tracks.observed, strict=True):
        for run in tracker.runs():
            found.append((ends[run.first], signal, run, track.p[run.peak]))
    found.sort(key=lambda item: (item[0], item[1]))
    return [
        Observed(
            id=f"o{number}",
            probe=signal.probe,
            label=signal.label,
            cat=desk.policy.category(signal.label),
            start_ms=start,
            end_ms=min(duration_ms, ends[run.last] + stride_ms),
            p=p,
            peak_ms=ends[run.peak],
            calibration=probes[signal.probe].calibration,
            evidence=[evidence[run.peak]] if run.peak in evidence else [],
        )
        for number, (start, signal, run, p) in enumerate(found, start=1)
    ]


def forecasts(
    desk: EventDesk,
    tracks: Tracks,
    observed: Sequence[Observed],
    duration_ms: int,
    probes: Mapping[str, ProbeFacts],
    contexts: Mapping[int, tuple[int, int]],
    base_rates: Mapping[Signal, float | None],
    evidence: Mapping[int, str],
) -> list[Anticipated]:
    """The issued forecasts with their resolutions, in order of issue.

    Args:
        desk: after its last window.
        tracks: the same scores, as the document keeps them.
        observed: everything that was seen.
        duration_ms: length of the video.
        probes: by id.
        contexts: by row, the first and last moment that the window saw.
        base_rates: by signal, how often it starts within the policy's horizon anyway.
        evidence: evidence id by row.
    """
    watched = {signal.label for signal in desk.observed}
    curves: dict[Signal, list[tuple[int, list[float]]]] = {}
    for track in sorted(tracks.anticipated, key=lambda track: track.within_ms):
        curves.setdefault(Signal(track.probe, track.label), []).append((track.within_ms, track.p))
    horizon = desk.policy.forecast.horizon_ms
    made = []
    for number, issue in enumerate(desk.issues, start=1):
        signal = desk.anticipated[issue.signal]
        made.append(
            Anticipated(
                id=f"a{number}",
                probe=signal.probe,
                label=signal.label,
                cat=desk.policy.category(signal.label),
                issued_at_ms=issue.issued_at_ms,
                context_ms=contexts[issue.row],
                last_frame=tracks.last_frame[issue.row],
                horizon_ms=horizon,
                curve=[CurvePoint(within_ms=within, p=p[issue.row]) for within, p in curves[signal]],
                base_rate=base_rates.get(signal),
                calibration=probes[signal.probe].calibration,
                evidence=[evidence[issue.row]] if issue.row in evidence else [],
                resolution=resolve(
                    signal.label, issue.issued_at_ms, horizon, observed, signal.label in watched, duration_ms
                ),
            )
        )
    return made


def rounded(p: np.ndarray) -> np.ndarray:
    """Probabilities as the document keeps them; rounding keeps order, so curves stay non-decreasing."""
    return np.round(np.clip(np.asarray(p, dtype=np.float64), 0.0, 1.0), DIGITS)
