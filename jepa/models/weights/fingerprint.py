"""Fingerprints: the SHA-256 of an encoder, which identifies it for probes and caches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

import torch
from torch import nn

from jepa.errors import UserError
from jepa.models.weights.stored_config import in_first_schema

if TYPE_CHECKING:
    from jepa.models.base import Encoder


def encoder_hash(encoder: Encoder) -> str:
    """SHA-256 of an encoder's config, preprocessing and every weight.

    The same encoder has the same fingerprint in every version of this library.

    Raises:
        UserError: the encoder carries no preprocessing, so its features cannot be made the same way twice.

    Example:
        >>> from jepa.models import create_model
        >>> len(encoder_hash(create_model("vit_nano")))
        64
    """
    if encoder.preprocessing is None:
        raise UserError(
            "This encoder carries no preprocessing, so its features cannot be made the same way twice. Name its "
            "architecture (encoder=vjepa2_vit_giant_384:FILE), or set encoder.preprocessing."
        )
    identity = {
        "config": in_first_schema(encoder.config),
        "preprocessing": dataclasses.asdict(encoder.preprocessing),
    }
    return state_hash(encoder, json.dumps(identity, sort_keys=True))


def state_hash(module: nn.Module, start: str = "") -> str:
    """SHA-256 of a text and of every weight of a module, by name.

    Example:
        >>> state_hash(nn.Identity())[:8]
        'e3b0c442'
    """
    digest = hashlib.sha256(start.encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
