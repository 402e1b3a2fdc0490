"""Masking: which tokens are context and which are target.

A mask splits a clip's tokens in two: the `context` that the encoder sees and the `target` that the predictor
predicts. Every sample of a batch gets the same counts, so a batch is two plain index tensors, and the two parts
together are all tokens: nothing is thrown away and no time step of the clip is favoured.

One kind, `reference`, follows the published code, for comparisons. It cuts every sample to the batch's minimum by
keeping the first tokens in raster order, which starves late frames (benchmarks/masks.md).

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

REFERENCE = "reference"


class Mask(NamedTuple):
    """Sorted int64 token indices: `context` [B, K] is encoded, `target` [B, M] is predicted."""

    context: torch.Tensor
    target: torch.Tensor


@dataclass
class MaskConfig:
    """One mask per clip; a run may use several, each with its own prediction and loss.

    Raises:
        UserError: the kind is unknown, or a number is out of range.

    Example:
        >>> MaskConfig("temporal", ratio=0.5).kind
        'temporal'
    """

    kind: str = "blocks"
    """blocks: rectangles over all time steps (V-JEPA 2); temporal: full time steps; tokens: any; future: the last time
    steps; window: all but some tokens of one rectangle, a local view; reference: blocks as published, cut to the batch;
    or a kind added by jepa.masking.register_mask_kind"""
    ratio: float = 0.6
    """fraction of the tokens that is target, rounded to full spatial positions (blocks), time steps (temporal, future)
    or tokens; without effect on reference, where it follows from the blocks"""
    block_scale: float = 0.15
    """blocks, reference, window: area of one rectangle as a fraction of the frame (V-JEPA 2: 0.15 or 0.7)"""
    aspect: tuple[float, float] = (0.75, 1.5)
    """blocks, reference, window: height over width of a rectangle is drawn from this range"""
    num_blocks: int = 8
    """reference only: rectangles, which may overlap (V-JEPA 2: 8 short-range, 2 long-range; 2.1: 10 in images)"""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS and self.kind != REFERENCE:
            raise UserError(
                f"masks.kind={self.kind!r} is unknown; choose one of {', '.join([*_KINDS, REFERENCE])}."
                + (" The kind slots is now called temporal." if self.kind == "slots" else "")
            )
        if not 0 < self.ratio < 1:
            raise UserError(f"masks.ratio={self.ratio} must be between 0 and 1, both excluded.")
        if not 0 < self.block_scale <= 1 or not 0 < self.aspect[0] <= self.aspect[1]:
            raise UserError(
                "masks.block_scale must be in (0, 1] and masks.aspect must be a rising positive pair."
            )
        if self.num_blocks < 1:
            raise UserError(f"masks.num_blocks={self.num_blocks} has to be at least 1.")


MarkTarget = Callable[[np.ndarray, MaskConfig, np.random.Generator], None]
_KINDS: dict[str, MarkTarget] = {}


def register_mask_kind(name: str) -> Callable[[MarkTarget], MarkTarget]:
    """Adds a kind of mask under a name, for `masks.kind` of a config.

    The decorated function gets `target`, a bool array [t, h, w] that starts as False, the config, and the sample's own
    random generator. It sets the target tokens to True, equally many for every sample of one grid.

    Args:
        name: value of `masks.kind`.

    Raises:
        UserError: the name is taken.

    Example:
        >>> @register_mask_kind("left_half")
        ... def left_half(target, config, rng):
        ...     target[:, :, : target.shape[2] // 2] = True
        >>> sample_masks(MaskConfig("left_half"), (1, 1, 4), seed=0, indices=[0]).target.tolist()
        [[0, 1]]
        >>> del _KINDS["left_half"]
    """

    def register(mark: MarkTarget) -> MarkTarget:
        if name in _KINDS or name == REFERENCE:
            raise UserError(f"there is a mask kind {name!r} already; choose another name.")
        _KINDS[name] = mark
        return mark

    return register


def sample_masks(
    config: MaskConfig, grid: tuple[int, int, int], seed: int, indices: Sequence[int], stream: int = 0
) -> Mask:
    """Draws one mask per sample; the mask of a sample depends on nothing but (seed, stream, its index).

    The kind `reference` is the exception, as in the code that it follows: one size of rectangle for the batch, and
    every sample cut to the batch's minimum. It gives other masks when the same samples are divided over more processes.

    Args:
        config: what to mask.
        grid: tokens along time, height, width.
        seed: the run's seed.
        indices: the samples' positions in the run's stream, B of them.
        stream: number of this mask among several masks of the same clip.

    Returns:
        The mask, context [B, K] and target [B, M].

    Raises:
        UserError: the grid is too small for the config to leave both context and target tokens, or a registered kind
            marked different numbers of tokens.

    Example:
        >>> mask = sample_masks(MaskConfig("tokens", ratio=0.75), (2, 2, 2), seed=3, indices=[0, 1])
        >>> mask.context.tolist()
        [[4, 6], [3, 6]]
    """
    draws = [_generator(seed, stream, index) for index in indices]
    if config.kind == REFERENCE:
        return _published_masks(
            config, grid, draws, size_draw=_generator(seed, stream, indices[0], purpose=1)
        )
    total = math.prod(grid)
    is_target = np.zeros((len(draws), *grid), dtype=bool)
    mark = _KINDS[config.kind]
    for sample, rng in zip(is_target, draws, strict=True):
        mark(sample, config, rng)
    flat = is_target.reshape(len(draws), total)
    counts = flat.sum(axis=1)
    count = int(counts[0])
    if (counts != count).any():
        raise UserError(
            f"Masks of kind={config.kind} have between {counts.min()} and {counts.max()} target tokens. A batch needs "
            "equally many for every sample; change the function that was registered for this kind."
        )
    if count in (0, total):
        raise UserError(
            f"A mask with kind={config.kind} and ratio={config.ratio} makes {count} of the {total} tokens of a "
            f"{grid[0]}x{grid[1]}x{grid[2]} grid (time, height, width) its target, so there is no "
            f"{'context' if count == total else 'target'} left. Change masks.ratio, or use more frames or pixels."
        )
    # Every sample has equally many targets, so the columns of all rows together fold into two rectangular arrays.
    target = np.flatnonzero(flat) % total
    context = np.flatnonzero(~flat) % total
    return Mask(*(torch.from_numpy(part.reshape(len(draws), -1)) for part in (context, target)))


def _generator(seed: int, stream: int, index: int, purpose: int = 0) -> np.random.Generator:
    return generator([seed, 0x6D61736B00 + stream], [0, 0, purpose, index])


def _rectangle(area: float, ratio: float, height: int, width: int) -> tuple[int, int]:
    """Height and width of a rectangle of about `area` positions and the ratio height / width, at most the frame's."""
    return (
        min(height, max(1, round(math.sqrt(area * ratio)))),
        min(width, max(1, round(math.sqrt(area / ratio)))),
    )


@register_mask_kind("blocks")
def _blocks(target: np.ndarray, config: MaskConfig, rng: np.random.Generator) -> None:
    """Adds rectangles until the ratio is reached; the last one is cut, from a random corner, to hit it exactly."""
    _, height, width = target.shape
    covered = np.zeros((height, width), dtype=bool)
    missing = round(config.ratio * covered.size)
    low, high = (math.log(bound) for bound in config.aspect)
    area = config.block_scale * covered.size
    while missing > 0:
        h, w = _rectangle(area, math.exp(rng.uniform(low, high)), height, width)
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        # Flipped views make the raster order start from each corner equally often.
        flip_h, flip_w = 1 - 2 * rng.integers(2, size=2)
        block = covered[top : top + h, left : left + w]
        new = block.size - int(np.count_nonzero(block))
        if new <= missing:
            block[:] = True
        else:
            block = block[::flip_h, ::flip_w]
            rows, columns = np.nonzero(~block)
            block[rows[:missing], columns[:missing]] = True
        missing -= new
    target[:] = covered


@register_mask_kind("temporal")
def _temporal(target: np.ndarray, config: MaskConfig, rng: np.random.Generator) -> None:
    steps = target.shape[0]
    target[rng.permutation(steps)[: round(config.ratio * steps)]] = True


@register_mask_kind("tokens")
def _tokens(target: np.ndarray, config: MaskConfig, rng: np.random.Generator) -> None:
    flat = target.reshape(-1)
    count = round(config.ratio * flat.size)
    # The smaller part is drawn: with a high ratio, that is the context.
    few, many = (True, False) if 2 * count <= flat.size else (False, True)
    flat[:] = many
    flat[rng.choice(flat.size, min(count, flat.size - count), replace=False, shuffle=False)] = few


@register_mask_kind("future")
def _future(target: np.ndarray, config: MaskConfig, rng: np.random.Generator) -> None:
    steps = target.shape[0]
    target[steps - round(config.ratio * steps) :] = True


@register_mask_kind("window")
def _window(target: np.ndarray, config: MaskConfig, rng: np.random.Generator) -> None:
    steps, height, width = target.shape
    keep = target.size - round(config.ratio * target.size)
    ratio = math.exp(rng.uniform(*np.log(config.aspect)))
    h, w = _rectangle(config.block_scale * height * width, ratio, height, width)
    if keep > steps * h * w:
        raise UserError(
            f"A mask with kind=window has {keep} of {target.size} tokens as context, but its rectangle holds "
            f"{steps * h * w}. Raise masks.ratio or masks.block_scale."
        )
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    window = np.ones((steps, h, w), dtype=bool)
    window.reshape(-1)[rng.choice(window.size, keep, replace=False, shuffle=False)] = False
    target[:] = True
    target[:, top : top + h, left : left + w] = window


def _published_masks(
    config: MaskConfig,
    grid: tuple[int, int, int],
    draws: list[np.random.Generator],
    size_draw: np.random.Generator,
) -> Mask:
    """Multi-block masks with the published sizes, positions and truncation (facebookresearch/vjepa2, src/masks)."""
    steps, height, width = grid
    area = int(config.block_scale * height * width)
    h, w = _rectangle(area, size_draw.uniform(*config.aspect), height, width)
    if h * w == height * width:
        raise UserError(
            f"masks.block_scale={config.block_scale} covers all {height}x{width} positions of the grid, so there is "
            "no context left. Lower it, or use more pixels."
        )
    row, column = np.arange(height)[:, None], np.arange(width)
    covered = np.empty((len(draws), height, width), dtype=bool)
    for sample, rng in zip(covered, draws, strict=True):
        sample[:] = True
        while sample.all():  # drawn again until there is a context
            top = rng.integers(height - h + 1, size=(config.num_blocks, 1, 1))
            left = rng.integers(width - w + 1, size=(config.num_blocks, 1, 1))
            inside = (row >= top) & (row < top + h) & (column >= left) & (column < left + w)
            inside.any(axis=0, out=sample)
    flat = np.repeat(covered[:, None], steps, axis=1).reshape(len(draws), -1)
    # A stable sort brings the tokens of one part to the front in raster order.
    context = np.argsort(flat, axis=1, kind="stable")[:, : steps * int((~covered).sum((1, 2)).min())]
    target = np.argsort(~flat, axis=1, kind="stable")[:, : steps * int(covered.sum((1, 2)).min())]
    return Mask(torch.from_numpy(context), torch.from_numpy(target))
