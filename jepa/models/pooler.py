"""Attentive pooling and classifier: learned queries read a set of tokens by cross-attention, as the published
attentive probes do.

Shapes: B batch, N tokens, D channels, Q queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa.errors import UserError
from jepa.models.layers import INIT_STD, Block, Mlp, check_heads, init_block_weights, rescale_blocks


@dataclass(frozen=True)
class PoolerConfig:
    """Everything that decides the shape and the meaning of a pooler's weights.

    Raises:
        UserError: the fields do not fit together.

    Example:
        >>> PoolerConfig(384, num_heads=6, mlp_dim=1536).depth
        4
    """

    embed_dim: int = 1024
    """Channels of the tokens that are read."""
    num_queries: int = 1
    """Learned queries; each gives one vector."""
    depth: int = 4
    """Layers: all but the last are self-attention among the tokens, the last is the queries'
    cross-attention."""
    num_heads: int = 16
    """Attention heads of every layer. Published probes have 16 whatever the encoder has."""
    mlp_dim: int = 4096
    """Hidden channels of every MLP."""
    norm_eps: float = 1e-5
    """Epsilon of every layer norm. Published probes have 1e-5, their encoders 1e-6."""

    def __post_init__(self) -> None:
        check_heads("pooler", self.embed_dim, self.num_heads)
        if self.depth < 1 or self.num_queries < 1:
            raise UserError(f"depth={self.depth} and num_queries={self.num_queries} must be at least 1.")


class CrossAttention(nn.Module):
    """Queries read tokens; there is no output projection.

    Args:
        dim: channels, D.
        num_heads: attention heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Maps queries [B, Q, D] and tokens [B, N, D] to [B, Q, D]."""
        query = self.q(queries).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.kv(tokens).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).flatten(-2)


class CrossAttentionBlock(nn.Module):
    """Cross-attention and MLP, each added to the queries; the tokens are normed, the queries only before the
    MLP.

    Args:
        config: the pooler's config.
    """

    def __init__(self, config: PoolerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.xattn = CrossAttention(config.embed_dim, config.num_heads)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config.embed_dim, config.mlp_dim)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Maps queries [B, Q, D] and tokens [B, N, D] to [B, Q, D]."""
        queries = queries + self.xattn(queries, self.norm1(tokens))
        return queries + self.mlp(self.norm2(queries))


class AttentivePooler(nn.Module):
    """Learned queries that read a set of tokens (facebookresearch/vjepa2, src/models/attentive_pooler.py).

    Args:
        config: the architecture.

    Example:
        >>> pooler = AttentivePooler(PoolerConfig(32, num_queries=2, depth=1, num_heads=2, mlp_dim=64))
        >>> list(pooler(torch.zeros(4, 10, 32)).shape)
        [4, 2, 32]
    """

    def __init__(self, config: PoolerConfig) -> None:
        super().__init__()
        self.config = config
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_queries, config.embed_dim))
        self.blocks = nn.ModuleList(
            Block(config.embed_dim, config.num_heads, config.mlp_dim, config.norm_eps)
            for _ in range(config.depth - 1)
        )
        self.cross_attention_block = CrossAttentionBlock(config)
        if not self.query_tokens.is_meta:
            self.init_weights()

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialises all weights as the published poolers do; needed by hand only after building on the meta
        device.

        Args:
            generator: source of the random numbers, on the device of the weights; torch's global one by
                default.
        """
        init_block_weights(self, INIT_STD, generator)
        nn.init.trunc_normal_(self.query_tokens, std=INIT_STD, generator=generator)
        rescale_blocks(self.blocks)
        self.cross_attention_block.mlp.fc2.weight.div_(math.sqrt(2.0 * max(len(self.blocks), 1)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens [B, N, D] to one vector per query, [B, Q, D]."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.cross_attention_block(self.query_tokens.expand(len(tokens), -1, -1), tokens)


class AttentiveClassifier(nn.Module):
    """A pooler with one linear head per query.

    Args:
        pooler: the pooler's architecture; it must have one query per head.
        num_classes: classes of each head by the head's name, in the order of the queries.

    Example:
        >>> pooler = PoolerConfig(32, num_queries=2, depth=1, num_heads=2, mlp_dim=64)
        >>> logits = AttentiveClassifier(pooler, {"verb": 3, "noun": 5})(torch.zeros(4, 10, 32))
        >>> {name: list(values.shape) for name, values in logits.items()}
        {'verb': [4, 3], 'noun': [4, 5]}

    Attributes:
        labels: names of the classes of each head, where known.
    """

    def __init__(self, pooler: PoolerConfig, num_classes: dict[str, int]) -> None:
        super().__init__()
        if pooler.num_queries != len(num_classes):
            raise UserError(
                f"{len(num_classes)} heads need as many queries, but num_queries={pooler.num_queries}."
            )
        self.pooler = AttentivePooler(pooler)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(pooler.embed_dim, count) for name, count in num_classes.items()}
        )
        self.labels: dict[str, list[str]] = {}
        if not self.pooler.query_tokens.is_meta:
            init_block_weights(self.heads, INIT_STD)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Maps tokens [B, N, D] to logits [B, classes] by head."""
        vectors = self.pooler(tokens).unbind(1)
        return {name: head(vector) for (name, head), vector in zip(self.heads.items(), vectors, strict=True)}
