"""The reader: right frames at right times, the right way up, and whole."""

from __future__ import annotations

import io
import itertools
import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from jepa.data.video.limits import LimitsConfig
from jepa.data.video.pyav import PyAvFile
from jepa.data.video.reader import open_video
from jepa.errors import UserError, VideoError

CODECS = ["plain.mp4", "opengop.mp4", "plain.mkv", "plain.avi", "vp9.webm", "deep.mp4"]


@pytest.mark.parametrize("name", CODECS)
def test_every_frame_can_be_had_by_number_and_by_time(clips, number_of, name):
    with open_video(clips / name) as video:
        assert (video.num_frames, video.info.width, video.info.height) == (40, 96, 64)
        assert video.fps == pytest.approx(20, abs=0.1)
        assert video.duration_s == pytest.approx(2.0, abs=0.051)
        expected = [39, 0, 7, 7, 20, 13]
        frames = video.frames(expected)
        assert frames.data.shape == (6, 3, 64, 96) and frames.data.dtype == torch.uint8
        assert [number_of(f) for f in frames.data] == expected
        assert frames.times.numpy() == pytest.approx([i / 20 for i in expected], abs=1e-3)
        seconds = [0.0, 0.048, 0.051, 0.674, 1.999, 7.0, -3.0]
        assert [number_of(f) for f in video.frames_at(seconds).data] == [0, 0, 1, 13, 39, 39, 0]


@pytest.mark.parametrize("name", CODECS)
def test_skipping_and_seeking_change_no_bit(clips, name):
    with open_video(clips / name) as video:
        everything = [frame for frame, _ in video]
    assert len(everything) == 40
    for expected in ([3, 11, 19, 27, 35], [38], [12], [11, 13], [36, 37], list(range(0, 40, 7))):
        with open_video(clips / name) as video:
            some = video.frames(expected).data
        assert all(torch.equal(some[k], everything[i]) for k, i in enumerate(expected)), expected


def test_frames_that_are_not_requested_are_skipped(clips, monkeypatch):
    decoded = []
    original = PyAvFile._decoded

    def counting(self, packets, *args, **kwargs):
        for pair in original(self, packets, *args, **kwargs):
            decoded.append(pair[0])
            yield pair

    monkeypatch.setattr(PyAvFile, "_decoded", counting)
    with open_video(clips / "plain.mp4") as video:
        video.frames_at([1.9])
    # A full decode passes 39 frames; from the last key frame on, and without the non-reference ones, few are left.
    assert len(decoded) <= 8
    missing = [a for a, b in itertools.pairwise(decoded) if b - a > 512]
    assert missing, "no non-reference frame was skipped"


def test_variable_frame_rate_goes_by_time(clips, number_of):
    with open_video(clips / "vfr.mp4") as video:
        frames = video.frames_at([0.3, 0.42, 0.8, 1.69, 1.7])
        assert [number_of(f) for f in frames.data] == [2, 3, 4, 7, 8]
        assert frames.times.numpy() == pytest.approx([0.1, 0.4, 0.45, 1.0, 1.7], abs=1e-3)


def test_rotation_and_pixel_aspect_are_applied(clips):
    with open_video(clips / "tall.mp4") as video:
        assert (video.info.width, video.info.height) == (64, 96)
        frame = video.frames([0]).data[0].float()
        # Turned a quarter clockwise: the red mark goes from the top left to the top right, blue to the bottom right.
        red, blue = frame[:, :16, -12:].mean((1, 2)), frame[:, -16:, -12:].mean((1, 2))
        assert red[0] > 150 > red[2] and blue[2] > 150 > blue[0]
    with open_video(clips / "wide.mp4") as video:
        assert tuple(video.frames([0]).data.shape) == (1, 3, 64, 192)
        assert (video.info.width, video.info.height) == (192, 64)


def test_every_orientation_of_a_display_matrix():
    from jepa.data.video.info import read_orientation, upright

    corner = np.zeros((2, 3, 3), np.uint8)
    corner[0, 0] = 1  # the mark at the top left
    one = 1 << 16
    # (a, b, c, d): x' = a x + c y, y' = b x + d y, y downwards, moved back into the picture.
    for a, b, c, d in [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
                       (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0)]:  # fmt: skip
        matrix = np.array([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30], "<i4")

        class Frame:
            side_data = dict.fromkeys(av.sidedata.sidedata.Type, matrix.tobytes())

        turned = upright(corner, read_orientation(Frame()))
        points = [(x, y) for y in range(2) for x in range(3)]
        moved = [(a * x + c * y, b * x + d * y) for x, y in points]
        left, top = min(x for x, _ in moved), min(y for _, y in moved)
        assert turned[moved[0][1] - top, moved[0][0] - left, 0] == 1, (a, b, c, d)


def test_sources_are_paths_bytes_and_open_files(clips, number_of):
    path = clips / "plain.mp4"
    for source in (str(path), path, path.read_bytes(), io.BytesIO(path.read_bytes()), path.open("rb")):
        with open_video(source) as video:
            assert [number_of(f) for f in video.frames([5, 30]).data] == [5, 30]
            assert video.num_frames == 40


def test_names_that_are_not_utf8_or_look_like_options_or_protocols(clips, tmp_path, number_of):
    for name in (b"\xff\xfe caf\xe9.mp4", b"-i.mp4", b"concat:a.mp4", b"a%03d.mp4", b"http:"):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
        Path(path).write_bytes((clips / "one.mp4").read_bytes())
        with open_video(path) as video:
            assert number_of(video.frames([0]).data[0]) == 0


def test_tags_that_are_not_utf8_do_not_matter(clips, tmp_path):
    source = (clips / "plain.mp4").read_bytes()
    assert b"Lavf" in source
    path = tmp_path / "tags.mp4"
    path.write_bytes(source.replace(b"Lavf", b"\xff\xfe\xe9\x80"))
    with open_video(path) as video:
        assert video.num_frames == 40


def test_a_window_slides_and_decodes_each_frame_once(clips, number_of, monkeypatch):
    decoded = []
    original = PyAvFile._rgb
    monkeypatch.setattr(
        PyAvFile, "_rgb", lambda self, frame: decoded.append(frame.pts) or original(self, frame)
    )
    with open_video(clips / "long.mp4") as video:
        windows = list(video.windows(num_frames=4, fps=10, stride_s=0.5))
    assert len(decoded) == len(set(decoded)) == 200
    # Last window: the greatest k with k / 2 + 0.3 < 10.
    assert len(windows) == 20
    for k, window in enumerate(windows):
        assert [number_of(f) for f in window.data] == [10 * k + 2 * i for i in range(4)]
    with open_video(clips / "long.mp4") as video:
        late = next(video.windows(num_frames=2, fps=40, stride_s=1, start_s=6.0))
    assert [number_of(f) for f in late.data] == [120, 120]


def test_one_reader_serves_many_requests_in_any_order(clips, number_of):
    with open_video(clips / "long.mp4") as video:
        for seconds in ([9.0, 9.5], [0.0], [4.0, 8.0, 2.0], [9.95], [0.05]):
            assert [number_of(f) for f in video.frames_at(seconds).data] == [round(s * 20) for s in seconds]


def test_interrupting_an_iteration_is_refused_rather_than_wrong(clips):
    with open_video(clips / "plain.mp4") as video:
        frames = iter(video)
        next(frames)
        assert video.num_frames == 40  # counting is harmless
        next(frames)
        video.frames_at([1.0])
        with pytest.raises(UserError, match="second time"):
            next(frames)


def test_each_sees_every_frame_once(clips):
    seen = []
    with open_video(clips / "plain.mp4") as video:
        frames = video.frames_at([0.5, 0.0, 0.5, 0.51], each=lambda f: seen.append(0) or f[:, :8, :10])
    assert frames.data.shape == (4, 3, 8, 10) and len(seen) == 2
    assert torch.equal(frames.data[0], frames.data[3])


def test_mistakes_are_named(clips):
    with pytest.raises(UserError, match="backend='gpu'"):
        open_video(clips / "plain.mp4", backend="gpu")
    with open_video(clips / "plain.mp4") as video:
        with pytest.raises(UserError, match="has 40 frames"):
            video.frames([40])
        with pytest.raises(UserError, match="finite"):
            video.frames_at([float("nan")])


@pytest.mark.parametrize(
    ("limits", "stage"),
    [
        (LimitsConfig(max_bytes=100), "open"),
        (LimitsConfig(max_pixels=96 * 64 - 1), "probe"),
        (LimitsConfig(max_duration_s=1.0), "probe"),
        (LimitsConfig(max_frames=39), "probe"),
        (LimitsConfig(max_decode_s=1e-9), "decode"),
    ],
)
def test_limits(clips, limits, stage):
    with pytest.raises(VideoError) as error, open_video(clips / "plain.mp4", limits=limits) as video:
        video.frames([0])
    assert error.value.stage == stage and "plain.mp4" in error.value.path and "limits." in error.value.reason


def test_limits_are_checked():
    with pytest.raises(UserError, match=r"limits\.max_pixels"):
        LimitsConfig(max_pixels=0)
