"""Pretraining: the trainer, its configuration and the objectives. Names are loaded on first use."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Trainer": "jepa.pretrain.trainer",
    "StepMetrics": "jepa.pretrain.trainer",
    "train": "jepa.pretrain.trainer",
    "PretrainConfig": "jepa.pretrain.config",
    "build_objective": "jepa.pretrain.factory",
    "Objective": "jepa.pretrain.objectives",
    "register_objective": "jepa.pretrain.objectives",
    "Callback": "jepa.pretrain.callbacks",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jepa.pretrain' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
