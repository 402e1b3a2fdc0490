"""timm adapter: the registered encoders inside timm, as `timm.create_model("jepa_vit_tiny")`.

`import jepa.models.adapters.timm_models` registers them.
A module of its own, because importing timm takes longer than all of `jepa.models`, and because registering
changes another library's state, which should only happen on request.

Keywords are timm's own: `num_classes`, `global_pool`, `in_chans`, `img_size`, `patch_size`, `drop_rate`,
`drop_path_rate`, `checkpoint_path`, `features_only`, `out_indices`, `pretrained_cfg_overlay`; any other is a field of
EncoderConfig.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from timm.layers import drop_path
from timm.models import register_model
from timm.models._builder import load_pretrained, resolve_pretrained_cfg
from timm.models._features import FeatureGetterNet, FeatureInfo, feature_take_indices
from torch import Tensor, nn

from jepa.errors import UserError
from jepa.models.adapters.blocks import checkpoint_blocks
from jepa.models.architectures import ENTRIES, entry_of
from jepa.models.encoder import VideoEncoder
from jepa.models.layers import Attention, Mlp
from jepa.models.registry import create_model
from jepa.models.weights.strict import clean_names

_POOLS = ("avg", "max", "avgmax", "")
# timm's names of fields of EncoderConfig.
_RENAMED = {"in_chans": "in_channels", "patch_size": "patch_px"}


class TimmVideoEncoder(nn.Module):
    """A VideoEncoder with timm's verbs, for images [B, C, H, W] and videos [B, C, T, H, W].

    Args:
        encoder: the encoder.
        num_classes: size of a linear classifier on the pooled tokens; 0 for none.
        global_pool: "avg", "max", "avgmax", or "" for none.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth (arXiv 1603.09382) of the last block; it rises linearly from 0.

    Example:
        >>> import timm, torch
        >>> model = timm.create_model("jepa_vit_nano", num_classes=5)
        >>> list(model(torch.zeros(1, 3, 64, 64)).shape)
        [1, 5]
    """

    num_prefix_tokens = 0

    def __init__(
        self,
        encoder: VideoEncoder,
        num_classes: int = 0,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        self.num_features = self.head_hidden_size = self.embed_dim = config.embed_dim
        info = [
            {"module": f"encoder.blocks.{i}", "num_chs": config.embed_dim, "reduction": config.patch_px}
            for i in range(config.depth)
        ]
        self.feature_info = FeatureInfo(info, tuple(range(config.depth)))
        self.pretrained_cfg: dict[str, Any] = {}
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        branches = [module for module in encoder.blocks.modules() if isinstance(module, Attention | Mlp)]
        for number, branch in enumerate(branches):  # two in every block
            if rate := drop_path_rate * (number // 2) / max(config.depth - 1, 1):
                # A hook leaves the names of the weights as they are.
                branch.register_forward_hook(partial(_drop_branch, rate))

    @property
    def default_cfg(self) -> dict[str, Any]:
        """What timm's data loading reads: sizes, mean and standard deviation."""
        return self.pretrained_cfg

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier, and the pooling if one is given.

        Raises:
            UserError: the pooling is unknown, or a classifier would have no vector to read.
        """
        pool = getattr(self, "global_pool", "avg") if global_pool is None else global_pool
        if pool not in _POOLS:
            raise UserError(
                f"global_pool={pool!r} is unknown; use 'avg', 'max', 'avgmax', or '' for tokens. There is no class "
                "token."
            )
        self.global_pool, self.num_classes = pool, num_classes
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The classifier, or an identity."""
        return self.head

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Activation checkpointing: whether each block is computed again in the backward pass."""
        checkpoint_blocks(self.encoder, enable)

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, beyond biases and norms: none."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups of parameters by depth, for layer-wise learning rates."""
        block = r"^encoder\.blocks\.(\d+)"
        return {
            "stem": r"^encoder\.(?:patch_embed|img_mod_embed|video_mod_embed)",
            "blocks": block if coarse else [(block, None), (r"^encoder\.norm", (99999,))],
        }

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As of any module; the weights of a bare encoder, such as `encoder.safetensors`, are taken as well."""
        state = clean_names(state_dict, "the checkpoint")
        return super().load_state_dict(checkpoint_filter_fn(state, self), strict, assign)

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] after the final norm."""
        return self.encoder(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps tokens [B, N, D] to pooled ones [B, D], then to logits unless `pre_logits`."""
        if self.global_pool == "avg":
            x = x.mean(dim=1)
        elif self.global_pool == "max":
            x = x.amax(dim=1)
        elif self.global_pool == "avgmax":
            x = 0.5 * (x.amax(dim=1) + x.mean(dim=1))
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes], or vectors [B, D] without a classifier."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Outputs of several blocks.

        Args:
            x: images [B, C, H, W] or videos [B, C, T, H, W].
            indices: block numbers from 0, negative ones counted from the end; or how many of the last; None for all.
            return_prefix_tokens: without effect, as these encoders have no prefix tokens.
            norm: apply the layer norm that belongs to each block.
            stop_early: do not run blocks after the last requested one; the final tokens are then its own.
            output_fmt: "NCHW" for [B, D, h, w] of an image and [B, D, t, h, w] of a video, "NLC" for tokens.
            intermediates_only: leave out the final tokens.
            output_dict: return a dict with `image_features` (unless `intermediates_only`) and `image_intermediates`.

        Returns:
            A list, or a pair of the final tokens [B, N, D] and the list, or a dict.

        Raises:
            UserError: the format is unknown, or `norm` is requested of a block that has none.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise UserError(f"output_fmt={output_fmt!r} is unknown; use NCHW or NLC.")
        encoder = self.encoder
        taken, last = feature_take_indices(len(encoder.blocks), indices)
        # timm counts blocks from 0, the encoder depths, of which 0 is the patch embedding.
        depths = sorted({index + 1 for index in taken})
        final = last + 1 if stop_early else len(encoder.blocks)
        outputs = encoder.block_outputs(x, depths if intermediates_only else [*depths, final])
        grid = encoder.grid_of(x)
        axes = grid[1:] if x.ndim == 4 else tuple(grid)
        maps = []
        for depth in depths:
            tokens = encoder.norm_of(depth)(outputs[depth]) if norm else outputs[depth]
            maps.append(tokens.transpose(1, 2).unflatten(2, axes) if output_fmt == "NCHW" else tokens)
        if intermediates_only:
            return {"image_intermediates": maps} if output_dict else maps
        features = encoder.norm_of(final)(outputs[final])
        return {"image_features": features, "image_intermediates": maps} if output_dict else (features, maps)

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | list[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
    ) -> list[Tensor]:
        """Outputs of the last `n` blocks, or of the blocks `n`, as DINO's encoders give them.

        Args:
            x: images [B, C, H, W] or videos [B, C, T, H, W].
            n: how many of the last blocks, or block numbers from 0.
            reshape: maps as in `forward_intermediates` instead of tokens [B, N, D].
            return_prefix_tokens: without effect.
            norm: apply the layer norm that belongs to each block.
        """
        form = "NCHW" if reshape else "NLC"
        return self.forward_intermediates(x, n, norm=norm, output_fmt=form, intermediates_only=True)

    def prune_intermediate_layers(
        self, indices: int | list[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the blocks after the last requested one, and the classifier; returns the block numbers.

        The norms are small and stay, whatever `prune_norm` says.
        """
        taken, last = feature_take_indices(len(self.encoder.blocks), indices)
        self.encoder.blocks = self.encoder.blocks[: last + 1]
        if prune_head:
            self.reset_classifier(0, "")
        return taken


def _drop_branch(rate: float, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return drop_path(output, rate, module.training)


def checkpoint_filter_fn(state: Mapping[str, Tensor], model: TimmVideoEncoder) -> dict[str, Tensor]:
    """A checkpoint under the names and for the input channels of `model`, as timm calls it on loading.

    Args:
        state: weights of a TimmVideoEncoder or of a bare VideoEncoder.
        model: the TimmVideoEncoder that will load them.
    """
    if not any(name.startswith("encoder.") for name in state):
        state = {f"encoder.{name}": tensor for name, tensor in state.items()}
    channels = model.encoder.config.in_channels
    return {
        name: _with_channels(tensor, channels)
        if name.endswith(".proj.weight") and tensor.ndim == 5
        else tensor
        for name, tensor in state.items()
    }


def _with_channels(weight: Tensor, channels: int) -> Tensor:
    """A projection [D, C, t, h, w] for other input channels, by the rule of timm's `adapt_input_conv`, which takes the
    convolutions of images only: summed for one channel, else repeated and scaled to the same sum."""
    own = weight.shape[1]
    if own == channels:
        return weight
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight.repeat(1, -(-channels // own), 1, 1, 1)[:, :channels] * (own / channels)


def _default_cfg(name: str) -> dict[str, Any]:
    entry = entry_of(name)
    stated = entry.preprocessing
    return {
        "url": entry.url,
        "license": entry.licence,
        "paper_name": entry.paper,
        "num_classes": 0,
        "input_size": (3, stated.crop_px, stated.crop_px),
        "crop_pct": stated.crop_px / stated.resize_px,
        "interpolation": "bilinear",
        "mean": stated.mean,
        "std": stated.std,
        "fixed_input_size": False,
        "first_conv": "encoder.patch_embed.proj",
        "classifier": "head",
    }


def _input_config(
    encoder: VideoEncoder, img_size: int | Sequence[int], mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """What the config states of the input, for the size and the channels that were asked for."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    channels, patch = encoder.config.in_channels, encoder.config.patch_px
    if height % patch or width % patch:
        raise UserError(
            f"img_size={img_size} cannot be cut into patches of {patch}; give multiples of {patch}."
        )
    if len(mean) != channels:
        mean, std = ((sum(values) / len(values),) * channels for values in (mean, std))
    return {"input_size": (channels, height, width), "mean": tuple(mean), "std": tuple(std)}


def _entry_point(name: str) -> Callable[..., nn.Module]:
    def make(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        cache_dir: Any = None,
        pretrained_model_args: Any = None,
        features_only: bool = False,
        out_indices: int | tuple[int, ...] = 3,
        img_size: int | tuple[int, int] | None = None,
        num_classes: int = 0,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **overrides: Any,
    ) -> nn.Module:
        fields = {_RENAMED.get(key, key): value for key, value in overrides.items()}
        cfg = resolve_pretrained_cfg(f"jepa_{name}", pretrained_cfg, pretrained_cfg_overlay).to_dict()
        # What timm resolved (hf-hub:, local-dir:) or was told to read holds its own format; published files do not.
        saved_by_timm = bool(
            cfg.get("source") or cfg.get("file") or cfg.get("state_dict") or cfg.get("hf_hub_id")
        )
        published = pretrained and not saved_by_timm
        encoder = _published(name, fields) if published else create_model(name, **fields)
        model = TimmVideoEncoder(encoder, num_classes, global_pool, drop_rate, drop_path_rate)
        model.pretrained_cfg = cfg
        if pretrained and saved_by_timm:
            # Channels are adapted by the filter, since timm adapts images' convolutions only.
            options = {
                "filter_fn": checkpoint_filter_fn,
                "in_chans": cfg["input_size"][0],
                "cache_dir": cache_dir,
            }
            load_pretrained(model, cfg, num_classes, **options)
        cfg |= _input_config(encoder, img_size or cfg["input_size"][1:], cfg["mean"], cfg["std"])
        if features_only:
            return FeatureGetterNet(model, out_indices=out_indices)
        return model

    make.__name__ = make.__qualname__ = f"jepa_{name}"
    make.__doc__ = f"The encoder {name} of jepa; other keywords are fields of its config."
    return make


def _published(name: str, fields: dict[str, Any]) -> VideoEncoder:
    """The encoder with its published weights, for any number of input channels."""
    channels = fields.pop("in_channels", 3)
    encoder = create_model(name, "published", **fields)
    if channels == 3:
        return encoder
    adapted = create_model(name, in_channels=channels, **fields)
    state = encoder.state_dict()
    for key, weight in state.items():
        if weight.ndim == 5:
            state[key] = _with_channels(weight, channels)
    adapted.load_state_dict(state)
    return adapted


def register(name: str) -> None:
    """Makes a model of `jepa.register_model` known to timm, as `jepa_NAME`; those that come with the library are.

    Raises:
        UserError: there is no such model.

    Example:
        >>> import jepa, timm
        >>> from jepa.models import EncoderConfig
        >>> jepa.register_model("vit_femto", EncoderConfig(64, depth=2, num_heads=2, mlp_dim=256))
        >>> register("vit_femto")
        >>> timm.create_model("jepa_vit_femto").num_features
        64
        >>> del ENTRIES["vit_femto"]
    """
    default_cfgs[f"jepa_{name}"] = _default_cfg(name)
    register_model(_entry_point(name))


default_cfgs: dict[str, dict[str, Any]] = {}
for _name in ENTRIES:
    register(_name)
