"""Tiny videos whose every frame states its own number, made once per test session with PyAV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

BITS = 8


def picture(number: int, width: int, height: int) -> np.ndarray:
    """Uint8 [H, W, 3]: the number in black and white stripes, a red mark at the top left, a blue at the right."""
    frame = np.full((height, width, 3), 128, np.uint8)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        frame[height // 2 :, left:right] = 235 if number >> bit & 1 else 20
    frame[: height // 4, : width // 4] = (220, 30, 30)
    frame[: height // 4, -(width // 4) :] = (30, 30, 220)
    return frame


def number_of(frame: torch.Tensor) -> int:
    """Reads the number back from uint8 [C, H, W]."""
    grey = frame.float().mean(0)
    height, width = grey.shape
    row = grey[height * 3 // 4]
    return sum(int(row[(2 * b + 1) * width // (2 * BITS)] > 128) << b for b in range(BITS))


def write_video(
    path: Path,
    count: int = 40,
    fps: int = 20,
    size: tuple[int, int] = (96, 64),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    times_ms: Sequence[int] | None = None,
    rotate: float | None = None,
    aspect: Fraction | None = None,
    seed: int = 0,
) -> Path:
    """A video of `count` numbered frames over a little noise, so that the encoder has something to predict."""
    noise = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotate is not None:
            stream.set_display_rotation(rotate)
        for number in range(count):
            pixels = picture(number, *size).astype(np.int16)
            pixels[: size[1] // 2] += noise.integers(-12, 13, (size[1] // 2, size[0], 1), dtype=np.int16)
            frame = av.VideoFrame.from_ndarray(np.clip(pixels, 0, 255).astype(np.uint8), format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
            else:
                frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 20 fps in several codecs and containers; see each name."""
    folder = tmp_path_factory.mktemp("clips")
    x264 = {"preset": "fast", "g": "12", "bf": "3", "crf": "20"}
    write_video(folder / "plain.mp4", options=x264)
    write_video(
        folder / "opengop.mp4", options={**x264, "x264-params": "open-gop=1:keyint=12:b-pyramid=normal"}
    )
    write_video(folder / "plain.mkv", options=x264)
    write_video(folder / "plain.avi", codec="mpeg4", options={"g": "12"})
    write_video(
        folder / "vp9.webm", codec="libvpx-vp9", options={"g": "12", "deadline": "realtime", "cpu-used": "8"}
    )
    write_video(folder / "deep.mp4", pix_fmt="yuv420p10le", options=x264)
    gaps = [0, 50, 100, 400, 450, 900, 950, 1000, 1700, 1750]
    write_video(folder / "vfr.mp4", count=10, times_ms=gaps, options={**x264, "g": "4"})
    write_video(folder / "tall.mp4", count=4, rotate=-90, options=x264)
    write_video(folder / "wide.mp4", count=4, aspect=Fraction(2), options=x264)
    write_video(folder / "one.mp4", count=1, options=x264)
    write_video(folder / "long.mp4", count=200, options={**x264, "g": "30"})
    return folder


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short videos in a folder."""
    folder = tmp_path_factory.mktemp("library")
    for number in range(6):
        write_video(folder / f"{number}.mp4", count=24 + 4 * number, options={"g": "12"}, seed=number)
    return folder


@pytest.fixture(scope="session", name="write_video")
def _write_video() -> Callable[..., Path]:
    return write_video


@pytest.fixture(scope="session", name="number_of")
def _number_of() -> Callable[[torch.Tensor], int]:
    return number_of
