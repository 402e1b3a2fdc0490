"""Sound in step with the frames: containers, layouts, late and short tracks, damage, and what is refused."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from jepa.data import LimitsConfig, open_video
from jepa.data.video.audio import AudioBlock, AudioSpec, open_audio
from jepa.errors import UserError, VideoError

FPS, MONO = 10, AudioSpec()


def write(
    path: Path,
    codec: str = "aac",
    rate: int = 48_000,
    layout: str = "mono",
    start_s: float = 0.0,
    length_s: float = 2.0,
    video_s: float = 2.0,
    beep_s: float = 1.0,
    tracks: int = 1,
) -> Path:
    """A grey video whose sound is silent but for 0.2 s of tone, which begins `beep_s` after the first frame."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        sounds = [container.add_stream(codec, rate=rate, layout=layout) for _ in range(tracks)]
        for _ in range(round(video_s * FPS)):
            for packet in video.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 128, np.uint8))):
                container.mux(packet)
        for packet in video.encode():
            container.mux(packet)
        for number, sound in enumerate(sounds):
            for first in range(0, round(length_s * rate), 1024):
                at = start_s + (first + np.arange(1024)) / rate
                tone = (
                    0.4 * np.sin(2 * np.pi * 500 * at) * ((at >= beep_s) & (at < beep_s + 0.2)) * (number + 1)
                )
                channels = len(av.AudioLayout(layout).channels)
                frame = av.AudioFrame.from_ndarray(
                    np.tile(tone.astype(np.float32), (channels, 1)), format="fltp", layout=layout
                )
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = round(start_s * rate) + first
                for packet in sound.encode(frame):
                    container.mux(packet)
            for packet in sound.encode():
                container.mux(packet)
    return path


def heard(path: Path, spec: AudioSpec = MONO, **more: object) -> tuple[list[AudioBlock], float, float]:
    """(blocks, start of the tone, its end), in seconds after the first block's start."""
    with open_audio(path, spec, **more) as reader:  # type: ignore[arg-type]
        blocks = list(reader)
    for one, two in itertools.pairwise(blocks):
        assert one.end_s == pytest.approx(two.start_s, abs=1e-6)
    wave = np.abs(np.concatenate([block.samples for block in blocks], axis=1)).max(axis=0)
    loud = np.flatnonzero(wave > 0.1)
    return blocks, loud[0] / spec.sample_rate, loud[-1] / spec.sample_rate


@pytest.mark.parametrize(
    "name, codec, rate, layout",
    [
        ("a.mp4", "aac", 48_000, "mono"),
        ("a.mkv", "aac", 44_100, "stereo"),
        ("a.ts", "aac", 48_000, "stereo"),
        ("a.avi", "mp2", 48_000, "stereo"),
        ("b.mkv", "pcm_s16le", 8_000, "mono"),
        ("c.mkv", "ac3", 48_000, "5.1(side)"),
        ("d.mkv", "flac", 96_000, "stereo"),
    ],
)
def test_every_container_and_layout_gives_the_tone_at_its_time(
    tmp_path: Path, name: str, codec: str, rate: int, layout: str
) -> None:
    path = write(tmp_path / name, codec, rate, layout)
    # AVI and MP2 state no encoder delay, so their sound is late by it.
    slack = 0.045 if name.endswith("avi") else 0.03
    with open_video(path) as video:
        start_s = video.start_s
    for spec in (AudioSpec(16_000), AudioSpec(48_000, mono=False)):
        blocks, first, last = heard(path, spec)
        assert blocks[0].start_s == pytest.approx(start_s, abs=1e-6)
        assert (first, last) == pytest.approx((1.0, 1.2), abs=slack)
        channels = 1 if spec.mono else len(av.AudioLayout(layout).channels)
        assert all(block.samples.shape[0] == channels for block in blocks)
        assert all(block.samples.dtype == np.float32 for block in blocks)


def test_a_late_track_starts_with_a_gap_and_keeps_its_times(tmp_path: Path) -> None:
    for name in ("late.mp4", "late.ts", "late.mkv"):
        blocks, first, _ = heard(write(tmp_path / name, start_s=0.7))
        gap = [block for block in blocks if block.kind == "gap"]
        assert sum(block.samples.shape[1] for block in gap) / 16_000 == pytest.approx(0.7, abs=0.03)
        assert not any(block.samples.any() for block in gap)
        assert first == pytest.approx(1.0, abs=0.03)
        # All blocks have the track's channels, those of the gap too.
        both = heard(
            write(tmp_path / f"both-{name}", layout="stereo", start_s=0.7), AudioSpec(48_000, mono=False)
        )[0]
        assert both[0].kind == "gap" and {block.samples.shape[0] for block in both} == {2}


def test_sound_before_the_first_frame_is_left_out(tmp_path: Path) -> None:
    blocks, first, _ = heard(write(tmp_path / "a.mkv", "pcm_s16le"), start_s=0.5)
    assert blocks[0].start_s == 0.5 and first == pytest.approx(0.5, abs=0.01)


def test_samples_before_and_after_resampling_agree(tmp_path: Path) -> None:
    """The clock counts samples, so an hour of 44.1 kHz would not drift: two rates give the same length."""
    path = write(tmp_path / "a.mkv", "pcm_s16le", 44_100, length_s=10.0, video_s=1.0)
    ends = [heard(path, AudioSpec(rate))[0][-1].end_s for rate in (8_000, 16_000, 44_100, 48_000)]
    assert ends == pytest.approx([round(10 * 44_100 / 1024 + 0.5) * 1024 / 44_100] * 4, abs=1e-3)


def test_no_track_is_no_error(tmp_path: Path) -> None:
    with open_audio(write(tmp_path / "a.mp4", tracks=0)) as reader:
        assert reader.info is None and list(reader) == []


def test_of_several_tracks_the_first_default_one_is_read_and_said(tmp_path: Path) -> None:
    with open_audio(write(tmp_path / "a.mkv", "pcm_s16le", tracks=2)) as reader:
        assert reader.info is not None and reader.info.tracks == 2
        assert reader.notices == ["Of 2 audio tracks, track 1 was read."]
        assert max(np.abs(block.samples).max() for block in reader) == pytest.approx(0.4, abs=0.02)


def test_a_hole_in_the_timestamps_is_filled_and_marked(tmp_path: Path) -> None:
    path = tmp_path / "hole.mkv"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for first in (0, 1600, 3200, 16_000, 17_600):
            frame = av.AudioFrame.from_ndarray(
                np.full((1, 1600), 9000, np.int16), format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = 16_000, first, Fraction(1, 16_000)
            for packet in sound.encode(frame):
                container.mux(packet)
        for packet in sound.encode():
            container.mux(packet)
    with open_audio(path) as reader:
        blocks = list(reader)
    gaps = [(block.start_s, block.end_s) for block in blocks if block.kind == "gap"]
    assert gaps == [pytest.approx((0.3, 1.0), abs=2e-3)] and blocks[-1].end_s == pytest.approx(1.2, abs=2e-3)


def damage(path: Path, sound_packets: slice, fill: bytes) -> None:
    """Overwrites some packets of the sound."""
    with av.open(str(path)) as container:
        found = [(p.pos, p.size) for p in container.demux(container.streams.audio[0]) if p.size and p.pos]
    with path.open("r+b") as file:
        for position, size in found[sound_packets]:
            file.seek(position)
            file.write((fill * size)[:size])


def test_damaged_packets_become_a_damaged_stretch(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "flac", length_s=4.0, video_s=4.0, beep_s=3.5)
    damage(path, slice(10, 14), b"\xff")
    with open_audio(path) as reader:
        blocks = list(reader)
        assert len(reader.notices) == 1 and "do not decode and were passed over" in reader.notices[0]
    bad = [block for block in blocks if block.kind == "damaged"]
    assert bad and 0.5 < bad[0].start_s < bad[-1].end_s < 2.5
    assert blocks[-1].end_s == pytest.approx(4.0, abs=0.1)


def test_a_track_that_does_not_decode_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", length_s=4.0, video_s=4.0)
    damage(path, slice(0, None), b"\xff")
    with (
        open_audio(path) as reader,
        pytest.raises(VideoError, match="packets of its sound"),
    ):
        list(reader)


def test_a_track_that_ends_before_its_stated_end_is_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", length_s=6.0, video_s=1.0)
    whole = path.read_bytes()
    with av.open(str(path), options={}) as container:
        last = [p.pos for p in container.demux(container.streams.audio[0]) if p.size][150]
    # The table of contents stays, the last packets become unreadable.
    at = whole.rfind(b"moov") - 4
    path.write_bytes(whole[:last] + b"\0" * (at - last) + whole[at:])
    with open_audio(path) as reader, pytest.raises(VideoError, match="sound"):
        list(reader)


def test_joined_streams_keep_one_clock_with_the_pictures(tmp_path: Path) -> None:
    one = write(tmp_path / "one.ts", beep_s=0.5).read_bytes()
    path = tmp_path / "two.ts"
    path.write_bytes(one + one)
    with open_audio(path) as reader:
        wave = np.concatenate([block.samples[0] for block in reader])
    with open_video(path) as video:
        assert video.duration_s == pytest.approx(4.0, abs=0.05)
    second = np.flatnonzero(np.abs(wave[2 * 16_000 :]) > 0.1)[0] / 16_000
    assert second == pytest.approx(0.5, abs=0.06)


def test_a_change_of_rate_and_channels_on_the_way_is_followed(tmp_path: Path) -> None:
    one = write(tmp_path / "one.ts", "mp2", 48_000, "stereo", beep_s=0.5).read_bytes()
    two = write(tmp_path / "two.ts", "mp2", 32_000, "mono", beep_s=0.5).read_bytes()
    path = tmp_path / "both.ts"
    path.write_bytes(one + two)
    with open_audio(path) as reader:
        wave = np.concatenate([block.samples[0] for block in reader])
    assert len(wave) / 16_000 == pytest.approx(4.0, abs=0.15)
    assert np.flatnonzero(np.abs(wave[2 * 16_000 :]) > 0.1)[0] / 16_000 == pytest.approx(0.5, abs=0.1)


def test_the_limits_of_the_video_reader_hold(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n{path}\n")
    with pytest.raises(VideoError, match="playlist"):
        open_audio(playlist)
    with pytest.raises(VideoError, match="addresses are never opened"):
        open_audio("http://example.invalid/a.mp4")
    with pytest.raises(VideoError, match="max_bytes"):
        open_audio(path, limits=LimitsConfig(max_bytes=10))
    with pytest.raises(UserError, match="sample_rate=10"):
        open_audio(path, AudioSpec(10))


def test_a_child_process_gives_the_same_blocks_and_errors(tmp_path: Path) -> None:
    path, limits = write(tmp_path / "a.mp4", layout="stereo", start_s=0.5), LimitsConfig(isolate=True)
    specs = (MONO, AudioSpec(48_000, mono=False))
    with open_audio(path, *specs) as one, open_audio(path, *specs, limits=limits) as two:
        assert one.info == two.info and one.start_s == two.start_s
        pairs = list(zip(one, two, strict=True))
    for here, there in pairs:
        assert here[0] == there[0] and here[2:] == there[2:] and (here.samples == there.samples).all()
    damage(path, slice(0, None), b"\xff")
    with open_audio(path, limits=limits) as reader, pytest.raises(VideoError, match="packets of its sound"):
        list(reader)
    with pytest.raises(VideoError, match="no such local file"):
        open_audio(tmp_path / "absent.mp4", limits=limits)


def test_sound_whose_times_go_back_is_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "back.mkv"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for first in (0, 1600, 3200):  # 0.2 s each, so every one begins in the middle of the one before
            frame = av.AudioFrame.from_ndarray(
                np.full((1, 3200), 9000, np.int16), format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = 16_000, first, Fraction(1, 16_000)
            for packet in sound.encode(frame):
                container.mux(packet)
    with open_audio(path) as reader:
        blocks = list(reader)
        assert len(reader.notices) == 1 and "their times go back" in reader.notices[0]
    assert blocks[-1].end_s == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("channels, kept", [(3, 3), (8, 8), (12, 1), (16, 1)])
def test_unusual_numbers_of_channels_are_read(tmp_path: Path, channels: int, kept: int) -> None:
    path, layout = tmp_path / "a.mkv", f"{channels} channels"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=16_000, layout=layout)
        wave = np.full((1, 16_000 * channels), 9000, np.int16)
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        for packet in [*sound.encode(frame), *sound.encode()]:
            container.mux(packet)
    for spec, count in ((MONO, 1), (AudioSpec(48_000, mono=False), kept)):
        with open_audio(path, spec) as reader:
            try:
                blocks = list(reader)
            except VideoError as error:  # FFmpeg knows no way to mix channels without names
                assert "sound" in error.reason and spec.mono
                continue
        assert {block.samples.shape[0] for block in blocks} == {count}
        assert blocks[-1].end_s == pytest.approx(1.0, abs=0.01)
