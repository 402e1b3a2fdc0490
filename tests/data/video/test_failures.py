"""What goes wrong while one video is handled is that video's error; a lenient reader reports what it passed over."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from jepa.data.images import read_image
from jepa.data.manifest import Item
from jepa.data.video import decoding
from jepa.data.video.info import read_orientation
from jepa.data.video.limits import LimitsConfig
from jepa.data.video.reader import open_video
from jepa.errors import UserError, VideoError


@pytest.fixture(scope="module")
def damaged(clips, tmp_path_factory):
    """`plain.mp4` (40 frames) whose 29th packet does not decode."""
    data = (clips / "plain.mp4").read_bytes()
    with av.open(str(clips / "plain.mp4")) as source:
        packet = [p for p in source.demux(video=0) if p.size][28]
        at, size = packet.pos, packet.size
    path = tmp_path_factory.mktemp("damaged") / "damaged.mp4"
    path.write_bytes(data[:at] + bytes(size) + data[at + size :])
    return path


@pytest.mark.parametrize("limits", [LimitsConfig(), LimitsConfig(isolate=True)], ids=["here", "isolated"])
def test_a_lenient_reader_gives_the_good_frames_and_says_what_it_passed_over(
    damaged, clips, number_of, limits
):
    with open_video(damaged, limits=limits) as video:
        seen = []
        with pytest.raises(VideoError) as error:
            seen.extend(number_of(frame) for frame, _ in video)
        assert error.value.stage == "decode" and seen == [*range(len(seen))] and len(seen) >= 24
        assert video.notices == ()
    with open_video(damaged, lenient=True, limits=limits) as video:
        frames = list(video)
        assert len(frames) == video.num_frames < 40
        assert [number_of(frame) for frame, _ in frames[:24]] == [*range(24)]
        (notice,) = video.notices
        assert "could not be decoded, the first at 1." in notice
    with open_video(clips / "plain.mp4", lenient=True, limits=limits) as video:
        assert len(list(video)) == 40 and video.notices == ()


@pytest.mark.parametrize(
    "error", [ValueError("29 is not a valid Type"), ZeroDivisionError("no"), KeyError("x")]
)
def test_any_exception_while_a_video_is_handled_is_its_video_error(clips, monkeypatch, error):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(decoding, "read_orientation", broken)
    requests = [
        lambda v: v.frames_at([1.0]), lambda v: v.frames([3]), lambda v: next(iter(v)), lambda v: v.info,
        lambda v: next(v.windows(2, 4.0, 1.0)),
    ]  # fmt: skip
    for request in requests:
        with open_video(clips / "plain.mp4") as video, pytest.raises(VideoError) as raised:
            request(video)
        assert raised.value.__cause__ is error and type(error).__name__ in raised.value.reason
        assert str(clips / "plain.mp4") in str(raised.value)


def test_the_callers_own_errors_stay_their_own(clips):
    def each(frame):
        raise ZeroDivisionError

    with open_video(clips / "plain.mp4") as video, pytest.raises(ZeroDivisionError):
        video.frames_at([1.0], each=each)


def test_side_data_that_nobody_knows_leaves_the_angle():
    class Frame:
        rotation = -90

        @property
        def side_data(self):
            raise ValueError("29 is not a valid Type")

    assert read_orientation(Frame()) == (True, True, False)


def test_bytes_come_as_bytes_bytearray_or_memoryview(clips, number_of):
    data = (clips / "plain.mp4").read_bytes()
    for source in (data, bytearray(data), memoryview(data)):
        with open_video(source) as video:
            assert number_of(video.frames([7]).data[0]) == 7
    with pytest.raises(VideoError, match="<3 bytes>"):
        open_video(bytearray(3))


def test_no_frame_numbers_are_a_mistake_of_the_caller(clips):
    with open_video(clips / "plain.mp4") as video, pytest.raises(UserError, match="non-empty"):
        video.frames([])


def write_held(path, codec, times, last_ms, pix_fmt="yuv420p"):
    """Frames at `times` in milliseconds, the last one on screen for `last_ms`."""
    with av.open(str(path), "w") as target:
        stream = target.add_stream(codec, rate=20, options={"bf": "0"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for i, ms in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + 9 * i, np.uint8), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = ms, Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode()
        for packet in packets:
            if packet.pts == times[-1]:
                packet.duration = last_ms
            target.mux(packet)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "gif"])
@pytest.mark.parametrize("times", [[50 * i for i in range(20)], [0, 2000, 5000]], ids=["pause", "slides"])
def test_a_last_frame_that_is_held_is_shown_to_its_end(tmp_path, suffix, times):
    codec, pix_fmt = ("gif", "rgb8") if suffix == "gif" else ("libx264", "yuv420p")
    path = write_held(tmp_path / f"held.{suffix}", codec, times, 3000, pix_fmt)
    with open_video(path) as video:
        last = video.frames([-1])
        assert last.times[0] == pytest.approx(times[-1] / 1000, abs=1e-3)
        end = video.start_s + video.duration_s
        if suffix != "gif":  # FFmpeg's own writer gives a GIF's last frame the length of the one before
            assert end == pytest.approx(times[-1] / 1000 + 3, abs=0.011)
        for second in np.linspace(times[-1] / 1000, end + 1, 7):
            assert torch.equal(video.frames_at([second]).data, last.data)


def test_two_frames_two_hours_apart(tmp_path):
    path = write_held(tmp_path / "hourly.mp4", "libx264", [0, 7_200_000], 1000)
    with open_video(path) as video:
        assert video.num_frames == 2 and video.duration_s == pytest.approx(7201, abs=0.1)
        assert video.frames_at([7100.0, 7200.5]).times.tolist() == [0.0, 7200.0]
        assert 0 < video.fps < 1


def test_an_animated_webp_is_refused_and_says_what_to_do(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pictures = [image.new("RGB", (32, 24), (40 * i, 0, 0)) for i in range(3)]
    path = tmp_path / "moving.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    with pytest.raises(VideoError, match="holds 3 pictures"):
        read_image(Item(str(path)), LimitsConfig())
    with pytest.raises(VideoError, match="WebP"):
        open_video(path)
    pictures[0].save(tmp_path / "still.webp")
    assert read_image(Item(str(tmp_path / "still.webp")), LimitsConfig()).shape == (3, 24, 32)
