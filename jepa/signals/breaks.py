"""Places where an advertisement could go, judged on both sides: what was shown before, what is foreseen
after.

A candidate's score is a sum that can be done by hand: each factor is a value between 0 and 1 times a weight
from the policy. Which candidates are taken is a separate step (`choose`), after the policy has had its say.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jepa.signals.objects import After, Anticipated, Before, Factor, Pause, Scene, Shot, Tracks, Worst
from jepa.signals.policy import Policy

_MERGE_MS = 500  # a pause this close to a cut is the cut's


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
    shots: Sequence[Shot],
    scenes: Sequence[Scene],
    pauses: Sequence[Pause],
    forecasts: Sequence[Anticipated],
    frame_ms: Sequence[int],
    duration_ms: int,
) -> list[Candidate]:
    """All natural places that are not too close to the start or end, in order of time.

    Args:
        policy: gives weights and lengths.
        sides: gives the risks.
        shots, scenes, pauses: the timeline.
        forecasts: those issued, so that a break can name the one in force.
        frame_ms: when each frame is shown.
        duration_ms: length of the video.
    """
    changes = {scene.end_ms: scene.change for scene in scenes if scene.change is not None}
    places: dict[int, list[Literal["shot", "scene", "pause"]]] = {}
    for shot in shots[1:]:
        places[shot.start_ms] = ["shot", "scene"] if shot.start_ms in changes else ["shot"]
    cuts = sorted(places)
    for pause in pauses:
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
        found.append(
            judge(policy, sides, moment, frame, places[at_ms], changes.get(at_ms), pauses, forecasts)
        )
    return found


def judge(
    policy: Policy,
    sides: Sides,
    at_ms: int,
    at_frame: int,
    snap: list[Literal["shot", "scene", "pause"]],
    change: float | None,
    pauses: Sequence[Pause],
    forecasts: Sequence[Anticipated],
) -> Candidate:
    """A place with the factors of its score and the risks on both sides.

    Args:
        policy: gives weights and lengths.
        sides: gives the risks.
        at_ms: where.
        at_frame: the first frame after it.
        snap: what makes it a natural place.
        change: how unlike the next scene is, where a scene ends.
        pauses: stretches of little motion.
        forecasts: those issued, so that the one in force can be named.
    """
    rule = policy.breaks
    before, after = sides.before(at_ms), sides.after(at_ms)
    near = [p for p in pauses if p.start_ms - _MERGE_MS <= at_ms <= p.end_ms + _MERGE_MS]
    values = {
        "scene_end": change or 0.0,
        "pause": max((pause.stillness for pause in near), default=0.0),
        "risk_before": before.p if before else 0.0,
        "risk_after": after.p if after else 0.0,
    }
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
