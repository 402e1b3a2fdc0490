"""Frames in memory behind the interface of `pyav.PyAvFile`: arrays and tensors as a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from jepa.data.crops import Cut
from jepa.data.transforms import crop_resize
from jepa.data.video.info import AS_CODED, VideoInfo
from jepa.data.video.pyav import TOLERANCE_S
from jepa.errors import UserError


class FramesInMemory:
    """Frames with a constant rate.

    Args:
        frames: uint8 [T, C, H, W] or [T, H, W, C], with three channels.
        fps: frames per second.
        name: for messages.

    Raises:
        UserError: the frames have another form, or no rate is given.
    """

    def __init__(self, frames: np.ndarray | torch.Tensor, fps: float | None, name: str) -> None:
        pixels = torch.as_tensor(frames)
        if pixels.ndim == 4 and pixels.shape[1] != 3 and pixels.shape[3] == 3:
            pixels = pixels.permute(0, 3, 1, 2)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or not len(pixels):
            raise UserError(
                f"A video in memory is uint8 [T, 3, H, W] or [T, H, W, 3], got {pixels.dtype} {list(pixels.shape)}."
            )
        if fps is None or not fps > 0:
            raise UserError(
                "Frames in memory do not state how fast they follow: open_video(frames, fps=...)."
            )
        self._pixels = pixels
        self._times = np.arange(len(pixels)) / fps
        self.start_s, self.duration_s = 0.0, len(pixels) / fps
        height, width = pixels.shape[2:]
        self.display = (width, height)
        self.info = VideoInfo(
            path=name, container="memory", codec="raw", width=width, height=height, sample_aspect=1.0, fps=float(fps),
            start_s=0.0, duration_s=self.duration_s, orientation=AS_CODED,
        )  # fmt: skip

    @property
    def notices(self) -> tuple[str, ...]:
        """None: there is nothing to pass over."""
        return ()

    def times(self) -> np.ndarray:
        """[T] times of the frames."""
        return self._times

    def at(self, seconds: Sequence[float], cut: Cut | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """The frame on screen at each of the times, uint8 [H, W, 3]; with `cut` uint8 [3, S, S]."""
        numbers = np.searchsorted(self._times, np.asarray(seconds) + TOLERANCE_S, side="right") - 1
        for number in np.maximum(numbers, 0).tolist():
            picture = self._pixels[number]
            if cut is not None:
                yield (
                    float(self._times[number]),
                    crop_resize(picture, cut.box(*picture.shape[-2:]), cut.size).numpy(),
                )
            else:
                yield float(self._times[number]), picture.permute(1, 2, 0).numpy()

    def numbered(self, numbers: Sequence[int]) -> Iterator[tuple[float, np.ndarray]]:
        """The frames with these numbers."""
        return self.at(self._times[list(numbers)].tolist())

    def every(self, start_s: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """All frames, or those on screen from a time on."""
        first = (
            0
            if start_s is None
            else int(np.searchsorted(self._times, start_s + TOLERANCE_S, side="right")) - 1
        )
        return self.at(self._times[max(0, first) :].tolist())

    def close(self) -> None:
        """Nothing is open."""
