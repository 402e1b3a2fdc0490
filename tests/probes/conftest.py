"""Tiny videos of a moving square or a flash, and a tiny encoder with random weights."""

from __future__ import annotations

import csv
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from jepa.models import EncoderConfig, Preprocessing, VideoEncoder, create_predictor, save_encoder


def write_video(path: Path, frames: np.ndarray, fps: int = 8) -> None:
    """Writes grey frames [T, H, W] uint8 as H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.repeat(frame[..., None], 3, -1), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def moving_square(direction: str, seed: int, frames: int = 8, size: int = 32) -> np.ndarray:
    """A bright square that goes left or right, or rests; start and row are random."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 7]))
    row, start = int(rng.integers(2, 20)), int(rng.integers(10, 14))
    step = {"left": -1, "right": 1, "rest": 0}[direction]
    out = np.full((frames, size, size), 30, np.uint8)
    for t in range(frames):
        x = start + step * t
        out[t, row : row + 8, x : x + 8] = 220
    out[:, 0] = rng.integers(0, 255, size)  # no two videos are copies
    return out


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 videos in 6 groups with labels.csv (file, label, scene)."""
    root = tmp_path_factory.mktemp("squares")
    rows = []
    for i in range(36):
        label = ("left", "right", "rest")[i % 3]
        name = f"clips/{i:02d}.mp4"
        write_video(root / name, moving_square(label, i))
        rows.append((name, label, f"g{i // 6}"))
    with open(root / "labels.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([("file", "label", "scene"), *rows])
    return root


def tiny_encoder(seed: int = 0) -> VideoEncoder:
    """Dim 24, depth 1, 8 frames of 32 px in 4 x 4 x 4 tokens."""
    with torch.device("meta"):
        encoder = VideoEncoder(
            EncoderConfig(embed_dim=24, depth=1, num_heads=2, mlp_dim=48, patch_px=8, tubelet_frames=2)
        )
    encoder.to_empty(device="cpu")
    encoder.init_weights(torch.Generator().manual_seed(seed))
    encoder.preprocessing = Preprocessing(num_frames=8, fps=8, resize_px=32, crop_px=32)
    return encoder.eval()


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported tiny encoder."""
    folder = tmp_path_factory.mktemp("export")
    encoder = tiny_encoder()
    assert encoder.preprocessing is not None
    save_encoder(folder, encoder, encoder.preprocessing, {"name": "tiny"})
    return folder


@pytest.fixture(scope="session")
def flashes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen videos: a square drifts; in half of them it turns bright (the omen) and 1 s later the screen flashes."""
    root = tmp_path_factory.mktemp("flashes")
    rows = []
    for i in range(18):
        rng = np.random.Generator(np.random.Philox(key=[i, 3]))
        happens, start = i % 2 == 0, 2.0 + 0.25 * int(rng.integers(0, 6))
        frames = np.full((40, 32, 32), 40, np.uint8)
        for t in range(40):
            omen = happens and start - 1 <= t / 8 < start
            x = int(rng.integers(0, 3)) + t // 4
            frames[t, 8:16, x : x + 8] = 240 if omen else 90
            if happens and t / 8 >= start:
                frames[t] = np.minimum(frames[t].astype(int) + 120, 255)
            frames[t, -1] = rng.integers(0, 255, 32)
        write_video(root / f"{i:02d}.mp4", frames)
        end = start if happens else 3.0
        rows.append((f"{i:02d}", 0.0, end, "drift"))
        rows.append((f"{i:02d}", end, 5.0, "flash" if happens else "wait"))
    with open(root / "segments.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([("video", "start_s", "end_s", "label"), *rows])
    return root


@pytest.fixture(scope="session")
def export_with_predictor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    encoder = tiny_encoder()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        predictor = create_predictor("vit_nano", encoder_dim=24)
    assert encoder.preprocessing is not None
    save_encoder(folder, encoder, encoder.preprocessing, {"name": "tiny"}, predictor)
    return folder
