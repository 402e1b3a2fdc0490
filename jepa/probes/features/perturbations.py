"""Perturbations and augmentations of clips: truncation, resolution, frame rate, noise, compression, random crops.

`Perturbed` stands between the reader and an extractor: it changes which frame times are read or what the frames show,
and the extractor works as always. One decode serves all perturbations, and each has cached rows of its own.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from jepa.errors import UserError
from jepa.probes.features.encode import Extractor, extractor_key
from jepa.rng import generator

EARLY = tuple(tenths / 10 for tenths in range(1, 10))
"""fractions of a clip, from its start, that are observed"""


class Perturbed:
    """An extractor that is given a changed clip.

    Args:
        base: what turns frames into features.
        kind: "early", "augmented" or one of `PERTURBATIONS`.
        level: strength; see the kind.

    Example:
        >>> from jepa.probes.features.baselines import OneFrame
        >>> Perturbed(OneFrame(), "early", 0.5).times(0.0, 4.0).tolist()
        [[1.0]]
    """

    def __init__(self, base: Extractor, kind: str, level: float) -> None:
        self.base, self.kind, self.level = base, kind, level
        self.name = base.name
        self.key = extractor_key(base=base.key, view=kind, level=level, form=1)

    def times(self, start_s: float, end_s: float) -> np.ndarray:
        """Frame times of each clip [clips, T]: of the beginning, or held for a while each, or as ever."""
        if self.kind == "early":
            return self.base.times(start_s, start_s + self.level * (end_s - start_s))
        times = self.base.times(start_s, end_s)
        if self.kind == "frame rate":
            return start_s + np.floor((times - start_s) * self.level + 1e-6) / self.level
        return times

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """The extractor's input from frames uint8 [T, C, H, W] after the perturbation."""
        change = _PIXELS.get(self.kind)
        return self.base.prepare(change(frames, self.level) if change else frames)

    def features(self, batch: torch.Tensor) -> torch.Tensor:
        """The extractor's features of a batch."""
        return self.base.features(batch)


def downscaled(frames: torch.Tensor, short_side: float) -> torch.Tensor:
    """Frames whose shorter side was reduced to `short_side` pixels and enlarged again; smaller ones stay.

    Example:
        >>> downscaled(torch.zeros(1, 3, 64, 96, dtype=torch.uint8), 16).shape
        torch.Size([1, 3, 64, 96])
    """
    height, width = frames.shape[-2:]
    factor = short_side / min(height, width)
    if factor >= 1:
        return frames
    small = (max(1, round(height * factor)), max(1, round(width * factor)))
    reduced = functional.interpolate(frames.float(), size=small, mode="area")
    grown = functional.interpolate(reduced, size=(height, width), mode="bilinear", align_corners=False)
    return grown.round().clamp(0, 255).byte()


def noisy(frames: torch.Tensor, std: float) -> torch.Tensor:
    """Frames with Gaussian noise of a standard deviation in grey values; a function of what they show.

    Example:
        >>> noisy(torch.full((1, 3, 8, 8), 128, dtype=torch.uint8), 15.0).dtype
        torch.uint8
    """
    rng = generator([zlib.crc32(frames.numpy().tobytes()), round(1000 * std)])
    noise = rng.standard_normal(frames.shape, dtype=np.float32)
    return (frames + torch.from_numpy(noise) * std).round().clamp(0, 255).byte()


def compressed(frames: torch.Tensor, factor: float) -> torch.Tensor:
    """Frames after x264 at a constant rate factor from 0 (no loss) to 51, encoded together as a video of their own.

    So later frames are predicted from earlier ones and smear as in a real stream; but they are as far apart in time as
    the extractor reads them, which is harder on the codec than every frame of the file would be.

    Raises:
        UserError: PyAV was built without libx264.

    Example:
        >>> compressed(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), 35.0).shape
        torch.Size([2, 3, 32, 32])
    """
    import av

    height, width = frames.shape[-2:]
    # Colour is stored at half the size, so both sides must be even.
    even = functional.pad(frames.float(), (0, width % 2, 0, height % 2), mode="replicate").byte()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        try:
            stream = container.add_stream("libx264", rate=25, options={"crf": f"{factor:g}", "threads": "1"})
        except av.codec.codec.UnknownCodecError as error:
            raise UserError(
                "protocols=[robustness] compresses clips with libx264, which this build of PyAV lacks. Install PyAV "
                "from its wheels (pip install --force-reinstall av), or leave the protocol out."
            ) from error
        stream.height, stream.width = even.shape[-2:]
        stream.pix_fmt = "yuv420p"
        for frame in even.permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer, "r") as written:
        shown = [frame.to_ndarray(format="rgb24") for frame in written.decode(video=0)]
    return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)[..., :height, :width]


def augmented_frames(frames: torch.Tensor, number: float) -> torch.Tensor:
    """A random crop of 70 to 100 % of both sides with another contrast and brightness, the same for all frames.

    A function of the number and of what the frames show. Nothing is mirrored: classes may be named for a direction.

    Example:
        >>> bool(augmented_frames(torch.zeros(2, 3, 40, 40, dtype=torch.uint8), 1).shape[-1] >= 28)
        True
    """
    rng = generator([zlib.crc32(frames.numpy().tobytes()), int(number)])
    size, down, right, contrast, light = rng.random(5)
    height, width = (max(1, round(side * (0.7 + 0.3 * size))) for side in frames.shape[-2:])
    top, left = int(down * (frames.shape[-2] - height + 1)), int(right * (frames.shape[-1] - width + 1))
    cropped = frames[..., top : top + height, left : left + width].float()
    changed = (cropped - 128) * (0.7 + 0.6 * contrast) + 128 + 50 * (light - 0.5)
    return changed.round().clamp(0, 255).byte()


_PIXELS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "resolution": downscaled,
    "noise": noisy,
    "compression": compressed,
    "augmented": augmented_frames,
}
PERTURBATIONS: dict[str, dict[str, Any]] = {
    "resolution": {"levels": (64.0, 32.0), "unit": "pixels of the shorter side"},
    "frame rate": {"levels": (4.0, 2.0), "unit": "frames per second, each held"},
    "noise": {"levels": (15.0, 40.0), "unit": "grey values (standard deviation)"},
    "compression": {"levels": (35.0, 45.0), "unit": "x264 constant rate factor"},
}
