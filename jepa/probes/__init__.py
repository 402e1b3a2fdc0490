"""What a frozen encoder knows: heads on features that are computed once.

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepa.probes.config import ProbeConfig

_HOME = {
    "ProbeConfig": "jepa.probes.config",
    "Probe": "jepa.probes.saved",
    "load_probe": "jepa.probes.saved",
    "check_encoder": "jepa.probes.saved",
    "encoder_hash": "jepa.models.weights.fingerprint",
    "predict_future": "jepa.probes.features.encoder_tokens",
}

_TASKS = {
    "classify": "jepa.probes.tasks.classify",
    "anticipate": "jepa.probes.tasks.anticipate.task",
    "describe": "jepa.probes.tasks.describe.task",
}

__all__ = [*_HOME, "run"]


def run(config: ProbeConfig) -> dict[str, Any]:
    """`jepa probe`: trains and tests a probe for the task that the config names; returns the results."""
    config.check()
    task = importlib.import_module(_TASKS[config.task])
    return task.run(config)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jepa.probes' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
