"""Any encoder of this library as a transformers model, for what VJEPA2Model of transformers cannot compute.

`save_hf(..., custom_code=True)` writes a folder of this kind. `AutoModel.from_pretrained` loads it after
`import jepa.models.adapters.transformers_model`, or anywhere this library is installed with `trust_remote_code=True`;
`AutoVideoProcessor.from_pretrained` makes its input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, AutoVideoProcessor, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.video_processing_utils import BaseVideoProcessor

from jepa.models.adapters.blocks import checkpoint_blocks
from jepa.models.encoder import EncoderConfig, VideoEncoder
from jepa.models.layers import Attention
from jepa.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from jepa.models.rope import RopeTable, apply_rope
from jepa.models.weights.huggingface_custom import MODEL_TYPE
from jepa.models.weights.stored_config import from_document

# transformers' names of fields of EncoderConfig, read by its tools.
_NAMES = {
    "hidden_size": "embed_dim",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_dim",
    "patch_size": "patch_px",
    "tubelet_size": "tubelet_frames",
    "num_channels": "in_channels",
    "layer_norm_eps": "norm_eps",
}


class JepaEncoderConfig(PretrainedConfig):
    """The encoder's config as transformers stores it.

    `hidden_size`, `num_hidden_layers`, `num_attention_heads`, `intermediate_size`, `patch_size`, `tubelet_size`,
    `num_channels` and `layer_norm_eps` are read from the encoder's own fields.

    Args:
        encoder: the fields of EncoderConfig; by default those of ViT-L.
        preprocessing: the fields of Preprocessing, if they are known.
        **kwargs: what every transformers config takes.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        preprocessing: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.encoder = encoder or asdict(EncoderConfig())
        self.preprocessing = preprocessing
        super().__init__(**kwargs)

    def __getattr__(self, name: str) -> Any:
        # Only for what is no attribute of its own.
        if name in _NAMES and "encoder" in self.__dict__:
            return self.encoder[_NAMES[name]]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


class JepaEncoderModel(PreTrainedModel):
    """A VideoEncoder behind the interface of transformers' video models.

    `attn_implementation` is "sdpa" or "eager".

    Args:
        config: with the fields of EncoderConfig.

    Example:
        >>> import torch
        >>> config = JepaEncoderConfig(asdict(EncoderConfig(48, depth=2, num_heads=2, mlp_dim=96)))
        >>> out = JepaEncoderModel(config)(torch.zeros(1, 4, 3, 32, 32), output_hidden_states=True)
        >>> list(out.last_hidden_state.shape), len(out.hidden_states)
        ([1, 8, 48], 3)
    """

    config_class = JepaEncoderConfig
    main_input_name = "pixel_values_videos"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012 - as transformers declares it

    def __init__(self, config: JepaEncoderConfig) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False
        self.encoder = VideoEncoder(from_document(EncoderConfig, config.encoder))
        if config.preprocessing:
            self.encoder.preprocessing = from_document(Preprocessing, config.preprocessing)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding of videos."""
        return self.encoder.patch_embed

    def _init_weights(self, module: Any) -> None:
        """Nothing: the encoder starts its own weights."""

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        """What `gradient_checkpointing_enable()` of transformers calls."""
        self.gradient_checkpointing = enable
        checkpoint_blocks(self.encoder, enable, gradient_checkpointing_func, every_n_layers)

    def forward(
        self,
        pixel_values_videos: Tensor,
        keep: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Encodes videos.

        Args:
            pixel_values_videos: [B, T, C, H, W], in transformers' order of axes.
            keep: [B, K] ids of the tokens to encode; None for all.
            output_hidden_states: return the patch embedding and the output of every block as well, before any norm.
            output_attentions: return the attention weights [B, heads, N, N] of every block; they are computed
                beside the fused attention, so this takes the memory that it saves.
            return_dict: False for a plain tuple.

        Returns:
            `last_hidden_state` [B, N, D], and what was asked for.
        """
        config = self.config
        hidden = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        attend = config.output_attentions if output_attentions is None else output_attentions
        depth = self.encoder.num_layers
        eager = config._attn_implementation == "eager"
        attentions: list[Tensor] = []
        with contextlib.ExitStack() as stack:
            if eager:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if attend:
                attentions = stack.enter_context(_recorded(self.encoder))
            depths = range(depth + 1) if hidden else [depth]
            outputs = self.encoder.block_outputs(pixel_values_videos.transpose(1, 2), depths, keep)
        result = BaseModelOutput(
            last_hidden_state=self.encoder.norm_of(depth)(outputs[depth]),
            hidden_states=tuple(outputs[i] for i in depths) if hidden else None,
            attentions=tuple(attentions) if attend else None,
        )
        as_dict = getattr(config, "return_dict", True) if return_dict is None else return_dict
        return result if as_dict else result.to_tuple()


@contextlib.contextmanager
def _recorded(encoder: VideoEncoder) -> Iterator[list[Tensor]]:
    """The attention weights of every block that runs meanwhile."""
    weights: list[Tensor] = []

    def record(module: Attention, inputs: tuple[Tensor, RopeTable | None]) -> None:
        x, rope = inputs
        query, key, _ = module.qkv(x).unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if rope is not None:
            query, key = apply_rope(query, rope), apply_rope(key, rope)
        weights.append((query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1))

    hooks = [
        module.register_forward_pre_hook(record)
        for module in encoder.modules()
        if isinstance(module, Attention)
    ]
    try:
        yield weights
    finally:
        for hook in hooks:
            hook.remove()


class JepaVideoProcessor(BaseVideoProcessor):
    """Video processor of the exports: shorter side, centre crop, scale, normalise, as `Preprocessing` states.

    VJEPA2VideoProcessor of transformers derives the shorter side from the crop; this one takes both. A batch
    [B, T, C, H, W], a list of videos and one video [T, C, H, W] all give [B, T, C, crop, crop], also in versions of
    transformers whose own processors wrap a batch as one video (its issue 43450).
    """

    resample = 2  # PIL's number of bilinear
    image_mean = IMAGENET_MEAN
    image_std = IMAGENET_STD
    size = {"shortest_edge": 256}  # noqa: RUF012 - as transformers declares them
    crop_size = {"height": 224, "width": 224}  # noqa: RUF012
    default_to_square = False
    do_resize = do_center_crop = do_rescale = do_normalize = True
    do_sample_frames = False

    def preprocess(self, videos: Any, **kwargs: Any) -> Any:
        """As of every video processor of transformers."""
        if getattr(videos, "ndim", 0) == 5:
            videos = list(videos)
        return super().preprocess(videos, **kwargs)


AutoConfig.register(MODEL_TYPE, JepaEncoderConfig, exist_ok=True)
AutoModel.register(JepaEncoderConfig, JepaEncoderModel, exist_ok=True)
AutoVideoProcessor.register(JepaEncoderConfig, JepaVideoProcessor, exist_ok=True)
