"""What a frozen encoder knows: heads on features that are computed once.

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepa.probes.settings import ProbeConfig

_HOME = {
    "ProbeConfig": "jepa.probes.settings",
    "Probe": "jepa.probes.store",
    "load_probe": "jepa.probes.store",
    "check_encoder": "jepa.probes.store",
    "encoder_hash": "jepa.probes.extractors",
    "guess_future": "jepa.probes.extractors",
}

__all__ = [*_HOME, "run"]


def run(config: ProbeConfig) -> dict[str, Any]:
    """`jepa probe`: trains and tests a probe for the task that the config names; returns the results."""
    config.check()
    task = importlib.import_module(f"jepa.probes.{config.task}")
    return task.run(config)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jepa.probes' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
