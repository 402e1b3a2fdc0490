"""Self-supervised video world models (V-JEPA): encoders, pretraining, probes and signals that can be checked.

Names are loaded on first use, so importing the package costs next to nothing. Whoever wants one encoder never pays for
the trainer, the readers or the reports.

Example:
    >>> import jepa
    >>> encoder = jepa.create_model("vit_nano", patch_px=8)
    >>> encoder.embed_dim
    128
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "create_model": "jepa.models.registry",
    "list_models": "jepa.models.registry",
    "register_model": "jepa.models.registry",
    "load_encoder": "jepa.models.weights.load",
    "load_probe": "jepa.probes.load",
    "embed": "jepa.probes.embed",
    "open_video": "jepa.data.video.reader",
    "UserError": "jepa.errors",
    "VideoError": "jepa.errors",
}
_ROOMS = ("models", "masking", "data", "pretrain", "probes", "signals", "viz")

__all__ = [*_HOME, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"jepa.{name}")
    else:
        raise AttributeError(f"module 'jepa' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
