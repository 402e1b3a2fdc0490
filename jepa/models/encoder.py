"""VideoEncoder: pixels to tokens.

A clip is cut into tubelets of `tubelet_frames` x `patch_px` x `patch_px` pixels, each projected to one token;
blocks of full attention mix them; a layer norm ends it. When only some tokens are wanted (`keep`), their
pixels are gathered *before* the projection, so that hidden patches cost nothing at all.

Parameter names and shapes are those of the published V-JEPA 2 and 2.1 encoders.

Shapes: B batch, C channels, T frames, H and W pixels; N tokens of the grid, K tokens kept, D embedding
channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from jepa.errors import UserError
from jepa.models.layers import Block, check_heads, init_block_weights, init_std, rescale_blocks
from jepa.models.preprocessing import Preprocessing
from jepa.models.rope import Position, RopeTable, TokenGrid, check_ids, placed

Pool = Literal["mean", "grid"]


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides the shape and the meaning of an encoder's weights."""

    embed_dim: int = 1024
    """Channels of a token."""
    depth: int = 24
    """Transformer blocks."""
    num_heads: int = 16
    """Attention heads of a block."""
    mlp_dim: int = 4096
    """Hidden channels of a block's MLP."""
    patch_px: int = 16
    """Height and width of a patch in pixels."""
    tubelet_frames: int = 2
    """Frames in one token of a video."""
    in_channels: int = 3
    """Colour channels."""
    position: Position = "interleaved"
    """Rotary positions of one of two flavours, or fixed sine-cosine ones added to the tokens."""
    rope_reference_grid: int | None = None
    """If set, rows and columns are stretched onto a grid of this many patches before they rotate (V-JEPA 2.1:
    16)."""
    sincos_grid: tuple[int, int, int] | None = None
    """Trained token grid (t, h, w) of sine-cosine positions; other grids are interpolated from it."""
    norm_eps: float = 1e-6
    """Epsilon of every layer norm."""
    image_tokenizer: bool = False
    """A projection of its own for single frames; without it a single frame is repeated to fill a tubelet."""
    modality_embedding: bool = False
    """A learned vector added to every token of a video, another to every token of an image."""
    level_layers: tuple[int, ...] = ()
    """Blocks (from 0) whose outputs have a layer norm of their own; the last must be the last block. Empty:
    one norm."""

    def __post_init__(self) -> None:
        check_heads("encoder", self.embed_dim, self.num_heads)
        if self.position not in ("interleaved", "tiled", "sincos"):
            raise UserError(f"position={self.position!r} is unknown; use interleaved, tiled or sincos.")
        if (self.position == "sincos") != (self.sincos_grid is not None):
            raise UserError("sincos_grid belongs to position=sincos: give both or neither.")
        if self.modality_embedding and not self.image_tokenizer:
            raise UserError("modality_embedding tells images from videos and needs image_tokenizer=True.")
        levels = self.level_layers
        if levels and (list(levels) != sorted(set(levels)) or levels[0] < 0 or levels[-1] != self.depth - 1):
            raise UserError(
                f"level_layers={levels} must be increasing block numbers that end with the last block, "
                f"{self.depth - 1}."
            )


class PatchEmbed(nn.Module):
    """Projects tubelets to tokens with the weights of a 3-D convolution whose stride is its kernel.

    The convolution only holds the parameters, in the published layout; the projection is one matrix product,
    so that it can be applied to any subset of tubelets.

    Args:
        in_channels: colour channels.
        tubelet_frames: frames of a tubelet.
        patch_px: height and width of a tubelet.
        embed_dim: channels of a token.
    """

    def __init__(self, in_channels: int, tubelet_frames: int, patch_px: int, embed_dim: int) -> None:
        super().__init__()
        size = (tubelet_frames, patch_px, patch_px)
        self.size = size
        self.proj = nn.Conv3d(in_channels, embed_dim, kernel_size=size, stride=size)

    def forward(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        """Maps a video [B, C, T, H, W] to tokens [B, N, D], or [B, K, D] with keep [B, K]."""
        frames, height, width = self.size
        tubelets = rearrange(video, "b c (t f) (h p) (w q) -> b t h w c f p q", f=frames, p=height, q=width)
        if keep is None:
            patches = tubelets.flatten(4).flatten(1, 3)
        else:
            # Indexing a view of the video copies the kept pixels only.
            _, _, rows, columns = tubelets.shape[:4]
            sample = torch.arange(len(video), device=video.device).unsqueeze(1)
            place = keep // (rows * columns), keep // columns % rows, keep % columns
            patches = tubelets[(sample, *place)].flatten(2)
        return functional.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class VideoEncoder(nn.Module):
    """A vision transformer on videos and images.

    Inputs may have any size that tubelet and patch divide; nothing is tied to the size of training.

    Args:
        config: the architecture.

    Attributes:
        preprocessing: what the weights expect of their input, or None for an encoder made from a bare config.
        about: where the weights come from, as plain data.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.preprocessing: Preprocessing | None = None
        self.about: dict[str, Any] = {}
        self.grad_checkpointing = False
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config.in_channels, config.tubelet_frames, config.patch_px, dim)
        if config.image_tokenizer:
            self.patch_embed_img = PatchEmbed(config.in_channels, 1, config.patch_px, dim)
        if config.modality_embedding:
            self.img_mod_embed = nn.Parameter(torch.empty(1, 1, dim))
            self.video_mod_embed = nn.Parameter(torch.empty(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, config.mlp_dim, config.norm_eps) for _ in range(config.depth)
        )
        if config.level_layers:
            self.norms_block = nn.ModuleList(
                nn.LayerNorm(dim, eps=config.norm_eps) for _ in config.level_layers
            )
        else:
            self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        if not self.patch_embed.proj.weight.is_meta:
            self.init_weights()

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Starts all weights as the published encoders do; needed by hand only after building on the meta
        device.

        Args:
            generator: source of the random numbers, on the device of the weights; torch's global one by
                default.
        """
        init_block_weights(self, init_std(self.config.embed_dim), generator)
        rescale_blocks(self.blocks)
        if self.config.modality_embedding:
            nn.init.normal_(self.img_mod_embed, std=1e-6, generator=generator)
            nn.init.normal_(self.video_mod_embed, std=1e-6, generator=generator)

    @property
    def embed_dim(self) -> int:
        """Channels of a token, D."""
        return self.config.embed_dim

    def is_image(self, video: Tensor) -> bool:
        """Whether the input [B, C, T, H, W] goes through the image tokenizer."""
        return self.config.image_tokenizer and video.shape[2] == 1

    def grid_of(self, video: Tensor) -> TokenGrid:
        """The token grid of a video [B, C, T, H, W] or of images [B, C, H, W].

        Raises:
            UserError: the input has the wrong rank, or patch or tubelet do not divide it.
        """
        config = self.config
        if video.ndim not in (4, 5) or video.shape[1] != config.in_channels:
            raise UserError(
                f"expected a video [B, {config.in_channels}, T, H, W] or images "
                f"[B, {config.in_channels}, H, W], got {list(video.shape)}."
            )
        frames = video.shape[2] if video.ndim == 5 else 1
        height, width = video.shape[-2:]
        # One frame is an image: it has a tokenizer of its own, or is repeated to fill one tubelet.
        slots = 1 if frames == 1 else frames // config.tubelet_frames
        if (frames != 1 and frames % config.tubelet_frames) or slots < 1:
            raise UserError(
                f"{frames} frames cannot be cut into tubelets of {config.tubelet_frames}; give one frame "
                f"or a multiple of {config.tubelet_frames}."
            )
        if height < 1 or width < 1 or height % config.patch_px or width % config.patch_px:
            raise UserError(
                f"{height} x {width} pixels cannot be cut into patches of {config.patch_px}; resize or crop "
                f"to multiples of {config.patch_px}."
            )
        return TokenGrid(slots, height // config.patch_px, width // config.patch_px)

    def forward(self, video: Tensor, keep: Tensor | None = None, levels: bool = False) -> Tensor:
        """Encodes clips.

        Args:
            video: [B, C, T, H, W], float, normalised; or images [B, C, H, W].
            keep: [B, K] int64 ids of the tokens to encode; the others are never seen. None: all.
            levels: join the normed outputs of `config.level_layers` on the channels, as V-JEPA 2.1 trains.

        Returns:
            [B, N, D], [B, K, D] with `keep`, and L * D channels with `levels` for L level layers.

        Raises:
            UserError: on a size that patch and tubelet do not divide, malformed ids, or `levels` without
                levels.
        """
        if levels and not self.config.level_layers:
            raise UserError("levels=True needs an encoder with level_layers, such as those of V-JEPA 2.1.")
        wanted = list(self.config.level_layers) if levels else [self.config.depth - 1]
        return torch.cat([self.norm_of(i)(x) for i, x in self.block_outputs(video, wanted, keep)], dim=-1)

    def features(
        self,
        video: Tensor,
        layers: list[int] | None = None,
        keep: Tensor | None = None,
        pool: Pool | None = None,
    ) -> Tensor | list[Tensor]:
        """Features of one or several depths, each after its layer norm.

        Args:
            video: [B, C, T, H, W], float, normalised; or images [B, C, H, W].
            layers: block numbers from 0, in increasing order; None means the last.
            keep: [B, K] int64 ids of the tokens to encode, or None for all.
            pool: None for tokens [B, N, D], "mean" for one vector [B, D], "grid" for [B, t, h, w, D].

        Returns:
            One tensor if `layers` is None, otherwise a list with one tensor per layer.

        Raises:
            UserError: on a layer that does not exist or has no norm, or pool="grid" together with `keep`.
        """
        if pool not in (None, "mean", "grid"):
            raise UserError(f"pool={pool!r} is unknown; use None, 'mean' or 'grid'.")
        if pool == "grid" and keep is not None:
            raise UserError("pool='grid' needs every token; drop `keep` or ask for tokens.")
        wanted = [self.config.depth - 1] if layers is None else list(layers)
        norms = [self.norm_of(layer) for layer in wanted]
        outputs = [
            norm(x) for norm, (_, x) in zip(norms, self.block_outputs(video, wanted, keep), strict=True)
        ]
        if pool == "mean":
            outputs = [x.mean(dim=1) for x in outputs]
        elif pool == "grid":
            outputs = [x.unflatten(1, tuple(self.grid_of(video))) for x in outputs]
        return outputs[0] if layers is None else outputs

    def norm_of(self, layer: int) -> nn.Module:
        """The layer norm that follows block `layer`.

        Raises:
            UserError: the block does not exist, or the encoder has norms per level and none for this block.
        """
        if not 0 <= layer < self.config.depth:
            raise UserError(
                f"layer {layer} does not exist: the encoder has blocks 0 to {self.config.depth - 1}."
            )
        if not self.config.level_layers:
            return self.norm
        if layer not in self.config.level_layers:
            raise UserError(
                f"layer {layer} has no layer norm: this encoder was trained with norms after blocks "
                f"{list(self.config.level_layers)}; choose among these."
            )
        return self.norms_block[self.config.level_layers.index(layer)]

    def block_outputs(
        self, video: Tensor, layers: list[int], keep: Tensor | None = None
    ) -> list[tuple[int, Tensor]]:
        """Raw outputs of blocks, before any norm, as (block number, tokens [B, K, D]); blocks past the last
        wanted one are not run.

        Raises:
            UserError: as `forward`; or `layers` is empty or not increasing.
        """
        if (
            not layers
            or list(layers) != sorted(set(layers))
            or layers[-1] >= len(self.blocks)
            or layers[0] < 0
        ):
            raise UserError(
                f"layers={list(layers)} must be increasing block numbers between 0 and "
                f"{len(self.blocks) - 1}."
            )
        if keep is not None:
            check_ids("keep", keep, len(video))
        x, rope = self._embed(video, keep)
        outputs = []
        for number, block in enumerate(self.blocks[: layers[-1] + 1]):
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, rope, use_reentrant=False)
            else:
                x = block(x, rope)
            if number in layers:
                outputs.append((number, x))
        return outputs

    def _embed(self, video: Tensor, keep: Tensor | None) -> tuple[Tensor, RopeTable | None]:
        """Tokens with everything but rotary positions, and the rotary table."""
        config, grid = self.config, self.grid_of(video)
        if video.ndim == 4:
            video = video.unsqueeze(2)
        image = self.is_image(video)
        if not image and video.shape[2] == 1:
            video = video.expand(-1, -1, config.tubelet_frames, -1, -1)
        x = (self.patch_embed_img if image else self.patch_embed)(video, keep)
        if config.modality_embedding:
            x = x + (self.img_mod_embed if image else self.video_mod_embed)
        return placed(
            x, keep, grid, config.num_heads, config.position, config.rope_reference_grid, config.sincos_grid
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether training recomputes each block in the backward pass instead of storing its activations."""
        self.grad_checkpointing = enable

    def preprocess(self, frames: Tensor) -> Tensor:
        """Turns frames uint8 [T, C, H, W] into the input [C, T, H, W] that the weights expect.

        Raises:
            UserError: the encoder carries no preprocessing, or the frames are malformed.
        """
        if self.preprocessing is None:
            raise UserError(
                "this encoder does not know its preprocessing, because what it was made from does not state it. Name "
                "its architecture, create_model(name, weights=...), or set encoder.preprocessing."
            )
        return self.preprocessing.apply(frames)
