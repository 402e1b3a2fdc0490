"""Long videos: every frame is covered, windows are what they say, memory does not grow."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jepa.errors import UserError
from jepa.models import EncoderConfig, Preprocessing, VideoEncoder
from jepa.models.long_video import window_features


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    encoder = VideoEncoder(EncoderConfig(16, 1, 2, 16)).eval()
    encoder.preprocessing = Preprocessing(4, 4.0, 16, 16)
    return encoder


def frames(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, 16, 20), dtype=torch.uint8, generator=generator) for _ in range(count)]


def test_windows_hold_what_encoding_them_alone_gives(encoder):
    video = frames(11)
    windows = list(window_features(encoder, iter(video), window_frames=4, stride_frames=3))
    assert [window.start_frame for window in windows] == [0, 3, 6, 7]
    for window in windows:
        part = torch.stack(video[window.start_frame : window.start_frame + 4])
        expected = encoder(encoder.preprocess(part).unsqueeze(0))[0]
        assert torch.allclose(window.features, expected, atol=1e-6)
        assert not window.features.requires_grad


@settings(deadline=None, max_examples=40)
@given(count=st.integers(0, 40), window=st.integers(1, 6).map(lambda n: 2 * n), data=st.data())
def test_every_frame_is_covered_and_none_invented(encoder, count, window, data):
    stride = data.draw(st.integers(1, window))
    windows = list(window_features(encoder, frames(count), window, stride, pool="mean"))
    covered = {frame for w in windows for frame in range(w.start_frame, w.start_frame + w.num_frames)}
    assert covered == set(range(count))
    assert all(w.num_frames == min(window, count) for w in windows)
    starts = [w.start_frame for w in windows]
    assert starts == sorted(set(starts))
    assert len(windows) == (0 if count == 0 else 1 + max(0, -(-(count - window) // stride)))


def test_short_video_is_filled_with_its_last_frame(encoder):
    video = frames(3)
    (window,) = window_features(encoder, video, window_frames=8, pool="grid")
    assert (window.start_frame, window.num_frames) == (0, 3)
    expected = encoder.features(
        encoder.preprocess(torch.stack([*video, video[-1]])).unsqueeze(0), pool="grid"
    )[0]
    assert torch.allclose(window.features, expected, atol=1e-6)


def test_memory_does_not_grow_with_the_video(encoder):
    """Of 400 frames and 100 windows, only those of the present window are ever alive."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def counted():
        for _ in range(400):
            frame = torch.zeros(3, 16, 20, dtype=torch.uint8)
            alive.add(frame)
            yield frame

    count = 0
    for window in window_features(encoder, counted(), window_frames=4):
        alive.add(window.features)
        most = max(most, len(alive))
        count += 1
    assert count == 100
    assert most <= 4


@pytest.mark.parametrize("window, stride", [(3, 1), (0, 1), (4, 0), (4, 5)])
def test_windows_that_leave_frames_out_are_refused(encoder, window, stride):
    with pytest.raises(UserError, match="window_frames"):
        next(window_features(encoder, frames(4), window, stride))
