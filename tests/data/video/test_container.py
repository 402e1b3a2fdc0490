"""Files that are whole but unusual: no times, no beginning, no duration, a turn that only the pictures know."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch

from jepa.data.video.reader import open_video
from jepa.errors import UserError, VideoError

X264 = {"preset": "fast", "g": "12", "bf": "3"}


@pytest.mark.parametrize(("suffix", "codec"), [("h264", "libx264"), ("hevc", "libx265")])
def test_a_raw_stream_is_read_in_the_order_of_display(write_video, number_of, tmp_path, suffix, codec):
    options = X264 if codec == "libx264" else {"x265-params": "log-level=error:keyint=12:bframes=3"}
    path = write_video(tmp_path / f"raw.{suffix}", count=30, fps=25, codec=codec, options=options)
    with open_video(path) as video:
        assert video.num_frames == 30
        every = [(number_of(frame), time_s) for frame, time_s in video]
        assert [number for number, _ in every] == list(range(30))
        assert np.diff([time_s for _, time_s in every]) == pytest.approx(0.04, abs=1e-6)
        assert [number_of(f) for f in video.frames([29, 3, 4, 17]).data] == [29, 3, 4, 17]
        assert [number_of(f) for f in video.frames_at([0.41, 0.0, 7.0]).data] == [10, 0, 29]
        late = next(video.windows(num_frames=2, fps=25, stride_s=1, start_s=0.8))
        assert [number_of(f) for f in late.data] == [20, 21]


def test_a_stream_cut_in_the_middle_of_a_group_starts_where_it_can_be_decoded(
    write_video, number_of, tmp_path
):
    whole = write_video(tmp_path / "whole.ts", count=40, options={**X264, "x264-params": "open-gop=1"})
    data = whole.read_bytes()
    path = tmp_path / "cut.ts"
    path.write_bytes(data[: 188 * 3] + data[188 * (len(data) // 188 // 5) :])  # the tables, then four fifths
    with open_video(path) as video:
        every = [(number_of(frame), time_s) for frame, time_s in video]
        assert 5 < len(every) < 40 and every[-1][0] == 39
        assert video.num_frames == len(every)
        frames = video.frames(range(len(every)))
    assert [number_of(f) for f in frames.data] == [number for number, _ in every]
    assert frames.times.numpy() == pytest.approx([time_s for _, time_s in every], abs=1e-3)


class _Pipe:
    """A file that can only be written to, so that no header is completed afterwards."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, block: bytes) -> int:
        self.data += block
        return len(block)


@pytest.mark.parametrize("kind", ["flv", "matroska"])
def test_a_recording_without_a_duration_is_read_to_its_end(clips, number_of, kind):
    pipe = _Pipe()
    with av.open(str(clips / "plain.mp4")) as source, av.open(pipe, "w", format=kind) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    with open_video(bytes(pipe.data)) as video:
        assert video.num_frames == 40 and video.duration_s == pytest.approx(2.0, abs=0.06)
        assert [number_of(f) for f in video.frames([0, 39]).data] == [0, 39]


# Display orientation SEI (H.264, D.1.27): flips, then a turn anticlockwise in units of 360 / 65536 degrees.
@pytest.mark.parametrize(
    ("across", "down", "turn"), [(0, 0, 0x4000), (1, 0, 0), (0, 1, 0x8000), (0, 0, 0xC000)]
)
def test_all_readers_follow_a_turn_that_only_the_pictures_state(clips, tmp_path, across, down, turn):
    bits = f"0{across}{down}{turn:016b}10100"  # not cancelled, flips, turn, once, no extension, end
    note = bytes([6, 47, 3, *int(bits, 2).to_bytes(3, "big"), 0x80])
    path = tmp_path / "turned.mp4"
    with av.open(str(clips / "plain.mp4")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is None:
                continue
            changed = packet
            if packet.is_keyframe:
                changed = av.Packet(len(note).to_bytes(4, "big") + note + bytes(packet))
                changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
                changed.is_keyframe = True
            changed.stream = stream
            target.mux(changed)
    with open_video(clips / "plain.mp4") as video:
        plain = video.frames([5]).data
    with open_video(path) as video:
        expected = video.frames([5, 20]).data
        assert any(video.info.orientation)
    assert expected.shape[1:] != plain.shape[1:] or not torch.equal(expected[:1], plain)
    for backend in ("torchcodec", "decord"):
        try:
            video = open_video(path, backend=backend)
        except UserError:
            continue  # that reader is not installed
        with video:
            found = video.frames([5, 20]).data
        assert found.shape == expected.shape and (found.float() - expected.float()).abs().mean() < 2, backend


def test_decord_is_not_believed_about_mpeg_streams(write_video, tmp_path):
    pytest.importorskip("decord")
    path = write_video(tmp_path / "a.ts", count=20, options=X264)
    with pytest.raises(VideoError, match="MPEG streams"):
        open_video(path, backend="decord")
