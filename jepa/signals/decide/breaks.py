"""Ad break candidates, scored on both sides: what was shown before, what is forecast after.

Candidates are the boundaries between shots, where the picture is static inside one, pauses, and, where the policy has
pre-roll, the time before the first frame. A candidate's score is
a sum that can be done by hand: each factor is a value between 0 and 1 times a weight from the policy. The score ranks
candidates; how far down the ranking breaks are offered is the policy's `min_score`. Which candidates are taken is a
separate step (`choose`), after the policy's rules. The distance between breaks belongs there, because it depends on
two candidates and not on one.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jepa.signals.detect.audio import MOMENTARY_MS, SPEECH_KNOWN_MS, SPEECH_OVER_MS
from jepa.signals.detect.detector import DIGITS
from jepa.signals.document.objects import (
    After,
    Anticipated,
    Before,
    BoundaryType,
    Factor,
    MaxRisk,
    Span,
    Speech,
    Timeline,
)
from jepa.signals.document.tracks import AnticipatedTrack, ObservedTrack, Tracks, all_assessed
from jepa.signals.policy import Policy

_MERGE_MS = 500  # a pause this close to a cut is the cut's
_STILL_MS = 1000  # how much of either side counts for stillness
_SILENT_MS = 500  # and for silence: a pause between two sentences is shorter than one of the picture
# A pause between sentences lasts most of a second; one between the words of a sentence seldom half of it.
_SPEECH_REACH_MS = 1000


@dataclass(frozen=True)
class Candidate:
    """A time at which a break could go, with its factors; the policy's rules come later."""

    at_ms: int
    """where, in milliseconds"""
    at_frame: int
    """the first frame after the break"""
    boundary_types: list[BoundaryType]
    """what makes this a natural break"""
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
class BreakContext:
    """Looks up the risk on either side of a time.

    With `causal`, the side to come is what the last window that ended at or before that time forecasts; without, it is
    what windows after it observed.
    """

    policy: Policy
    """gives the lengths of both sides and the meaning of labels"""
    tracks: Tracks
    """scores over time"""
    causal: bool
    """whether the future may be looked up"""

    def before(self, at_ms: int, category: str = "any") -> MaxRisk | None:
        """The likeliest observed risk of a category in the time before."""
        rows = self.tracks.rows(at_ms - self.policy.breaks.before_ms, at_ms)
        return self._highest(self._observing(category), rows)

    def after(self, at_ms: int, category: str = "any") -> MaxRisk | None:
        """The likeliest risk of a category in the time after."""
        if not self.causal:
            rows = self.tracks.rows(at_ms, at_ms + self.policy.breaks.after_ms)
            return self._highest(self._observing(category), rows)
        row = bisect.bisect_right(self.tracks.window_end_ms, at_ms) - 1
        if row < 0:
            return None
        return self._highest(self._forecasts(category), range(row, row + 1))

    def assessed_before(self, at_ms: int, category: str) -> bool:
        """Whether every window of the side already shown was assessed for this category."""
        rows = self.tracks.rows(at_ms - self.policy.breaks.before_ms, at_ms)
        return all_assessed(self._observing(category), rows)

    def assessed_after(self, at_ms: int, category: str) -> bool:
        """Whether every window that tells about the side to come was assessed for this category."""
        if not self.causal:
            rows = self.tracks.rows(at_ms, at_ms + self.policy.breaks.after_ms)
            return all_assessed(self._observing(category), rows)
        row = bisect.bisect_right(self.tracks.window_end_ms, at_ms) - 1
        return row >= 0 and all_assessed(self._forecasts(category), range(row, row + 1))

    def nearness(self, at_ms: int) -> float:
        """How close the likeliest risk is, on either side: its probability, times 1 at that time itself, falling
        to times 0 at the end of the side. A risk forecast between two horizons counts as if it came half-way."""
        # Linear in time, so that a reader can work it out by hand.
        back, ahead = self.policy.breaks.before_ms, self.policy.breaks.after_ms
        found = [0.0]
        ends = self.tracks.window_end_ms
        shown = self.tracks.rows(at_ms - back, at_ms)
        first, here = shown.start, shown.stop
        past = np.array([1 - (at_ms - end) / back for end in ends[first:here]])
        last = here if self.causal else self.tracks.rows(at_ms, at_ms + ahead).stop
        future = np.array([1 - (end - at_ms) / ahead for end in ends[here:last]])
        for track in self.tracks.observed:
            # What was not assessed counts as no risk here; it is for the policy's rules to refuse the break.
            close = np.nan_to_num(np.array(track.p[first:last], float)) * np.concatenate([past, future])
            found.append(float(close.max(initial=0.0)))
        if self.causal and here:
            curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
            for curve in self.tracks.anticipated:
                p = curve.p[here - 1]
                if curve.within_ms <= ahead and p is not None:
                    curves.setdefault((curve.head, curve.label), []).append((curve.within_ms, p))
            for points in curves.values():
                # A curve is cumulative: its step from one horizon to the next is the probability of a start between.
                steps = itertools.pairwise([(0, 0.0), *sorted(points)])
                found.append(sum((q - p) * (1 - (s + t) / 2 / ahead) for (s, p), (t, q) in steps))
        return max(found)

    def _observing(self, category: str) -> list[ObservedTrack]:
        return [track for track in self.tracks.observed if self.policy.matches(category, track.label)]

    def _forecasts(self, category: str) -> list[AnticipatedTrack]:
        length = self.policy.breaks.after_ms
        return [
            track
            for track in self.tracks.anticipated
            if track.within_ms == length and self.policy.matches(category, track.label)
        ]

    def _highest(self, tracks: Sequence[ObservedTrack | AnticipatedTrack], rows: range) -> MaxRisk | None:
        """The likeliest of these risks in these windows; None where none of them was assessed."""
        scores = [(p, track.label) for track in tracks for row in rows if (p := track.p[row]) is not None]
        if not scores:
            return None
        p, label = max(scores, key=lambda score: score[0])
        return MaxRisk(label=label, cat=self.policy.category(label), p=p)


def candidates(
    policy: Policy,
    context: BreakContext,
    timeline: Timeline,
    forecasts: Sequence[Anticipated],
    frame_ms: Sequence[int],
    duration_ms: int,
) -> list[Candidate]:
    """All natural breaks, in order of time: pre-roll, then those that are not too close to the start or end.

    Args:
        policy: gives weights and lengths.
        context: gives the risks.
        timeline: shots, scenes and pauses.
        forecasts: those issued, so that a break can name the one in force.
        frame_ms: when each frame is shown.
        duration_ms: length of the video.
    """
    scenes = {scene.start_ms for scene in timeline.scenes}
    types: dict[int, list[BoundaryType]] = {}
    for shot in timeline.shots[1:]:
        types[shot.start_ms] = ["shot", "scene"] if shot.start_ms in scenes else ["shot"]
    cuts = sorted(types)
    for pause in timeline.pauses:
        # A pause is one only after it has lasted; when it begins nobody can know.
        known = _first_silent(timeline, pause.start_ms + policy.breaks.still_ms, pause.end_ms, context.causal)
        # Near a cut, the cut is the better break, and the pause is one more reason for it.
        near = [cut for cut in cuts if pause.start_ms - _MERGE_MS <= cut <= pause.end_ms + _MERGE_MS]
        for cut in near:
            if "pause" not in types[cut]:
                types[cut].append("pause")
        if not near:
            types[known] = ["pause"]
    found = []
    if policy.breaks.pre_roll:
        found.append(score_candidate(policy, context, timeline, 0, 0, ["start"], forecasts))
    for at_ms in sorted(types):
        if not policy.breaks.edge_ms <= at_ms <= duration_ms - policy.breaks.edge_ms:
            continue
        # A shot starts with a frame; the end of a pause's waiting time need not, so it moves to the next one.
        frame = min(bisect.bisect_left(frame_ms, at_ms), len(frame_ms) - 1)
        snapped_ms = frame_ms[frame] if at_ms not in cuts else at_ms
        found.append(score_candidate(policy, context, timeline, snapped_ms, frame, types[at_ms], forecasts))
    return found


def _first_silent(timeline: Timeline, first_ms: int, last_ms: int, causal: bool) -> int:
    """The first time of a stretch at which it is silent; the first of all where it is nowhere.

    A pause looks the same all through, so a break may go anywhere inside it. A cut, a fade or a dissolve is never
    moved, because a frame of the next shot would be seen before the advertisement.
    """
    for silence in timeline.silences or []:
        # Causal: when it is known. Otherwise half of what `silence` counts, for the best value.
        best = silence.start_ms + (MOMENTARY_MS if causal else _SILENT_MS)
        at_ms = max(first_ms, min(best, (silence.start_ms + silence.end_ms) // 2) if not causal else best)
        if at_ms < min(silence.end_ms, last_ms):
            return at_ms
    return first_ms


def score_candidate(
    policy: Policy,
    context: BreakContext,
    timeline: Timeline,
    at_ms: int,
    at_frame: int,
    boundary_types: list[BoundaryType],
    forecasts: Sequence[Anticipated],
) -> Candidate:
    """A candidate with the factors of its score and the risks on both sides.

    Args:
        policy: gives weights and lengths.
        context: gives the risks.
        timeline: shots and pauses.
        at_ms: where.
        at_frame: the first frame after it.
        boundary_types: what makes it a natural break.
        forecasts: those issued, so that the one in force can be named.
    """
    rule = policy.breaks
    before, after = context.before(at_ms), context.after(at_ms)
    shot = next((shot for shot in timeline.shots[1:] if shot.start_ms == at_ms), None)
    # Causal: a pause counts as one only once it has lasted `still_ms`.
    known = [p for p in timeline.pauses if p.start_ms + rule.still_ms <= at_ms]
    values = {
        **{kind: float(shot is not None and shot.kind == kind) for kind in ("fade", "dissolve", "cut")},
        "visual_change": (shot.visual_change or 0.0) if shot is not None else 0.0,
        "still_before": _fraction_inside(known, at_ms - _STILL_MS, at_ms),
        "risk_before": before.p if before else 0.0,
        "risk_after": after.p if after else 0.0,
        "risk_near": round(context.nearness(at_ms), DIGITS),
    }
    if at_ms == 0:
        values = {"start": 1.0, **values}
    if not context.causal:
        # Needs the frames after the break; a causal document may not have it.
        values["still_after"] = _fraction_inside(timeline.pauses, at_ms, at_ms + _STILL_MS)
    values |= sound_factors(timeline, at_ms, context.causal)
    weights = rule.weights.model_dump()
    # "+ 0.0" turns -0.0 into 0.0; JSON would print the sign.
    factors = [
        Factor(name=name, value=value, weight=weights[name], part=round(value * weights[name], 9) + 0.0)
        for name, value in values.items()
    ]
    # The forecast in force, so that a reader can follow the risk to its evidence and outcome.
    forecast_id = None
    if context.causal and after is not None:
        in_force = [
            forecast.id
            for forecast in forecasts
            if forecast.label == after.label
            and forecast.issued_at_ms <= at_ms < forecast.issued_at_ms + forecast.horizon_ms
        ]
        forecast_id = in_force[-1] if in_force else None
    return Candidate(
        at_ms,
        at_frame,
        boundary_types,
        factors,
        Before(window_ms=(max(0, at_ms - rule.before_ms), at_ms), max_risk=before),
        After(
            source="anticipated" if context.causal else "observed",
            window_ms=(at_ms, at_ms + rule.after_ms),
            forecast=forecast_id,
            max_risk=after,
        ),
    )


def sound_factors(timeline: Timeline, at_ms: int, causal: bool) -> dict[str, float]:
    """What the sound around a time says about a break there; a factor that nobody assessed is not among them.

    `silence` is the fraction of the time around it (causal: before it) that is silent. `speech_across` is 1 where
    somebody speaks at that time, and where the pause between two stretches of speech holds it, 1 minus the pause's
    length in seconds, at least 0. `speech_before`, of a causal run, is 1 minus the seconds since somebody spoke.

    Args:
        timeline: silences and speech.
        at_ms: where the break would go.
        causal: whether only the sound up to that time counts.
    """
    until_ms = at_ms if causal else at_ms + _SPEECH_REACH_MS
    sound = timeline.sound
    if sound is None or any(a < until_ms and b > at_ms - _SPEECH_REACH_MS for a, b in sound.unheard):
        return {}
    found: dict[str, float] = {}
    if timeline.silences is not None:
        # Causal: momentary loudness takes 400 ms, so only then is a silence known as one.
        silences = [s for s in timeline.silences if not causal or s.start_ms + MOMENTARY_MS <= at_ms]
        end_ms = at_ms if causal else at_ms + _SILENT_MS
        found["silence"] = _fraction_inside(silences, at_ms - _SILENT_MS, end_ms)
    if timeline.speech is not None:
        if causal:
            found["speech_before"] = _nearness(_since_speech(timeline.speech, at_ms))
        else:
            found["speech_across"] = _nearness(_pause_of_speech(timeline.speech, at_ms))
    return found


def _since_speech(speech: Sequence[Speech], at_ms: int) -> int | None:
    """Milliseconds since somebody spoke, as far as that was known then; None without speech before."""
    # A stretch counts once it has lasted long enough to be speech, and its end once nothing followed for a while.
    known = [s for s in speech if s.start_ms + SPEECH_KNOWN_MS <= at_ms]
    if not known:
        return None
    since = at_ms - known[-1].end_ms
    return 0 if since < SPEECH_OVER_MS else since


def _pause_of_speech(speech: Sequence[Speech], at_ms: int) -> int | None:
    """Length in milliseconds of the pause between two stretches of speech that a time falls into, 0 inside speech; None
    where one of the sides has none."""
    before = [s.end_ms for s in speech if s.start_ms <= at_ms]
    after = [s.start_ms for s in speech if s.end_ms > at_ms]
    return max(0, after[0] - before[-1]) if before and after else None


def _nearness(gap_ms: int | None) -> float:
    """1 for no gap, falling in proportion to 0 for a second."""
    return 0.0 if gap_ms is None else round(max(0.0, 1 - gap_ms / _SPEECH_REACH_MS), DIGITS)


def _fraction_inside(spans: Sequence[Span], start_ms: int, end_ms: int) -> float:
    """Fraction of a stretch that is inside spans, which do not overlap."""
    inside = sum(max(0, min(s.end_ms, end_ms) - max(s.start_ms, start_ms)) for s in spans)
    return round(inside / (end_ms - start_ms), DIGITS)


def choose(at_ms: Sequence[int], scores: Sequence[float], min_gap_ms: int, most: int) -> list[int]:
    """The candidates with the highest total score that keep `min_gap_ms` between neighbours; at most `most` of them.

    Weighted interval scheduling by dynamic programming, exact in `len(at_ms) * most` steps.

    Args:
        at_ms: ascending times.
        scores: one per candidate; one whose score is not above zero is never taken.
        min_gap_ms: least distance between two that are taken.
        most: how many may be taken.

    Returns:
        Indices of those taken, ascending.

    Example:
        >>> choose([0, 900, 2000], [1.0, 1.5, 1.0], min_gap_ms=1000, most=2)
        [1, 2]
    """
    count = len(at_ms)
    most = min(most, count)
    # best[k][i]: highest total with at most k of the first i candidates. room[i]: how many of them are far enough
    # before candidate i to be taken together with it.
    best = [[0.0] * (count + 1) for _ in range(most + 1)]
    room = [bisect.bisect_right(at_ms, at_ms[i] - min_gap_ms, hi=i) for i in range(count)]
    for k in range(1, most + 1):
        for i in range(count):
            best[k][i + 1] = max(best[k][i], best[k - 1][room[i]] + max(0.0, scores[i]))
    # Back from the end: where leaving a candidate out costs nothing, it was not taken.
    taken, k, i = [], most, count
    while k and i:
        if best[k][i] == best[k][i - 1]:
            i -= 1
        else:
            taken.append(i - 1)
            k, i = k - 1, room[i - 1]
    return sorted(taken)
