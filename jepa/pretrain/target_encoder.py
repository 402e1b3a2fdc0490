"""The target encoder: an exponential moving average (EMA) of the context encoder, or a frozen encoder."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.models import VideoEncoder


class TargetEncoder:
    """An encoder without gradient that gives the targets.

    Args:
        encoder: put into eval mode and frozen.
        online: the context encoder whose weights it averages; None for a frozen target encoder.

    Example:
        >>> from jepa.models import create_model
        >>> online = create_model("vit_nano")
        >>> target = TargetEncoder.ema(online)
        >>> target.update(momentum=0.99)
    """

    def __init__(self, encoder: VideoEncoder, online: VideoEncoder | None = None) -> None:
        self.encoder = encoder.requires_grad_(False).eval()
        self.online = online
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None

    @classmethod
    def ema(cls, online: VideoEncoder) -> TargetEncoder:
        """Starts as a copy of the context encoder and follows it (BYOL, arXiv 2006.07733)."""
        return cls(copy.deepcopy(online), online)

    @classmethod
    def frozen(cls, encoder: VideoEncoder, online: VideoEncoder, source: str) -> TargetEncoder:
        """Another encoder, which stays as it is (SALT, distillation).

        Raises:
            UserError: patch or tubelet differ from those of the context encoder.
        """
        for name in ("patch_px", "tubelet_frames"):
            theirs, ours = getattr(encoder.config, name), getattr(online.config, name)
            if theirs != ours:
                raise UserError(
                    f"The target encoder in {source} has {name}={theirs}, the context encoder {ours}: they would cut "
                    f"a clip into different tokens. Set model.{name}={theirs}, or take another target encoder."
                )
        return cls(encoder)

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """EMA: p = momentum * p + (1 - momentum) * q, in one fused pass; a frozen target encoder stays.

        Momentum 1 stays, 0 copies (V-JEPA 2, arXiv 2506.09985).
        """
        if self.online is None:
            return
        if self._pairs is None:  # at the first update, since FSDP2 replaces parameters after construction
            self._pairs = list(self.encoder.parameters()), list(self.online.parameters())
        torch._foreach_lerp_(*self._pairs, 1.0 - momentum)
