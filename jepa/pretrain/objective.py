"""The loss as the step loop calls it today; `jepa.pretrain.objectives` has all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from jepa.masking import Mask
from jepa.models import Predictor, VideoEncoder
from jepa.pretrain.objectives.config import ObjectiveConfig
from jepa.pretrain.objectives.parts import DISTANCES, gather_tokens, latent_targets, pixel_targets

__all__ = ["MaskedPrediction", "ObjectiveConfig", "gather_tokens", "latent_targets", "pixel_targets"]


class MaskedPrediction(nn.Module):
    """Encode what is seen, guess what is hidden, compare: the heart of every recipe here.

    Args:
        encoder: the context encoder, trained.
        predictor: context tokens and positions -> guesses, trained.
        distance: one of l1, l2, smooth_l1.
    """

    def __init__(self, encoder: VideoEncoder, predictor: Predictor, distance: str = "l1") -> None:
        super().__init__()
        self.encoder, self.predictor = encoder, predictor
        self.distance = DISTANCES[distance]

    def forward(self, video: torch.Tensor, targets: torch.Tensor, masks: Sequence[Mask]) -> torch.Tensor:
        """Mean loss over the masks.

        Args:
            video: [B, C, T, H, W].
            targets: what each token should be predicted as, [B, N, E], detached.
            masks: index pairs into the N tokens.

        Returns:
            A scalar, float32.
        """
        grid = self.encoder.grid_of(video)
        losses = []
        for context, target in masks:
            guess = self.predictor(self.encoder(video, keep=context), context, target, grid)
            losses.append(self.distance(guess.float(), gather_tokens(targets, target)))
        return torch.stack(losses).mean()
