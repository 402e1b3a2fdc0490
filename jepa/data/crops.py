"""Random resized crop and horizontal flip: arithmetic on (seed, index) alone, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from jepa.data.sampling import CROP, FLIP
from jepa.rng import uniforms

Orientation = tuple[bool, bool, bool]
"""(transpose, flip horizontally, flip vertically) that makes a coded frame upright, applied in this order."""


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Cut:
    """The random resized crop of one sample, and its mirroring."""

    scale: tuple[float, float]
    ratio: tuple[float, float]
    hflip: float
    seed: int
    index: int
    size: int
    """side of the result in pixels"""

    def box(self, height: int, width: int) -> Box:
        """The part of a frame of this size, upright and with square pixels."""
        return random_box(height, width, self.scale, self.ratio, self.seed, self.index)

    @property
    def flip(self) -> bool:
        """Whether the result is mirrored left to right."""
        return random_flip(self.hflip, self.seed, self.index)


def random_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], seed: int, index: int
) -> Box:
    """Random resized crop (Inception-style, as in torchvision): a pure function of the size and (seed, index).

    All four numbers are even where the frame allows, so that the same box exists in the colour planes, which most
    video stores at half size.

    Args:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        scale: smallest and largest fraction of the frame's area.
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
            return _even(Box(int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w))
    # Ten misses happen for very long or very wide frames: the largest allowed box in the middle.
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w = min(width, round(height * aspect))
    h = min(height, max(1, round(w / aspect)))
    return _even(Box((height - h) // 2, (width - w) // 2, h, w))


def random_flip(probability: float, seed: int, index: int) -> bool:
    """Whether this sample is mirrored left to right: a pure function of (seed, index)."""
    return bool(uniforms(seed, index, FLIP, 1)[0] < probability)


def coded_box(box: Box, display: tuple[int, int], coded: tuple[int, int], orientation: Orientation) -> Box:
    """The box of the stored frame that corresponds to a box of the displayed one.

    Args:
        box: in the frame as displayed, upright and with square pixels.
        display: its (width, height).
        coded: (width, height) as stored.
        orientation: what makes the stored frame upright.
    """
    transpose, horizontal, vertical = orientation
    width, height = coded[::-1] if transpose else coded
    across, down = width / display[0], height / display[1]
    left, top = min(round(box.left * across), width - 1), min(round(box.top * down), height - 1)
    w = min(max(1, round(box.width * across)), width - left)
    h = min(max(1, round(box.height * down)), height - top)
    if horizontal:
        left = width - left - w
    if vertical:
        top = height - top - h
    return Box(left, top, w, h) if transpose else Box(top, left, h, w)


def _even(box: Box) -> Box:
    return Box(
        box.top - box.top % 2,
        box.left - box.left % 2,
        max(1, box.height - box.height % 2),
        max(1, box.width - box.width % 2),
    )
