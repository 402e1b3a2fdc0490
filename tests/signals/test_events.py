"""Spans, forecasts and their resolution, breaks and their choice, against hand-worked cases and brute
force."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.signals.decide.breaks import choose
from jepa.signals.decide.events import Run, SpanTracker
from jepa.signals.decide.forecasts import ForecastDesk, resolve, statistics_of
from jepa.signals.detect.detector import ClipSpec
from jepa.signals.detect.shots import TimelineMaker, reduce_frame
from jepa.signals.detect.windows import Window, WindowMaker
from jepa.signals.document.objects import Observed
from jepa.signals.policy import ForecastRule, SpanRule


def runs(scores: list[float], start: float = 0.6, end: float = 0.4) -> list[Run]:
    tracker = SpanTracker(SpanRule(start_at=start, end_at=end))
    for row, p in enumerate(scores):
        tracker.push(row, p)
    return tracker.runs()


def test_two_thresholds_make_one_run_of_a_trembling_score() -> None:
    assert runs([0.1, 0.65, 0.45, 0.7, 0.5, 0.3, 0.5]) == [Run(1, 4, 3)]
    assert runs([0.1, 0.65, 0.45, 0.7, 0.5, 0.3, 0.6]) == [Run(1, 4, 3), Run(6, 6, 6)]
    assert runs([0.5, 0.5]) == []


@given(st.lists(st.floats(0, 1), max_size=60))
def test_runs_are_separate_and_hold_their_peak(scores: list[float]) -> None:
    found = runs(scores)
    for run in found:
        inside = scores[run.first : run.last + 1]
        assert scores[run.first] >= 0.6 and min(inside) >= 0.4
        assert scores[run.peak] == max(inside)
    for one, two in itertools.pairwise(found):
        assert min(scores[one.last + 1 : two.first]) < 0.4
    covered = {row for run in found for row in range(run.first, run.last + 1)}
    assert all(row in covered for row, p in enumerate(scores) if p >= 0.6)


def issues(scores: list[float], happening: list[bool] | None = None, step: int = 500) -> list[int]:
    desk = ForecastDesk(0, 1, ForecastRule(issue_at=0.5, rearm_at=0.3, horizon_ms=2000))
    found = [
        desk.push(row, row * step, np.array([p / 2, p]), bool(happening and happening[row]))
        for row, p in enumerate(scores)
    ]
    return [issue.issued_at_ms for issue in found if issue is not None]


def test_a_forecast_is_issued_once_and_again_after_the_dip_or_the_horizon() -> None:
    assert issues([0.2, 0.6, 0.7, 0.4, 0.6]) == [500]
    assert issues([0.2, 0.6, 0.7, 0.2, 0.6]) == [500, 2000]
    assert issues([0.6] * 9) == [0, 2000, 4000]


def test_what_is_happening_cannot_be_foreseen() -> None:
    assert issues([0.6, 0.6, 0.6], [True, True, True]) == []
    assert issues([0.6] * 8, [False, False, True, True, True, True, True, False]) == [0, 3500]


def seen(start_ms: int, label: str = "fall") -> Observed:
    return Observed(
        id=f"o{start_ms}", probe="p", label=label, cat=None, start_ms=start_ms, end_ms=start_ms + 100, p=0.9,
        peak_ms=start_ms, calibration=None, evidence=[],
    )  # fmt: skip


def test_resolution_by_hand() -> None:
    def ask(issued: int, *onsets: Observed, watched: bool = True) -> tuple[str, int | None]:
        outcome = resolve("fall", issued, 3000, onsets, watched, 10_000)
        return outcome.status, outcome.lead_ms

    assert ask(1000, seen(3500), seen(2500)) == ("confirmed", 1500)
    assert ask(1000, seen(4000)) == ("confirmed", 3000)
    assert ask(1000, seen(4001)) == ("refuted", None)
    assert ask(1000, seen(1000)) == ("refuted", None)  # it had begun already
    assert ask(1000, seen(2000, "fire")) == ("refuted", None)
    assert ask(7000) == ("refuted", None)
    assert ask(7001) == ("expired", None)
    assert ask(1000, watched=False) == ("open", None)


def test_the_balance_counts_expired_as_false_alarms() -> None:
    class Forecast:
        def __init__(self, status: str, lead: int | None = None) -> None:
            self.resolution = type("R", (), {"status": status, "lead_ms": lead})

    book: list[Any] = [
        Forecast("confirmed", 1000),
        Forecast("confirmed", 3000),
        Forecast("refuted"),
        Forecast("expired"),
    ]
    balance = statistics_of(book, 1_800_000)
    assert balance["precision"] == pytest.approx(2 / 3)
    assert balance["median_lead_ms"] == 2000
    assert balance["false_alarms_per_hour"] == 4
    assert statistics_of([], 1000)["precision"] is None


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

    def allowed(places: tuple[int, ...]) -> bool:
        return all(times[b] - times[a] >= gap for a, b in itertools.pairwise(places)) and len(places) <= most

    best = max(
        sum(scores[i] for i in places)
        for size in range(len(times) + 1)
        for places in itertools.combinations(range(len(times)), size)
        if allowed(places)
    )
    taken = choose(times, scores, gap, most)
    assert allowed(tuple(taken)) and sum(scores[i] for i in taken) == pytest.approx(best)


def frames(count: int, fps: float) -> Iterator[tuple[int, torch.Tensor, float]]:
    for index in range(count):
        yield index, torch.full((3, 2, 2), index, dtype=torch.uint8), index / fps


def windows(
    count: int, fps: float, specs: list[ClipSpec], stride_ms: int
) -> tuple[list[Window], WindowMaker]:
    maker = WindowMaker(specs, stride_ms, lambda frame: frame.float())
    made = [window for item in frames(count, fps) for window in maker.push(*item)]
    return made + list(maker.finish(count / fps)), maker


def test_windows_hold_the_frames_on_screen_at_their_times() -> None:
    specs = [ClipSpec(4, 5.0), ClipSpec(3, 2.0)]
    made, maker = windows(40, 10.0, specs, 500)
    assert [window.end_ms for window in made] == [1000, 1500, 2000, 2500, 3000, 3500] and not maker.short
    for window in made:
        for spec, clip in zip(specs, window.clips, strict=True):
            end = int(window.end_ms / 1000 * spec.fps + 1e-9) / spec.fps
            wanted = [end - (spec.num_frames - 1 - i) / spec.fps for i in range(spec.num_frames)]
            assert clip[0, :, 0, 0].tolist() == [int(moment * 10 + 1e-6) for moment in wanted]
        assert window.context_ms[1] <= window.end_ms
        assert window.last_frame * 100 <= window.end_ms
        assert int(window.image[0, 0, 0]) == window.last_frame


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 60), st.integers(5, 60), st.sampled_from([4.0, 7.5, 30.0]), st.integers(100, 900))
def test_windows_never_see_the_future(cut: int, fps: int, rate: float, stride_ms: int) -> None:
    """The windows of a stream that stops are the first windows of the stream that goes on."""
    specs = [ClipSpec(3, rate), ClipSpec(2, 3.0)]
    whole, _ = windows(90, fps, specs, stride_ms)
    part, maker = windows(min(cut, 89), fps, specs, stride_ms)
    if maker.short:
        return
    assert 0 < len(part) <= len(whole)
    for one, two in zip(part, whole[: len(part)], strict=True):
        assert (one.end_ms, one.context_ms, one.last_frame) == (two.end_ms, two.context_ms, two.last_frame)
        assert all(torch.equal(a, b) for a, b in zip(one.clips, two.clips, strict=True))


def test_one_frame_makes_one_window() -> None:
    made, maker = windows(1, 25.0, [ClipSpec(8, 4.0)], 500)
    assert len(made) == 1 and maker.short
    assert made[0].end_ms == 0 and made[0].clips[0].shape == (3, 8, 2, 2)


def picture(colour: tuple[int, int, int], shift: int = 0) -> np.ndarray:
    """A textured frame that moves by `shift` pixels."""
    base = np.random.default_rng(1).integers(0, 40, (48, 64, 3))
    frame = np.roll(np.clip(base + np.array(colour), 0, 255), shift, axis=1).astype(np.uint8)
    return reduce_frame(torch.from_numpy(frame).permute(2, 0, 1))


def timeline(parts: list[tuple[int, tuple[int, int, int], int]], fps: int = 25) -> TimelineMaker:
    maker, index = TimelineMaker(Fraction(fps)), 0
    for count, colour, speed in parts:
        for i in range(count):
            maker.push(picture(colour, speed * i), index / fps)
            index += 1
    return maker


RED, BLUE, GREEN = (200, 120, 20), (20, 20, 200), (20, 180, 20)


def test_cuts_are_found_to_the_frame_and_shots_cover_the_video() -> None:
    shots, scenes = timeline([(40, RED, 1), (30, BLUE, 1), (50, GREEN, 1)]).shots_and_scenes(4800)
    assert [(shot.start_frame, shot.end_frame, shot.kind) for shot in shots] == [
        (0, 40, "start"), (40, 70, "cut"), (70, 120, "cut"),
    ]  # fmt: skip
    assert [(shot.start_ms, shot.end_ms) for shot in shots] == [(0, 1600), (1600, 2800), (2800, 4800)]
    assert [scene.shots for scene in scenes] == [["s1"], ["s2"], ["s3"]]


def test_shot_and_counter_shot_are_one_scene() -> None:
    parts = [(30, RED, 1), (30, BLUE, 1), (30, RED, 1), (30, BLUE, 1), (40, GREEN, 1)]
    shots, scenes = timeline(parts).shots_and_scenes(6400)
    assert len(shots) == 5
    assert [scene.shots for scene in scenes] == [["s1"], ["s2", "s3", "s4"], ["s5"]]
    assert scenes[1].change is not None and scenes[1].change > 0.9 and scenes[2].change is None


def test_a_fade_through_black_is_one_boundary() -> None:
    maker, index = TimelineMaker(Fraction(25)), 0
    levels = (
        [1.0] * 40 + [1 - i / 15 for i in range(15)] + [0.0] * 8 + [i / 15 for i in range(15)] + [1.0] * 40
    )
    for i, level in enumerate(levels):
        colour = RED if i < 59 else GREEN
        image = (picture(colour, i).astype(float) * level).astype(np.uint8)
        maker.push(image, index / 25)
        index += 1
    shots, _ = maker.shots_and_scenes(round(index * 40))
    assert len(shots) == 2 and shots[1].kind == "fade"
    assert 50 <= shots[1].start_frame <= 68


def test_a_fade_that_no_frame_shows_at_its_blackest_is_a_boundary_and_a_dark_shot_is_none() -> None:
    rng = np.random.default_rng(0)
    one, two = (rng.integers(150, 250, (24, 24, 3)).astype(np.float32) for _ in range(2))
    gains = [0.9, 0.7, 0.5, 0.3, 0.1]
    down, up = [one * g for g in gains], [two * g for g in gains[::-1]]
    frames = [one] * 24 + down + up + [two] * 24
    night = [one] * 24 + down + [one * 0.1] * 30 + up + [two] * 24
    flash = [one] * 24 + [one * 0.6, one * 0.1, one * 0.6] + [one] * 24
    dusk = [one * 0.35] * 24 + [one * g for g in (0.25, 0.14, 0.14, 0.14, 0.25)] + [one * 0.35] * 24
    insert = [one] * 24 + [one * 0.1] * 12 + [two] * 24
    for pictures, wanted in ((frames, [28]), (night, []), (flash, []), (dusk, []), (insert, [])):
        maker = TimelineMaker(Fraction(12))
        for i, picture in enumerate(pictures):
            maker.push(picture.astype(np.uint8), i / 12)
        fades = [cut.frame for cut in maker.cuts() if cut.kind == "fade"]
        assert len(fades) == len(wanted) and all(abs(a - b) <= 1 for a, b in zip(fades, wanted, strict=True))
    assert [cut.frame for cut in maker.cuts()] == [0, 24, 36]  # of the last: both cuts are kept


def test_hard_steps_into_black_and_back_are_one_boundary_and_black_at_the_start_is_none() -> None:
    parts = [(20, (-60, -60, -60), 0), (50, RED, 1), (30, (-60, -60, -60), 0), (50, GREEN, 1)]
    shots, _ = timeline(parts).shots_and_scenes(6000)
    assert [(shot.start_frame, shot.kind) for shot in shots] == [(0, "start"), (85, "fade")]


def test_pauses_are_where_motion_stops() -> None:
    maker = timeline([(60, RED, 3), (40, RED, 0), (60, RED, 3)])
    (pause,) = maker.pauses(0.6, 400, 6400)
    assert 2400 <= pause.start_ms <= 3200 and 3800 <= pause.end_ms <= 4400
    assert timeline([(100, RED, 3)]).pauses(0.6, 400, 4000) == []
