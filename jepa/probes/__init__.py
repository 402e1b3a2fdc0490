"""Probes on a frozen encoder: features that are computed once, and heads on them, with baselines beside.

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "ProbeConfig": "jepa.probes.config",
    "run": "jepa.probes.tasks.base",
    "fit": "jepa.probes.arrays",
    "evaluate": "jepa.probes.arrays",
    "Probe": "jepa.probes.saved",
    "Results": "jepa.probes.arrays",
    "load_probe": "jepa.probes.load",
    "check_encoder": "jepa.probes.saved",
    "encoder_hash": "jepa.models.weights.fingerprint",
    "predict_future": "jepa.probes.features.encoder_tokens",
    "Head": "jepa.probes.heads.base",
    "register_head": "jepa.probes.heads.base",
    "Task": "jepa.probes.tasks.base",
    "register_task": "jepa.probes.tasks.base",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jepa.probes' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
