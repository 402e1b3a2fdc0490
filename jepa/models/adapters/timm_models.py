"""timm adapter: the registered encoders inside timm, as `timm.create_model("jepa_vit_tiny")`.

`import jepa.models.adapters.timm_models` registers them.
A module of its own, because importing timm takes longer than all of `jepa.models`, and because registering
changes another library's state, which should only happen on request.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.models import register_model
from timm.models._features import FeatureGetterNet, FeatureInfo
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jepa.errors import UserError
from jepa.models.architectures import ENTRIES, entry_of
from jepa.models.encoder import VideoEncoder
from jepa.models.registry import create_model


class TimmVideoEncoder(nn.Module):
    """A VideoEncoder with timm's verbs, for images [B, C, H, W] and videos [B, C, T, H, W].

    Args:
        encoder: the encoder.
        num_classes: size of a linear classifier on the mean of all tokens; 0 for none.

    Example:
        >>> import timm, torch
        >>> model = timm.create_model("jepa_vit_nano", num_classes=5)
        >>> list(model(torch.zeros(1, 3, 64, 64)).shape)
        [1, 5]
    """

    def __init__(self, encoder: VideoEncoder, num_classes: int = 0) -> None:
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
        self.reset_classifier(num_classes)

    @property
    def default_cfg(self) -> dict[str, Any]:
        """What timm's data loading reads: sizes, mean and standard deviation."""
        return self.pretrained_cfg

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier.

        Raises:
            UserError: the pooling is not "avg".
        """
        if global_pool not in (None, "avg"):
            raise UserError(
                f"global_pool={global_pool!r} is unknown; the mean of all tokens, 'avg', is the only one."
            )
        self.num_classes = num_classes
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The classifier, or an identity."""
        return self.head

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Activation checkpointing: whether each block is computed again in the backward pass."""
        for block in self.encoder.blocks:
            block.__dict__.pop("forward", None)
            if enable:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)

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

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] after the final norm."""
        return self.encoder(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps tokens [B, N, D] to their mean [B, D], then to logits unless `pre_logits`."""
        pooled = x.mean(dim=1)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes], or vectors [B, D] without a classifier."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Outputs of several blocks.

        Args:
            x: images [B, C, H, W] or videos [B, C, T, H, W].
            indices: block numbers, negative ones counted from the end; or how many of the last; None for all.
            norm: apply the layer norm that belongs to each block.
            stop_early: do not run blocks after the last requested one; only with `intermediates_only`.
            output_fmt: "NCHW" for [B, D, h, w] of an image and [B, D, t, h, w] of a video, "NLC" for tokens.
            intermediates_only: leave out the final tokens.

        Returns:
            A list, or a pair of the final tokens [B, N, D] and the list.

        Raises:
            UserError: the format is unknown, or `norm` is requested of a block that has none.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise UserError(f"output_fmt={output_fmt!r} is unknown; use NCHW or NLC.")
        depth = self.encoder.config.depth
        if indices is None or isinstance(indices, int):
            indices = list(range(depth))[-(indices or depth) :]
        # timm counts blocks from 0, the encoder depths, of which 0 is the patch embedding.
        depths = sorted({index % depth + 1 for index in indices})
        outputs = self.encoder.block_outputs(
            x, depths if stop_early and intermediates_only else [*depths, depth]
        )
        grid = self.encoder.grid_of(x)
        axes = grid[1:] if x.ndim == 4 else tuple(grid)
        maps = []
        for layer in depths:
            tokens = self.encoder.norm_of(layer)(outputs[layer]) if norm else outputs[layer]
            maps.append(tokens.transpose(1, 2).unflatten(2, axes) if output_fmt == "NCHW" else tokens)
        if intermediates_only:
            return maps
        return self.encoder.norm_of(depth)(outputs[depth]), maps


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


def _entry_point(name: str) -> Callable[..., nn.Module]:
    def make(
        pretrained: bool = False,
        num_classes: int = 0,
        features_only: bool = False,
        out_indices: int | tuple[int, ...] = 3,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        **overrides: Any,
    ) -> nn.Module:
        if pretrained_cfg or pretrained_cfg_overlay or cache_dir:
            raise UserError(
                f"jepa_{name} reads published weights only; for others use jepa.create_model({name!r}, "
                f"weights=...)."
            )
        encoder = create_model(name, "published" if pretrained else None, **overrides)
        model = TimmVideoEncoder(encoder, num_classes)
        model.pretrained_cfg = _default_cfg(name)
        if features_only:
            return FeatureGetterNet(model, out_indices=out_indices)
        return model

    make.__name__ = make.__qualname__ = f"jepa_{name}"
    make.__doc__ = f"The encoder {name} of jepa; other keywords are fields of its config."
    return make


default_cfgs = {f"jepa_{name}": _default_cfg(name) for name in ENTRIES}
for _name in ENTRIES:
    register_model(_entry_point(_name))
