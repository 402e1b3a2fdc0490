"""Fixtures used by several rooms."""

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import settings

# The same examples in every run: a red build means a change, not a draw.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def write_video(path, frames=16, size=32, seed=0, fps=8):
    """A real H.264 file: a bright square that moves over noise drawn from the seed."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 90, (size, size, 3), dtype=np.uint8)
    x, y = rng.integers(0, size // 2, 2)
    dx, dy = rng.choice([-1, 1], 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for _ in range(frames):
            image = ground.copy()
            image[y : y + size // 4, x : x + size // 4] = 230
            x, y = (x + dx) % (size - size // 4), (y + dy) % (size - size // 4)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory):
    """Twelve small real videos, two seconds each."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(12):
        write_video(folder / f"{number:02d}.mp4", seed=number)
    return folder
