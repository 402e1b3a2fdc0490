"""World models that act: the action-conditioned predictor of V-JEPA 2-AC, and planning with it."""

from jepa.models.action.files import load_action_predictor, save_action_predictor
from jepa.models.action.predictor import ActionPredictor, ActionPredictorConfig, Cache
from jepa.models.action.world_model import (
    FrameProjector,
    WorldModel,
    WorldModelConfig,
    load_world_model,
    save_world_model,
)

__all__ = [
    "ActionPredictor",
    "ActionPredictorConfig",
    "Cache",
    "FrameProjector",
    "WorldModel",
    "WorldModelConfig",
    "load_action_predictor",
    "load_world_model",
    "save_action_predictor",
    "save_world_model",
]
