"""The losses. Each says what is predicted at the hidden tokens; all share the encoder, the predictor and the masks.

Shapes: video [B, C, T, H, W] normalised; tokens [B, N, D]; a mask's context [B, K] and target [B, M].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from jepa.errors import UserError
from jepa.masking import Mask
from jepa.models import Predictor, VideoEncoder


@dataclass
class ObjectiveConfig:
    """What is predicted at the hidden tokens, and how a miss is measured."""

    predict: str = "latents"
    """latents: features of the target encoder (V-JEPA 2); pixels: the patches themselves (masked autoencoding)"""
    levels: list[int] = field(default_factory=lambda: [-1])
    """latents only: predicted depths, rising; 0 the patch embedding, k the output of block k, -1 the last (V-JEPA 2)"""
    distance: str = "l1"
    """l1, l2 (mean squared) or smooth_l1, averaged over tokens and channels"""

    def __post_init__(self) -> None:
        if self.predict not in ("latents", "pixels"):
            raise UserError(f"objective.predict={self.predict!r} is unknown; choose latents or pixels.")
        if self.distance not in _DISTANCES:
            raise UserError(
                f"objective.distance={self.distance!r} is unknown; choose one of {', '.join(_DISTANCES)}."
            )
        if not self.levels:
            raise UserError(
                "objective.levels is empty; name at least one block, for example [-1] for the last."
            )


_DISTANCES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "smooth_l1": F.smooth_l1_loss,
}


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
        self.distance = _DISTANCES[distance]

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


def gather_tokens(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Tokens [B, N, D] at index [B, M] -> [B, M, D], without materialising the index per channel."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


@torch.no_grad()
def latent_targets(target_encoder: VideoEncoder, video: torch.Tensor, levels: Sequence[int]) -> torch.Tensor:
    """Features of all tokens of the full clip, [B, N, D * levels], each level layer-normed without affine.

    Level 0 is the patch embedding, level k the output of block k, -1 the last. The normalisation on top of the
    encoder's own norm is what keeps the loss from shrinking the targets
    (V-JEPA 2, arXiv 2506.09985; several levels as in V-JEPA 2.1, arXiv 2603.14482).
    """
    depth = target_encoder.config.depth
    numbers = [level + depth + 1 if level < 0 else level for level in levels]
    features = [target_encoder.patch_embed(video)] if 0 in numbers else []
    if blocks := [number - 1 for number in numbers if number > 0]:
        features += target_encoder.features(video, layers=blocks)
    return torch.cat([F.layer_norm(f.float(), f.shape[-1:]) for f in features], dim=-1)


@torch.no_grad()
def pixel_targets(video: torch.Tensor, tubelet_frames: int, patch_px: int) -> torch.Tensor:
    """The pixels of each token's tubelet, [B, N, tubelet_frames * patch_px**2 * C], as normalised for the encoder.

    Masked autoencoding (MAE, arXiv 2111.06377; VideoMAE, arXiv 2203.12602), without their standardisation per patch:
    on a plain wall that turns codec noise into the larger part of the target.
    """
    return rearrange(
        video.float(),
        "b c (t f) (h p) (w q) -> b (t h w) (f p q c)",
        f=tubelet_frames,
        p=patch_px,
        q=patch_px,
    )
