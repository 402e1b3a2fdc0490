"""The losses: what is predicted, against what, and which scalars come of it; docs/pretraining.md has the formulas."""

from jepa.pretrain.objectives.base import ContextLossConfig, ObjectiveConfig, SIGRegConfig
from jepa.pretrain.objectives.masked_prediction import Learner, MaskedPrediction, ViewInvariance
from jepa.pretrain.objectives.sigreg import SIGReg, epps_pulley
from jepa.pretrain.objectives.targets import gather_tokens, latent_targets, pixel_targets

__all__ = [
    "Learner",
    "MaskedPrediction",
    "ViewInvariance",
    "SIGReg",
    "epps_pulley",
    "ObjectiveConfig",
    "ContextLossConfig",
    "SIGRegConfig",
    "gather_tokens",
    "latent_targets",
    "pixel_targets",
]
