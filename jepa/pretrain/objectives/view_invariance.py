"""View invariance with SIGReg: LeJEPA on video, without predictor and target encoder.

All masked views of a clip become the same vector, and the vectors of all clips an isotropic Gaussian. A view is what
one mask leaves of the clip; with masks that drop 95 % of the tokens this is LeVJEPA's low-compute setting
(arXiv 2608.27395). Tokens are averaged, projected to z, and

L = (1 - weight) * mean over views of |z - centre|^2 / channels + weight * mean over views of SIGReg(z),

where the centre is the mean of the first `global_views` views (LeJEPA, arXiv 2511.08544, algorithm 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from jepa.errors import UserError
from jepa.masking import Mask
from jepa.models import VideoEncoder
from jepa.pretrain import diagnostics
from jepa.pretrain.distributed import mean_over_processes
from jepa.pretrain.objectives.base import MakePredictor, Objective, register_objective
from jepa.pretrain.objectives.sigreg import SIGReg
from jepa.pretrain.objectives.targets import full_precision


@dataclass
class ViewInvarianceConfig:
    """Make one vector of each masked view, alike for all views of a clip."""

    sigreg_weight: float = 0.05
    """loss = (1 - weight) * invariance + weight * SIGReg (LeJEPA 0.05, LeVJEPA 0.02); small batches need more"""
    slices: int = 1024
    """random directions of a step; each is one test for normality"""
    global_views: int = 1
    """how many masks, from the first, make up the centre that all views should meet"""
    hidden_dim: int = 2048
    """width of the projector's two hidden layers"""
    out_dim: int = 128
    """channels of the projected vector"""

    def __post_init__(self) -> None:
        if not 0 < self.sigreg_weight < 1:
            raise UserError(
                f"objective.sigreg_weight={self.sigreg_weight} must be in (0, 1): without SIGReg all vectors collapse."
            )
        for name in ("slices", "global_views", "hidden_dim", "out_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"objective.{name}={getattr(self, name)} has to be at least 1.")


@register_objective("view_invariance", ViewInvarianceConfig)
class ViewInvariance(Objective):
    """The loss at the head of this file.

    Args:
        encoder: trained.
        sigreg: the regulariser.
        weight: its fraction of the loss.
        global_views: masks that make up the centre.
        hidden_dim: width of the projector's hidden layers.
        out_dim: channels of z.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        sigreg: SIGReg,
        weight: float,
        global_views: int = 1,
        hidden_dim: int = 2048,
        out_dim: int = 128,
    ) -> None:
        super().__init__(encoder)
        self.sigreg, self.weight, self.global_views = sigreg, weight, global_views
        widths = [encoder.embed_dim, hidden_dim, hidden_dim, out_dim]
        self.projector = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(BatchNorm(hidden_dim) for _ in widths[2:])

    @classmethod
    def from_config(
        cls,
        config: ViewInvarianceConfig,
        encoder: VideoEncoder,
        make_predictor: MakePredictor,
        *,
        seed: int,
        num_masks: int,
    ) -> ViewInvariance:
        """As `Objective.from_config`.

        Raises:
            UserError: too few masks.
        """
        if num_masks < 2 or config.global_views > num_masks:
            raise UserError(
                f"objective=view_invariance compares the views that the masks leave of a clip, and there are "
                f"{num_masks}: give at least two masks, and as many as objective.global_views."
            )
        sigreg = SIGReg(config.slices, seed)
        return cls(
            encoder, sigreg, config.sigreg_weight, config.global_views, config.hidden_dim, config.out_dim
        )

    def loss(
        self, video: Tensor, targets: Tensor | None, masks: Sequence[Mask], progress: float = 0.0
    ) -> dict[str, Tensor]:
        """As `Objective.loss`; `targets` are not used."""
        pooled = torch.cat([self.encoder(video, keep=mask.context).mean(1) for mask in masks])
        views = full_precision(self.project(pooled)).unflatten(0, (len(masks), -1))
        centre = views[: self.global_views].mean(0)
        invariance = (views - centre).square().mean()
        statistic = torch.stack([self.sigreg(z, progress) for z in views]).mean()
        return {
            "loss": (1 - self.weight) * invariance + self.weight * statistic,
            "invariance": invariance.detach(),
            "sigreg": statistic.detach(),
        }

    def diagnose(
        self, video: Tensor, targets: Tensor | None, masks: Sequence[Mask], max_rows: int
    ) -> dict[str, float]:
        """LiDAR over the masked views of each clip."""
        pooled = torch.stack([self.encoder(video, keep=mask.context).mean(1) for mask in masks], 1)
        return {"lidar": diagnostics.lidar(pooled)}

    def project(self, pooled: Tensor) -> Tensor:
        """Pooled tokens [V * B, D] -> z [V * B, out_dim]."""
        for linear, norm in zip(self.projector[:-1], self.norms, strict=True):
            pooled = nn.functional.gelu(norm(linear(pooled)))
        return self.projector[-1](pooled)


class BatchNorm(nn.Module):
    """Batch normalisation over the samples of all processes, in training only: a projector is never used otherwise.

    Args:
        dim: channels.
        eps: added to the variance.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalises x [N, dim] per channel with the biased variance (Ioffe and Szegedy, arXiv 1502.03167)."""
        x = full_precision(x)
        centred = x - mean_over_processes(x.mean(0))
        variance = mean_over_processes(centred.square().mean(0))
        return centred * (variance + self.eps).rsqrt() * self.weight + self.bias
