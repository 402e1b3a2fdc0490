"""The target encoder: an average of the context encoder over its recent past."""

from __future__ import annotations

import copy

import torch

from jepa.models import VideoEncoder


class TargetEncoder:
    """A frozen copy of an encoder whose weights follow it: p = momentum * p + (1 - momentum) * q.

    The copy is in eval mode and takes no gradient. Its parameter lists are built once; an update is one fused pass.

    Source: BYOL (arXiv 2006.07733), V-JEPA 2 (arXiv 2506.09985).
    """

    def __init__(self, online: VideoEncoder) -> None:
        self.encoder = copy.deepcopy(online).requires_grad_(False).eval()
        self._followers: list[torch.Tensor] = list(self.encoder.parameters())
        self._leaders: list[torch.Tensor] = list(online.parameters())

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """Moves the target towards the online weights; momentum 1 freezes it, 0 copies."""
        torch._foreach_lerp_(self._followers, self._leaders, 1.0 - momentum)
