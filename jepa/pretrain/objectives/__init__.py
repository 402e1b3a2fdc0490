"""Pretraining objectives: what is predicted, against which targets, and the loss (docs/pretraining.md)."""

from jepa.pretrain.objectives.action_prediction import ActionPrediction, ActionPredictionConfig
from jepa.pretrain.objectives.base import Objective, objective_configs, register_objective
from jepa.pretrain.objectives.masked_prediction import (
    ContextLossConfig,
    MaskedPrediction,
    MaskedPredictionConfig,
)
from jepa.pretrain.objectives.pca_targets import PCATargets
from jepa.pretrain.objectives.sigreg import SIGReg, epps_pulley
from jepa.pretrain.objectives.targets import LatentTargets, PixelTargets, gather_tokens
from jepa.pretrain.objectives.view_invariance import ViewInvariance, ViewInvarianceConfig

__all__ = [
    "Objective",
    "register_objective",
    "objective_configs",
    "ActionPrediction",
    "ActionPredictionConfig",
    "MaskedPrediction",
    "MaskedPredictionConfig",
    "ContextLossConfig",
    "ViewInvariance",
    "ViewInvarianceConfig",
    "LatentTargets",
    "PixelTargets",
    "PCATargets",
    "SIGReg",
    "epps_pulley",
    "gather_tokens",
]
