"""Fingerprints: probes and caches must know an encoder again, in every later version."""

from __future__ import annotations

import pytest
import torch

from jepa.errors import UserError
from jepa.models import EncoderConfig, Preprocessing, VideoEncoder
from jepa.models.weights.fingerprint import encoder_hash


def filled() -> VideoEncoder:
    encoder = VideoEncoder(EncoderConfig(24, 2, 2, 32, patch_px=8, output_layers=(1, 2)))
    for parameter in encoder.parameters():
        parameter.data.fill_(0.5)
    encoder.preprocessing = Preprocessing(4, 2.5, 40, 32)
    return encoder


def test_the_fingerprint_of_an_encoder_never_changes():
    """The digest is that of the first version, before fields of the config were renamed."""
    assert encoder_hash(filled()) == "b7d960f92b4b5e8d590224698e83a8bd419e2f775bcef1b8ddf879c5ff4bc24e"


def test_every_weight_and_the_preprocessing_count():
    base, other = encoder_hash(filled()), filled()
    with torch.no_grad():
        other.blocks[1].mlp.fc2.bias[3] += 1e-6
    assert encoder_hash(other) != base
    faster = filled()
    faster.preprocessing = Preprocessing(4, 3.0, 40, 32)
    assert encoder_hash(faster) != base


def test_an_encoder_without_preprocessing_has_no_fingerprint():
    encoder = filled()
    encoder.preprocessing = None
    with pytest.raises(UserError, match="carries no preprocessing"):
        encoder_hash(encoder)
