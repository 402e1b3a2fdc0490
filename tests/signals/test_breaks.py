"""Boundaries between shots, the factors of a break's score worked out by hand, and which places are worth offering."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.signals.decide.breaks import Candidate, Sides, candidates
from jepa.signals.decide.decide import decide
from jepa.signals.detect.dissolves import DissolveFinder
from jepa.signals.detect.shots import TimelineMaker
from jepa.signals.document.objects import (
    AnticipatedTrack,
    ObservedTrack,
    Pause,
    Scene,
    Shot,
    Timeline,
    Tracks,
)
from jepa.signals.policy import Policy

FPS = 24


def texture(seed: int, level: int = 128) -> np.ndarray:
    """A soft picture of its own, BGR."""
    noise = np.random.default_rng(seed).normal(level, 60, (96, 96, 3)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 3) * 4 - 3 * level


def blend(one: np.ndarray, two: np.ndarray, frames: int) -> list[np.ndarray]:
    return [one + (two - one) * (i + 1) / (frames + 1) for i in range(frames)]


def found(pictures: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    finder = DissolveFinder(Fraction(FPS))
    spans = [finder.push(np.clip(picture, 0, 255).astype(np.uint8)) for picture in pictures]
    return [span for span in spans if span is not None]


@pytest.mark.parametrize("length", [14, 24, 48])
def test_a_dissolve_is_found_with_its_middle(length: int) -> None:
    one, two = texture(1), texture(2)
    (span,) = found([one] * 30 + blend(one, two, length) + [two] * 30)
    assert abs(sum(span) / 2 - (29.5 + length / 2)) <= 1


def test_motion_light_fades_and_cuts_are_no_dissolves() -> None:
    one, two = texture(1), texture(2)
    pan = [np.roll(one, round(i * 0.7), axis=1) for i in range(80)]
    zoom = [cv2.resize(one[: 96 - i // 2, : 96 - i // 2], (96, 96)) for i in range(60)]
    dimmed = [one] * 30 + blend(one, one * 0.4, 20) + [one * 0.4] * 30
    black = one * 0
    faded = [one] * 30 + blend(one, black, 12) + [black] * 4 + blend(black, two, 12) + [two] * 30
    cut = [one] * 40 + [two] * 40
    slow = [one] * 30 + blend(one, two, 40 * FPS) + [two] * 30
    for pictures in (pan, zoom, dimmed, faded, cut, slow, [one] * 60):
        assert found(pictures) == []


def test_each_boundary_keeps_its_kind_and_scenes_end_where_editors_end_them() -> None:
    """One look throughout, so that only the kind of boundary can end a scene."""
    one, two = texture(1), texture(2)
    black = one * 0
    pictures = (
        [one] * 40 + blend(one, two, 16) + [two] * 40  # dissolve
        + blend(two, black, 12) + [black] * 4 + blend(black, one, 12) + [one] * 40  # fade
        + [two] * 40  # cut
    )  # fmt: skip
    maker = TimelineMaker(Fraction(FPS))
    for i, picture in enumerate(pictures):
        maker.push(np.clip(picture, 0, 255).astype(np.uint8), i / FPS)
    shots, scenes = maker.shots_and_scenes(round(len(pictures) * 1000 / FPS))
    assert [shot.kind for shot in shots] == ["start", "dissolve", "fade", "cut"]
    assert [scene.shots for scene in scenes] == [["s1"], ["s2"], ["s3", "s4"]]
    # A faded-in shot is told by how it looks once it is there, not by its darkness.
    assert shots[0].change is None
    assert all(shot.change is not None and shot.change < 0.2 for shot in shots[1:])


POLICY = {
    "policy": "p",
    "version": "1",
    "about": "for tests",
    "labels": {"red": {"risk": True}},
    "breaks": {"before_ms": 4000, "after_ms": 2000, "edge_ms": 500, "still_ms": 400, "min_gap_ms": 1000},
}
ENDS = list(range(1000, 20001, 500))


def timeline(*cuts: tuple[int, str, float], pauses: Sequence[tuple[int, int]] = ()) -> Timeline:
    """A timeline of 20 s with these boundaries: time, kind, change."""
    starts = [(0, "start", None), *cuts]
    shots = [
        Shot(
            id=f"s{i}",
            start_ms=at,
            end_ms=end,
            start_frame=at // 40,
            end_frame=end // 40,
            kind=kind,
            change=change,
        )
        for i, ((at, kind, change), end) in enumerate(
            zip(starts, [*(cut[0] for cut in cuts), 20000], strict=True), start=1
        )
    ]
    return Timeline(
        shots=shots,
        scenes=[Scene(id="c1", start_ms=0, end_ms=20000, shots=[shot.id for shot in shots], change=None)],
        pauses=[
            Pause(id=f"p{i}", start_ms=a, end_ms=b, stillness=0.9) for i, (a, b) in enumerate(pauses, start=1)
        ],
    )


def tracks(seen: dict[int, float] | None = None, near: float = 0.0, far: float = 0.0) -> Tracks:
    """Red is seen at these window ends, and foreseen with these probabilities within 1 s and within 2 s."""
    count = len(ENDS)
    return Tracks(
        window_end_ms=ENDS,
        last_frame=[end // 40 - 1 for end in ENDS],
        observed=[ObservedTrack(probe="see", label="red", p=[(seen or {}).get(end, 0.0) for end in ENDS])],
        anticipated=[
            AnticipatedTrack(probe="foresee", label="red", within_ms=1000, p=[near] * count),
            AnticipatedTrack(probe="foresee", label="red", within_ms=2000, p=[far] * count),
        ],
    )


def places(line: Timeline, scores: Tracks, causal: bool = True, **breaks: object) -> list[Candidate]:
    policy = Policy.model_validate(POLICY | {"breaks": POLICY["breaks"] | breaks})
    frame_ms = list(range(0, 20000, 40))
    return candidates(policy, Sides(policy, scores, causal), line, [], frame_ms, 20000)


def values(place: Candidate) -> dict[str, float]:
    return {factor.name: factor.value for factor in place.factors}


def test_factors_are_those_worked_out_by_hand() -> None:
    line = timeline(
        (5000, "cut", 0.3), (10000, "fade", 0.1), (15000, "dissolve", 0.6), pauses=[(9400, 10800)]
    )
    cut, fade, dissolve = places(line, tracks({8000: 0.6, 16500: 0.8}, near=0.1, far=0.3))
    assert values(cut) == pytest.approx(
        {"fade": 0, "dissolve": 0, "cut": 1, "new_look": 0.3, "still_before": 0,
         "risk_before": 0, "risk_after": 0.3, "risk_near": 0.1 * 0.75 + 0.2 * 0.25}
    )  # fmt: skip
    # Red was seen 2 s before, half-way through the 4 s that count; the pause holds 0.6 of the last second.
    assert values(fade) == pytest.approx(
        {"fade": 1, "dissolve": 0, "cut": 0, "new_look": 0.1, "still_before": 0.6,
         "risk_before": 0.6, "risk_after": 0.3, "risk_near": 0.6 * 0.5}
    )  # fmt: skip
    assert values(dissolve)["dissolve"] == 1 and dissolve.snap == ["shot"]
    looked_up = places(line, tracks({8000: 0.6, 16500: 0.8}, near=0.1, far=0.3), causal=False)
    assert values(looked_up[1])["still_after"] == pytest.approx(0.8)
    # 1.5 of the 2 s after the dissolve have passed when red is seen.
    assert values(looked_up[2])["risk_near"] == pytest.approx(0.8 * 0.25)
    for place in [cut, fade, dissolve, *looked_up]:
        assert place.score == pytest.approx(sum(f.value * f.weight for f in place.factors))


@settings(deadline=None, max_examples=30)
@given(st.integers(1200, 18800), st.integers(0, 2**31))
def test_a_causal_score_knows_nothing_of_what_follows(at_ms: int, seed: int) -> None:
    """Scores, pauses and shots after a place are changed at random: its factors stay as they are."""
    rng = np.random.default_rng(seed)
    past = {end: float(rng.uniform()) for end in ENDS if end <= at_ms}
    still = (at_ms - 700, at_ms + 300)
    before = places(timeline((at_ms, "cut", 0.2), pauses=[still]), tracks(past, 0.1, 0.2))
    later = past | {end: float(rng.uniform()) for end in ENDS if end > at_ms}
    longer = timeline((at_ms, "cut", 0.2), pauses=[(still[0], min(20000, at_ms + 1500))])
    after = places(longer, tracks(later, 0.1, 0.2))
    assert before[0].factors == after[0].factors


def test_what_a_default_policy_offers_and_in_which_order() -> None:
    line = timeline((3000, "fade", 0.1), (6000, "cut", 0.5), (9000, "cut", 0.05), pauses=[(11000, 12500)])
    policy = Policy.model_validate(POLICY | {"rules": []})
    place = places(line, tracks())
    assert [item.snap[0] for item in place] == ["shot", "shot", "shot", "pause"]
    fade, new_look, same_look, pause = (item.score for item in place)
    assert fade > new_look > same_look > pause
    offered, _ = decide(policy, Sides(policy, tracks(), True), [], [], place)
    assert [item.verdict for item in offered] == ["allow", "allow", "skip", "skip"]
    # A risk at the border costs even a fade its place.
    scores = tracks({3000: 0.9})
    offered, decisions = decide(policy, Sides(policy, scores, True), [], [], places(line, scores))
    assert offered[0].verdict == "skip" and decisions[0].rule_id == "breaks.min_score"


def test_the_nearer_a_risk_the_lower_the_score() -> None:
    line = timeline((10000, "cut", 0.2))
    for causal, ends in ((True, (6500, 8000, 9500, 10000)), (False, (12000, 11500, 10500))):
        scores = [places(line, tracks({end: 0.8}), causal)[0].score for end in ends]
        assert all(far > near for far, near in itertools.pairwise(scores))
    soon, late = (places(line, tracks(near=p, far=0.4))[0].score for p in (0.4, 0.0))
    assert late > soon
