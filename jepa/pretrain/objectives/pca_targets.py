"""PCA of temporally centred targets: the leading principal components of what changes over time.

A layer's features minus their mean over the clip's time steps at each spatial position (`temporally_centre`) are zero
where nothing moves. Of the rest, most directions are noise of the codec, of grain, of young weights; the few that carry
most of the variance are what moving things do. Predicting those alone is a problem of few numbers, with one scale for
the entire layer. A layer norm for each token, as V-JEPA takes, would scale an empty token's noise up to the size of an
object (docs/small_scale.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from jepa.errors import UserError
from jepa.models import VideoEncoder
from jepa.pretrain.distributed import all_reduce_mean
from jepa.pretrain.objectives.targets import Targets, full_precision, layer_features, temporally_centre
from jepa.pretrain.target_encoder import TargetEncoder

MOMENTUM = 0.98
"""of the covariance from step to step; the first steps are averaged with equal weights"""


class PCATargets(Targets):
    """Temporally centred features of some layers, projected on their leading principal components.

    Args:
        target_encoder: gives the features.
        layers: depths, see `LatentTargets`.
        components: directions that are kept.
        multi_layer: take the encoder's own `output_layers` instead of `layers`.

    Raises:
        UserError: more components than channels.
    """

    def __init__(
        self, target_encoder: TargetEncoder, layers: Sequence[int], components: int, multi_layer: bool = False
    ) -> None:
        encoder = target_encoder.encoder
        if components > encoder.embed_dim:
            raise UserError(
                f"objective.pca_components={components} asks for more directions than the target encoder's "
                f"{encoder.embed_dim} channels have. Use fewer, or 0 for all of them."
            )
        num_layers = len(encoder.config.output_layers) if multi_layer else len(layers)
        super().__init__(encoder.embed_dim * num_layers, target_encoder)
        self._source: VideoEncoder = encoder
        self.layers, self.multi_layer = list(layers), multi_layer
        self.projection = PCAProjection(num_layers, encoder.embed_dim, components)

    def __call__(self, video: Tensor) -> Tensor:
        """Targets [B, N, D * layers]; the features are taken into the covariance at the next `update`."""
        features = layer_features(self._source, video, self.layers, self.multi_layer)
        return self.projection(features, self._source.grid_of(video).t)

    def update(self, momentum: float) -> None:
        """Ends an optimizer step: the principal directions, then the EMA."""
        self.projection.update()
        super().update(momentum)

    def tensors(self) -> dict[str, Tensor]:
        """The EMA and the covariance with its directions."""
        kept = {f"principal.{name}": value for name, value in self.projection.state_dict().items()}
        return super().tensors() | kept

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Moves to a device."""
        super().apply(fn)
        self.projection._apply(fn)


class PCAProjection(nn.Module):
    """Projects each layer's centred features on the leading principal directions of past steps, and scales them.

    The covariance is an average over past steps; the directions follow it by one orthogonal iteration per step (Golub
    and Van Loan, "Matrix Computations", 8.2.4). A step's targets depend on earlier steps only, never on its own batch,
    so they are the same however the batch is cut into micro-batches and processes. In the first step all targets are
    zero.

    Args:
        layers: how many.
        dim: channels of a layer, D.
        components: directions that are kept, k.
    """

    covariance: Tensor
    basis: Tensor
    steps: Tensor
    _sums: Tensor

    def __init__(self, layers: int, dim: int, components: int) -> None:
        super().__init__()
        start = torch.randn(layers, dim, components, generator=torch.Generator().manual_seed(0))
        self.register_buffer("covariance", torch.zeros(layers, dim, dim))
        self.register_buffer("basis", torch.linalg.qr(start).Q)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("_sums", torch.zeros(layers, dim, dim), persistent=False)
        self._micro_steps = 0

    @torch.no_grad()
    def forward(self, features: Sequence[Tensor], time_steps: int) -> Tensor:
        """Targets [B, N, D * layers], of unit variance over a layer's channels; adds the features to the covariance.

        So a mean squared error reads as the fraction of variance unexplained.

        Args:
            features: one tensor [B, N, D] per layer, not normalised.
            time_steps: t of the token grid, at least two.
        """
        centred = torch.stack([temporally_centre(full_precision(f), time_steps) for f in features])
        with torch.autocast(centred.device.type, enabled=False):
            flat = centred.flatten(1, 2)
            self._sums += flat.mT @ flat / flat.shape[1]
            self._micro_steps += 1
            kept = flat @ self.basis @ self.basis.mT
            targets = (kept * self.scale()[:, None, None]).view_as(centred)
        return torch.cat(list(targets), dim=-1)

    def scale(self) -> Tensor:
        """Factor to unit variance over the channels, for the kept components of each layer, [layers]; at first 0."""
        energy = (self.basis * (self.covariance @ self.basis)).sum((1, 2)) / self.covariance.shape[-1]
        return torch.where(energy > 0, energy.clamp_min(1e-12).rsqrt(), 0.0)

    @torch.no_grad()
    def update(self) -> None:
        """Ends a step: the covariance takes in the features of all micro-batches and processes, the directions follow.

        What is not finite is left out, without a host sync.
        """
        measured = all_reduce_mean(self._sums / max(1, self._micro_steps))
        finite = measured.isfinite().all()
        weight = torch.clamp_min(1 / (self.steps + 1), 1 - MOMENTUM)
        self.covariance.lerp_(torch.where(finite, measured, self.covariance), weight)
        self.steps += finite
        self.basis.copy_(torch.linalg.qr(self.covariance @ self.basis).Q)
        self._sums.zero_()
        self._micro_steps = 0
