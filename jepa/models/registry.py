"""Model registry: encoders and predictors by name, and new architectures from outside."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from dataclasses import replace
from typing import Any, TypeVar

from jepa.errors import UserError
from jepa.models.architectures import ENTRIES, Architecture, default_predictor, entry_of, published_weights
from jepa.models.encoder import EncoderConfig, VideoEncoder
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.models.preprocessing import Preprocessing
from jepa.models.weights.load import load_encoder

Config = TypeVar("Config", EncoderConfig, PredictorConfig)


def list_models(filter: str = "*") -> list[str]:
    """Names of the registered models that match a shell pattern.

    Example:
        >>> list_models("vjepa2_vit_giant_*")
        ['vjepa2_vit_giant_256', 'vjepa2_vit_giant_384']
    """
    return [name for name in ENTRIES if fnmatch.fnmatch(name, filter)]


def register_model(
    name: str,
    encoder: EncoderConfig,
    predictor: PredictorConfig | None = None,
    preprocessing: Preprocessing | None = None,
    *,
    module: type[VideoEncoder] = VideoEncoder,
    paper: str = "",
    licence: str = "",
    url: str = "",
    hub_id: str = "",
) -> None:
    """Adds an architecture under a name, for `create_model`, `model.name=` of a config and `load_encoder`.

    Args:
        name: a new name.
        encoder: the encoder's architecture; of a subclass of EncoderConfig if `module` needs more fields.
        predictor: the predictor that goes with it; by default `architectures.default_predictor(encoder)`.
        preprocessing: what the encoder expects of its input; by default 16 frames of 224 pixels at 4 fps.
        module: the class to build from the config. An export of a class of one's own states `name`, and loads where
            that name is registered.
        paper: paper that describes the architecture.
        licence: licence of the published weights.
        url: address of the published weights file, for `create_model(name, weights="published")`.
        hub_id: repository on the Hugging Face hub that holds the same weights.

    Raises:
        UserError: the name is taken, or the predictor reads tokens of another width.

    Example:
        >>> register_model("vit_mine", EncoderConfig(64, depth=2, num_heads=2, mlp_dim=256))
        >>> create_model("vit_mine").embed_dim, create_predictor("vit_mine").config.dim
        (64, 32)
        >>> del ENTRIES["vit_mine"]
    """
    if name in ENTRIES:
        raise UserError(f"there is a model named {name!r} already; choose another name.")
    predictor = predictor or default_predictor(encoder)
    if predictor.encoder_dim != encoder.embed_dim:
        raise UserError(
            f"{name}: the predictor reads {predictor.encoder_dim} channels (encoder_dim), but the encoder's tokens "
            f"have {encoder.embed_dim}."
        )
    ENTRIES[name] = Architecture(
        encoder, predictor, preprocessing or Preprocessing(), paper, licence, url, hub_id, module
    )


def create_model(name: str, weights: str | os.PathLike[str] | None = None, **overrides: Any) -> VideoEncoder:
    """Builds a registered encoder.

    Args:
        name: a name from `list_models()`.
        weights: None for random weights, "published" for those of the paper, or anything that `load_encoder`
            reads; it must hold this architecture.
        **overrides: fields of EncoderConfig to change, such as `patch_px=8`.

    Raises:
        UserError: the name or an override is unknown, or the weights do not fit.

    Example:
        >>> create_model("vit_tiny", patch_px=8).config.patch_px
        8
    """
    entry = entry_of(name)
    config = override(entry.encoder, overrides)
    if weights is not None:
        encoder = load_encoder(published_weights(name) if weights == "published" else weights, config=config)
        if type(encoder) is not entry.module:
            raise UserError(
                f"{weights} holds a {type(encoder).__name__}, and {name} is a {entry.module.__name__}."
            )
        encoder.preprocessing = encoder.preprocessing or entry.preprocessing
        return encoder
    encoder = entry.module(config)
    encoder.preprocessing = entry.preprocessing
    encoder.metadata = {"model": name, "weights": "random"}
    return encoder


def create_predictor(name: str, encoder_dim: int | None = None, **overrides: Any) -> Predictor:
    """Builds the predictor that goes with a registered encoder, with random weights.

    Args:
        name: the encoder's name, from `list_models()`.
        encoder_dim: channels of the encoder's tokens, if they were overridden; the width of the predictions
            follows.
        **overrides: fields of PredictorConfig to change, such as `depth=6`.

    Raises:
        UserError: the name or an override is unknown.

    Example:
        >>> create_predictor("vjepa2_vit_large_256").config.dim
        384
    """
    config = entry_of(name).predictor
    if encoder_dim is not None and encoder_dim != config.encoder_dim:
        config = replace(config, encoder_dim=encoder_dim, out_dim=encoder_dim * config.target_layers)
    return Predictor(override(config, overrides))


def override(config: Config, changes: dict[str, Any]) -> Config:
    """A copy of a config with some fields changed.

    Raises:
        UserError: a field does not exist.

    Example:
        >>> override(EncoderConfig(), {"patch_px": 8}).patch_px
        8
    """
    known = [field.name for field in dataclasses.fields(config)]
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise UserError(f"{type(config).__name__} has no {', '.join(unknown)}; it has {', '.join(known)}.")
    return replace(config, **changes)
