"""Position embeddings: rotary (RoPE) and sine-cosine ones on a (time, height, width) grid.

One table serves an entire forward pass: it depends on the grid and on which tokens are present, never on the
layer or the head, so the encoder computes it once and hands it to every block.

Two flavours of rotation exist in published checkpoints. With angles a_0, a_1, ... per channel pair,
"interleaved" gives the channels a_0 a_0 a_1 a_1 ..., which with the interleaved quarter turn below is a
rotation of each pair. "tiled" gives a_0 a_1 ... a_0 a_1 ..., which pairs a channel with two different angles
and is not a rotation: norms change and a product depends on absolute positions. V-JEPA 2 was trained with
"tiled" and V-JEPA 2.1 with "interleaved"; a checkpoint only works with its own flavour.

Shapes: B batch, N tokens of the grid, K tokens present, d channels of one head.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from jepa.errors import UserError

Rotation = Literal["interleaved", "tiled"]
Position = Literal["interleaved", "tiled", "sincos"]
RopeTable = tuple[Tensor, Tensor]
_BASE = 10000.0


class TokenGrid(NamedTuple):
    """Numbers of tokens along time, height and width; token ids run in that order.

    Example:
        >>> TokenGrid(8, 16, 16).size
        2048
    """

    t: int
    h: int
    w: int

    @property
    def size(self) -> int:
        """Tokens in the grid, t * h * w."""
        return self.t * self.h * self.w


def axis_channels(head_dim: int) -> int:
    """Channels of one head that each of the three axes rotates: the largest even number in a third of the
    head.

    The head is laid out as [time | height | width | unrotated rest]; 64 channels give 20 + 20 + 20 + 4.
    """
    return 2 * ((head_dim // 3) // 2)


def rope_table(
    grid: TokenGrid,
    head_dim: int,
    rotation: Rotation = "interleaved",
    ids: Tensor | None = None,
    reference_grid: int | None = None,
    device: torch.device | None = None,
) -> RopeTable:
    """Cosines and sines that rotate queries and keys, shared by every layer and head.

    The angle of channel pair j of an axis with c channels is position * 10000^(-2j/c). It is formed in
    float32 whatever the activations are: in bfloat16 the frequencies would be off by up to 1.75 %.

    Args:
        grid: the token grid of the entire clip.
        head_dim: channels of one head.
        rotation: the flavour that the weights were trained with, see the head of this file.
        ids: [B, K] token ids in the grid, or None for all of them in order.
        reference_grid: if set, rows and columns are stretched so that the first and the last fall on 0 and
            `reference_grid` - 1, as V-JEPA 2.1 does with 16. Time is never stretched.
        device: where the table is made; by default that of `ids`.

    Returns:
        (cos, sin), float32, each [N, d] without `ids` and [B, 1, K, d] with them.

    Example:
        >>> cos, sin = rope_table(TokenGrid(2, 2, 2), head_dim=64)
        >>> list(cos.shape), cos[0].unique().item()
        ([8, 64], 1.0)
    """
    ids = torch.arange(grid.size, device=device) if ids is None else ids.unsqueeze(1)
    # Remainders are written as differences: ONNX has none by a size that is free.
    time, line = ids // (grid.h * grid.w), ids // grid.w
    row = line - time * grid.h
    column = ids - line * grid.w
    positions = [time.float(), row.float(), column.float()]
    if reference_grid is not None:
        # A single row or column stays at 0, where the published formula divides by zero.
        positions[1] = positions[1] * (reference_grid - 1) / max(grid.h - 1, 1)
        positions[2] = positions[2] * (reference_grid - 1) / max(grid.w - 1, 1)

    pairs = axis_channels(head_dim) // 2
    exponent = torch.arange(pairs, dtype=torch.float32, device=ids.device) / max(pairs, 1)
    frequency = 1.0 / _BASE**exponent
    angles = [position.unsqueeze(-1) * frequency for position in positions]
    if rotation == "interleaved":
        angles = [angle.repeat_interleave(2, dim=-1) for angle in angles]
    else:
        angles = [torch.cat([angle, angle], dim=-1) for angle in angles]
    # The unrotated rest has angle 0: cosine 1 and sine 0 leave it as it is, and one formula covers the head.
    angle = functional.pad(torch.cat(angles, dim=-1), (0, head_dim - 6 * pairs))
    return angle.cos(), angle.sin()


def apply_rope(x: Tensor, table: RopeTable) -> Tensor:
    """Rotates x [..., N, d] by a table from `rope_table`; the table is cast to the dtype of x.

    Each channel pair (u, v) takes part as (u, v) * cos + (-v, u) * sin (Su et al., arXiv 2104.09864).

    Example:
        >>> x = torch.randn(1, 2, 8, 24)
        >>> turned = apply_rope(x, rope_table(TokenGrid(2, 2, 2), head_dim=24))
        >>> torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
        True
    """
    cos, sin = table[0].to(x.dtype), table[1].to(x.dtype)
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-second, first), dim=-1).flatten(-2)
    return x * cos + turned * sin


def sincos_table(
    grid: TokenGrid, dim: int, trained_grid: TokenGrid, device: torch.device | None = None
) -> Tensor:
    """Fixed sine-cosine positions [N, dim], float32, as V-JEPA adds them to its tokens.

    Each axis has ceil(dim / 6) * 2 channels, sines before cosines, in the order time, height, width; what
    exceeds `dim` is cut off. A grid other than `trained_grid` is read out of the trained one by trilinear
    interpolation (facebookresearch/jepa, src/models/utils/pos_embs.py with uniform_power).

    Example:
        >>> list(sincos_table(TokenGrid(4, 3, 5), 48, TokenGrid(8, 14, 14)).shape)
        [60, 48]
    """
    pairs = -(-dim // 6)
    frequency = 1.0 / _BASE ** (torch.arange(pairs, dtype=torch.float64, device=device) / pairs)
    axes = []
    for axis, length in enumerate(trained_grid):
        angle = torch.arange(length, dtype=torch.float64, device=device).unsqueeze(-1) * frequency
        wave = torch.cat([angle.sin(), angle.cos()], dim=-1)
        shape = [1, 1, 1, 2 * pairs]
        shape[axis] = length
        axes.append(wave.reshape(shape).expand(*trained_grid, -1))
    table = torch.cat(axes, dim=-1)[..., :dim].float()
    if grid != trained_grid:
        channels_first = table.permute(3, 0, 1, 2).unsqueeze(0)
        stretched = functional.interpolate(channels_first, size=tuple(grid), mode="trilinear")
        table = stretched.squeeze(0).permute(1, 2, 3, 0)
    return table.reshape(grid.size, dim)


def with_positions(
    x: Tensor,
    ids: Tensor | None,
    grid: TokenGrid,
    num_heads: int,
    position: Position,
    reference_grid: int | None,
    trained_grid: tuple[int, int, int] | None,
) -> tuple[Tensor, RopeTable | None]:
    """Gives tokens [B, K, D] their positions: adds fixed ones, or makes the rotary table for the blocks.

    Args:
        x: tokens.
        ids: [B, K] token ids in the grid, or None if all are there in order.
        grid: the token grid of the entire clip.
        num_heads: heads that the channels are divided into.
        position: rotary positions of one of two flavours, or "sincos".
        reference_grid: as in `rope_table`; without effect on "sincos".
        trained_grid: as in `sincos_table`, for "sincos".

    Returns:
        The tokens, and the rotary table or None.
    """
    if position != "sincos":
        return x, rope_table(grid, x.shape[-1] // num_heads, position, ids, reference_grid, x.device)
    if trained_grid is None:
        raise UserError("position=sincos needs the token grid that it was trained on.")
    table = sincos_table(grid, x.shape[-1], TokenGrid(*trained_grid), x.device)
    return x + (table if ids is None else table[ids]).to(x.dtype), None


def check_ids(name: str, ids: Tensor, batch: int) -> None:
    """Refuses token ids that are not int64 [B, K]; ranges are left to the indexing, which would have to wait
    for the device.

    Raises:
        UserError: the dtype or the shape is wrong.
    """
    if ids.dtype != torch.int64 or ids.ndim != 2 or ids.shape[0] != batch:
        raise UserError(
            f"`{name}` must hold token ids as an int64 tensor [B, K] with B = {batch}, "
            f"but it is {ids.dtype} {list(ids.shape)}."
        )
