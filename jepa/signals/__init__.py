"""What a product does with an encoder: documents that say what was seen, foreseen and decided, and can be
checked.

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "SignalsConfig": "jepa.signals.pipeline",
    "run": "jepa.signals.pipeline",
    "VerifyConfig": "jepa.signals.verify",
    "SignalsDocument": "jepa.signals.schema",
    "read_document": "jepa.signals.audit",
    "read_policy": "jepa.signals.policy",
    "json_schema": "jepa.signals.schema",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jepa.signals' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
