"""The objectives, as modules: what goes in, what is compared, which scalars come out.

Every learner holds the encoder that is trained and maps (video, targets, masks, progress) to {"loss": ..., more
scalars for the journal}. Shapes as in `parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from jepa.masking import Mask
from jepa.models import Predictor, TokenGrid, VideoEncoder
from jepa.pretrain.objectives.base import ContextLossConfig
from jepa.pretrain.objectives.sigreg import SIGReg, alone
from jepa.pretrain.objectives.targets import DISTANCES, distance_to_hidden, full_precision, gather_tokens

OwnTargets = Callable[[VideoEncoder, Tensor], Tensor]


class Learner(nn.Module):
    """What all objectives share.

    Attributes:
        encoder: the context encoder.
        predictor: context tokens and positions -> guesses, or None.
        average: mean of a tensor over all processes, with gradient; statistics of the whole batch go through it.
        ranks: how many processes that are. Whoever trains with several sets both.
    """

    predictor: Predictor | None

    def __init__(self, encoder: VideoEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.average: Callable[[Tensor], Tensor] = alone
        self.ranks = 1

    def forward(
        self, video: Tensor, targets: Tensor | None, masks: Sequence[Mask], progress: float = 0.0
    ) -> dict[str, Tensor]:
        """One step's loss.

        Args:
            video: [B, C, T, H, W], or [B, C, 1, H, W] for images.
            targets: what each token should be predicted as, [B, N, E], from the teacher; None without one.
            masks: index pairs into the N tokens.
            progress: finished steps / all steps, in [0, 1).

        Returns:
            "loss", a float32 scalar with gradient, and detached scalars for the journal.
        """
        raise NotImplementedError


class MaskedPrediction(Learner):
    """Encode what is seen, guess what is hidden, compare: V-JEPA 2, 2.1, SALT and the pixel baseline.

    L = mean over masks of distance(guess, target) at the hidden tokens
        + context weight * mean over masks of w_i distance(guess, target) at the seen tokens i  (V-JEPA 2.1)
        + SIGReg weight * SIGReg(targets)                                                        (no teacher)

    Args:
        encoder: the context encoder, trained.
        predictor: context tokens and positions -> guesses, trained.
        distance: one of l1, l2, smooth_l1.
        deep: the predictor reads the encoder's joined levels.
        context: the loss at the seen tokens.
        own_targets: (encoder, video) -> targets [B, N, E] where no teacher gives them; None if one does.
        sigreg: regulariser of the own targets, or None.
        sigreg_weight: its weight.
        sigreg_tokens: tokens of each clip that it tests.
    """

    predictor: Predictor

    def __init__(
        self,
        encoder: VideoEncoder,
        predictor: Predictor,
        distance: str = "l1",
        deep: bool = False,
        context: ContextLossConfig | None = None,
        own_targets: OwnTargets | None = None,
        sigreg: SIGReg | None = None,
        sigreg_weight: float = 0.0,
        sigreg_tokens: int = 64,
    ) -> None:
        super().__init__(encoder)
        self.predictor = predictor
        self.distance = DISTANCES[distance]
        self.deep = deep
        self.context = context or ContextLossConfig()
        self.own_targets = own_targets
        self.sigreg, self.sigreg_weight, self.sigreg_tokens = sigreg, sigreg_weight, sigreg_tokens

    def forward(
        self, video: Tensor, targets: Tensor | None, masks: Sequence[Mask], progress: float = 0.0
    ) -> dict[str, Tensor]:
        """As `Learner.forward`."""
        grid = self.encoder.grid_of(video)
        if targets is None:
            if self.own_targets is None:
                raise TypeError("this learner has no targets of its own; pass those of its teacher.")
            targets = self.own_targets(self.encoder, video)
        weight = self.context_weight(progress, image=self.encoder.is_image(video))
        hidden, seen = [], []
        for mask in masks:
            guess, again = self._guesses(video, mask, grid)
            hidden.append(self.distance(full_precision(guess), gather_tokens(targets, mask.target)))
            if again is not None:
                seen.append(self._context_loss(again, gather_tokens(targets, mask.context), mask, grid))
        loss = torch.stack(hidden).mean()
        row = {f"loss_mask{number}": value.detach() for number, value in enumerate(hidden)}
        if seen:
            context_loss = torch.stack(seen).mean()
            row |= {"loss_hidden": loss.detach(), "loss_context": context_loss.detach()}
            loss = loss + weight * context_loss
        if self.sigreg is not None:
            statistic = self.sigreg(self._tested(targets, progress), progress, self.average, self.ranks)
            row["sigreg"] = statistic.detach()
            loss = loss + self.sigreg_weight * statistic
        return {"loss": loss, **row}

    def guess(self, video: Tensor, mask: Mask) -> Tensor:
        """What the predictor says at the hidden tokens, [B, M, E], to be compared with the targets there."""
        return self._guesses(video, mask, self.encoder.grid_of(video))[0]

    def context_weight(self, progress: float, image: bool = False) -> float:
        """Weight of the loss at the seen tokens, after `progress` of the run."""
        context = self.context
        full = context.weight if context.image_weight is None or not image else context.image_weight
        start, end = context.warmup
        if progress >= end:
            return full
        return full * max(0.0, progress - start) / (end - start)

    def _guesses(self, video: Tensor, mask: Mask, grid: TokenGrid) -> tuple[Tensor, Tensor | None]:
        tokens = self.encoder(video, keep=mask.context, multi_layer=self.deep)
        both = self.context.weight > 0
        guesses = self.predictor(tokens, *mask, grid, image=self.encoder.is_image(video), with_context=both)
        return guesses if both else (guesses, None)

    def _context_loss(self, guess: Tensor, wanted: Tensor, mask: Mask, grid: TokenGrid) -> Tensor:
        guess = full_precision(guess)
        if not self.context.by_distance:
            return self.distance(guess, wanted)
        weights = distance_to_hidden(mask.context, mask.target, grid).rsqrt().unsqueeze(-1)
        return (self.distance(guess, wanted, reduction="none") * weights).mean()

    def _tested(self, targets: Tensor, progress: float) -> Tensor:
        """The same few tokens of every clip, [B * n, E], so that the batch may be cut anywhere."""
        assert self.sigreg is not None
        draws = self.sigreg.draws(progress, torch.device("cpu"))
        picked = torch.randperm(targets.shape[1], generator=draws)[: self.sigreg_tokens]
        return targets[:, picked.to(targets.device)].flatten(0, 1)


class ViewInvariance(Learner):
    """All views of a clip become the same vector, and the vectors of all clips a Gaussian: LeJEPA on video.

    A view is what one mask leaves of the clip; with masks that drop 95 % of the tokens this is LeVJEPA's low-compute
    setting (arXiv 2608.27395). Tokens are averaged, projected to z, and

    L = (1 - weight) * mean over views of |z - centre|^2 / channels + weight * mean over views of SIGReg(z),

    where the centre is the mean of the first `global_views` views (LeJEPA, arXiv 2511.08544, algorithm 2).

    Args:
        encoder: trained.
        sigreg: the regulariser.
        weight: its share of the loss.
        global_views: masks that make up the centre.
        hidden_dim: width of the projector's hidden layers.
        out_dim: channels of z.
    """

    predictor = None

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

    def forward(
        self, video: Tensor, targets: Tensor | None, masks: Sequence[Mask], progress: float = 0.0
    ) -> dict[str, Tensor]:
        """As `Learner.forward`; `targets` are not used."""
        pooled = torch.cat([self.encoder(video, keep=mask.context).mean(1) for mask in masks])
        views = full_precision(self.project(pooled)).unflatten(0, (len(masks), -1))
        centre = views[: self.global_views].mean(0)
        invariance = (views - centre).square().mean()
        statistic = torch.stack([self.sigreg(z, progress, self.average, self.ranks) for z in views]).mean()
        return {
            "loss": (1 - self.weight) * invariance + self.weight * statistic,
            "invariance": invariance.detach(),
            "sigreg": statistic.detach(),
        }

    def project(self, pooled: Tensor) -> Tensor:
        """Pooled tokens [V * B, D] -> z [V * B, out_dim]."""
        for linear, norm in zip(self.projector[:-1], self.norms, strict=True):
            pooled = nn.functional.gelu(norm(linear(pooled), self.average))
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

    def forward(self, x: Tensor, average: Callable[[Tensor], Tensor] = alone) -> Tensor:
        """Normalises x [N, dim] per channel with the biased variance (Ioffe and Szegedy, arXiv 1502.03167)."""
        x = full_precision(x)
        centred = x - average(x.mean(0))
        return centred * (average(centred.square().mean(0)) + self.eps).rsqrt() * self.weight + self.bias
