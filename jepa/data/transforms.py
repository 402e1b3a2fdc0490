"""Crops, resizing and normalising. Pixels stay uint8 until the last step, so a worker handles a quarter of the bytes.

Legend: frame uint8 [C, H, W], video uint8 [B, C, T, H, W]. A box is (top, left, height, width) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torchvision.transforms.v2 import functional as tv

from jepa.data.clips import CROP, FLIP, uniforms

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


def random_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], seed: int, index: int
) -> Box:
    """Random resized crop (Inception-style, as in torchvision): a pure function of the size and (seed, index).

    Args:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        scale: smallest and largest share of the frame's area.
        ratio: smallest and largest width / height; drawn log-uniformly.
        seed: of the run.
        index: of the sample.
    """
    draws = uniforms(seed, index, CROP, 40)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for area_draw, ratio_draw, top_draw, left_draw in zip(*[iter(draws)] * 4, strict=True):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_draw)
        aspect = math.exp(low + (high - low) * ratio_draw)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w)
    # Ten misses happen for very long or very wide frames: the largest allowed box in the middle.
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w = min(width, round(height * aspect))
    h = min(height, max(1, round(w / aspect)))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def random_flip(probability: float, seed: int, index: int) -> bool:
    """Whether this sample is mirrored left to right: a pure function of (seed, index)."""
    return bool(uniforms(seed, index, FLIP, 1)[0] < probability)


def resize(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear with antialiasing, uint8 [..., C, H, W] to [..., C, *size].

    On a CPU this is fixed-point arithmetic on the bytes; elsewhere float, rounded: the two differ by at most 1 of 255.
    """
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    return tv.resize(frames, list(size), antialias=True)


def crop_resize(frames: torch.Tensor, box: Box, size: int, flip: bool = False) -> torch.Tensor:
    """Cuts `box` out of uint8 [..., C, H, W], resizes it to `size` squared and mirrors it if asked to."""
    cut = frames[..., box.top : box.top + box.height, box.left : box.left + box.width]
    out = resize(cut, (size, size))
    return out.flip(-1) if flip else out


def center_crop(frames: torch.Tensor, resize_px: int, crop_px: int) -> torch.Tensor:
    """Short side of uint8 [..., C, H, W] to `resize_px`, then the middle `crop_px` squared, as evaluations do."""
    height, width = frames.shape[-2:]
    short = min(height, width)
    size = (max(crop_px, round(height * resize_px / short)), max(crop_px, round(width * resize_px / short)))
    out = resize(frames, size)
    top, left = (size[0] - crop_px) // 2, (size[1] - crop_px) // 2
    return out[..., top : top + crop_px, left : left + crop_px]


def normalise(
    video: torch.Tensor,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """(video / 255 - mean) / std per channel, on whichever device the video is.

    Args:
        video: uint8 [B, C, T, H, W] or [C, T, H, W].
        mean: one value per channel, in the range 0..1.
        std: one value per channel, in the range 0..1.
        dtype: of the result; the arithmetic is float32.
    """
    shape = (-1, 1, 1, 1)
    scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float64))
    shift = -torch.tensor(mean, dtype=torch.float64) * 255.0 * scale
    scale, shift = (v.to(torch.float32).to(video.device).view(shape) for v in (scale, shift))
    return video.float().mul_(scale).add_(shift).to(dtype)
