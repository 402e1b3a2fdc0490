"""Probes on a frozen encoder: features that are computed once, and heads on them, with baselines beside.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepa.lazy import attach

if TYPE_CHECKING:
    from jepa.models.weights.fingerprint import encoder_hash as encoder_hash
    from jepa.probes.arrays import Results as Results
    from jepa.probes.arrays import evaluate as evaluate
    from jepa.probes.arrays import fit as fit
    from jepa.probes.config import ProbeConfig as ProbeConfig
    from jepa.probes.features.encoder_tokens import predict_future as predict_future
    from jepa.probes.heads.base import Head as Head
    from jepa.probes.heads.base import register_head as register_head
    from jepa.probes.load import load_probe as load_probe
    from jepa.probes.saved import Probe as Probe
    from jepa.probes.saved import check_encoder as check_encoder
    from jepa.probes.tasks.base import Task as Task
    from jepa.probes.tasks.base import register_task as register_task
    from jepa.probes.tasks.base import run as run

attach(globals())
