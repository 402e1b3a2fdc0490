"""What a product does with an encoder: documents that say what was seen, foreseen and decided, and can be
checked.

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "SignalsConfig": "jepa.signals.analyse",
    "run": "jepa.signals.analyse",
    "VerifyConfig": "jepa.signals.verify",
    "SignalsDocument": "jepa.signals.document.schema",
    "read_document": "jepa.signals.document.hash_chain",
    "read_policy": "jepa.signals.policy",
    "json_schema": "jepa.signals.document.schema",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jepa.signals' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
