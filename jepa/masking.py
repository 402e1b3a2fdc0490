"""What is hidden and what must be predicted.

A mask splits a clip's tokens in two: the `context` that the encoder sees and the `target` that the predictor must
guess. Every sample of a batch gets the same counts, so a batch is two plain index tensors, and the two parts together
are all tokens: nothing is thrown away and no moment of the clip is favoured. (The published code cuts every sample to
the batch's minimum by keeping the first tokens in raster order, which starves late frames.)

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


class Mask(NamedTuple):
    """Sorted int64 token indices: `context` [B, K] is seen, `target` [B, M] is predicted."""

    context: torch.Tensor
    target: torch.Tensor


@dataclass
class MaskConfig:
    """One mask per clip; a run may use several, each with its own guess and loss."""

    kind: str = "blocks"
    """blocks: rectangles over all times (V-JEPA 2); slots: whole moments; tokens: any; future: the last moments"""
    hidden: float = 0.6
    """share of the tokens that is hidden, rounded to whole places (blocks), moments (slots, future) or tokens"""
    block_scale: float = 0.15
    """blocks only: area of one rectangle as a share of the frame (V-JEPA 2: 0.15 short-range, 0.7 long-range)"""
    aspect: tuple[float, float] = (0.75, 1.5)
    """blocks only: height over width of a rectangle is drawn from this range"""

    def __post_init__(self) -> None:
        if self.kind not in _HIDERS:
            raise UserError(f"masks.kind={self.kind!r} is unknown; choose one of {', '.join(_HIDERS)}.")
        if not 0 < self.hidden < 1:
            raise UserError(f"masks.hidden={self.hidden} must lie between 0 and 1, both excluded.")
        if not 0 < self.block_scale <= 1 or not 0 < self.aspect[0] <= self.aspect[1]:
            raise UserError(
                "masks.block_scale must lie in (0, 1] and masks.aspect must be a rising positive pair."
            )


def sample_masks(
    config: MaskConfig, grid: tuple[int, int, int], seed: int, indices: Sequence[int], stream: int = 0
) -> Mask:
    """Draws one mask per sample; the mask of a sample depends on nothing but (seed, stream, its index).

    Args:
        config: what to hide.
        grid: tokens along time, height, width.
        seed: the run's seed.
        indices: the samples' positions in the run's stream, B of them.
        stream: tells apart several masks of the same clip.

    Raises:
        UserError: the grid is too small for the config to leave both something to see and something to guess.
    """
    hide = _HIDERS[config.kind]
    total = math.prod(grid)
    context, target = [], []
    for index in indices:
        rng = np.random.Generator(
            np.random.Philox(key=[seed, 0x6D61736B00 + stream], counter=[0, 0, 0, index])
        )
        hidden = np.zeros(grid, dtype=bool)
        hide(hidden, config, rng)
        flat = hidden.reshape(-1)
        context.append(np.flatnonzero(~flat))
        target.append(np.flatnonzero(flat))
    if len(context[0]) in (0, total):
        raise UserError(
            f"A mask with kind={config.kind} and hidden={config.hidden} hides {len(target[0])} of the {total} tokens "
            f"of a {grid[0]}x{grid[1]}x{grid[2]} grid (time, height, width), so there is nothing to "
            f"{'see' if len(context[0]) == 0 else 'guess'}. Change masks.hidden, or use more frames or pixels."
        )
    return Mask(torch.from_numpy(np.stack(context)), torch.from_numpy(np.stack(target)))


def _hide_blocks(hidden: np.ndarray, config: MaskConfig, rng: np.random.Generator) -> None:
    """Adds rectangles until the share is reached; the last one is cut, from a random corner, to hit it exactly."""
    _, height, width = hidden.shape
    places = np.zeros((height, width), dtype=bool)
    wanted = round(config.hidden * places.size)
    while (missing := wanted - int(places.sum())) > 0:
        ratio = math.exp(rng.uniform(*np.log(config.aspect)))
        area = config.block_scale * places.size
        h = min(height, max(1, round(math.sqrt(area * ratio))))
        w = min(width, max(1, round(math.sqrt(area / ratio))))
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        # Flipped views make the raster order start from each corner equally often.
        flip_h, flip_w = rng.choice([1, -1], size=2)
        block = places[top : top + h, left : left + w][::flip_h, ::flip_w]
        new = np.flatnonzero(~block.reshape(-1))[:missing]
        block[np.unravel_index(new, block.shape)] = True
    hidden |= places


def _hide_slots(hidden: np.ndarray, config: MaskConfig, rng: np.random.Generator) -> None:
    moments = hidden.shape[0]
    hidden[rng.permutation(moments)[: round(config.hidden * moments)]] = True


def _hide_tokens(hidden: np.ndarray, config: MaskConfig, rng: np.random.Generator) -> None:
    flat = hidden.reshape(-1)
    flat[rng.permutation(flat.size)[: round(config.hidden * flat.size)]] = True


def _hide_future(hidden: np.ndarray, config: MaskConfig, rng: np.random.Generator) -> None:
    moments = hidden.shape[0]
    hidden[moments - round(config.hidden * moments) :] = True


_HIDERS: dict[str, Callable[[np.ndarray, MaskConfig, np.random.Generator], None]] = {
    "blocks": _hide_blocks,
    "slots": _hide_slots,
    "tokens": _hide_tokens,
    "future": _hide_future,
}
