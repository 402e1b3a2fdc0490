"""Pretraining: the trainer, its configuration and the objectives. Names are loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepa.lazy import attach

if TYPE_CHECKING:
    from jepa.pretrain.callbacks import Callback as Callback
    from jepa.pretrain.config import PretrainConfig as PretrainConfig
    from jepa.pretrain.factory import build_objective as build_objective
    from jepa.pretrain.objectives import Objective as Objective
    from jepa.pretrain.objectives import register_objective as register_objective
    from jepa.pretrain.trainer import StepMetrics as StepMetrics
    from jepa.pretrain.trainer import Trainer as Trainer
    from jepa.pretrain.trainer import train as train

attach(globals())
