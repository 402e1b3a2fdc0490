"""The losses: what is predicted, against what, and which scalars come of it; docs/pretraining.md has the formulas."""

from jepa.pretrain.objectives.build import build_learner
from jepa.pretrain.objectives.config import ContextLossConfig, ObjectiveConfig, SIGRegConfig
from jepa.pretrain.objectives.learners import Learner, MaskedPrediction, ViewInvariance
from jepa.pretrain.objectives.parts import gather_tokens, latent_targets, pixel_targets
from jepa.pretrain.objectives.sigreg import SIGReg, epps_pulley

__all__ = [
    "build_learner",
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
