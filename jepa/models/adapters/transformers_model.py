"""Any encoder of this library as a transformers model, for what VJEPA2Model of transformers cannot compute.

`save_hf(..., custom_code=True)` writes a folder of this kind. `AutoModel.from_pretrained` loads it after
`import jepa.models.adapters.transformers_model`, or anywhere this library is installed with `trust_remote_code=True`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from jepa.models.encoder import EncoderConfig, VideoEncoder
from jepa.models.weights.huggingface_custom import MODEL_TYPE
from jepa.models.weights.stored_config import from_document


class JepaEncoderConfig(PretrainedConfig):
    """The encoder's config as transformers stores it.

    Args:
        encoder: the fields of EncoderConfig.
        **kwargs: what every transformers config takes.
    """

    model_type = MODEL_TYPE

    def __init__(self, encoder: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.encoder = encoder or {}
        super().__init__(**kwargs)


class JepaEncoderModel(PreTrainedModel):
    """A VideoEncoder behind the interface of transformers' video models.

    Args:
        config: with the fields of EncoderConfig.
    """

    config_class = JepaEncoderConfig
    main_input_name = "pixel_values_videos"

    def __init__(self, config: JepaEncoderConfig) -> None:
        super().__init__(config)
        self.encoder = VideoEncoder(from_document(EncoderConfig, config.encoder))
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """Nothing: the encoder starts its own weights."""

    def forward(self, pixel_values_videos: Tensor, keep: Tensor | None = None) -> BaseModelOutput:
        """Maps videos [B, T, C, H, W], in transformers' order of axes, to tokens [B, N, D]."""
        return BaseModelOutput(last_hidden_state=self.encoder(pixel_values_videos.transpose(1, 2), keep))


AutoConfig.register(MODEL_TYPE, JepaEncoderConfig, exist_ok=True)
AutoModel.register(JepaEncoderConfig, JepaEncoderModel, exist_ok=True)
