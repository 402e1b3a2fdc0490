"""Preprocessing: what an encoder expects of its input, kept with its weights."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from jepa.errors import UserError

if TYPE_CHECKING:
    import numpy as np

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side, crop the centre, scale and normalise: the steps of the published video
    processors.

    Gives the numbers of `VJEPA2VideoProcessor` in Hugging Face transformers, including its rounding of
    resized pixels to integers. Meta's own evaluation resizes by OpenCV without antialiasing and so
    differs from both.
    """

    num_frames: int = 16
    """Frames of a clip that the weights were trained on; other lengths work."""
    fps: float = 4.0
    """Frames per second that the weights were trained on."""
    resize_px: int = 256
    """Length of the shorter side after resizing."""
    crop_px: int = 224
    """Height and width of the centre crop."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of each channel, for pixels between 0 and 1."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of each channel, for pixels between 0 and 1."""

    def __post_init__(self) -> None:
        if not 0 < self.crop_px <= self.resize_px:
            raise UserError(f"crop_px={self.crop_px} must be between 1 and resize_px={self.resize_px}.")
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise UserError(
                f"mean={self.mean} and std={self.std} must have one entry per channel, std above 0."
            )

    def apply(self, frames: Tensor | np.ndarray) -> Tensor:
        """Turns frames into a model's input.

        Args:
            frames: uint8 [T, C, H, W] or [T, H, W, C], as a tensor or a numpy array.

        Returns:
            [C, T, crop_px, crop_px], float32, normalised.

        Raises:
            UserError: the frames are not uint8, or none of their axes has the expected number of channels.

        Example:
            >>> frames = torch.zeros(8, 3, 120, 160, dtype=torch.uint8)
            >>> list(Preprocessing(8, 4.0, resize_px=73, crop_px=64).apply(frames).shape)
            [3, 8, 64, 64]
        """
        channels = len(self.mean)
        if not isinstance(frames, Tensor):
            frames = torch.tensor(frames)  # a copy: arrays may be read-only or have negative strides
        if frames.ndim == 4 and frames.shape[1] != channels and frames.shape[3] == channels:
            frames = frames.permute(0, 3, 1, 2)
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != channels:
            raise UserError(
                f"expected frames as uint8 [T, {channels}, H, W] or [T, H, W, {channels}], got {frames.dtype} "
                f"{list(frames.shape)}."
            )
        frames = self._crop(self._resize(frames))
        # Scaling by 255 is folded into mean and standard deviation, in this order, to give the published numbers
        # exactly.
        mean = torch.tensor(self.mean, device=frames.device).view(-1, 1, 1) * 255.0
        std = torch.tensor(self.std, device=frames.device).view(-1, 1, 1) * 255.0
        return ((frames.float() - mean) / std).transpose(0, 1)

    def _resize(self, frames: Tensor) -> Tensor:
        height, width = frames.shape[-2:]
        short = min(height, width)
        if short == self.resize_px:
            return frames
        if height <= width:
            size = (self.resize_px, int(self.resize_px * width / height))
        else:
            size = (int(self.resize_px * height / width), self.resize_px)
        # torch resizes uint8 in integers only where it has vector code for it, as in torchvision.
        as_uint8 = frames.device.type == "cpu" and (
            torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
            or platform.machine() in ("aarch64", "arm64")
        )
        pixels = frames if as_uint8 else frames.float()
        resized = functional.interpolate(
            pixels, size=size, mode="bilinear", align_corners=False, antialias=True
        )
        return resized if as_uint8 else resized.round_().to(torch.uint8)

    def _crop(self, frames: Tensor) -> Tensor:
        height, width = frames.shape[-2:]
        top, left = round((height - self.crop_px) / 2.0), round((width - self.crop_px) / 2.0)
        return frames[..., top : top + self.crop_px, left : left + self.crop_px]
