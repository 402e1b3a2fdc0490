"""What is hidden and what must be predicted.

A mask splits a clip's tokens in two: the `context` that the encoder sees and the `target` that the predictor must
guess. Every sample of a batch gets the same counts, so a batch is two plain index tensors, and the two parts together
are all tokens: nothing is thrown away and no moment of the clip is favoured. One kind, `reference`, does it as the
published code does, for comparisons: it cuts every sample to the batch's minimum by keeping the first tokens in raster
order, which starves late frames (benchmarks/masks.md).

Shapes: grid (t, h, w) tokens, N = t*h*w in the order time, height, width; context [B, K], target [B, M], K + M = N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from jepa.errors import UserError
from jepa.rng import generator


class Mask(NamedTuple):
    """Sorted int64 token indices: `context` [B, K] is seen, `target` [B, M] is predicted."""

    context: torch.Tensor
    target: torch.Tensor


@dataclass
class MaskConfig:
    """One mask per clip; a run may use several, each with its own guess and loss."""

    kind: str = "blocks"
    """blocks: rectangles over all times (V-JEPA 2); slots: whole moments; tokens: any; future: the last moments;
    window: all but some tokens of one rectangle, a local view; reference: blocks as published, cut to the batch"""
    hidden: float = 0.6
    """share of the tokens that is hidden, rounded to whole places (blocks), moments (slots, future) or tokens;
    without effect on reference, whose share follows from its blocks"""
    block_scale: float = 0.15
    """blocks, reference, window: area of one rectangle as a share of the frame (V-JEPA 2: 0.15 or 0.7)"""
    aspect: tuple[float, float] = (0.75, 1.5)
    """blocks, reference, window: height over width of a rectangle is drawn from this range"""
    num_blocks: int = 8
    """reference only: rectangles, which may overlap (V-JEPA 2: 8 short-range, 2 long-range; 2.1: 10 in images)"""

    def __post_init__(self) -> None:
        if self.kind not in _HIDERS and self.kind != "reference":
            raise UserError(
                f"masks.kind={self.kind!r} is unknown; choose one of {', '.join(_HIDERS)}, reference."
            )
        if not 0 < self.hidden < 1:
            raise UserError(f"masks.hidden={self.hidden} must lie between 0 and 1, both excluded.")
        if not 0 < self.block_scale <= 1 or not 0 < self.aspect[0] <= self.aspect[1]:
            raise UserError(
                "masks.block_scale must lie in (0, 1] and masks.aspect must be a rising positive pair."
            )
        if self.num_blocks < 1:
            raise UserError(f"masks.num_blocks={self.num_blocks} has to be at least 1.")


def sample_masks(
    config: MaskConfig, grid: tuple[int, int, int], seed: int, indices: Sequence[int], stream: int = 0
) -> Mask:
    """Draws one mask per sample; the mask of a sample depends on nothing but (seed, stream, its index).

    The kind `reference` is the exception, as in the code that it follows: one size of rectangle for the batch, and
    every sample cut to the batch's minimum. It gives other masks when the same samples are spread over more processes.

    Args:
        config: what to hide.
        grid: tokens along time, height, width.
        seed: the run's seed.
        indices: the samples' positions in the run's stream, B of them.
        stream: tells apart several masks of the same clip.

    Raises:
        UserError: the grid is too small for the config to leave both something to see and something to guess.
    """
    draws = [_generator(seed, stream, index) for index in indices]
    if config.kind == "reference":
        return _published_masks(
            config, grid, draws, size_draw=_generator(seed, stream, indices[0], purpose=1)
        )
    total = math.prod(grid)
    hidden = np.zeros((len(draws), *grid), dtype=bool)
    hide = _HIDERS[config.kind]
    for sample, rng in zip(hidden, draws, strict=True):
        hide(sample, config, rng)
    flat = hidden.reshape(len(draws), total)
    count = int(flat[0].sum())
    if count in (0, total):
        raise UserError(
            f"A mask with kind={config.kind} and hidden={config.hidden} hides {count} of the {total} tokens "
            f"of a {grid[0]}x{grid[1]}x{grid[2]} grid (time, height, width), so there is nothing to "
            f"{'see' if count == total else 'guess'}. Change masks.hidden, or use more frames or pixels."
        )
    # Every sample hides equally many, so the columns of all rows together fold into two rectangular arrays.
    target = np.flatnonzero(flat) % total
    context = np.flatnonzero(~flat) % total
    return Mask(*(torch.from_numpy(part.reshape(len(draws), -1)) for part in (context, target)))


def _generator(seed: int, stream: int, index: int, purpose: int = 0) -> np.random.Generator:
    return generator([seed, 0x6D61736B00 + stream], [0, 0, purpose, index])


def _hide_blocks(hidden: np.ndarray, config: MaskConfig, rng: np.random.Generator) -> None:
    """Adds rectangles until the share is reached; the last one is cut, from a random corner, to hit it exactly."""
    _, height, width = hidden.shape
    places = np.zeros((height, width), dtype=bool)
    missing = round(config.hidden * places.size)
    low, high = (math.log(bound) for bound in config.aspect)
    area = config.block_scale * places.size
    while missing > 0:
        ratio = math.exp(rng.uniform(low, high))
        h, w = _sides(area, ratio, height, width)
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        # Flipped views make the raster order start from each corner equally often.
        flip_h, flip_w = 1 - 2 * rng.integers(2, size=2)
        block = places[top : top + h, left : left + w]
        new = block.size - int(np.count_nonzero(block))
        if new <= missing:
            block[:] = True
        else:
            block = block[::flip_h, ::flip_w]
            rows, columns = np.nonzero(~block)
            block[rows[:missing], columns[:missing]] = True
        missing -= new
    hidden[:] = places


def _sides(area: float, ratio: float, height: int, width: int) -> tuple[int, int]:
    """Height and width of a rectangle of about `area` places and the ratio height / width, at most the frame's."""
    return (
        min(height, max(1, round(math.sqrt(area * ratio)))),
        min(width, max(1, round(math.sqrt(area / ratio)))),
    )


def _hide_slots(hidden: np.ndarray, config: MaskConfig, rng: np.random.Generator) -> None:
    moments = hidden.shape[0]
    hidden[rng.permutation(moments)[: round(config.hidden * moments)]] = True


def _hide_tokens(hidden: np.ndarray, config: MaskConfig, rng: np.random.Generator) -> None:
    flat = hidden.reshape(-1)
    count = round(config.hidden * flat.size)
    # The smaller part is drawn: with a high drop, that is what stays.
    few, many = (True, False) if 2 * count <= flat.size else (False, True)
    flat[:] = many
    flat[rng.choice(flat.size, min(count, flat.size - count), replace=False, shuffle=False)] = few


def _hide_window(hidden: np.ndarray, config: MaskConfig, rng: np.random.Generator) -> None:
    moments, height, width = hidden.shape
    keep = hidden.size - round(config.hidden * hidden.size)
    h, w = _sides(
        config.block_scale * height * width, math.exp(rng.uniform(*np.log(config.aspect))), height, width
    )
    if keep > moments * h * w:
        raise UserError(
            f"A mask with kind=window shows {keep} of {hidden.size} tokens, but its rectangle holds {moments * h * w}. "
            "Raise masks.hidden or masks.block_scale."
        )
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    window = np.ones((moments, h, w), dtype=bool)
    window.reshape(-1)[rng.choice(window.size, keep, replace=False, shuffle=False)] = False
    hidden[:] = True
    hidden[:, top : top + h, left : left + w] = window


def _hide_future(hidden: np.ndarray, config: MaskConfig, rng: np.random.Generator) -> None:
    moments = hidden.shape[0]
    hidden[moments - round(config.hidden * moments) :] = True


_HIDERS: dict[str, Callable[[np.ndarray, MaskConfig, np.random.Generator], None]] = {
    "blocks": _hide_blocks,
    "slots": _hide_slots,
    "tokens": _hide_tokens,
    "future": _hide_future,
    "window": _hide_window,
}


def _published_masks(
    config: MaskConfig,
    grid: tuple[int, int, int],
    draws: list[np.random.Generator],
    size_draw: np.random.Generator,
) -> Mask:
    """Multi-block masks with the published sizes, places and truncation (facebookresearch/vjepa2, src/masks)."""
    moments, height, width = grid
    area = int(config.block_scale * height * width)
    h, w = _sides(area, size_draw.uniform(*config.aspect), height, width)
    if h * w == height * width:
        raise UserError(
            f"masks.block_scale={config.block_scale} covers all {height}x{width} places of the grid, so there is "
            "nothing to see. Lower it, or use more pixels."
        )
    row, column = np.arange(height)[:, None], np.arange(width)
    places = np.empty((len(draws), height, width), dtype=bool)
    for sample, rng in zip(places, draws, strict=True):
        sample[:] = True
        while sample.all():  # drawn again until something can be seen
            top = rng.integers(height - h + 1, size=(config.num_blocks, 1, 1))
            left = rng.integers(width - w + 1, size=(config.num_blocks, 1, 1))
            inside = (row >= top) & (row < top + h) & (column >= left) & (column < left + w)
            inside.any(axis=0, out=sample)
    flat = np.repeat(places[:, None], moments, axis=1).reshape(len(draws), -1)
    # A stable sort brings the tokens of one part to the front in raster order.
    seen = np.argsort(flat, axis=1, kind="stable")[:, : moments * int((~places).sum((1, 2)).min())]
    guessed = np.argsort(~flat, axis=1, kind="stable")[:, : moments * int(places.sum((1, 2)).min())]
    return Mask(torch.from_numpy(seen), torch.from_numpy(guessed))
