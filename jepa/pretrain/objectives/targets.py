"""What the objectives are made of: targets, distances, weights by distance.

Shapes: video [B, C, T, H, W] normalised; tokens [B, N, D] of a grid (t, h, w); a mask's context [B, K], target [B, M].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from jepa.models import VideoEncoder

# Name -> function(guess, target, reduction=...).
DISTANCES: dict[str, Callable[..., Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "smooth_l1": F.smooth_l1_loss,
}


def full_precision(x: Tensor) -> Tensor:
    """Float32 for half-precision input; anything wider stays as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens [B, N, D] at index [B, M] -> [B, M, D], without materialising the index per channel."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def latents(
    encoder: VideoEncoder, video: Tensor, levels: Sequence[int], deep: bool = False, changes: bool = False
) -> Tensor:
    """Features of all tokens of the full clip, each level layer-normed without affine.

    Level 0 is the patch embedding, level k the output of block k, -1 the last. The normalisation on top of the
    encoder's own norm is what keeps the loss from shrinking the targets (V-JEPA 2, arXiv 2506.09985; several levels
    as in V-JEPA 2.1, arXiv 2603.14482).

    Args:
        encoder: whose features.
        video: [B, C, T, H, W].
        levels: depths, rising.
        deep: take the encoder's own level layers instead of `levels`.
        changes: take from each level, after its norm, its mean over the clip's moments at each place. Where a camera
            stands still that mean is most of a token and can be copied from any moment (slow features,
            arXiv 2211.10831); without it only what moves is left to guess. A single image keeps it.

    Returns:
        [B, N, D * levels], with gradient if the encoder has one.
    """
    features = features_of(encoder, video, levels, deep)
    normed = [F.layer_norm(full_precision(f), f.shape[-1:]) for f in features]
    moments = encoder.grid_of(video).t
    if changes and moments > 1:
        normed = [without_mean_over_time(f, moments) for f in normed]
    return torch.cat(normed, dim=-1)


def features_of(
    encoder: VideoEncoder, video: Tensor, levels: Sequence[int], deep: bool = False
) -> list[Tensor]:
    """Features of all tokens of the full clip at some depths, [B, N, D] each; arguments as in `latents`."""
    if deep:
        return list(encoder(video, multi_layer=True).split(encoder.embed_dim, dim=-1))
    return encoder.features(video, layers=levels)


def without_mean_over_time(tokens: Tensor, moments: int) -> Tensor:
    """Tokens [B, t*h*w, D] minus their mean over the t moments at each place."""
    by_moment = tokens.unflatten(1, (moments, -1))
    return (by_moment - by_moment.mean(1, keepdim=True)).flatten(1, 2)


def _at_least(video: Tensor, frames: int) -> Tensor:
    """A single frame repeated to fill a tubelet, as the encoder does; anything else as it is."""
    return video.expand(-1, -1, frames, -1, -1) if video.shape[2] == 1 else video


@torch.no_grad()
def latent_targets(
    encoder: VideoEncoder, video: Tensor, levels: Sequence[int], deep: bool = False, changes: bool = False
) -> Tensor:
    """`latents` of a teacher, without gradient."""
    return latents(encoder, video, levels, deep, changes)


@torch.no_grad()
def pixel_targets(video: Tensor, tubelet_frames: int, patch_px: int) -> Tensor:
    """The pixels of each token's tubelet, [B, N, tubelet_frames * patch_px**2 * C], as normalised for the encoder.

    Masked autoencoding (MAE, arXiv 2111.06377; VideoMAE, arXiv 2203.12602), without their standardisation per patch:
    on a plain wall that turns codec noise into the larger part of the target.
    """
    return rearrange(
        full_precision(_at_least(video, tubelet_frames)),
        "b c (t f) (h p) (w q) -> b (t h w) (f p q c)",
        f=tubelet_frames,
        p=patch_px,
        q=patch_px,
    )


def own_pixels(encoder: VideoEncoder, video: Tensor) -> Tensor:
    """`pixel_targets` with the tubelets of this encoder."""
    return pixel_targets(video, encoder.config.tubelet_frames, encoder.config.patch_px)


@torch.no_grad()
def distance_to_hidden(context: Tensor, target: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Euclidean distance of each seen token to the nearest hidden one, in tokens, [B, K], float32, exact.

    A distance transform, one axis after the other (Felzenszwalb and Huttenlocher, "Distance Transforms of Sampled
    Functions", 2012): B * N * (t + h + w) steps, where comparing all pairs of tokens takes B * K * M.

    Args:
        context: [B, K] ids of the seen tokens.
        target: [B, M] ids of the hidden tokens, M > 0.
        grid: tokens along time, height, width.
    """
    far = torch.full((len(target), grid[0] * grid[1] * grid[2]), float("inf"), device=target.device)
    squared = far.scatter_(1, target, 0.0).view(-1, *grid)
    for axis, length in enumerate(grid, start=1):
        place = torch.arange(length, dtype=torch.float32, device=target.device)
        apart = (place[:, None] - place[None, :]).square()  # to, from
        squared = (squared.movedim(axis, -1).unsqueeze(-2) + apart).amin(-1).movedim(-1, axis)
    return squared.flatten(1).gather(1, context).sqrt()
