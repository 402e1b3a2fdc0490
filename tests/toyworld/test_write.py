"""The folder that a toy world writes: same bytes every time, real MP4s, lists that agree with the truth."""

import csv
import dataclasses
import json
import subprocess
import sys
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from jepa.errors import UserError
from jepa.toyworld import ToyWorldConfig, World, write_world
from jepa.toyworld.mp4 import write_mp4, yuv420


def small(out, **keys):
    return ToyWorldConfig(
        out=str(out), **{"videos": 3, "height_px": 64, "width_px": 64, "duration_s": 1.0, **keys}
    )


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_same_seed_same_bytes_on_any_number_of_processes(tmp_path):
    one = contents(write_world(small(tmp_path / "one")))
    two = contents(write_world(small(tmp_path / "two", workers=2)))
    other = contents(write_world(small(tmp_path / "other", seed=1)))
    assert one == two
    assert one["videos/000000.mp4"] != other["videos/000000.mp4"]


@pytest.mark.slow
def test_events_are_the_same_bytes_on_no_two_and_four_processes(tmp_path):
    keys = {
        "videos": 16,
        "family": "events",
        "duration_s": 3.0,
        "temporal_noise": 0.5,
        "background": "varied",
    }
    one, two, four = (contents(write_world(small(tmp_path / str(n), **keys, workers=n))) for n in (0, 2, 4))
    assert one == two == four


def test_noisy_frames_are_encoded_to_the_same_bytes_every_time(tmp_path):
    """Memory is stirred between encodings: an encoder that reads what it did not write would show it."""
    config = ToyWorldConfig(out="", temporal_noise=0.6, distractors=0, width_px=96, height_px=96, fps=12)
    frames = list(World(config).frames(30))
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(80):
        _stir = [rng.integers(0, 255, int(rng.integers(1, 200_000)), dtype=np.uint8) for _ in range(4)]
        write_mp4(tmp_path / "clip.mp4", frames, Fraction(12), 18)
        seen.add((tmp_path / "clip.mp4").read_bytes())
    assert len(seen) == 1


def test_a_world_that_grows_keeps_its_first_videos_and_a_stopped_one_goes_on(tmp_path):
    whole = contents(write_world(small(tmp_path / "whole")))
    folder = write_world(small(tmp_path / "grown", videos=1))
    kept = (folder / "videos/000000.mp4").stat().st_mtime_ns
    write_world(small(tmp_path / "grown", videos=3))
    assert contents(folder) == whole
    (folder / "videos/000001.mp4").unlink()
    (folder / "labels.csv").unlink()
    write_world(small(tmp_path / "grown", videos=3))
    assert contents(folder) == whole
    assert (folder / "videos/000000.mp4").stat().st_mtime_ns == kept


def test_integers_and_floats_of_one_value_are_one_world(tmp_path):
    whole, fraction = (small(tmp_path / "w", fps=kind(12), duration_s=kind(1)) for kind in (int, float))
    assert whole.fingerprint() == fraction.fingerprint() != small("", fps=12.5).fingerprint()
    # A folder that an earlier version wrote under whole numbers goes on, too.
    card = write_world(whole) / "world.json"
    text = card.read_text()
    old = text.replace('"fps": 12.0', '"fps": 12').replace(whole.fingerprint(), "0" * 16)
    card.write_text(old)
    write_world(fraction)
    assert card.read_text() == text != old
    assert ToyWorldConfig(out="").fingerprint() == "b31625d042a91825"  # as written in the worlds there are


def test_a_killed_run_leaves_complete_files_and_resumes_to_the_same_bytes(tmp_path):
    code = (
        "from jepa.toyworld import *;"
        f"write_world(ToyWorldConfig(out={str(tmp_path / 'w')!r}, videos=30,"
        "height_px=64, width_px=64, duration_s=1.0))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while len(list(tmp_path.glob("w/videos/0*.mp4"))) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    (tmp_path / "w/videos/.000029.1.partial.mp4").write_bytes(b"half")
    done = {p.name: p.read_bytes() for p in tmp_path.glob("w/videos/0*.mp4")}
    assert len(done) < 30
    resumed = contents(write_world(small(tmp_path / "w", videos=30)))
    assert resumed == contents(write_world(small(tmp_path / "whole", videos=30)))
    assert all(resumed[f"videos/{name}"] == data for name, data in done.items())


def test_videos_are_h264_with_the_stated_times_and_short_groups_of_pictures(tmp_path):
    folder = write_world(small(tmp_path / "w", videos=1, fps=12.5))
    with av.open(str(folder / "videos/000000.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == Fraction(25, 2)
        frames = list(container.decode(stream))
    assert [f.pts * f.time_base for f in frames] == [Fraction(2 * k, 25) for k in range(12)]
    assert [k for k, f in enumerate(frames) if f.key_frame] == [0, 8]


def test_what_is_decoded_is_what_was_rendered_up_to_compression(tmp_path):
    config = small(tmp_path / "w", videos=1, crf=8)
    folder = write_world(config)
    with av.open(str(folder / "videos/000000.mp4")) as container:
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    for seen, painted in zip(decoded, World(config).frames(0), strict=True):
        assert np.abs(seen.astype(int) - painted.astype(int)).mean() < 4


def test_colours_survive_the_conversion_to_yuv():
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]], np.uint8)
    for colour in colours:
        frame = np.broadcast_to(colour, (16, 16, 3)).copy()
        picture = av.VideoFrame.from_ndarray(yuv420(frame), format="yuv420p")
        back = picture.to_ndarray(format="rgb24")
        assert np.abs(back.astype(int) - frame).max() <= 3


def test_lists_name_every_video_and_agree_with_the_truth(tmp_path):
    folder = write_world(small(tmp_path / "w"))
    rows = list(csv.DictReader((folder / "labels.csv").open()))
    assert [r["path"] for r in rows] == [f"videos/{i:06d}.mp4" for i in range(3)]
    for i, row in enumerate(rows):
        truth = json.loads((folder / f"truth/{i:06d}.json").read_text())
        assert (row["label"], row["split"], row["group"]) == (
            truth["label"],
            truth["split"],
            truth["group"],
        )
        assert (folder / row["path"]).exists()


def test_folders_that_hold_something_else_are_refused(tmp_path):
    write_world(small(tmp_path / "w"))
    with pytest.raises(UserError, match="seed=0 there, 5 requested"):
        write_world(small(tmp_path / "w", seed=5))
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/a.txt").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        write_world(small(tmp_path / "letters"))


@pytest.mark.parametrize(
    "key",
    [
        {"family": "x"},
        {"fps": 0.0},
        {"duration_s": 900.0},
        {"width_px": 65},
        {"temporal_noise": 2.0},
        {"videos": 0},
    ],
)
def test_knobs_outside_their_limits_are_refused_before_anything_is_written(tmp_path, key):
    with pytest.raises(UserError, match=next(iter(key))):
        write_world(small(tmp_path / "w", **key))
    assert not (tmp_path / "w").exists()


def test_every_knob_has_a_line_of_description():
    source = __import__("inspect").getsource(ToyWorldConfig)
    for field in dataclasses.fields(ToyWorldConfig):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1]
        assert after.strip().startswith('"""'), field.name


def test_a_world_with_physics_names_the_extra_that_it_misses(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymunk", None)
    assert len(list(World(ToyWorldConfig(out="", duration_s=0.5)).frames(0))) == 8
    with pytest.raises(UserError, match=r"\[toyworld\]"):
        World(ToyWorldConfig(out="", family="tower", duration_s=4.0)).truth(0)
