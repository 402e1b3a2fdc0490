"""From a configuration to the objective that it names: encoder, predictor, target encoder and loss."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch

from jepa.errors import UserError
from jepa.models import Predictor, VideoEncoder, create_model, create_predictor, load_encoder, load_predictor
from jepa.models.architectures import entry_of
from jepa.models.image_backbone import PREFIX
from jepa.pretrain.config import PretrainConfig
from jepa.pretrain.objectives import Objective
from jepa.pretrain.objectives.base import objective_class

_log = logging.getLogger(__name__)


def build_objective(config: PretrainConfig) -> Objective:
    """Encoder, predictor and loss, initialised from the seed alone or from `model.weights`.

    Raises:
        UserError: the clip does not divide into tokens, the objective does not fit the model or the masks, or the
            weights are those of another model.

    Example:
        >>> from jepa.pretrain import PretrainConfig
        >>> objective = build_objective(PretrainConfig())
        >>> type(objective).__name__, objective.encoder.embed_dim
        ('MaskedPrediction', 192)
    """
    config.check()
    cls, model = objective_class(config.objective), config.model
    options: dict[str, Any] = {
        "patch_px": model.patch_px,
        "tubelet_frames": model.tubelet_frames,
    }
    if not model.name.startswith(PREFIX):
        options |= cls.encoder_options(config.objective, entry_of(model.name).encoder.depth)
    # A fork keeps the caller's random state: building a model must not change what a notebook draws next.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(
            config.train.seed
        )  # torch.manual_seed would reach the GPUs' as well
        if model.name.startswith(PREFIX) and not cls.uses_masks:
            encoder: Any = load_encoder(model.name)
        else:
            encoder = create_model(model.name, **options)
            if model.weights:
                start_from_weights(encoder, model.weights)
        return cls.build(config, encoder, partial(build_predictor, config, encoder))


def start_from_weights(encoder: VideoEncoder, source: str) -> None:
    """Copies published or exported weights into an encoder, strictly.

    Raises:
        UserError: they are those of another architecture.
    """
    loaded = load_encoder(source)
    if not isinstance(loaded, VideoEncoder):
        raise UserError(f"model.weights={source} is an image backbone, which cannot be pretrained on video.")
    ours, theirs = encoder.state_dict(), loaded.state_dict()
    different = sorted(
        name
        for name in ours.keys() | theirs.keys()
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape
    )
    if encoder.config.position != loaded.config.position:
        different.append(f"positions ({loaded.config.position}, and the model has {encoder.config.position})")
    if different:
        raise UserError(
            f"model.weights={source} does not fit the model: {', '.join(different[:3])}"
            f"{' and more' if len(different) > 3 else ''} differ. Choose the same architecture with model.name, "
            "model.patch_px and model.tubelet_frames, and the objective that it was trained with."
        )
    encoder.load_state_dict(theirs)


def build_predictor(config: PretrainConfig, encoder: VideoEncoder, **fields: Any) -> Predictor:
    """The architecture's predictor, with the encoder's kind of positions and one mask token: only one is trained.

    Args:
        config: `model.predictor_*` override the architecture's sizes.
        encoder: whose tokens it reads.
        fields: of `PredictorConfig`, as the objective needs them.
    """
    model = config.model
    sizes = {"dim": model.predictor_dim, "depth": model.predictor_depth, "num_heads": model.predictor_heads}
    chosen = {name: size for name, size in sizes.items() if size is not None}
    if model.predictor_dim is not None:
        chosen["mlp_dim"] = 4 * model.predictor_dim
    predictor = create_predictor(
        model.name,
        encoder_dim=encoder.embed_dim,
        num_mask_tokens=1,
        mask_index=0,
        position=encoder.config.position,
        rope_reference_grid=encoder.config.rope_reference_grid,
        sincos_grid=encoder.config.sincos_grid,
        **chosen,
        **fields,
    )
    if model.weights:
        _start_predictor(predictor, model.weights)
    return predictor


def _start_predictor(predictor: Predictor, source: str) -> None:
    """Copies a stored predictor where there is one of the same shapes, else warns: many published files hold none."""
    try:
        stored = load_predictor(source).state_dict()
    except UserError as error:
        _log.warning("The predictor starts from random weights: %s", error)
        return
    ours = predictor.state_dict()
    if stored.keys() == ours.keys() and all(stored[name].shape == ours[name].shape for name in ours):
        predictor.load_state_dict(stored)
    else:
        _log.warning(
            "The predictor starts from random weights: that of model.weights=%s has other shapes. Set "
            "model.predictor_dim, model.predictor_depth and the objective to those that it was trained with to use it.",
            source,
        )
