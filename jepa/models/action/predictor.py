"""Action-conditioned predictor of V-JEPA 2-AC: the next frame's tokens from frames, actions and states so far.

The sequence of a frame is [action, state, (extrinsics), H * W tokens]; attention is causal by frame, so a token sees
all of its own frame and of earlier ones. Frame tokens have rotary positions along time, rows and columns, conditions
along time only. What comes out at frame t is the prediction of frame t + 1.

No mask is ever made for a length that is not used: short sequences take one of their own length, long ones attend
frame by frame without any. With a `Cache`, a rollout computes each frame once.

Source: V-JEPA 2, arXiv 2506.09985, section 3; parameter names and shapes are those of its files (see `files.py`).

Shapes: B batch, T frames, N = H * W tokens of a frame, C conditions of a frame, D encoder channels, d channels inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa.errors import UserError
from jepa.models.layers import Block, check_heads, init_block_weights, init_std, rescale_blocks
from jepa.models.rope import RopeTable, Rotation, apply_rope, axis_channels

_MASKED_TOKENS = 2048
"""Sequences up to this length take one attention call with a mask (4 MiB at most); longer ones one call per frame."""


@dataclass(frozen=True)
class ActionPredictorConfig:
    """Everything that decides the shape and the meaning of the weights; defaults are those of V-JEPA 2-AC.

    Raises:
        UserError: the fields do not fit together.

    Example:
        >>> ActionPredictorConfig().depth
        24
    """

    encoder_dim: int = 1408
    """Channels of the tokens that are read and predicted."""
    grid: tuple[int, int] = (16, 16)
    """Rows and columns of a frame's tokens; (1, 1) for one vector per frame."""
    dim: int = 1024
    """Channels inside the predictor."""
    depth: int = 24
    """Transformer blocks."""
    num_heads: int = 16
    """Attention heads of a block."""
    mlp_dim: int = 4096
    """Hidden channels of a block's MLP."""
    action_dim: int = 7
    """Numbers in an action."""
    state_dim: int = 7
    """Numbers in a state; 0 leaves the state token out."""
    extrinsics_dim: int = 0
    """Numbers of the camera's pose; 0 leaves the extrinsics token out, as the published model does."""
    position: Rotation = "tiled"
    """Flavour of the rotary positions; published weights need tiled."""
    norm_eps: float = 1e-6
    """Epsilon of every layer norm."""

    def __post_init__(self) -> None:
        check_heads("action predictor", self.dim, self.num_heads)
        if self.position not in ("interleaved", "tiled"):
            raise UserError(f"position={self.position!r} is unknown; use interleaved or tiled.")
        if self.action_dim < 1 or self.state_dim < 0 or self.extrinsics_dim < 0 or min(self.grid) < 1:
            raise UserError(
                f"An action predictor needs action_dim >= 1, state_dim and extrinsics_dim >= 0 and a grid of at least "
                f"1 x 1, not {self.action_dim}, {self.state_dim}, {self.extrinsics_dim} and {self.grid}."
            )

    @property
    def conditions(self) -> int:
        """Condition tokens of a frame, C."""
        return 1 + (self.state_dim > 0) + (self.extrinsics_dim > 0)

    @property
    def frame_tokens(self) -> int:
        """Encoder tokens of a frame, N."""
        return self.grid[0] * self.grid[1]


@dataclass
class Cache:
    """Keys and values of the frames so far, per block; `frames` counts them. Start a rollout with an empty one."""

    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    frames: int = 0

    def select(self, rows: Tensor) -> Cache:
        """The cache of some rows [b] of the batch, in a new order."""
        return Cache([(key[rows], value[rows]) for key, value in self.layers], self.frames)


class ActionPredictor(nn.Module):
    """Predicts each next frame's tokens from the frames, actions and states up to it.

    Args:
        config: the architecture.

    Example:
        >>> config = ActionPredictorConfig(48, (2, 2), dim=32, depth=1, num_heads=2, mlp_dim=64)
        >>> predictor = ActionPredictor(config)
        >>> tokens, actions, states = torch.zeros(1, 3 * 4, 48), torch.zeros(1, 3, 7), torch.zeros(1, 3, 7)
        >>> list(predictor(tokens, actions, states).shape)
        [1, 12, 48]
    """

    def __init__(self, config: ActionPredictorConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.embed = nn.Linear(config.encoder_dim, dim)
        self.action_encoder = nn.Linear(config.action_dim, dim)
        if config.state_dim:
            self.state_encoder = nn.Linear(config.state_dim, dim)
        if config.extrinsics_dim:
            self.extrinsics_encoder = nn.Linear(config.extrinsics_dim, dim)
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, config.mlp_dim, config.norm_eps) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.proj = nn.Linear(dim, config.encoder_dim)
        if not self.proj.weight.is_meta:
            self.init_weights()

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialises all weights as the published predictor does.

        Args:
            generator: source of the random numbers; torch's global one by default.
        """
        init_block_weights(self, init_std(self.config.dim), generator)
        rescale_blocks(self.blocks)

    def forward(
        self,
        tokens: Tensor,
        actions: Tensor,
        states: Tensor | None = None,
        extrinsics: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Predicts the frame after each given one.

        Args:
            tokens: [B, T * N, D], frames in order.
            actions: [B, T, action_dim]; the action taken at each frame.
            states: [B, T, state_dim], where the config has states.
            extrinsics: [B, T, extrinsics_dim], where the config has them.
            cache: earlier frames of the same sequences; it is extended by these.

        Returns:
            [B, T * N, D]; entry t is the prediction of frame t + 1.

        Raises:
            UserError: a tensor is missing or has another shape.
        """
        x = self._sequence(tokens, actions, states, extrinsics)
        _, frames, per_frame, _ = x.shape
        start = cache.frames if cache is not None else 0
        rope = self.rope(start, frames, x.device)
        x = x.flatten(1, 2)
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            x = x + self._attend(block, block.norm1(x), rope, per_frame, number, cache)
            x = x + block.mlp(block.norm2(x))
        if cache is not None:
            cache.frames += frames
        x = x.unflatten(1, (frames, per_frame))[:, :, self.config.conditions :].flatten(1, 2)
        return self.proj(self.norm(x))

    def _sequence(
        self, tokens: Tensor, actions: Tensor, states: Tensor | None, extrinsics: Tensor | None
    ) -> Tensor:
        """[B, T, C + N, d], conditions first."""
        config = self.config
        batch, frames = actions.shape[:2]
        if actions.ndim != 3 or actions.shape[2] != config.action_dim:
            raise UserError(f"actions must be [B, T, {config.action_dim}], not {list(actions.shape)}.")
        if tokens.shape != (batch, frames * config.frame_tokens, config.encoder_dim):
            raise UserError(
                f"tokens must be [{batch}, {frames} * {config.frame_tokens}, {config.encoder_dim}] for {frames} "
                f"actions on a grid of {config.grid[0]} x {config.grid[1]}, not {list(tokens.shape)}."
            )
        conditions = [self.action_encoder(actions)]
        for name, size, given in (
            ("states", config.state_dim, states),
            ("extrinsics", config.extrinsics_dim, extrinsics),
        ):
            if size and (given is None or given.shape != (batch, frames, size)):
                shape = None if given is None else list(given.shape)
                raise UserError(f"{name} must be [{batch}, {frames}, {size}], not {shape}.")
            if size:
                conditions.append(
                    (self.state_encoder if name == "states" else self.extrinsics_encoder)(given)
                )
        frame = self.embed(tokens).unflatten(1, (frames, config.frame_tokens))
        return torch.cat([torch.stack(conditions, dim=2), frame], dim=2)

    def rope(self, start: int, frames: int, device: torch.device) -> RopeTable:
        """Cosines and sines [frames * (C + N), d / heads] of frames from number `start` on.

        Columns are scaled to the number of rows where the grid is not square, as published; conditions turn with time
        only.
        """
        config = self.config
        rows, columns = config.grid
        head_dim = config.dim // config.num_heads
        pairs = axis_channels(head_dim) // 2
        exponent = torch.arange(pairs, dtype=torch.float32, device=device) / max(pairs, 1)
        frequency = 1.0 / 10000.0**exponent
        place = torch.arange(rows * columns, dtype=torch.float32, device=device)
        row = (place / columns).floor()
        spatial = torch.stack([row, (place - row * columns) * (rows / columns)], dim=1)
        spatial = torch.cat([spatial.new_zeros(config.conditions, 2), spatial])
        time = torch.arange(start, start + frames, dtype=torch.float32, device=device)
        position = torch.cat(
            [time[:, None, None].expand(-1, len(spatial), 1), spatial.expand(frames, -1, 2)], dim=2
        ).flatten(0, 1)
        angles = position[:, :, None] * frequency
        if config.position == "interleaved":
            angles = angles.repeat_interleave(2, dim=-1)
        else:
            angles = torch.cat([angles, angles], dim=-1)
        angle = functional.pad(angles.flatten(1), (0, head_dim - 6 * pairs))
        return angle.cos(), angle.sin()

    def _attend(
        self, block: Block, x: Tensor, rope: RopeTable, per_frame: int, number: int, cache: Cache | None
    ) -> Tensor:
        """Attention of normed tokens x [B, T * (C + N), d], causal by frame."""
        attention = block.attn
        packed = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = packed.unbind(0)
        query, key = apply_rope(query, rope), apply_rope(key, rope)
        if cache is not None:
            if number < len(cache.layers):
                before = cache.layers[number]
                key, value = torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2)
                cache.layers[number] = key, value
            else:
                cache.layers.append((key, value))
        mixed = frame_causal_attention(query, key, value, per_frame)
        return attention.proj(mixed.transpose(1, 2).flatten(-2))


def frame_causal_attention(query: Tensor, key: Tensor, value: Tensor, per_frame: int) -> Tensor:
    """Attention in which a token sees its own frame and earlier ones.

    Args:
        query: [B, heads, q, c], whole frames, the last ones of the sequence.
        key: [B, heads, k, c] with k >= q.
        value: [B, heads, k, c].
        per_frame: tokens of a frame.

    Returns:
        [B, heads, q, c].

    Example:
        >>> x = torch.randn(1, 1, 6, 4)
        >>> last = frame_causal_attention(x[:, :, 4:], x, x, per_frame=2)
        >>> torch.allclose(frame_causal_attention(x, x, x, per_frame=2)[:, :, 4:], last, atol=1e-6)
        True
    """
    frames, earlier = query.shape[2] // per_frame, key.shape[2] - query.shape[2]
    if frames == 1:
        return functional.scaled_dot_product_attention(query, key, value)
    if key.shape[2] <= _MASKED_TOKENS:
        frame = torch.arange(key.shape[2], device=query.device) // per_frame
        allowed = frame[earlier:, None] >= frame[None, :]
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
    parts = []
    for number in range(frames):
        seen = earlier + (number + 1) * per_frame
        part = query[:, :, number * per_frame : (number + 1) * per_frame]
        parts.append(functional.scaled_dot_product_attention(part, key[:, :, :seen], value[:, :, :seen]))
    return torch.cat(parts, dim=2)
