"""Predictor: a narrow transformer from context tokens to the features at target positions.

Context tokens are narrowed; a learned mask token stands at every target position; blocks of full attention
mix the two; a projection maps the predictions back to the encoder's width. Positions are explicit, so the order
of tokens has no effect and none is imposed.

Shapes: B batch, K context tokens, M target tokens, D encoder channels, L layers, d predictor channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jepa.errors import UserError
from jepa.models.layers import Block, check_heads, init_block_weights, init_std, rescale_blocks
from jepa.models.rope import Position, TokenGrid, check_ids, with_positions


@dataclass(frozen=True)
class PredictorConfig:
    """Everything that decides the shape and the meaning of a predictor's weights.

    Raises:
        UserError: the fields do not fit together.

    Example:
        >>> PredictorConfig(encoder_dim=768, out_dim=768).dim
        384
    """

    encoder_dim: int = 1024
    """Channels of the encoder's tokens."""
    target_layers: int = 1
    """Encoder layers joined on the channels of a context token, which are also those predicted; more than one are
    fused by a small MLP."""
    out_dim: int = 1024
    """Channels of a prediction, all layers together."""
    dim: int = 384
    """Channels inside the predictor."""
    depth: int = 12
    """Transformer blocks."""
    num_heads: int = 12
    """Attention heads of a block."""
    mlp_dim: int = 1536
    """Hidden channels of a block's MLP."""
    num_mask_tokens: int = 1
    """Learned mask tokens; published files hold several, of which one training group uses one."""
    mask_index: int = 0
    """The mask token that stands at the targets unless the call names another."""
    position: Position = "interleaved"
    """Rotary positions of one of two flavours, or fixed sine-cosine ones added to the tokens."""
    rope_reference_grid: int | None = None
    """If set, rows and columns are stretched onto a grid of this many patches before they rotate."""
    sincos_grid: tuple[int, int, int] | None = None
    """Trained token grid (t, h, w) of sine-cosine positions; other grids are interpolated from it."""
    norm_eps: float = 1e-6
    """Epsilon of every layer norm."""
    context_head: bool = False
    """A second projection that predicts at the context positions (V-JEPA 2.1's dense loss)."""
    modality_embedding: bool = False
    """A learned vector added to every token of a video, another to every token of an image."""

    def __post_init__(self) -> None:
        check_heads("predictor", self.dim, self.num_heads)
        if self.position not in ("interleaved", "tiled", "sincos"):
            raise UserError(f"position={self.position!r} is unknown; use interleaved, tiled or sincos.")
        if (self.position == "sincos") != (self.sincos_grid is not None):
            raise UserError("sincos_grid belongs to position=sincos: give both or neither.")
        if not 0 <= self.mask_index < self.num_mask_tokens:
            raise UserError(
                f"mask_index={self.mask_index} is not one of the {self.num_mask_tokens} mask tokens (from 0)."
            )


class Predictor(nn.Module):
    """A narrow transformer that predicts encoder tokens at given positions.

    Args:
        config: the architecture.

    Example:
        >>> predictor = Predictor(PredictorConfig(48, 1, 48, dim=32, depth=1, num_heads=2, mlp_dim=64))
        >>> context, target = torch.tensor([[0, 1, 2]]), torch.tensor([[3, 7]])
        >>> list(predictor(torch.zeros(1, 3, 48), context, target, TokenGrid(2, 2, 2)).shape)
        [1, 2, 48]
    """

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.embed: nn.Module
        if config.target_layers == 1:
            self.embed = nn.Linear(config.encoder_dim, dim)
        else:
            self.embed = nn.Sequential(
                nn.Linear(config.target_layers * config.encoder_dim, config.encoder_dim),
                nn.GELU(),
                nn.Linear(config.encoder_dim, dim),
            )
        self.mask_tokens = nn.Parameter(torch.empty(config.num_mask_tokens, dim))
        if config.modality_embedding:
            self.video_mod_embed = nn.Parameter(torch.empty(1, 1, dim))
            self.img_mod_embed = nn.Parameter(torch.empty(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, config.mlp_dim, config.norm_eps) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.proj = nn.Linear(dim, config.out_dim)
        if config.context_head:
            self.proj_context = nn.Linear(dim, config.out_dim)
        if not self.mask_tokens.is_meta:
            self.init_weights()

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialises all weights as the published predictors do, mask tokens at zero; needed by hand only after
        building on the meta device.

        Args:
            generator: source of the random numbers, on the device of the weights; torch's global one by
                default.
        """
        init_block_weights(self, init_std(self.config.dim), generator)
        rescale_blocks(self.blocks)
        nn.init.zeros_(self.mask_tokens)
        if self.config.modality_embedding:
            nn.init.normal_(self.video_mod_embed, std=1e-6, generator=generator)
            nn.init.normal_(self.img_mod_embed, std=1e-6, generator=generator)

    def forward(
        self,
        context_tokens: Tensor,
        context: Tensor,
        target: Tensor,
        grid: TokenGrid,
        mask_index: int | None = None,
        image: bool = False,
        with_context: bool = False,
    ) -> Any:
        """Predicts the tokens at `target`.

        Args:
            context_tokens: [B, K, L * D], what the encoder made of the tokens at `context`.
            context: [B, K] int64 token ids in `grid`.
            target: [B, M] int64 token ids in `grid`.
            grid: token grid of the entire clip.
            mask_index: the mask token to use; None takes the config's.
            image: the clip is an image; only matters with modality embeddings.
            with_context: also return the context head's predictions at `context`.

        Returns:
            Predictions [B, M, out_dim]; with `with_context`, a pair of these and [B, K, out_dim].

        Raises:
            UserError: ids or tokens are malformed, the mask token does not exist, or there is no context
                head.
        """
        config, num_context = self.config, context.shape[-1]
        check_ids("context", context, len(context_tokens))
        check_ids("target", target, len(context_tokens))
        channels = config.target_layers * config.encoder_dim
        if context_tokens.shape[1:] != (num_context, channels):
            raise UserError(
                f"context_tokens must be [B, {num_context}, {channels}] to match `context` and the "
                f"predictor's "
                f"config, but it is {list(context_tokens.shape)}."
            )
        if with_context and not config.context_head:
            raise UserError("with_context=True needs a predictor with context_head=True.")
        index = config.mask_index if mask_index is None else mask_index
        if not 0 <= index < config.num_mask_tokens:
            raise UserError(
                f"mask_index={index} is not one of the {config.num_mask_tokens} mask tokens (from 0)."
            )
        narrowed = self.embed(context_tokens)
        queries = self.mask_tokens[index].to(narrowed.dtype).expand(*target.shape, -1)
        x = torch.cat([narrowed, queries], dim=1)
        ids = torch.cat([context, target], dim=1)
        if config.modality_embedding:
            x = x + (self.img_mod_embed if image else self.video_mod_embed)
        x, rope = with_positions(
            x, ids, grid, config.num_heads, config.position, config.rope_reference_grid, config.sincos_grid
        )
        for block in self.blocks:
            x = block(x, rope)
        x = self.norm(x)
        prediction = self.proj(x[:, num_context:])
        return (prediction, self.proj_context(x[:, :num_context])) if with_context else prediction
