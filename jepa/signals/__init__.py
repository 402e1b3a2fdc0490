"""Signals: documents of what was observed, anticipated and decided about a video, which can be checked.

    analyse(video, detectors, policy) -> SignalsDocument        verify(document, policy, video=...) -> Findings

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

from jepa.errors import require

_HOME = {
    "analyse": "jepa.signals.analysis",
    "Analyser": "jepa.signals.analysis",
    "AnalysisResult": "jepa.signals.analysis",
    "verify": "jepa.signals.verification",
    "Findings": "jepa.signals.verification",
    "rebuild_detectors": "jepa.signals.verification",
    "Detector": "jepa.signals.detect.detector",
    "WindowScores": "jepa.signals.detect.detector",
    "ProbeDetector": "jepa.signals.detect.probes",
    "register_detector": "jepa.signals.detect.registry",
    "register_export": "jepa.signals.export",
    "DetectorMetadata": "jepa.signals.document.objects",
    "HeadMetadata": "jepa.signals.document.objects",
    "ClipMetadata": "jepa.signals.document.objects",
    "SignalsDocument": "jepa.signals.document.objects",
    "read_document": "jepa.signals.document.hash_chain",
    "json_schema": "jepa.signals.document.schema",
    "Policy": "jepa.signals.policy",
    "read_policy": "jepa.signals.policy",
    "render": "jepa.signals.report",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jepa.signals' has no attribute {name!r}")
    try:
        home = importlib.import_module(_HOME[name])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "jepa":
            raise
        require(error.name, extra="signals")  # raises, and names what to install
        raise
    value = getattr(home, name)
    globals()[name] = value
    return value
