"""Models: encoders, predictors, attentive poolers, and the weights they load."""

from jepa.models.base import Encoder
from jepa.models.encoder import EncoderConfig, VideoEncoder
from jepa.models.image_backbone import ImageBackbone
from jepa.models.long_video import window_features
from jepa.models.pooler import AttentiveClassifier, AttentivePooler, PoolerConfig
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.models.preprocessing import Preprocessing
from jepa.models.registry import create_model, create_predictor, list_models, register_model
from jepa.models.rope import TokenGrid
from jepa.models.weights.huggingface_write import push_to_hub, save_hf
from jepa.models.weights.load import load_classifiers, load_encoder, load_predictor
from jepa.models.weights.native import save_encoder

__all__ = [
    "AttentiveClassifier",
    "AttentivePooler",
    "Encoder",
    "EncoderConfig",
    "ImageBackbone",
    "PoolerConfig",
    "Predictor",
    "PredictorConfig",
    "Preprocessing",
    "TokenGrid",
    "VideoEncoder",
    "create_model",
    "create_predictor",
    "list_models",
    "load_classifiers",
    "load_encoder",
    "load_predictor",
    "push_to_hub",
    "register_model",
    "save_encoder",
    "save_hf",
    "window_features",
]
