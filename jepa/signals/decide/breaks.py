"""Places where an advertisement could go, judged on both sides: what was shown before, what is foreseen
after.

Candidates are the boundaries between shots and, where the picture stands still inside one, pauses. A candidate's
score is a sum that can be done by hand: each factor is a value between 0 and 1 times a weight from the policy. The
score ranks candidates; how far down the ranking breaks are offered is the policy's `min_score`. Which candidates are
taken is a separate step (`choose`), after the policy has had its say: distance between breaks belongs there, because
it is a matter of two places and not of one.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jepa.signals.detect.detector import DIGITS
from jepa.signals.document.invariants import LOOKS_AHEAD
from jepa.signals.document.objects import After, Anticipated, Before, Factor, Pause, Timeline, Tracks, Worst
from jepa.signals.policy import Policy

_MERGE_MS = 500  # a pause this close to a cut is the cut's
_STILL_MS = 1000  # how much of either side is asked for stillness


@dataclass(frozen=True)
class Candidate:
    """A place with its factors; what the policy makes of it comes later."""

    at_ms: int
    """where, in milliseconds"""
    at_frame: int
    """the first frame after the break"""
    snap: list[Literal["shot", "scene", "pause"]]
    """what makes this a natural place"""
    factors: list[Factor]
    """the terms of the score"""
    before: Before
    """the side already shown"""
    after: After
    """the side to come"""

    @property
    def score(self) -> float:
        """Sum of the factors' parts."""
        return round(sum(factor.part for factor in self.factors), 9)


@dataclass(frozen=True)
class Sides:
    """Looks up the risk on either side of a moment.

    With `causal`, the side to come is what the last window that ended at or before the moment foresees;
    without, it is what windows after the moment saw.
    """

    policy: Policy
    """gives the lengths of both sides and the meaning of labels"""
    tracks: Tracks
    """scores over time"""
    causal: bool
    """whether the future may be looked up"""

    def before(self, at_ms: int, category: str = "any") -> Worst | None:
        """The likeliest observed risk of a category in the time before."""
        first, last = self._rows(at_ms - self.policy.breaks.before_ms, at_ms)
        return self._seen(first, last, category)

    def after(self, at_ms: int, category: str = "any") -> Worst | None:
        """The likeliest risk of a category in the time after."""
        length = self.policy.breaks.after_ms
        if not self.causal:
            first, last = self._rows(at_ms, at_ms + length)
            return self._seen(first, last, category)
        row = bisect.bisect_right(self.tracks.window_end_ms, at_ms) - 1
        if row < 0:
            return None
        found = [
            self._worst(track.label, track.p[row])
            for track in self.tracks.anticipated
            if track.within_ms == length and self.policy.matches(category, track.label)
        ]
        return max(found, key=lambda worst: worst.p, default=None)

    def nearness(self, at_ms: int) -> float:
        """How close the likeliest risk is, on either side: its probability, 1 times at the moment itself and falling
        to 0 times at the end of the side. A risk foreseen between two horizons counts as if it came half-way."""
        back, ahead = self.policy.breaks.before_ms, self.policy.breaks.after_ms
        found = [0.0]
        ends = self.tracks.window_end_ms
        first, here = self._rows(at_ms - back, at_ms)
        past = np.array([1 - (at_ms - end) / back for end in ends[first:here]])
        last = here if self.causal else self._rows(at_ms, at_ms + ahead)[1]
        future = np.array([1 - (end - at_ms) / ahead for end in ends[here:last]])
        for track in self.tracks.observed:
            close = np.array(track.p[first:last]) * np.concatenate([past, future])
            found.append(float(close.max(initial=0.0)))
        if self.causal and here:
            curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
            for curve in self.tracks.anticipated:
                if curve.within_ms <= ahead:
                    point = (curve.within_ms, curve.p[here - 1])
                    curves.setdefault((curve.probe, curve.label), []).append(point)
            for points in curves.values():
                steps = itertools.pairwise([(0, 0.0), *sorted(points)])
                found.append(sum((q - p) * (1 - (s + t) / 2 / ahead) for (s, p), (t, q) in steps))
        return max(found)

    def _rows(self, after_ms: int, until_ms: int) -> tuple[int, int]:
        ends = self.tracks.window_end_ms
        return bisect.bisect_right(ends, after_ms), bisect.bisect_right(ends, until_ms)

    def _seen(self, first: int, last: int, category: str) -> Worst | None:
        found = [
            self._worst(track.label, max(track.p[first:last]))
            for track in self.tracks.observed
            if last > first and self.policy.matches(category, track.label)
        ]
        return max(found, key=lambda worst: worst.p, default=None)

    def _worst(self, label: str, p: float) -> Worst:
        return Worst(label=label, cat=self.policy.category(label), p=p)


def candidates(
    policy: Policy,
    sides: Sides,
    timeline: Timeline,
    forecasts: Sequence[Anticipated],
    frame_ms: Sequence[int],
    duration_ms: int,
) -> list[Candidate]:
    """All natural places that are not too close to the start or end, in order of time.

    Args:
        policy: gives weights and lengths.
        sides: gives the risks.
        timeline: shots, scenes and pauses.
        forecasts: those issued, so that a break can name the one in force.
        frame_ms: when each frame is shown.
        duration_ms: length of the video.
    """
    scenes = {scene.start_ms for scene in timeline.scenes}
    places: dict[int, list[Literal["shot", "scene", "pause"]]] = {}
    for shot in timeline.shots[1:]:
        places[shot.start_ms] = ["shot", "scene"] if shot.start_ms in scenes else ["shot"]
    cuts = sorted(places)
    for pause in timeline.pauses:
        # A pause is one only after it has lasted; at its first moment nobody can know.
        known = pause.start_ms + policy.breaks.still_ms
        near = [cut for cut in cuts if pause.start_ms - _MERGE_MS <= cut <= pause.end_ms + _MERGE_MS]
        for cut in near:
            if "pause" not in places[cut]:
                places[cut].append("pause")
        if not near:
            places[known] = ["pause"]
    found = []
    for at_ms in sorted(places):
        if not policy.breaks.edge_ms <= at_ms <= duration_ms - policy.breaks.edge_ms:
            continue
        frame = min(bisect.bisect_left(frame_ms, at_ms), len(frame_ms) - 1)
        moment = frame_ms[frame] if at_ms not in cuts else at_ms
        found.append(judge(policy, sides, timeline, moment, frame, places[at_ms], forecasts))
    return found


def judge(
    policy: Policy,
    sides: Sides,
    timeline: Timeline,
    at_ms: int,
    at_frame: int,
    snap: list[Literal["shot", "scene", "pause"]],
    forecasts: Sequence[Anticipated],
) -> Candidate:
    """A place with the factors of its score and the risks on both sides.

    Args:
        policy: gives weights and lengths.
        sides: gives the risks.
        timeline: shots and pauses.
        at_ms: where.
        at_frame: the first frame after it.
        snap: what makes it a natural place.
        forecasts: those issued, so that the one in force can be named.
    """
    rule = policy.breaks
    before, after = sides.before(at_ms), sides.after(at_ms)
    shot = next((shot for shot in timeline.shots[1:] if shot.start_ms == at_ms), None)
    known = [p for p in timeline.pauses if p.start_ms + rule.still_ms <= at_ms]
    values = {
        **{kind: float(shot is not None and shot.kind == kind) for kind in ("fade", "dissolve", "cut")},
        "new_look": (shot.change or 0.0) if shot is not None else 0.0,
        "still_before": _stillness(known, at_ms - _STILL_MS, at_ms),
        "risk_before": before.p if before else 0.0,
        "risk_after": after.p if after else 0.0,
        "risk_near": round(sides.nearness(at_ms), DIGITS),
    }
    if not sides.causal:
        values[LOOKS_AHEAD] = _stillness(timeline.pauses, at_ms, at_ms + _STILL_MS)
    weights = rule.weights.model_dump()
    factors = [
        Factor(name=name, value=value, weight=weights[name], part=round(value * weights[name], 9) + 0.0)
        for name, value in values.items()
    ]
    ref = None
    if sides.causal and after is not None:
        in_force = [
            forecast.id
            for forecast in forecasts
            if forecast.label == after.label
            and forecast.issued_at_ms <= at_ms < forecast.issued_at_ms + forecast.horizon_ms
        ]
        ref = in_force[-1] if in_force else None
    return Candidate(
        at_ms,
        at_frame,
        snap,
        factors,
        Before(window_ms=(max(0, at_ms - rule.before_ms), at_ms), worst=before),
        After(
            source="anticipated" if sides.causal else "observed",
            window_ms=(at_ms, at_ms + rule.after_ms),
            ref=ref,
            worst=after,
        ),
    )


def _stillness(pauses: Sequence[Pause], start_ms: int, end_ms: int) -> float:
    """Share of a stretch that lies in pauses."""
    inside = sum(max(0, min(p.end_ms, end_ms) - max(p.start_ms, start_ms)) for p in pauses)
    return round(inside / (end_ms - start_ms), DIGITS)


def choose(at_ms: Sequence[int], scores: Sequence[float], min_gap_ms: int, most: int) -> list[int]:
    """The places with the highest total score that keep `min_gap_ms` between neighbours; at most `most` of
    them.

    Weighted interval scheduling by dynamic programming, exact in `len(at_ms) * most` steps.

    Args:
        at_ms: ascending times.
        scores: one per place; a place whose score is not above zero is never taken.
        min_gap_ms: least distance between two places taken.
        most: how many may be taken.
    """
    count = len(at_ms)
    most = min(most, count)
    # best[k][i]: highest total with at most k of the first i places.
    best = [[0.0] * (count + 1) for _ in range(most + 1)]
    room = [bisect.bisect_right(at_ms, at_ms[i] - min_gap_ms, hi=i) for i in range(count)]
    for k in range(1, most + 1):
        for i in range(count):
            best[k][i + 1] = max(best[k][i], best[k - 1][room[i]] + max(0.0, scores[i]))
    taken, k, i = [], most, count
    while k and i:
        if best[k][i] == best[k][i - 1]:
            i -= 1
        else:
            taken.append(i - 1)
            k, i = k - 1, room[i - 1]
    return sorted(taken)
