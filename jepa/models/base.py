"""Encoder: the interface that probes, detectors and trainers use, independent of the model behind it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from jepa.errors import UserError
from jepa.models.preprocessing import Preprocessing
from jepa.models.rope import TokenGrid

if TYPE_CHECKING:
    import numpy as np

Pool = Literal["mean", "grid"]


class Encoder(nn.Module):
    """Maps videos [B, C, T, H, W] to tokens [B, N, D] on a grid of time steps and spatial positions.

    A subclass is built from its config alone, so that the same architecture can be made again with other weights.

    `VideoEncoder` is the one that this library trains, `ImageBackbone` applies a timm image model to every frame.

    Attributes:
        config: a dataclass that decides the shape and the meaning of the weights.
        preprocessing: what the weights expect of their input, or None if what they came from does not state it.
        metadata: where the weights come from, as plain JSON data.
    """

    config: Any
    preprocessing: Preprocessing | None
    metadata: dict[str, Any]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.preprocessing = None
        self.metadata = {}

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """Channels of a token, D."""

    @property
    @abstractmethod
    def num_layers(self) -> int:
        """The last depth; 0 is the patch embedding."""

    @abstractmethod
    def init_weights(self, generator: Any = None) -> None:
        """Initialises all weights at random, from a `torch.Generator` or torch's global one."""

    @abstractmethod
    def grid_of(self, video: Tensor) -> TokenGrid:
        """The token grid of a video [B, C, T, H, W] or of images [B, C, H, W]; the values do not matter."""

    @abstractmethod
    def layer_outputs(self, video: Tensor, depths: Sequence[int], keep: Tensor | None = None) -> list[Tensor]:
        """Normed tokens [B, K, D] of each depth, which are counted from 0."""

    def forward(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens [B, N, D] of the last depth, or [B, K, D] with ids `keep` [B, K]."""
        return self.features(video, keep=keep)

    @overload
    def features(
        self,
        video: Tensor,
        layers: int | None = None,
        keep: Tensor | None = None,
        pool: Pool | None = None,
    ) -> Tensor: ...

    @overload
    def features(
        self,
        video: Tensor,
        layers: Sequence[int],
        keep: Tensor | None = None,
        pool: Pool | None = None,
    ) -> list[Tensor]: ...

    def features(
        self,
        video: Tensor,
        layers: int | Sequence[int] | None = None,
        keep: Tensor | None = None,
        pool: Pool | None = None,
    ) -> Tensor | list[Tensor]:
        """Features of one or several depths, each after its layer norm.

        Depth 0 is the patch embedding, the bare projection of the pixels without norm or positions; depth k is
        the output of block k; negative depths count from the end, -1 is the last.

        Args:
            video: [B, C, T, H, W], float, normalised; or images [B, C, H, W].
            layers: one depth, or several in any order; None means the last.
            keep: [B, K] int64 ids of the tokens to encode, or None for all.
            pool: None for tokens [B, N, D], "mean" for one vector [B, D], "grid" for [B, t, h, w, D].

        Returns:
            One tensor if `layers` is None or a number, otherwise a list with one tensor per depth.

        Raises:
            UserError: on a depth that does not exist or has no norm, or pool="grid" together with `keep`.

        Example:
            >>> import torch
            >>> from jepa.models import create_model
            >>> encoder, video = create_model("vit_nano"), torch.zeros(1, 3, 4, 32, 32)
            >>> first, last = encoder.features(video, layers=[0, -1])
            >>> list(last.shape), list(encoder.features(video, pool="grid").shape)
            ([1, 8, 128], [1, 2, 2, 2, 128])
        """
        if pool not in (None, "mean", "grid"):
            raise UserError(f"pool={pool!r} is unknown; use None, 'mean' or 'grid'.")
        if pool == "grid" and keep is not None:
            raise UserError("pool='grid' needs every token; drop `keep` or ask for tokens.")
        if layers is None or isinstance(layers, int):
            return self.features(video, [-1 if layers is None else layers], keep, pool)[0]
        outputs = self.layer_outputs(video, self.depths_of(layers), keep)
        if pool == "mean":
            outputs = [x.mean(dim=1) for x in outputs]
        elif pool == "grid":
            outputs = [x.unflatten(1, tuple(self.grid_of(video))) for x in outputs]
        return outputs

    def depths_of(self, layers: Sequence[int]) -> list[int]:
        """Depths counted from 0, for depths that may count from the end.

        Raises:
            UserError: there is none, or one does not exist.

        Example:
            >>> from jepa.models import create_model
            >>> create_model("vit_nano").depths_of([0, 2, -1])
            [0, 2, 4]
        """
        last = self.num_layers
        if not layers:
            raise UserError("layers is empty; name at least one depth, for example [-1] for the last.")
        absent = [layer for layer in layers if not -last - 1 <= layer <= last]
        if absent:
            raise UserError(
                f"layers={list(layers)} asks for depths that do not exist, {absent}: 0 is the patch embedding, the "
                f"blocks are 1 to {last}, and negative depths count from the end (-1 is {last})."
            )
        return [layer % (last + 1) for layer in layers]

    def embed(self, frames: Tensor | np.ndarray) -> Tensor:
        """One vector of a clip: preprocessed, encoded without gradients, averaged over all tokens.

        Args:
            frames: uint8 [T, C, H, W] or [T, H, W, C], as a tensor or a numpy array; T must fit the tubelets.

        Returns:
            [D], on the encoder's device. `jepa.embed(encoder, videos)` reads files and many clips.

        Raises:
            UserError: as `preprocess` and `features`.

        Example:
            >>> import torch
            >>> from jepa.models import create_model
            >>> list(create_model("vit_nano").embed(torch.zeros(4, 3, 240, 320, dtype=torch.uint8)).shape)
            [128]
        """
        training, device = self.training, next(self.parameters()).device
        with torch.no_grad():
            vector = self.eval().features(self.preprocess(frames)[None].to(device), pool="mean")[0]
        self.train(training)
        return vector

    def preprocess(self, frames: Tensor | np.ndarray) -> Tensor:
        """Turns frames into the input that the weights expect.

        Args:
            frames: uint8 [T, C, H, W] or [T, H, W, C], as a tensor or a numpy array.

        Returns:
            [C, T, crop_px, crop_px], float32, normalised.

        Raises:
            UserError: the encoder carries no preprocessing, or the frames are malformed.

        Example:
            >>> import torch
            >>> from jepa.models import create_model
            >>> frames = torch.zeros(16, 3, 240, 320, dtype=torch.uint8)
            >>> list(create_model("vit_nano").preprocess(frames).shape)
            [3, 16, 224, 224]
        """
        if self.preprocessing is None:
            raise UserError(
                "this encoder does not state its preprocessing, because what it was made from does not. Name "
                "its architecture, create_model(name, weights=...), or set encoder.preprocessing."
            )
        return self.preprocessing.apply(frames)
