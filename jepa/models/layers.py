"""Transformer block (attention, MLP, pre-norm) of encoder, predictor and pooler, and its initialisation.

Shapes: B batch, N tokens, D channels, H heads, d = D / H channels of one head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa.errors import UserError
from jepa.models.rope import RopeTable, apply_rope

INIT_STD = 0.02


class Attention(nn.Module):
    """Multi-head self-attention with optional rotary positions.

    Args:
        dim: channels, D.
        num_heads: heads, H.

    Example:
        >>> list(Attention(32, num_heads=2)(torch.zeros(1, 5, 32)).shape)
        [1, 5, 32]
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: RopeTable | None = None) -> Tensor:
        """Maps tokens [B, N, D] to [B, N, D]."""
        query_key_value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = query_key_value.unbind(0)
        if rope is not None:
            query, key = apply_rope(query, rope), apply_rope(key, rope)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(-2))


class Mlp(nn.Module):
    """Two linear layers around an exact GELU.

    Args:
        dim: channels in and out, D.
        hidden_dim: channels in between.

    Example:
        >>> list(Mlp(32, 64)(torch.zeros(1, 5, 32)).shape)
        [1, 5, 32]
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., D] to [..., D]."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block: attention, then MLP, each added to its input.

    Args:
        dim: channels, D.
        num_heads: attention heads.
        mlp_dim: hidden channels of the MLP.
        norm_eps: epsilon of both layer norms.

    Example:
        >>> list(Block(32, 2, 64, norm_eps=1e-6)(torch.zeros(1, 5, 32)).shape)
        [1, 5, 32]
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, mlp_dim)

    def forward(self, x: Tensor, rope: RopeTable | None = None) -> Tensor:
        """Maps tokens [B, N, D] to [B, N, D]."""
        x = x + self.attn(self.norm1(x), rope)
        return x + self.mlp(self.norm2(x))


def check_heads(owner: str, dim: int, num_heads: int) -> None:
    """Refuses a width that the heads do not divide evenly into an even number of channels.

    Raises:
        UserError: with the numbers.
    """
    if num_heads < 1 or dim % num_heads or (dim // num_heads) % 2:
        raise UserError(
            f"{owner}: {dim} channels cannot be split into {num_heads} heads with an even number of "
            f"channels each; change the width or num_heads."
        )


def init_std(width: int) -> float:
    """Standard deviation of the initial linear weights in a model of `width` channels.

    The published 0.02 from 384 channels on. Narrower models, of which none is published, start at 1/sqrt(width): with
    0.02 their signals are so weak that masked prediction stayed on the plateau of predicting the mean four times as
    long (128 channels, pixels of moving shapes).

    Example:
        >>> init_std(1024), init_std(64)
        (0.02, 0.125)
    """
    return INIT_STD if width >= 384 else width**-0.5


def init_block_weights(module: nn.Module, std: float, generator: torch.Generator | None = None) -> None:
    """Initialises every linear, convolution and layer norm below `module`, in the order that they were registered.

    Weights are normal with standard deviation `std` (cut at an absolute 2, which is out of reach), biases 0, norms 1
    and 0.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv3d)):
            nn.init.trunc_normal_(part.weight, std=std, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


@torch.no_grad()
def rescale_blocks(blocks: nn.ModuleList) -> None:
    """Divides what block l (counted from 1) adds to the residual stream by sqrt(2 l), as BEiT and V-JEPA
    start."""
    for number, block in enumerate(blocks, 1):
        if not isinstance(block, Block):
            raise TypeError(f"expected a Block, got {type(block).__name__}")
        block.attn.proj.weight.div_(math.sqrt(2.0 * number))
        block.mlp.fc2.weight.div_(math.sqrt(2.0 * number))
