"""From a config to feature sets: the encoder and its baselines, decoded in one pass."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa.data.manifest import Item
from jepa.device import choose_device
from jepa.models.weights.timm_images import load_image_backbone
from jepa.probes.config import FeatureSettings, ProbeConfig
from jepa.probes.features.baselines import Motion, OneFrame, random_init_copy
from jepa.probes.features.encode import EncodeReport, Extractor, encode
from jepa.probes.features.encoder_tokens import EncoderTokens
from jepa.probes.features.feature_set import FeatureSet
from jepa.probes.features.image_model import FRAMES, ImageFrames
from jepa.probes.features.perturbations import Perturbed

if TYPE_CHECKING:
    from jepa.models import Encoder

ENCODER = "encoder"
RANDOM_INIT = "random init"


def load_frozen_encoder(source: str | os.PathLike[str]) -> Encoder:
    """Loads an encoder for inference: whatever `jepa.load_encoder` takes.

    Raises:
        UserError: no encoder there.
    """
    from jepa.models import load_encoder

    return load_encoder(source).eval().requires_grad_(False)


def encoder_tokens(
    name: str, encoder: Encoder, settings: FeatureSettings, local_rank: int | None = None, **options: Any
) -> EncoderTokens:
    """An extractor with the config's windows, layers and token limit.

    Args:
        name: for tables.
        encoder: frozen.
        settings: the config's.
        local_rank: number of this process on its node, if several encode together.
        options: further arguments of `EncoderTokens`.
    """
    return EncoderTokens(
        name,
        encoder,
        settings.clips,
        settings.max_tokens,
        settings.layers or None,
        str(choose_device(settings.device, "features.device", local_rank)),
        settings.window_s,
        settings.num_frames,
        **options,
    )


def make_extractors(
    config: ProbeConfig, encoder: Encoder, last_frame: bool = False, **options: Any
) -> list[Extractor]:
    """The encoder first, then the baselines that the config names.

    Args:
        config: the probe's.
        encoder: frozen.
        last_frame: the one-frame baseline reads a window's last frame, not its middle one.
        options: further arguments of `EncoderTokens` for the encoder, such as its predictor.
    """
    extractors: list[Extractor] = [encoder_tokens(ENCODER, encoder, config.features, **options)]
    if "random_init" in config.baselines:
        fresh = random_init_copy(encoder, config.split_seed)
        extractors.append(encoder_tokens(RANDOM_INIT, fresh, config.features))
    if "one_frame" in config.baselines:
        extractors.append(OneFrame(last_frame))
    if "motion" in config.baselines:
        extractors.append(Motion())
    if config.image_model is not None:
        model = load_image_backbone(config.image_model)
        device = str(choose_device(config.features.device, "features.device"))
        extractors.append(ImageFrames(config.image_model, model, device))
    return extractors


@dataclasses.dataclass
class Encoded:
    """What an encoding pass gave."""

    samples: list[Item]
    """the readable samples"""
    sets: list[FeatureSet]
    """their features, one set per extractor"""
    extractors: list[Extractor]
    report: EncodeReport

    @property
    def tokens(self) -> EncoderTokens:
        """The encoder's extractor."""
        first = self.extractors[0]
        assert isinstance(first, EncoderTokens)
        return first


def encode_samples(
    config: ProbeConfig, samples: Sequence[Item], extractors: Sequence[Extractor], stored: bool = True
) -> Encoded:
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
        config.data.max_bad_fraction,
        int8=settings.int8,
    )
    sets = []
    for extractor, rows in zip(extractors, features, strict=True):
        slots, base = 0, extractor.base if isinstance(extractor, Perturbed) else extractor
        if isinstance(base, EncoderTokens):
            slots = base.grid()[0] * max(1, len(settings.layers)) + base.future_steps
        elif isinstance(base, ImageFrames):
            slots = FRAMES
        sets.append(FeatureSet(extractor.name, rows, slots, standardise=slots > 0))
    return Encoded(kept, sets, list(extractors), report)
