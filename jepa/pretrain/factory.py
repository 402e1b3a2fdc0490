"""From a configuration to the learner that it asks for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from jepa.errors import UserError
from jepa.models import Predictor, VideoEncoder, create_model, create_predictor, load_encoder
from jepa.models.architectures import OUTPUT_LAYERS, entry_of
from jepa.pretrain.objectives.base import DEEP_LEVELS
from jepa.pretrain.objectives.masked_prediction import Learner, MaskedPrediction, OwnTargets, ViewInvariance
from jepa.pretrain.objectives.sigreg import SIGReg
from jepa.pretrain.objectives.targets import latents, own_pixels

if TYPE_CHECKING:
    from jepa.pretrain.config import PretrainConfig


def build_learner(config: PretrainConfig) -> Learner:
    """Encoder, predictor or projector, and loss, initialised from the seed alone.

    Raises:
        UserError: the clip does not divide into tokens, or the objective does not fit the model or the masks.
    """
    check_sizes(config)
    objective, model = config.objective, config.model
    # A fork keeps the caller's random state: building a model must not change what a notebook draws next.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(
            config.train.seed
        )  # torch.manual_seed would reach the GPUs' as well
        encoder = create_model(model.name, **encoder_overrides(config))
        sigreg = SIGReg(objective.sigreg.slices, config.train.seed) if objective.sigreg.weight else None
        if objective.predict == "views":
            if len(config.masks) < 2 or objective.sigreg.global_views > len(config.masks):
                raise UserError(
                    f"objective.predict=views compares the views that the masks leave of a clip, and there are "
                    f"{len(config.masks)}: give at least two masks, and as many as objective.sigreg.global_views."
                )
            assert sigreg is not None  # ObjectiveConfig refuses views without it
            sizes = objective.sigreg
            return ViewInvariance(
                encoder, sigreg, sizes.weight, sizes.global_views, sizes.hidden_dim, sizes.out_dim
            )
        own_targets: OwnTargets | None = None
        if objective.teacher == "none" and objective.predict == "latents":
            own_targets = partial(
                latents, levels=objective.levels, deep=objective.deep, changes=objective.changes
            )
        elif objective.teacher == "none":
            own_targets = own_pixels
        return MaskedPrediction(
            encoder,
            build_predictor(config, encoder),
            objective.distance,
            objective.deep,
            objective.context,
            own_targets,
            sigreg,
            objective.sigreg.weight,
            objective.sigreg.tokens,
        )


def check_sizes(config: PretrainConfig) -> None:
    """Refuses clips that do not divide into tokens; single frames are images and always do.

    Raises:
        UserError: with the nearest size that does.
    """
    model, data = config.model, config.data
    sizes = [("data", data.crop_px, data.num_frames)]
    for number, source in enumerate(data.mix):
        own = source.crop_px or data.crop_px, source.num_frames or data.num_frames
        sizes.append((f"data.mix.{number}", *own))
    for owner, crop_px, num_frames in sizes:
        for key, size, unit, name in (
            ("crop_px", crop_px, model.patch_px, "model.patch_px"),
            ("num_frames", num_frames, model.tubelet_frames, "model.tubelet_frames"),
        ):
            if size <= 0 or (size % unit and not (key == "num_frames" and size == 1)):
                near = max(unit, round(size / unit) * unit)
                raise UserError(
                    f"{owner}.{key}={size} is not a positive multiple of {name}={unit}: the clip does not divide into "
                    f"tokens. Use {owner}.{key}={near}, or change {name}."
                )
        if config.objective.components and num_frames <= model.tubelet_frames:
            raise UserError(
                f"{owner}.num_frames={num_frames} makes one moment of a clip, and objective.components asks for what "
                f"changes between moments. Use at least {2 * model.tubelet_frames} frames, or drop it."
            )


def encoder_overrides(config: PretrainConfig) -> dict[str, Any]:
    """What differs from the zoo's architecture; levels and tokenizers are the objective's to decide, for every name."""
    objective, model = config.objective, config.model
    published = entry_of(model.name).encoder
    return {
        "patch_px": model.patch_px,
        "tubelet_frames": model.tubelet_frames,
        "image_tokenizer": objective.image_tokenizer,
        "modality_embedding": objective.image_tokenizer,
        "output_layers": four_levels(published.depth) if objective.deep else (),
    }


def four_levels(depth: int) -> tuple[int, ...]:
    """The published depths for 12, 24, 40 and 48 blocks; else four evenly spaced ones that end with the last.

    Raises:
        UserError: there are fewer than four blocks.
    """
    if depth < DEEP_LEVELS:
        raise UserError(
            f"objective.deep needs an encoder of at least {DEEP_LEVELS} blocks; this one has {depth}."
        )
    return OUTPUT_LAYERS.get(depth) or tuple(depth * (n + 1) // DEEP_LEVELS for n in range(DEEP_LEVELS))


def build_predictor(config: PretrainConfig, encoder: VideoEncoder) -> Predictor:
    """The predictor, with the encoder's kind of positions and one mask token: only one is ever trained."""
    objective, model = config.objective, config.model
    return create_predictor(
        model.name,
        encoder_dim=encoder.embed_dim,
        target_layers=DEEP_LEVELS if objective.deep else 1,
        out_dim=target_dim(config, encoder),
        dim=model.predictor_dim,
        depth=model.predictor_depth,
        num_heads=model.predictor_heads,
        mlp_dim=4 * model.predictor_dim,
        num_mask_tokens=1,
        mask_index=0,
        position=encoder.config.position,
        rope_reference_grid=encoder.config.rope_reference_grid,
        sincos_grid=encoder.config.sincos_grid,
        context_head=objective.context.weight > 0,
        modality_embedding=objective.image_tokenizer,
    )


def target_dim(config: PretrainConfig, encoder: VideoEncoder) -> int:
    """Channels of a target, E.

    Raises:
        UserError: the frozen teacher cannot be read.
    """
    objective, model = config.objective, config.model
    if objective.predict == "pixels":
        return 3 * model.tubelet_frames * model.patch_px**2
    source = load_encoder(objective.teacher_from) if objective.teacher == "frozen" else encoder
    return source.embed_dim * objective.num_levels
