"""`jepa embed`: one process and two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import jepa.data
from jepa.errors import UserError
from jepa.models import Preprocessing, load_encoder
from jepa.probes.config import FeatureSettings
from jepa.probes.embed import EmbedConfig, EmbedData, run


def config(squares: Path, export: Path, out: Path, kind: str = "mean") -> EmbedConfig:
    return EmbedConfig(EmbedData(str(squares / "clips")), str(export), str(out), kind)


def test_a_mean_per_video_is_the_encoders(squares: Path, export: Path, tmp_path: Path) -> None:
    card = run(config(squares, export, tmp_path / "e.npz"))
    with np.load(tmp_path / "e.npz") as file:
        features, names = file["features"], file["names"]
    assert features.shape == (36, 24) == tuple(card["shape"]) and names[3] == "03.mp4"
    encoder = load_encoder(export)
    with jepa.data.open_video(squares / "clips/03.mp4") as reader, torch.inference_mode():
        expected = encoder(encoder.preprocess(reader.frames_at([i / 8 for i in range(8)]).data)[None])[
            0
        ].mean(0)
    np.testing.assert_allclose(features[3], expected, rtol=5e-3, atol=5e-3)
    assert not list(tmp_path.glob("*cache*"))  # without a cache nothing else is written


def test_all_tokens_in_int8_are_near_those_in_float16(squares: Path, export: Path, tmp_path: Path) -> None:
    exact = config(squares, export, tmp_path / "a.npz", kind="tokens")
    rough = config(squares, export, tmp_path / "b.npz", kind="tokens")
    rough.features = FeatureSettings(cache=str(tmp_path / "cache"), int8=True)
    run(exact)
    card = run(rough)
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        one, two = a["features"].astype(float), b["features"].astype(float)
    assert one.shape == two.shape == (36, 1, 64, 24)
    error = np.sqrt(np.square(one - two).sum() / np.square(one).sum())
    assert error == pytest.approx(card["int8_error"], rel=0.01) and 0.001 < error < 0.01
    assert run(rough)["int8_error"] == card["int8_error"]  # the cache remembers


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "max"}, "kind='max'"),
        ({"out": "e.txt"}, "must end in .npz"),
        ({"encoder": "/nowhere"}, "/nowhere"),
        ({"features": FeatureSettings(clips=0)}, r"features\.clips=0 must be at least 1"),
    ],
)
def test_mistakes(squares: Path, export: Path, tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        settings = config(squares, export, tmp_path / "e.npz")
        for key, value in changes.items():
            setattr(settings, key, value)
        run(settings)


def test_processes_without_a_shared_cache_are_refused(
    squares: Path, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"features\.cache=FOLDER"):
        run(config(squares, export, tmp_path / "e.npz"))


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(
    squares: Path, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Taken(Exception):
        pass

    def take(*arguments: object, **options: object) -> None:
        raise Taken(arguments[5])

    for key, value in (("RANK", "11"), ("LOCAL_RANK", "3"), ("WORLD_SIZE", "16")):
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr("jepa.probes.features.build.EncoderTokens", take)
    settings = config(squares, export, tmp_path / "e.npz")
    settings.features.cache = str(tmp_path / "cache")
    with pytest.raises(Taken, match="cuda:3"):
        run(settings)


@pytest.mark.dist
def test_two_processes_give_the_file_of_one(squares: Path, export: Path, tmp_path: Path) -> None:
    run(config(squares, export, tmp_path / "one.npz"))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "jepa.cli", "embed",
        f"data.root={squares / 'clips'}", f"encoder={export}", f"out={tmp_path / 'two.npz'}",
        f"features.cache={tmp_path / 'cache'}",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert (one["names"] == two["names"]).all() and np.array_equal(one["features"], two["features"])
    assert len(list((tmp_path / "cache").rglob("shard-*.json"))) == 2  # one of each process


@pytest.fixture(scope="module")
def nano():
    encoder = jepa.create_model("vit_nano").eval()
    encoder.preprocessing = Preprocessing(num_frames=4, fps=4.0, resize_px=32, crop_px=32)
    return encoder


def test_frames_in_memory_give_what_the_encoder_gives(nano):
    frames = torch.randint(0, 256, (3, 4, 3, 40, 48), dtype=torch.uint8)
    with torch.no_grad():
        expected = torch.stack([nano(nano.preprocess(clip)[None])[0].mean(0) for clip in frames])
    for given in (
        frames,
        frames.numpy(),
        list(frames),
        [clip.permute(0, 2, 3, 1).numpy() for clip in frames],
    ):
        assert np.allclose(jepa.embed(nano, given), expected, atol=1e-5)
    assert np.allclose(jepa.embed(nano, frames[0]), expected[:1], atol=1e-5)
    assert np.allclose(nano.embed(frames[0]), expected[0], atol=1e-5)
    assert jepa.embed(nano, frames, kind="stats").shape == (3, 3 * 128)
    assert jepa.embed(nano, frames, kind="tokens").shape == (3, 1, 8, 128)


def test_guesses_are_answered_with_the_right_call(nano):
    with pytest.raises(UserError, match=r"jepa\.embed\(encoder, 'videos/'\)"):
        jepa.embed("videos/")
    with pytest.raises(UserError, match="encoder comes first"):
        jepa.embed("videos/", nano)
    with pytest.raises(UserError, match="encoder first"):
        jepa.embed(np.zeros(3), "videos/")
    with pytest.raises(UserError, match="got \\[4, 3\\]"):
        jepa.embed(nano, np.zeros((4, 3), np.uint8))
