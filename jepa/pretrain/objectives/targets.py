"""Targets of masked prediction: layer-normed latents of one or several layers, temporally centred latents, pixels.

Shapes: video [B, C, T, H, W] normalised; tokens [B, N, D] of a grid (t, h, w); a mask's context [B, K], target [B, M].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from jepa.models import VideoEncoder
from jepa.pretrain.target_encoder import TargetEncoder

# Name -> function(prediction, target, reduction=...).
DISTANCES: dict[str, Callable[..., Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "smooth_l1": F.smooth_l1_loss,
}


class Targets:
    """What each token should be predicted as: (video) -> [B, N, E].

    Args:
        dim: channels of a target, E.
        target_encoder: gives the features; None where the context encoder does so itself, with gradient.
    """

    def __init__(self, dim: int, target_encoder: TargetEncoder | None) -> None:
        self.dim, self.target_encoder = dim, target_encoder

    def __call__(self, video: Tensor) -> Tensor:
        """Targets of every token."""
        raise NotImplementedError

    @property
    def needs_gradient(self) -> bool:
        """Whether the loss flows into the targets, so that they are made inside the forward pass."""
        return self.target_encoder is None

    @property
    def ema_encoder(self) -> VideoEncoder | None:
        """The average of the context encoder, if there is one."""
        if self.target_encoder is None or self.target_encoder.online is None:
            return None
        return self.target_encoder.encoder

    def update(self, momentum: float) -> None:
        """Ends an optimizer step."""
        if self.target_encoder is not None:
            self.target_encoder.update(momentum)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, by name. The prefixes are part of the format of checkpoints."""
        if (encoder := self.ema_encoder) is None:
            return {}
        return {f"target.{name}": value for name, value in encoder.state_dict().items()}

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Moves to a device; called by the objective."""
        if self.target_encoder is not None:
            self.target_encoder.encoder._apply(fn)


class LatentTargets(Targets):
    """Features of some layers, each layer-normed without affine (V-JEPA 2, arXiv 2506.09985; layers as in V-JEPA 2.1).

    Args:
        encoder: the context encoder; used itself where there is no target encoder.
        target_encoder: gives the features, or None.
        layers: depths, 0 the patch embedding, k the output of block k, -1 the last.
        multi_layer: take the encoder's own `output_layers` instead.
        temporally_centred: subtract each spatial position's mean over time, see `latents`.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        target_encoder: TargetEncoder | None,
        layers: Sequence[int],
        multi_layer: bool = False,
        temporally_centred: bool = False,
    ) -> None:
        self._source = encoder if target_encoder is None else target_encoder.encoder
        num_layers = len(self._source.config.output_layers) if multi_layer else len(layers)
        super().__init__(self._source.embed_dim * num_layers, target_encoder)
        self.layers, self.multi_layer, self.temporally_centred = list(layers), multi_layer, temporally_centred

    def __call__(self, video: Tensor) -> Tensor:
        """As `latents`, [B, N, D * layers]."""
        return latents(self._source, video, self.layers, self.multi_layer, self.temporally_centred)


class PixelTargets(Targets):
    """Normalised pixels: masked autoencoding, the baseline. Its target encoder is only averaged for the export.

    Args:
        encoder: the context encoder, whose tubelets count.
        target_encoder: or None.
    """

    def __init__(self, encoder: VideoEncoder, target_encoder: TargetEncoder | None) -> None:
        self._sizes = encoder.config.tubelet_frames, encoder.config.patch_px
        super().__init__(encoder.config.in_channels * self._sizes[0] * self._sizes[1] ** 2, target_encoder)

    def __call__(self, video: Tensor) -> Tensor:
        """As `pixel_targets`."""
        return pixel_targets(video, *self._sizes)


def full_precision(x: Tensor) -> Tensor:
    """Float32 for half-precision input; anything wider stays as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens [B, N, D] at index [B, M] -> [B, M, D], without materialising the index per channel."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def latents(
    encoder: VideoEncoder,
    video: Tensor,
    layers: Sequence[int],
    multi_layer: bool = False,
    temporally_centred: bool = False,
) -> Tensor:
    """Features of all tokens of the full clip, each layer layer-normed without affine.

    The normalisation on top of the encoder's own norm is what keeps the loss from shrinking the targets (V-JEPA 2,
    arXiv 2506.09985; several layers as in V-JEPA 2.1, arXiv 2603.14482).

    Args:
        encoder: whose features.
        video: [B, C, T, H, W].
        layers: depths.
        multi_layer: take the encoder's own output layers instead of `layers`.
        temporally_centred: subtract, after the norm, each spatial position's mean over the clip's time steps. Under a
            fixed camera that mean is most of a token and can be copied from any time step (slow features,
            arXiv 2211.10831); without it only what moves is left to predict. A single image keeps it.

    Returns:
        [B, N, D * layers], with gradient if the encoder has one.
    """
    features = layer_features(encoder, video, layers, multi_layer)
    normed = [F.layer_norm(full_precision(f), f.shape[-1:]) for f in features]
    time_steps = encoder.grid_of(video).t
    if temporally_centred and time_steps > 1:
        normed = [temporally_centre(f, time_steps) for f in normed]
    return torch.cat(normed, dim=-1)


def layer_features(
    encoder: VideoEncoder, video: Tensor, layers: Sequence[int], multi_layer: bool = False
) -> list[Tensor]:
    """Features of all tokens of the full clip at some depths, [B, N, D] each; arguments as in `latents`."""
    if multi_layer:
        return list(encoder(video, multi_layer=True).split(encoder.embed_dim, dim=-1))
    return encoder.features(video, layers=list(layers))


def temporally_centre(tokens: Tensor, time_steps: int) -> Tensor:
    """Tokens [B, t*h*w, D] minus their mean over the t time steps at each spatial position."""
    by_time = tokens.unflatten(1, (time_steps, -1))
    return (by_time - by_time.mean(1, keepdim=True)).flatten(1, 2)


@torch.no_grad()
def pixel_targets(video: Tensor, tubelet_frames: int, patch_px: int) -> Tensor:
    """The pixels of each token's tubelet, [B, N, tubelet_frames * patch_px**2 * C], as normalised for the encoder.

    Masked autoencoding (MAE, arXiv 2111.06377; VideoMAE, arXiv 2203.12602), without their standardisation per patch:
    on a plain wall that turns codec noise into the larger part of the target.
    """
    if video.shape[2] == 1:  # an image fills a tubelet, as in the encoder
        video = video.expand(-1, -1, tubelet_frames, -1, -1)
    return rearrange(
        full_precision(video),
        "b c (t f) (h p) (w q) -> b (t h w) (f p q c)",
        f=tubelet_frames,
        p=patch_px,
        q=patch_px,
    )


@torch.no_grad()
def distance_to_target(context: Tensor, target: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Euclidean distance of each context token to the nearest target token, in tokens, [B, K], float32, exact.

    A distance transform, one axis after the other (Felzenszwalb and Huttenlocher, "Distance Transforms of Sampled
    Functions", 2012): B * N * (t + h + w) steps, where comparing all pairs of tokens takes B * K * M.

    Args:
        context: [B, K] ids of the context tokens.
        target: [B, M] ids of the target tokens, M > 0.
        grid: tokens along time, height, width.
    """
    far = torch.full((len(target), grid[0] * grid[1] * grid[2]), float("inf"), device=target.device)
    squared = far.scatter_(1, target, 0.0).view(-1, *grid)
    for axis, length in enumerate(grid, start=1):
        at = torch.arange(length, dtype=torch.float32, device=target.device)
        apart = (at[:, None] - at[None, :]).square()  # to, from
        squared = (squared.movedim(axis, -1).unsqueeze(-2) + apart).amin(-1).movedim(-1, axis)
    return squared.flatten(1).gather(1, context).sqrt()
