"""Windows hold the frames on screen at their times, and nothing later."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa.signals.detect.detector import ClipSpec, Feed
from jepa.signals.detect.windows import Window, WindowMaker


def frames(count: int, fps: float) -> Iterator[tuple[int, torch.Tensor, float]]:
    for index in range(count):
        yield index, torch.full((3, 2, 2), index, dtype=torch.uint8), index / fps


def windows(
    count: int, fps: float, specs: list[ClipSpec], stride_ms: int
) -> tuple[list[Window], WindowMaker]:
    maker = WindowMaker([Feed(spec, torch.Tensor.float) for spec in specs], stride_ms)
    made = [window for item in frames(count, fps) for window in maker.push(*item)]
    return made + list(maker.finish(count / fps)), maker


def test_windows_hold_the_frames_on_screen_at_their_times() -> None:
    specs = [ClipSpec(4, 5.0), ClipSpec(3, 2.0)]
    made, maker = windows(40, 10.0, specs, 500)
    assert [window.end_ms for window in made] == [1000, 1500, 2000, 2500, 3000, 3500] and not maker.short
    for window in made:
        for spec, clip in zip(specs, window.clips, strict=True):
            end = int(window.end_ms / 1000 * spec.fps + 1e-9) / spec.fps
            expected = [end - (spec.num_frames - 1 - i) / spec.fps for i in range(spec.num_frames)]
            assert clip[0, :, 0, 0].tolist() == [int(time_s * 10 + 1e-6) for time_s in expected]
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


def test_a_frame_is_prepared_once_for_all_clips_of_one_detector() -> None:
    prepared: list[int] = []

    def prepare(frame: torch.Tensor) -> torch.Tensor:
        prepared.append(int(frame[0, 0, 0]))
        return frame

    specs = [ClipSpec(2, 5.0), ClipSpec(1, 10.0)]
    maker = WindowMaker([*(Feed(spec, prepare) for spec in specs), Feed(specs[0], torch.Tensor.float)], 200)
    made = [window for item in frames(9, 10.0) for window in maker.push(*item)]
    assert prepared == sorted(set(prepared))
    assert [clip.dtype for clip in made[0].clips] == [torch.uint8, torch.uint8, torch.float32]
