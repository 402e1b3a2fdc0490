"""The factors of a break's score worked out by hand, which candidates are worth offering, and the choice among them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.signals.decide.breaks import BreakContext, Candidate, candidates, choose
from jepa.signals.decide.decide import decide
from jepa.signals.document.objects import (
    Pause,
    Scene,
    Shot,
    Silence,
    Sound,
    Speech,
    Timeline,
)
from jepa.signals.document.tracks import AnticipatedTrack, ObservedTrack, Tracks
from jepa.signals.policy import Policy

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
            visual_change=change,
        )
        for i, ((at, kind, change), end) in enumerate(
            zip(starts, [*(cut[0] for cut in cuts), 20000], strict=True), start=1
        )
    ]
    return Timeline(
        shots=shots,
        scenes=[
            Scene(id="c1", start_ms=0, end_ms=20000, shots=[shot.id for shot in shots], visual_change=None)
        ],
        pauses=[
            Pause(id=f"p{i}", start_ms=a, end_ms=b, stillness=0.9) for i, (a, b) in enumerate(pauses, start=1)
        ],
    )


def tracks(observed: dict[int, float] | None = None, near: float = 0.0, far: float = 0.0) -> Tracks:
    """Red is observed at these window ends, and forecast with these probabilities within 1 s and within 2 s."""
    count = len(ENDS)
    return Tracks(
        window_end_ms=ENDS,
        last_frame=[end // 40 - 1 for end in ENDS],
        observed=[ObservedTrack(head="now", label="red", p=[(observed or {}).get(end, 0.0) for end in ENDS])],
        anticipated=[
            AnticipatedTrack(head="ahead", label="red", within_ms=1000, p=[near] * count),
            AnticipatedTrack(head="ahead", label="red", within_ms=2000, p=[far] * count),
        ],
    )


def candidates_of(line: Timeline, scores: Tracks, causal: bool = True, **breaks: object) -> list[Candidate]:
    policy = Policy.model_validate(POLICY | {"breaks": POLICY["breaks"] | breaks})
    frame_ms = list(range(0, 20000, 40))
    return candidates(policy, BreakContext(policy, scores, causal), line, [], frame_ms, 20000)


def values(candidate: Candidate) -> dict[str, float]:
    return {factor.name: factor.value for factor in candidate.factors}


def test_factors_are_those_worked_out_by_hand() -> None:
    line = timeline(
        (5000, "cut", 0.3), (10000, "fade", 0.1), (15000, "dissolve", 0.6), pauses=[(9400, 10800)]
    )
    cut, fade, dissolve = candidates_of(line, tracks({8000: 0.6, 16500: 0.8}, near=0.1, far=0.3))
    assert values(cut) == pytest.approx(
        {"fade": 0, "dissolve": 0, "cut": 1, "visual_change": 0.3, "still_before": 0,
         "risk_before": 0, "risk_after": 0.3, "risk_near": 0.1 * 0.75 + 0.2 * 0.25}
    )  # fmt: skip
    # Red was observed 2 s before, half-way through the 4 s that count; the pause holds 0.6 of the last second.
    assert values(fade) == pytest.approx(
        {"fade": 1, "dissolve": 0, "cut": 0, "visual_change": 0.1, "still_before": 0.6,
         "risk_before": 0.6, "risk_after": 0.3, "risk_near": 0.6 * 0.5}
    )  # fmt: skip
    assert values(dissolve)["dissolve"] == 1 and dissolve.boundary_types == ["shot"]
    looked_up = candidates_of(line, tracks({8000: 0.6, 16500: 0.8}, near=0.1, far=0.3), causal=False)
    assert values(looked_up[1])["still_after"] == pytest.approx(0.8)
    # 1.5 of the 2 s after the dissolve have passed when red is observed.
    assert values(looked_up[2])["risk_near"] == pytest.approx(0.8 * 0.25)
    for candidate in [cut, fade, dissolve, *looked_up]:
        assert candidate.score == pytest.approx(sum(f.value * f.weight for f in candidate.factors))


@settings(deadline=None, max_examples=30)
@given(st.integers(1200, 18800), st.integers(0, 2**31))
def test_a_causal_score_knows_nothing_of_what_follows(at_ms: int, seed: int) -> None:
    """Scores, pauses and shots after a candidate are changed at random: its factors stay as they are."""
    rng = np.random.default_rng(seed)
    past = {end: float(rng.uniform()) for end in ENDS if end <= at_ms}
    still = (at_ms - 700, at_ms + 300)
    before = candidates_of(timeline((at_ms, "cut", 0.2), pauses=[still]), tracks(past, 0.1, 0.2))
    later = past | {end: float(rng.uniform()) for end in ENDS if end > at_ms}
    longer = timeline((at_ms, "cut", 0.2), pauses=[(still[0], min(20000, at_ms + 1500))])
    after = candidates_of(longer, tracks(later, 0.1, 0.2))
    assert before[0].factors == after[0].factors


def test_what_a_default_policy_offers_and_in_which_order() -> None:
    line = timeline((3000, "fade", 0.1), (6000, "cut", 0.5), (9000, "cut", 0.05), pauses=[(11000, 12500)])
    policy = Policy.model_validate(POLICY | {"rules": []})
    found = candidates_of(line, tracks())
    assert [item.boundary_types[0] for item in found] == ["shot", "shot", "shot", "pause"]
    fade, changed, unchanged, pause = (item.score for item in found)
    assert fade > changed > unchanged > pause
    offered, _ = decide(policy, BreakContext(policy, tracks(), True), [], [], found)
    assert [item.verdict for item in offered] == ["allow", "allow", "skip", "skip"]
    # A risk at the boundary makes even a fade too low.
    scores = tracks({3000: 0.9})
    offered, decisions = decide(
        policy, BreakContext(policy, scores, True), [], [], candidates_of(line, scores)
    )
    assert offered[0].verdict == "skip" and decisions[0].rule_id == "breaks.min_score"


def test_the_nearer_a_risk_the_lower_the_score() -> None:
    line = timeline((10000, "cut", 0.2))
    for causal, ends in ((True, (6500, 8000, 9500, 10000)), (False, (12000, 11500, 10500))):
        scores = [candidates_of(line, tracks({end: 0.8}), causal)[0].score for end in ends]
        assert all(far > near for far, near in itertools.pairwise(scores))
    soon, late = (candidates_of(line, tracks(near=p, far=0.4))[0].score for p in (0.4, 0.0))
    assert late > soon


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=9, unique=True),
    st.lists(st.floats(-0.5, 1), min_size=9, max_size=9),
    st.integers(0, 25),
    st.integers(1, 4),
)
def test_choice_of_breaks_is_the_best_there_is(
    times: list[int], scores: list[float], gap: int, most: int
) -> None:
    times = sorted(times)
    scores = scores[: len(times)]

    def allowed(picks: tuple[int, ...]) -> bool:
        return all(times[b] - times[a] >= gap for a, b in itertools.pairwise(picks)) and len(picks) <= most

    best = max(
        sum(scores[i] for i in picks)
        for size in range(len(times) + 1)
        for picks in itertools.combinations(range(len(times)), size)
        if allowed(picks)
    )
    taken = choose(times, scores, gap, most)
    assert allowed(tuple(taken)) and sum(scores[i] for i in taken) == pytest.approx(best)


RULES = [
    {"id": "before", "subject": "break", "signal": "risk_before", "category": "red", "at_least": 0.5, "action": "hold",
     "reason": "Red before."},
    {"id": "after", "subject": "break", "signal": "risk_after", "category": "red", "at_least": 0.5, "action": "hold",
     "reason": "Red ahead."},
]  # fmt: skip


@pytest.mark.parametrize(
    ("observed", "ahead", "rule", "basis", "action"),
    [
        ({}, 0.1, "after", "anticipated", "allow"),
        ({8500: None}, 0.1, "before", "not_assessed", "review"),
        ({}, None, "after", "not_assessed", "review"),
        # What was seen in a part of the side is enough to hold the break.
        ({8500: None, 9000: 0.9}, 0.1, "before", "observed", "hold"),
    ],
)
def test_a_side_that_was_not_assessed_in_full_clears_no_break(
    observed: dict[int, float | None], ahead: float | None, rule: str, basis: str, action: str
) -> None:
    policy = Policy.model_validate(POLICY | {"rules": RULES})
    scores = tracks()
    p = [observed.get(end, 0.0) for end in ENDS]
    scores = scores.model_copy(
        update={
            "observed": [scores.observed[0].model_copy(update={"p": p})],
            "anticipated": [t.model_copy(update={"p": [ahead] * len(ENDS)}) for t in scores.anticipated],
        }
    )
    found = candidates_of(timeline((10000, "fade", 0.2)), scores)
    _, (decision,) = decide(policy, BreakContext(policy, scores, True), [], [], found)
    assert (decision.rule_id, decision.basis, decision.action) == (rule, basis, action)
    assert (decision.value is None) == (basis == "not_assessed")


def test_what_another_head_assessed_counts_as_assessed() -> None:
    scores = tracks()
    blind = ObservedTrack(head="other", label="red", p=[None] * len(ENDS))
    both = scores.model_copy(update={"observed": [*scores.observed, blind]})
    policy = Policy.model_validate(POLICY)
    assert BreakContext(policy, both, True).assessed_before(10000, "red")
    alone = scores.model_copy(update={"observed": [blind]})
    assert not BreakContext(policy, alone, True).assessed_before(10000, "red")


def with_sound(
    line: Timeline,
    silences: Sequence[tuple[int, int]] | None = (),
    speech: Sequence[tuple[int, int]] | None = (),
    unheard: Sequence[tuple[int, int]] = (),
) -> Timeline:
    """The timeline with these silences and stretches of speech; None is not assessed."""
    sound = Sound(
        track=0, tracks=1, codec="aac", sample_rate=48_000, channels=2, integrated_lufs=-20.0, loudness_range_lu=5.0,
        gaps=[], unheard=list(unheard),
    )  # fmt: skip
    return line.model_copy(
        update={
            "sound": sound,
            "silences": None
            if silences is None
            else [
                Silence(id=f"q{i}", start_ms=a, end_ms=b, loudest_lufs=-70.0)
                for i, (a, b) in enumerate(silences)
            ],
            "speech": None
            if speech is None
            else [Speech(id=f"v{i}", start_ms=a, end_ms=b, p=0.9) for i, (a, b) in enumerate(speech)],
        }
    )


def sound_values(line: Timeline, causal: bool) -> list[dict[str, float]]:
    names = ("silence", "speech_across", "speech_before")
    found = candidates_of(line, tracks(), causal)
    for item in found:
        assert item.score == pytest.approx(sum(factor.value * factor.weight for factor in item.factors))
    return [{name: v for name, v in values(item).items() if name in names} for item in found]


CUTS = timeline((5000, "cut", 0.3), (10_000, "cut", 0.3), (15_000, "cut", 0.3))


def test_a_break_inside_a_sentence_counts_in_full_and_one_in_a_pause_by_the_pauses_length() -> None:
    # 5 s is spoken over, 10 s lies in a pause of 0.4 s, 15 s in one of 2 s with 0.5 s of silence around it.
    line = with_sound(
        CUTS,
        silences=[(14_900, 15_400)],
        speech=[(3000, 6000), (8000, 9900), (10_300, 14_000), (16_000, 17_000)],
    )
    assert sound_values(line, causal=False) == [
        {"silence": 0.0, "speech_across": 1.0},
        {"silence": 0.0, "speech_across": 0.6},
        {"silence": 0.5, "speech_across": 0.0},
    ]


def test_one_sided_speech_is_cut_by_no_break() -> None:
    assert sound_values(with_sound(CUTS, speech=[(1000, 4900)]), causal=False)[0]["speech_across"] == 0.0
    assert sound_values(with_sound(CUTS, speech=[(15_100, 18_000)]), causal=False)[2]["speech_across"] == 0.0


def test_a_causal_run_counts_the_sound_before_only_and_what_was_known_of_it() -> None:
    line = with_sound(
        CUTS,
        silences=[(4700, 9000), (9300, 11_000)],
        # Ended 60 ms before the first cut, which nobody could know yet; began 100 ms before the third, likewise.
        speech=[(3000, 4940), (6000, 9500), (14_900, 16_000)],
    )
    assert sound_values(line, causal=True) == [
        {"silence": 0.0, "speech_before": 1.0},  # silent for 300 ms: not known as silence before 400
        {"silence": 1.0, "speech_before": 0.5},
        {"silence": 0.0, "speech_before": 0.0},
    ]
    # What comes later changes nothing.
    earlier = with_sound(CUTS, silences=[(4700, 9000), (9300, 11_000)], speech=[(3000, 4940), (6000, 9500)])
    assert sound_values(earlier, causal=True) == sound_values(line, causal=True)


@pytest.mark.parametrize("causal", [True, False])
def test_what_nobody_assessed_is_no_factor(causal: bool) -> None:
    across = "speech_before" if causal else "speech_across"
    assert sound_values(CUTS, causal) == [{}, {}, {}]
    assert [set(v) for v in sound_values(with_sound(CUTS, silences=None), causal)] == [{across}] * 3
    assert [set(v) for v in sound_values(with_sound(CUTS, speech=None), causal)] == [{"silence"}] * 3
    damaged = with_sound(CUTS, unheard=[(9500, 9800)])
    assert [set(v) for v in sound_values(damaged, causal)] == [
        {"silence", across},
        set(),
        {"silence", across},
    ]


def test_a_break_in_a_static_picture_waits_for_silence_and_a_cut_stays_where_it_is() -> None:
    line = timeline((10_000, "cut", 0.3), pauses=[(4000, 7000), (9900, 12_000)])
    quiet = with_sound(line, silences=[(5200, 6600), (10_400, 11_500)])
    assert [item.at_ms for item in candidates_of(line, tracks(), causal=False)] == [4400, 10_000]
    assert [item.at_ms for item in candidates_of(quiet, tracks(), causal=False)] == [5720, 10_000]
    # 400 ms after the silence began it is known; the next frame is shown then.
    assert [item.at_ms for item in candidates_of(quiet, tracks(), causal=True)] == [5600, 10_000]
    late = with_sound(line, silences=[(6900, 9000)])
    assert [item.at_ms for item in candidates_of(late, tracks(), causal=False)] == [4400, 10_000]
