"""The same clips, harder to see: less of them, fewer pixels, fewer frames, noise, compression.

A view stands between the reader and an extractor: it changes which moments are read or what the frames show, and the
extractor sees the rest as always. One decode serves all views, and each has cached rows of its own.
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

EARLY = tuple(share / 10 for share in range(1, 10))
"""shares of a clip, from its start, that are seen"""


class View:
    """An extractor that sees a changed clip.

    Args:
        base: what turns frames into features.
        kind: "early", "augmented" or one of `DEGRADATIONS`.
        level: how much; see the kind.
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
        """The extractor's input from frames uint8 [T, C, H, W] after the degradation."""
        degrade = _PIXELS.get(self.kind)
        return self.base.prepare(degrade(frames, self.level) if degrade else frames)

    def features(self, batch: torch.Tensor) -> torch.Tensor:
        """The extractor's features of a batch."""
        return self.base.features(batch)


def coarser(frames: torch.Tensor, short_side: float) -> torch.Tensor:
    """Frames whose shorter side was reduced to `short_side` pixels and enlarged again; smaller ones stay."""
    height, width = frames.shape[-2:]
    factor = short_side / min(height, width)
    if factor >= 1:
        return frames
    small = (max(1, round(height * factor)), max(1, round(width * factor)))
    reduced = functional.interpolate(frames.float(), size=small, mode="area")
    grown = functional.interpolate(reduced, size=(height, width), mode="bilinear", align_corners=False)
    return grown.round().clamp(0, 255).byte()


def noisy(frames: torch.Tensor, deviation: float) -> torch.Tensor:
    """Frames with Gaussian noise of a deviation in grey values; a function of what they show."""
    rng = generator([zlib.crc32(frames.numpy().tobytes()), round(1000 * deviation)])
    noise = rng.standard_normal(frames.shape, dtype=np.float32)
    return (frames + torch.from_numpy(noise) * deviation).round().clamp(0, 255).byte()


def compressed(frames: torch.Tensor, factor: float) -> torch.Tensor:
    """Frames after x264 at a constant rate factor from 0 (no loss) to 51, encoded together as a video of their own.

    So later frames are predicted from earlier ones and smear as in a real stream; but they lie as far apart as the
    extractor reads them, which is harder on the codec than every frame of the file would be.

    Raises:
        UserError: PyAV was built without libx264.
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


def varied(frames: torch.Tensor, number: float) -> torch.Tensor:
    """A random crop of 70 to 100 % of both sides with another contrast and brightness, the same for all frames.

    A function of the number and of what the frames show. Nothing is mirrored: classes may be named for a direction.
    """
    rng = generator([zlib.crc32(frames.numpy().tobytes()), int(number)])
    share, down, right, contrast, light = rng.random(5)
    height, width = (max(1, round(side * (0.7 + 0.3 * share))) for side in frames.shape[-2:])
    top, left = int(down * (frames.shape[-2] - height + 1)), int(right * (frames.shape[-1] - width + 1))
    seen = frames[..., top : top + height, left : left + width].float()
    changed = (seen - 128) * (0.7 + 0.6 * contrast) + 128 + 50 * (light - 0.5)
    return changed.round().clamp(0, 255).byte()


_PIXELS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "resolution": coarser,
    "noise": noisy,
    "compression": compressed,
    "augmented": varied,
}
DEGRADATIONS: dict[str, dict[str, Any]] = {
    "resolution": {"levels": (64.0, 32.0), "unit": "pixels of the shorter side"},
    "frame rate": {"levels": (4.0, 2.0), "unit": "frames per second, each held"},
    "noise": {"levels": (15.0, 40.0), "unit": "grey values (deviation)"},
    "compression": {"levels": (35.0, 45.0), "unit": "x264 constant rate factor"},
}
