"""Masked prediction in latent space: V-JEPA 2 and 2.1, SALT (frozen target encoder), and the pixel baseline (MAE).

L = mean over masks of distance(prediction, target) at the target tokens
    + context weight * mean over masks of w_i distance(prediction, target) at the context tokens i   (V-JEPA 2.1)
    + SIGReg weight * SIGReg(targets)                                                (without a target encoder)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.fields import path_key
from jepa.masking import Mask
from jepa.models import Predictor, TokenGrid, VideoEncoder, load_encoder
from jepa.models.architectures import OUTPUT_LAYERS
from jepa.pretrain import diagnostics
from jepa.pretrain.objectives.base import MakePredictor, Objective, register_objective
from jepa.pretrain.objectives.pca_targets import PCATargets
from jepa.pretrain.objectives.sigreg import SIGReg
from jepa.pretrain.objectives.targets import (
    DISTANCES,
    LatentTargets,
    PixelTargets,
    Targets,
    distance_to_target,
    full_precision,
    gather_tokens,
)
from jepa.pretrain.target_encoder import TargetEncoder

NUM_OUTPUT_LAYERS = 4
"""layers that V-JEPA 2.1 predicts at once"""


@dataclass
class ContextLossConfig:
    """V-JEPA 2.1's dense loss: the context tokens are predicted as well (arXiv 2603.14482, equation 3)."""

    weight: float = 0.0
    """weight beside the loss at the target tokens; 0 leaves it out; V-JEPA 2.1: 0.5"""
    image_weight: float | None = None
    """weight for images; null for the same; V-JEPA 2.1's paper: 0.7"""
    warmup: tuple[float, float] = (0.0, 0.0)
    """fractions of the run: 0 until the first, then rising linearly up to the second; V-JEPA 2.1: [0.05, 0.1]"""
    by_distance: bool = True
    """weight a token by 1 / sqrt(its distance to the nearest target token), in tokens; V-JEPA 2.1's cooldown: false"""

    def __post_init__(self) -> None:
        if self.weight < 0 or (self.image_weight or 0.0) < 0:
            raise UserError(
                "objective.context.weight and image_weight cannot be negative; 0 switches it off."
            )
        if self.image_weight is not None and self.weight == 0:
            raise UserError(
                "objective.context.image_weight is set, but objective.context.weight is 0: set both."
            )
        if not 0 <= self.warmup[0] <= self.warmup[1] <= 1:
            raise UserError(
                f"objective.context.warmup={list(self.warmup)} must be two rising fractions of the run, 0 to 1."
            )


@dataclass
class TargetSIGRegConfig:
    """SIGReg on the targets, for objective.target_encoder=none (LeWorldModel; LeJEPA, arXiv 2511.08544)."""

    weight: float = 0.0
    """loss = prediction + weight * SIGReg (LeWorldModel 0.1); small batches need more; 0: off"""
    slices: int = 1024
    """random directions of a step; each is one test for normality"""
    tokens: int = 64
    """tokens of each clip that are tested, drawn anew in each step"""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < 1:
            raise UserError(f"objective.sigreg.weight={self.weight} must be in [0, 1).")
        for name in ("slices", "tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"objective.sigreg.{name}={getattr(self, name)} has to be at least 1.")


@dataclass
class MaskedPredictionConfig:
    """Predict the target tokens from the context tokens."""

    target: str = "latents"
    """latents: features of the target encoder (V-JEPA); pixels: the patches themselves (masked autoencoding)"""
    target_layers: list[int] = field(default_factory=lambda: [-1])
    """predicted depths, rising: 0 the patch embedding, k the output of block k, -1 the last (V-JEPA 2)"""
    multi_layer: bool = False
    """predict four layers at once, each with its own norm, and let the predictor read all four (V-JEPA 2.1)"""
    temporally_centred: bool = False
    """subtract each spatial position's mean over time from the targets; for static backgrounds"""
    pca_components: int = 0
    """keep only this many principal components of the temporally centred targets, on one scale; 0 keeps all"""
    image_tokenizer: bool = False
    """a patch embedding of their own for images, and a modality embedding (V-JEPA 2.1)"""
    distance: str = "l1"
    """l1 (V-JEPA), l2 or smooth_l1"""
    target_encoder: str = "ema"
    """ema: average of the context encoder; frozen: the encoder in target_encoder_from (SALT, distillation);
    none: the context encoder itself, with gradient, which collapses unless sigreg.weight prevents it"""
    target_encoder_from: str = path_key("")
    """frozen only: an export's folder, or anything else that jepa.load_encoder reads"""
    context: ContextLossConfig = field(default_factory=ContextLossConfig)
    sigreg: TargetSIGRegConfig = field(default_factory=TargetSIGRegConfig)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("target", self.target, ("latents", "pixels")),
            ("distance", self.distance, tuple(DISTANCES)),
            ("target_encoder", self.target_encoder, ("ema", "frozen", "none")),
        ):
            if value not in known:
                raise UserError(f"objective.{name}={value!r} is unknown; choose one of {', '.join(known)}.")
        if not self.target_layers:
            raise UserError(
                "objective.target_layers is empty; name at least one, for example [-1] for the last."
            )
        if (self.target_encoder == "frozen") != bool(self.target_encoder_from):
            raise UserError(
                "objective.target_encoder=frozen and objective.target_encoder_from=FOLDER belong together: give both "
                "or neither."
            )
        if self.target == "pixels":
            for name, used in (
                ("target_encoder=frozen", self.target_encoder == "frozen"),
                ("multi_layer", self.multi_layer),
                ("temporally_centred", self.temporally_centred),
            ):
                if used:
                    raise UserError(f"objective.{name} has no effect on objective.target=pixels; drop it.")
        if self.pca_components < 0:
            raise UserError(
                f"objective.pca_components={self.pca_components} cannot be negative; 0 keeps all directions."
            )
        if self.pca_components and (not self.temporally_centred or self.target_encoder == "none"):
            raise UserError(
                f"objective.pca_components={self.pca_components} keeps principal components of temporally centred "
                "targets: set objective.temporally_centred=true and objective.target_encoder=ema or frozen, or drop it."
            )
        if self.multi_layer and self.target_layers != [-1]:
            raise UserError(
                "objective.multi_layer predicts the encoder's own four layers; drop objective.target_layers."
            )
        if self.sigreg.weight > 0 and self.target_encoder != "none":
            raise UserError(
                f"objective.sigreg replaces a target encoder; with objective.target_encoder={self.target_encoder} set "
                "objective.sigreg.weight=0, or use objective.target_encoder=none."
            )


@register_objective("masked_prediction", MaskedPredictionConfig)
class MaskedPrediction(Objective):
    """Encode the context tokens, predict the target tokens, compare.

    Args:
        encoder: the context encoder, trained.
        predictor: context tokens and positions -> predictions, trained.
        target: what is predicted; None where the caller passes targets to `loss`.
        distance: l1, l2 or smooth_l1.
        multi_layer: the predictor reads the encoder's joined output layers.
        context: the loss at the context tokens.
        sigreg: regulariser of targets with gradient, or None.
        sigreg_weight: its weight.
        sigreg_tokens: tokens of each clip that it tests.

    Example:
        >>> from jepa.models import create_model, create_predictor
        >>> from jepa.masking import MaskConfig, sample_masks
        >>> encoder = create_model("vit_nano", patch_px=8)
        >>> target = LatentTargets(encoder, TargetEncoder.ema(encoder), layers=[-1])
        >>> objective = MaskedPrediction(encoder, create_predictor("vit_nano", num_mask_tokens=1), target)
        >>> video = torch.randn(2, 3, 4, 32, 32)
        >>> masks = [sample_masks(MaskConfig("temporal", 0.5), encoder.grid_of(video), 0, [0, 1])]
        >>> row = objective(video, objective.make_targets(video), masks)
        >>> row["loss"].shape
        torch.Size([])
    """

    predictor: Predictor

    def __init__(
        self,
        encoder: VideoEncoder,
        predictor: Predictor,
        target: Targets | None = None,
        distance: str = "l1",
        multi_layer: bool = False,
        context: ContextLossConfig | None = None,
        sigreg: SIGReg | None = None,
        sigreg_weight: float = 0.0,
        sigreg_tokens: int = 64,
    ) -> None:
        super().__init__(encoder, target)
        self.predictor = predictor
        self.distance = DISTANCES[distance]
        self.multi_layer = multi_layer
        self.context = context or ContextLossConfig()
        self.sigreg, self.sigreg_weight, self.sigreg_tokens = sigreg, sigreg_weight, sigreg_tokens

    @classmethod
    def encoder_options(cls, config: MaskedPredictionConfig, depth: int) -> dict[str, Any]:
        """Output layers and image tokenizer."""
        return {
            "image_tokenizer": config.image_tokenizer,
            "modality_embedding": config.image_tokenizer,
            "output_layers": four_layers(depth) if config.multi_layer else (),
        }

    @classmethod
    def from_config(
        cls,
        config: MaskedPredictionConfig,
        encoder: VideoEncoder,
        make_predictor: MakePredictor,
        *,
        seed: int,
        num_masks: int,
    ) -> MaskedPrediction:
        """As `Objective.from_config`.

        Raises:
            UserError: the frozen target encoder cannot be read or does not fit.
        """
        target = build_targets(config, encoder)
        predictor = make_predictor(
            target_layers=NUM_OUTPUT_LAYERS if config.multi_layer else 1,
            out_dim=target.dim,
            context_head=config.context.weight > 0,
            modality_embedding=config.image_tokenizer,
        )
        sigreg = SIGReg(config.sigreg.slices, seed) if config.sigreg.weight else None
        return cls(
            encoder, predictor, target, config.distance, config.multi_layer, config.context,
            sigreg, config.sigreg.weight, config.sigreg.tokens,
        )  # fmt: skip

    @property
    def predicts_latents(self) -> bool:
        """True but for pixels."""
        return not isinstance(self.target, PixelTargets)

    def loss(
        self, video: Tensor, targets: Tensor | None, masks: Sequence[Mask], progress: float = 0.0
    ) -> dict[str, Tensor]:
        """As `Objective.loss`; the formula is at the head of this file."""
        if targets is None:
            targets = self._target(video)
        grid = self.encoder.grid_of(video)
        weight = self.context_weight(progress, image=self.encoder.is_image(video))
        at_target, at_context = [], []
        for mask in masks:
            predicted, predicted_context = self._predict_both(video, mask, grid)
            at_target.append(self.distance(full_precision(predicted), gather_tokens(targets, mask.target)))
            if predicted_context is not None:
                expected = gather_tokens(targets, mask.context)
                at_context.append(self._context_loss(predicted_context, expected, mask, grid))
        loss = torch.stack(at_target).mean()
        row = {f"loss_mask{number}": value.detach() for number, value in enumerate(at_target)}
        if at_context:
            context_loss = torch.stack(at_context).mean()
            row |= {"loss_target": loss.detach(), "loss_context": context_loss.detach()}
            loss = loss + weight * context_loss
        if self.sigreg is not None:
            statistic = self.sigreg(self._tested(targets, progress), progress)
            row["sigreg"] = statistic.detach()
            loss = loss + self.sigreg_weight * statistic
        return {"loss": loss, **row}

    def predict(self, video: Tensor, mask: Mask) -> Tensor:
        """Predictions at the target tokens, [B, M, E], to be compared with the targets there."""
        return self._predict_both(video, mask, self.encoder.grid_of(video))[0]

    def context_weight(self, progress: float, image: bool = False) -> float:
        """Weight of the context loss after `progress` of the run."""
        context = self.context
        full = context.weight if context.image_weight is None or not image else context.image_weight
        start, end = context.warmup
        if progress >= end:
            return full
        return full * max(0.0, progress - start) / (end - start)

    def diagnose(
        self, video: Tensor, targets: Tensor | None, masks: Sequence[Mask], max_rows: int
    ) -> dict[str, float]:
        """How much of the targets' variance the predictions explain, overall, per mask and per time step.

        LiDAR takes a target token for a sample, its prediction and its target for two views: the pair that the
        objective brings together.
        """
        if targets is None:
            targets = self._target(video)
        grid = self.encoder.grid_of(video)
        pairs = [(self.predict(video, mask).float(), gather_tokens(targets, mask.target)) for mask in masks]
        row = {f"explained/mask{i}": diagnostics.explained_variance(*pair) for i, pair in enumerate(pairs)}
        predicted, expected = (torch.cat(part, 1) for part in zip(*pairs, strict=True))
        index = torch.cat([mask.target for mask in masks], 1)
        by_time = diagnostics.explained_per_time_step(predicted, expected, index, grid)
        views = torch.stack([predicted, expected], 2).flatten(0, 1)[..., -self.encoder.embed_dim :]
        return row | {
            "target_varies": diagnostics.varying_fraction(targets),
            "prediction_varies": diagnostics.varying_fraction(predicted),
            "explained": diagnostics.explained_variance(predicted, expected),
            "lidar": diagnostics.lidar(diagnostics.evenly_spaced(views, max_rows)),
            **{f"explained/time{k:02d}": float(value) for k, value in enumerate(by_time)},
        }

    def _target(self, video: Tensor) -> Tensor:
        if self.target is None:
            raise TypeError("this objective was built without targets; pass them to loss().")
        return self.target(video)

    def _predict_both(self, video: Tensor, mask: Mask, grid: TokenGrid) -> tuple[Tensor, Tensor | None]:
        tokens = self.encoder(video, keep=mask.context, multi_layer=self.multi_layer)
        both = self.context.weight > 0
        found = self.predictor(tokens, *mask, grid, image=self.encoder.is_image(video), with_context=both)
        return found if both else (found, None)

    def _context_loss(self, predicted: Tensor, expected: Tensor, mask: Mask, grid: TokenGrid) -> Tensor:
        predicted = full_precision(predicted)
        if not self.context.by_distance:
            return self.distance(predicted, expected)
        weights = distance_to_target(mask.context, mask.target, grid).rsqrt().unsqueeze(-1)
        return (self.distance(predicted, expected, reduction="none") * weights).mean()

    def _tested(self, targets: Tensor, progress: float) -> Tensor:
        """The same few tokens of every clip, [B * n, E], so that the batch may be cut anywhere."""
        assert self.sigreg is not None
        generator = self.sigreg.generator(progress, torch.device("cpu"))
        picked = torch.randperm(targets.shape[1], generator=generator)[: self.sigreg_tokens]
        return targets[:, picked.to(targets.device)].flatten(0, 1)


def build_targets(config: MaskedPredictionConfig, encoder: VideoEncoder) -> Targets:
    """The targets that the config names, on the encoder's device."""
    target_encoder: TargetEncoder | None = None
    if config.target_encoder == "ema":
        target_encoder = TargetEncoder.ema(encoder)
    elif config.target_encoder == "frozen":
        source = config.target_encoder_from
        loaded = load_encoder(source)
        if not isinstance(loaded, VideoEncoder):
            raise UserError(
                f"objective.target_encoder_from={source} is an image backbone; take a video encoder."
            )
        target_encoder = TargetEncoder.frozen(loaded, encoder, source)
    if config.target == "pixels":
        return PixelTargets(encoder, target_encoder)
    if config.pca_components:
        assert target_encoder is not None  # the config refuses it
        return PCATargets(target_encoder, config.target_layers, config.pca_components, config.multi_layer)
    return LatentTargets(
        encoder, target_encoder, config.target_layers, config.multi_layer, config.temporally_centred
    )


def four_layers(depth: int) -> tuple[int, ...]:
    """The published output layers for 12, 24, 40 and 48 blocks; else four evenly spaced ones that end with the last.

    Raises:
        UserError: there are fewer than four blocks.

    Example:
        >>> four_layers(8)
        (2, 4, 6, 8)
    """
    if depth < NUM_OUTPUT_LAYERS:
        raise UserError(
            f"objective.multi_layer needs an encoder of at least {NUM_OUTPUT_LAYERS} blocks; this one has {depth}."
        )
    evenly = tuple(depth * layer // NUM_OUTPUT_LAYERS for layer in range(1, NUM_OUTPUT_LAYERS + 1))
    return OUTPUT_LAYERS.get(depth) or evenly
