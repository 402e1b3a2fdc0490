"""ImageBackbone: any timm image model as a frozen frame encoder, the image baseline for video.

The model sees every frame on its own. Its tokens are frames x spatial positions, so a probe reads them as it reads
those of a video encoder. A video encoder that does not beat it has not shown that it uses motion.

timm is imported inside the functions that need it (`pip install 'jepa-video[timm]'`); `load_encoder("timm:NAME")` gets
the weights (weights/timm_images.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jepa.errors import UserError, require
from jepa.models.base import Encoder
from jepa.models.rope import TokenGrid, check_ids

PREFIX = "timm:"


@dataclass(frozen=True)
class ImageBackboneConfig:
    """Which image model."""

    name: str
    """timm's name of the model, without the prefix timm:"""
    embed_dim: int
    """Channels of a token: those of the model's last feature map."""
    in_channels: int = 3
    """Colour channels."""


class ImageBackbone(Encoder):
    """An image model applied to every frame; the interface is that of `VideoEncoder`.

    There is one depth, 1 (or -1): the model's last feature map. Each frame is a time step, each position of the map a
    spatial position.

    Args:
        config: which model.
        model: the model, with timm's `forward_features` and `num_features`; by default timm's with random weights.

    Example:
        >>> encoder = ImageBackbone(ImageBackboneConfig("resnet18", 512)).eval()
        >>> video = torch.zeros(1, 3, 4, 64, 64)
        >>> encoder.grid_of(video), list(encoder(video).shape)
        (TokenGrid(t=4, h=2, w=2), [1, 16, 512])
    """

    config: ImageBackboneConfig

    def __init__(self, config: ImageBackboneConfig, model: nn.Module | None = None) -> None:
        super().__init__(config)
        self.model = (
            require("timm", "timm").create_model(config.name, num_classes=0) if model is None else model
        )
        self._spatial: dict[tuple[int, int], tuple[int, int]] = {}

    @property
    def embed_dim(self) -> int:
        """Channels of a token, D."""
        return self.config.embed_dim

    @property
    def num_layers(self) -> int:
        """The last depth: 1."""
        return 1

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Replaces timm's model by one with random weights.

        Args:
            generator: its seed decides the weights, without touching torch's global generator; by default that one.
        """
        device = next(self.model.parameters()).device
        with torch.random.fork_rng(devices=[], enabled=generator is not None):
            if generator is not None:
                torch.default_generator.manual_seed(generator.initial_seed())
            model = require("timm", "timm").create_model(self.config.name, num_classes=0)
        # The entire module, since to_empty() leaves the buffers that no state dict holds undefined.
        self.model = model.train(self.training).to(device)

    def grid_of(self, video: Tensor) -> TokenGrid:
        """The token grid of a video [B, C, T, H, W] or of images [B, C, H, W]; t is the number of frames.

        Raises:
            UserError: the input has the wrong rank, or the model does not take frames of this size.
        """
        channels = self.config.in_channels
        if video.ndim not in (4, 5) or video.shape[1] != channels:
            raise UserError(
                f"expected a video [B, {channels}, T, H, W] or images [B, {channels}, H, W], got {list(video.shape)}."
            )
        height, width = video.shape[-2:]
        if (height, width) not in self._spatial:
            weight = next(self.model.parameters(), torch.empty(0))
            frame = torch.zeros(1, channels, height, width, device=weight.device, dtype=weight.dtype)
            training = self.model.training
            with torch.no_grad():
                self._map(frame, self.model.eval())
            self.model.train(training)
        return TokenGrid(1 if video.ndim == 4 else video.shape[2], *self._spatial[height, width])

    def layer_outputs(self, video: Tensor, depths: Sequence[int], keep: Tensor | None = None) -> list[Tensor]:
        """Tokens [B, K, D] of the last feature map, once for each depth, all of which must be 1.

        Raises:
            UserError: another depth is requested, or the input does not fit.
        """
        if any(depth != 1 for depth in depths):
            raise UserError(
                f"{PREFIX}{self.config.name} gives the features of its last layer only: leave out `layers`, or use -1."
            )
        grid = self.grid_of(video)
        if not video.is_floating_point():
            raise UserError(
                f"expected normalised floating-point pixels, got {video.dtype}; encoder.preprocess(frames) makes them "
                "of uint8 frames."
            )
        frames = (video.unsqueeze(2) if video.ndim == 4 else video).transpose(1, 2).flatten(0, 1)
        weight = next(self.model.parameters(), frames)
        distinct, row_of = _distinct(frames)
        tokens = self._map(distinct.to(weight.dtype), self.model)[row_of]
        tokens = tokens.unflatten(0, (len(video), grid.t)).flatten(1, 2)
        if keep is not None:
            check_ids("keep", keep, len(video))
            tokens = tokens.gather(1, keep.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        return [tokens] * len(depths)

    def _map(self, frames: Tensor, model: nn.Module) -> Tensor:
        """Frames [n, C, H, W] to tokens [n, h * w, D]; takes note of (h, w)."""
        name, size = f"{PREFIX}{self.config.name}", tuple(frames.shape[-2:])
        try:
            found = model.forward_features(frames)  # type: ignore[operator]
        except (AssertionError, RuntimeError) as error:
            raise UserError(
                f"{name} does not take frames of {size[0]} x {size[1]} pixels: {error}"
            ) from error
        dim, shape, spatial = self.config.embed_dim, list(getattr(found, "shape", [])), [0, 0]
        if len(shape) == 4 and shape[1] == dim:  # convolutional networks
            spatial, found = shape[2:], found.flatten(2).transpose(1, 2)
        elif len(shape) == 4 and shape[3] == dim:  # Swin and its kind
            spatial, found = shape[1:3], found.flatten(1, 2)
        elif len(shape) == 3 and shape[2] == dim and hasattr(model, "patch_embed"):  # ViT and its kind
            patch: Any = model.patch_embed
            found = found[:, getattr(model, "num_prefix_tokens", 0) :]
            rows_px, columns_px = _pair(patch.patch_size)
            spatial = [size[0] // rows_px, size[1] // columns_px]
        if not shape or spatial[0] * spatial[1] != found.shape[1]:
            raise UserError(
                f"{name} gives {shape or 'several tensors'} for one frame, which is no grid of {dim} channels; choose "
                "another model, such as a ResNet, an EfficientNet, a ConvNeXt or a plain ViT."
            )
        self._spatial[size[0], size[1]] = spatial[0], spatial[1]
        return found


def _distinct(frames: Tensor) -> tuple[Tensor, Tensor]:
    """The frames [n, C, H, W] without repetitions, and which of them each one is [n].

    Windows that overlap share most of their frames, and a frame's features do not depend on its window. Only on the
    CPU, where a hash is far cheaper than the model.
    """
    if frames.device.type != "cpu" or frames.requires_grad:
        return frames, torch.arange(len(frames), device=frames.device)
    first: dict[bytes, int] = {}
    kept: list[int] = []
    row_of: list[int] = []
    for number, frame in enumerate(frames.detach().contiguous()):
        content = hashlib.sha1(frame.view(-1).view(torch.uint8).numpy(), usedforsecurity=False).digest()
        if content not in first:
            first[content] = len(kept)
            kept.append(number)
        row_of.append(first[content])
    return frames[kept], torch.tensor(row_of)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
