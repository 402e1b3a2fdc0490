"""Building encoders and predictors by name: the model registry."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from dataclasses import replace
from typing import Any, TypeVar

from jepa.errors import UserError
from jepa.models.architectures import ENTRIES, Architecture, entry_of
from jepa.models.encoder import EncoderConfig, VideoEncoder
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.models.weights.load import load_encoder

Config = TypeVar("Config", EncoderConfig, PredictorConfig)


def list_models(filter: str = "*") -> list[str]:
    """Names of the zoo that match a shell pattern such as "vjepa2_*"."""
    return [name for name in ENTRIES if fnmatch.fnmatch(name, filter)]


def create_model(name: str, weights: str | os.PathLike[str] | None = None, **overrides: Any) -> VideoEncoder:
    """Builds an encoder of the zoo.

    Args:
        name: a name from `list_models()`.
        weights: None for random weights, "published" for those of the paper, or anything that `load_encoder`
            reads; it must hold this architecture.
        **overrides: fields of EncoderConfig to change, such as `patch_px=8`.

    Raises:
        UserError: the name or an override is unknown, or the weights do not fit.
    """
    entry = entry_of(name)
    config = override(entry.encoder, overrides)
    if weights is not None:
        encoder = load_encoder(_published(entry, name) if weights == "published" else weights, config=config)
        encoder.preprocessing = encoder.preprocessing or entry.preprocessing
        return encoder
    encoder = VideoEncoder(config)
    encoder.preprocessing = entry.preprocessing
    encoder.metadata = {"model": name, "weights": "random"}
    return encoder


def _published(entry: Architecture, name: str) -> str:
    if not entry.url:
        raise UserError(f"{name} is an architecture for experiments; nobody has published weights for it.")
    return entry.hub_id or entry.url


def create_predictor(name: str, encoder_dim: int | None = None, **overrides: Any) -> Predictor:
    """Builds the predictor that goes with an encoder of the zoo, with random weights.

    Args:
        name: the encoder's name, from `list_models()`.
        encoder_dim: channels of the encoder's tokens, if they were overridden; the width of the guesses
            follows.
        **overrides: fields of PredictorConfig to change, such as `depth=6`.

    Raises:
        UserError: the name or an override is unknown.
    """
    config = entry_of(name).predictor
    if encoder_dim is not None and encoder_dim != config.encoder_dim:
        config = replace(config, encoder_dim=encoder_dim, out_dim=encoder_dim * config.target_layers)
    return Predictor(override(config, overrides))


def override(config: Config, changes: dict[str, Any]) -> Config:
    """A copy of a config with some fields changed.

    Raises:
        UserError: a field does not exist.
    """
    known = [field.name for field in dataclasses.fields(config)]
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise UserError(f"{type(config).__name__} has no {', '.join(unknown)}; it has {', '.join(known)}.")
    return replace(config, **changes)
