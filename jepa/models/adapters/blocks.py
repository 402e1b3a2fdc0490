"""Activation checkpointing of an encoder's blocks, for frameworks that switch it on a live model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from jepa.models.encoder import VideoEncoder


def checkpoint_blocks(
    encoder: VideoEncoder,
    enable: bool = True,
    function: Callable[..., Any] | None = None,
    every: int = 1,
) -> None:
    """Whether blocks are computed again in the backward pass; the names of the weights stay as they are.

    Args:
        encoder: the encoder.
        enable: False gives every block its own forward back.
        function: what runs a block so, by default `torch.utils.checkpoint.checkpoint`.
        every: 1 for every block, 2 for every second one.
    """
    wrap = partial(checkpoint, use_reentrant=False) if function is None else function
    for number, block in enumerate(encoder.blocks):
        block.__dict__.pop("forward", None)
        if enable and number % every == 0:
            block.forward = partial(wrap, block.forward)
