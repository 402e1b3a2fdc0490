"""From a config to feature sets: the encoder and everything that stands beside it, decoded in one pass."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jepa.device import choose_device
from jepa.models.weights.timm_images import load_image_backbone
from jepa.probes.config import FeatureSettings, ProbeConfig
from jepa.probes.data.labels import Sample
from jepa.probes.evaluation.cross_validate import FeatureSet
from jepa.probes.features.encode import EncodeReport, Extractor, encode
from jepa.probes.features.encoder_tokens import EncoderTokens, Motion, OneFrame, untrained_copy
from jepa.probes.features.image_model import FRAMES, ImageFrames
from jepa.probes.features.perturbations import View

if TYPE_CHECKING:
    from jepa.models import Encoder

UNTRAINED = "untrained"
ENCODER = "encoder"


def load_frozen_encoder(folder: str | os.PathLike[str]) -> Encoder:
    """Loads an export for inference.

    Raises:
        UserError: no export there.
    """
    from jepa.models import load_encoder

    encoder = load_encoder(folder)
    return encoder.eval().requires_grad_(False)


def encoder_tokens(name: str, encoder: Encoder, settings: FeatureSettings) -> EncoderTokens:
    """An extractor with the config's windows, layers and token limit."""
    return EncoderTokens(
        name,
        encoder,
        settings.clips,
        settings.max_tokens,
        settings.layers or None,
        str(choose_device(settings.device, "features.device")),
    )


def make_extractors(config: ProbeConfig, encoder: Encoder) -> list[Extractor]:
    """The encoder first, then the baselines that the config names."""
    extractors: list[Extractor] = [encoder_tokens(ENCODER, encoder, config.features)]
    if "untrained" in config.baselines:
        fresh = untrained_copy(encoder, config.split_seed)
        extractors.append(encoder_tokens(UNTRAINED, fresh, config.features))
    if "one_frame" in config.baselines:
        extractors.append(OneFrame())
    if "motion" in config.baselines:
        extractors.append(Motion())
    if config.image_model is not None:
        model = load_image_backbone(config.image_model)
        extractors.append(
            ImageFrames(
                config.image_model, model, str(choose_device(config.features.device, "features.device"))
            )
        )
    return extractors


def encode_samples(
    config: ProbeConfig, samples: Sequence[Sample], extractors: Sequence[Extractor], stored: bool = True
) -> tuple[list[Sample], list[FeatureSet], EncodeReport]:
    """Features of all readable samples; videos are decoded once for all extractors.

    Args:
        config: the probe's.
        samples: labelled videos or parts of videos.
        extractors: what to compute.
        stored: read and fill the cache; without it features are made live and kept in memory only.
    """
    settings = config.features
    cache = (Path(settings.cache) if settings.cache else Path(config.out) / "cache") if stored else None
    kept, features, report = encode(
        samples,
        extractors,
        cache,
        settings.batch_size,
        settings.workers,
        settings.bad_limit,
        int8=settings.int8,
    )
    sets = []
    for extractor, rows in zip(extractors, features, strict=True):
        slots, base = 0, extractor.base if isinstance(extractor, View) else extractor
        if isinstance(base, EncoderTokens):
            slots = base.grid()[0] * max(1, len(settings.layers))
        elif isinstance(base, ImageFrames):
            slots = FRAMES
        sets.append(FeatureSet(extractor.name, rows, slots))
    return kept, sets, report
