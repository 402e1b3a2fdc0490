"""Targets that hold only what mostly changes: the leading principal directions of a level's changes over time.

A level's features minus their mean over the clip's moments at each place (`without_mean_over_time`) are zero where
nothing moves. Of the rest, most directions are noise of the codec, of grain, of young weights; the few that carry most
of the variance are what moving things do. Guessing those alone is a problem of few numbers, with one scale for the
whole level: a layer norm for each token, as V-JEPA takes, would blow an empty token's noise up to the size of an object
(docs/small_scale.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from jepa.pretrain.objectives.targets import full_precision, without_mean_over_time

MOMENTUM = 0.98
"""of the covariance from step to step; the first steps are averaged plainly"""


class PrincipalChanges(nn.Module):
    """Projects each level's changes on the leading principal directions seen so far, and brings them to one scale.

    The covariance is an average over past steps; the directions follow it by one orthogonal iteration per step (Golub
    and Van Loan, "Matrix Computations", 8.2.4). A step's targets depend on earlier steps only, never on its own batch,
    so they are the same however the batch is cut into passes and processes. In the first step all targets are zero.

    Args:
        levels: how many.
        dim: channels of a level, D.
        components: directions that are kept, k.

    Attributes:
        average: mean of a tensor over all processes; whoever trains with several sets it.
    """

    covariance: Tensor
    basis: Tensor
    steps: Tensor
    _sums: Tensor

    def __init__(self, levels: int, dim: int, components: int) -> None:
        super().__init__()
        start = torch.randn(levels, dim, components, generator=torch.Generator().manual_seed(0))
        self.register_buffer("covariance", torch.zeros(levels, dim, dim))
        self.register_buffer("basis", torch.linalg.qr(start).Q)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("_sums", torch.zeros(levels, dim, dim), persistent=False)
        self._passes = 0
        self.average: Callable[[Tensor], Tensor] = lambda values: values

    @torch.no_grad()
    def forward(self, features: Sequence[Tensor], moments: int) -> Tensor:
        """Targets [B, N, D * levels], of unit variance over a level's channels, and takes note of the features.

        So a loss of mean squares reads as the share of the variance that is not explained.

        Args:
            features: one tensor [B, N, D] per level, not normalised.
            moments: t of the token grid, at least two.
        """
        changes = torch.stack([without_mean_over_time(full_precision(f), moments) for f in features])
        with torch.autocast(changes.device.type, enabled=False):
            flat = changes.flatten(1, 2)
            self._sums += flat.mT @ flat / flat.shape[1]
            self._passes += 1
            kept = flat @ self.basis @ self.basis.mT
            targets = (kept * self.scale()[:, None, None]).view_as(changes)
        return torch.cat(list(targets), dim=-1)

    def scale(self) -> Tensor:
        """Factor to unit variance over the channels, for the kept changes of each level, [levels]; at first 0."""
        energy = (self.basis * (self.covariance @ self.basis)).sum((1, 2)) / self.covariance.shape[-1]
        return torch.where(energy > 0, energy.clamp_min(1e-12).rsqrt(), 0.0)

    @torch.no_grad()
    def settle(self) -> None:
        """Ends a step: the covariance takes in what its passes saw on all processes, the directions follow.

        What is not finite is left out, without waiting for a GPU to say so.
        """
        seen = self.average(self._sums / max(1, self._passes))
        finite = seen.isfinite().all()
        share = torch.clamp_min(1 / (self.steps + 1), 1 - MOMENTUM)
        self.covariance.lerp_(torch.where(finite, seen, self.covariance), share)
        self.steps += finite
        self.basis.copy_(torch.linalg.qr(self.covariance @ self.basis).Q)
        self._sums.zero_()
        self._passes = 0
