"""Signals: documents of what was observed, anticipated and decided about a video, which can be checked.

    analyse(video, detectors, policy) -> SignalsDocument        verify(document, policy, video=...) -> Findings

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepa.lazy import attach

if TYPE_CHECKING:
    from jepa.signals.analysis import Analyser as Analyser
    from jepa.signals.analysis import AnalysisResult as AnalysisResult
    from jepa.signals.analysis import analyse as analyse
    from jepa.signals.detect.detector import Detector as Detector
    from jepa.signals.detect.detector import WindowScores as WindowScores
    from jepa.signals.detect.probes import ProbeDetector as ProbeDetector
    from jepa.signals.detect.registry import register_detector as register_detector
    from jepa.signals.document.hash_chain import read_document as read_document
    from jepa.signals.document.objects import SignalsDocument as SignalsDocument
    from jepa.signals.document.run import ClipMetadata as ClipMetadata
    from jepa.signals.document.run import DetectorMetadata as DetectorMetadata
    from jepa.signals.document.run import HeadMetadata as HeadMetadata
    from jepa.signals.document.schema import json_schema as json_schema
    from jepa.signals.export import register_export as register_export
    from jepa.signals.policy import Policy as Policy
    from jepa.signals.policy import read_policy as read_policy
    from jepa.signals.report import render as render
    from jepa.signals.verification import Findings as Findings
    from jepa.signals.verification import rebuild_detectors as rebuild_detectors
    from jepa.signals.verification import verify as verify

attach(globals(), extra="signals")
