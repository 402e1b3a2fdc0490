"""Crop, resize and normalisation transforms.

Pixels stay uint8 until the last step, so a worker handles a quarter of the bytes.

Legend: frame uint8 [C, H, W], video uint8 [B, C, T, H, W]. A box is (top, left, height, width) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from jepa.data.crops import Box, random_box, random_flip

__all__ = [
    "Box", "IMAGENET_MEAN", "IMAGENET_STD", "center_crop", "crop_resize", "normalise", "random_box", "random_flip",
    "resize",
]  # fmt: skip

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def resize(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear with antialiasing, uint8 [..., C, H, W] to [..., C, *size].

    On a CPU this is fixed-point arithmetic on the bytes; elsewhere float, rounded: the two differ by at most 1 of 255.
    """
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    # Imported where it is used: torchvision takes longer to import than torch.
    from torchvision.transforms.v2 import functional

    return functional.resize(frames, list(size), antialias=True)


def crop_resize(frames: torch.Tensor, box: Box, size: int, flip: bool = False) -> torch.Tensor:
    """Cuts `box` out of uint8 [..., C, H, W], resizes it to `size` squared and mirrors it on request."""
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

    Example:
        >>> normalise(torch.full((3, 1, 2, 2), 255, dtype=torch.uint8), mean=(0.5,) * 3, std=(0.5,) * 3).unique().item()
        1.0
    """
    out = video.float()
    # Plain numbers, channel by channel: tensors of them would be copied to a GPU, which waits for all it has to do.
    for channel, m, s in zip(out.unbind(-4), mean, std, strict=True):
        scale = 1.0 / (255.0 * s)
        channel.mul_(scale).add_(-m * 255.0 * scale)
    return out.to(dtype)
