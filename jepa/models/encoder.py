"""VideoEncoder: a vision transformer (ViT) that maps pixels to tokens; the context and the target encoder.

A clip is cut into tubelets of `tubelet_frames` x `patch_px` x `patch_px` pixels, each projected to one token;
blocks of full attention mix them; a layer norm ends it. When only some tokens are kept (`keep`), their
pixels are gathered *before* the projection, so that masked patches cost nothing at all.

Parameter names and shapes are those of the published V-JEPA 2 and 2.1 encoders.

Shapes: B batch, C channels, T frames, H and W pixels; N tokens of the grid, K tokens kept, D embedding
channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from jepa.errors import UserError
from jepa.models.base import Encoder
from jepa.models.layers import Block, check_heads, init_block_weights, init_std, rescale_blocks
from jepa.models.rope import Position, RopeTable, TokenGrid, check_ids, with_positions


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides the shape and the meaning of an encoder's weights.

    Raises:
        UserError: the fields do not fit together.

    Example:
        >>> EncoderConfig(192, depth=12, num_heads=3, mlp_dim=768, patch_px=8).position
        'interleaved'
    """

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
    output_layers: tuple[int, ...] = ()
    """Depths (k is the output of block k, from 1) that have a layer norm of their own; the last must be `depth`.
    Empty: one norm for all depths."""

    def __post_init__(self) -> None:
        check_heads("encoder", self.embed_dim, self.num_heads)
        if self.position not in ("interleaved", "tiled", "sincos"):
            raise UserError(f"position={self.position!r} is unknown; use interleaved, tiled or sincos.")
        if (self.position == "sincos") != (self.sincos_grid is not None):
            raise UserError("sincos_grid belongs to position=sincos: give both or neither.")
        if self.modality_embedding and not self.image_tokenizer:
            raise UserError(
                "modality_embedding distinguishes images from videos and needs image_tokenizer=True."
            )
        layers = self.output_layers
        if layers and (list(layers) != sorted(set(layers)) or layers[0] < 1 or layers[-1] != self.depth):
            raise UserError(
                f"output_layers={layers} must be increasing depths from 1 that end with the last block, "
                f"{self.depth}."
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

    Example:
        >>> list(PatchEmbed(3, 2, 16, 48)(torch.zeros(1, 3, 4, 32, 32)).shape)
        [1, 8, 48]
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
            position = keep // (rows * columns), keep // columns % rows, keep % columns
            patches = tubelets[(sample, *position)].flatten(2)
        # Half-precision weights take float32 pixels; the tokens come in the dtype of the weights.
        return functional.linear(
            patches.to(self.proj.weight.dtype), self.proj.weight.flatten(1), self.proj.bias
        )


class VideoEncoder(Encoder):
    """A vision transformer on videos and images.

    Inputs may have any size that tubelet and patch divide; nothing is tied to the size of training.

    Args:
        config: the architecture.

    Example:
        >>> encoder = VideoEncoder(EncoderConfig(48, depth=2, num_heads=2, mlp_dim=96))
        >>> list(encoder.features(torch.zeros(1, 3, 4, 32, 48), pool="grid").shape)
        [1, 2, 2, 3, 48]

    Attributes:
        config: the architecture.
        preprocessing: what the weights expect of their input, or None for an encoder made from a bare config.
        metadata: where the weights come from, as plain JSON data.
    """

    config: EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
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
        if config.output_layers:
            self.norms_block = nn.ModuleList(
                nn.LayerNorm(dim, eps=config.norm_eps) for _ in config.output_layers
            )
        else:
            self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        if not self.patch_embed.proj.weight.is_meta:
            self.init_weights()

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialises all weights as the published encoders do; needed by hand only after building on the meta
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

    @property
    def num_layers(self) -> int:
        """The last depth: the number of blocks."""
        return self.config.depth

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
        steps = 1 if frames == 1 else frames // config.tubelet_frames
        if (frames != 1 and frames % config.tubelet_frames) or steps < 1:
            raise UserError(
                f"{frames} frames cannot be cut into tubelets of {config.tubelet_frames}; give one frame "
                f"or a multiple of {config.tubelet_frames}."
            )
        if height < 1 or width < 1 or height % config.patch_px or width % config.patch_px:
            raise UserError(
                f"{height} x {width} pixels cannot be cut into patches of {config.patch_px}; resize or crop "
                f"to multiples of {config.patch_px}."
            )
        return TokenGrid(steps, height // config.patch_px, width // config.patch_px)

    def forward(self, video: Tensor, keep: Tensor | None = None, multi_layer: bool = False) -> Tensor:
        """Encodes clips: the tokens of the last block after the layer norm.

        Args:
            video: [B, C, T, H, W], float, normalised; or images [B, C, H, W].
            keep: [B, K] int64 ids of the tokens to encode; the others are never computed. None: all.
            multi_layer: join the normed outputs of `config.output_layers` on the channels, as V-JEPA 2.1 trains.

        Returns:
            [B, N, D], [B, K, D] with `keep`, and L * D channels with `multi_layer` for L output layers; in the
            dtype of the weights, or of autocast.

        Raises:
            UserError: on a size that patch and tubelet do not divide, pixels that are not floating point, malformed
                ids, or `multi_layer` for an encoder without output layers.

        Example:
            >>> encoder = VideoEncoder(EncoderConfig(48, depth=2, num_heads=2, mlp_dim=96))
            >>> list(encoder(torch.zeros(1, 3, 4, 32, 32)).shape)
            [1, 8, 48]
        """
        if not multi_layer:
            return self.features(video, keep=keep)
        if not self.config.output_layers:
            raise UserError(
                "multi_layer=True needs an encoder with output_layers, such as those of V-JEPA 2.1."
            )
        return torch.cat(self.features(video, self.config.output_layers, keep), dim=-1)

    def layer_outputs(self, video: Tensor, depths: Sequence[int], keep: Tensor | None = None) -> list[Tensor]:
        """Tokens [B, K, D] of each depth after its layer norm; depths are counted from 0.

        Raises:
            UserError: as `forward`; or a depth has no layer norm.
        """
        norms = [self.norm_of(depth) for depth in depths]
        raw = self.block_outputs(video, depths, keep)
        return [norm(raw[depth]) for norm, depth in zip(norms, depths, strict=True)]

    def norm_of(self, depth: int) -> nn.Module:
        """The layer norm that follows a depth counted from 0; the patch embedding has none and gets an identity.

        Raises:
            UserError: the encoder has norms for some depths only, and none for this one.
        """
        if depth == 0:
            return nn.Identity()
        if not self.config.output_layers:
            return self.norm
        if depth not in self.config.output_layers:
            raise UserError(
                f"layer {depth} has no layer norm: this encoder was trained with norms at the depths "
                f"{list(self.config.output_layers)}; choose among these, or 0."
            )
        return self.norms_block[self.config.output_layers.index(depth)]

    def block_outputs(
        self, video: Tensor, depths: Sequence[int], keep: Tensor | None = None
    ) -> dict[int, Tensor]:
        """Raw tokens [B, K, D] by depth counted from 0, before any norm; blocks past the last one are not run.

        Raises:
            UserError: as `forward`.
        """
        if keep is not None:
            check_ids("keep", keep, len(video))
        x = self._project(video, keep)
        outputs = {0: x} if 0 in depths else {}
        if max(depths) == 0:
            return outputs
        x, rope = self._with_positions(x, video, keep)
        for depth, block in enumerate(self.blocks[: max(depths)], 1):
            x = block(x, rope)
            if depth in depths:
                outputs[depth] = x
        return outputs

    def _project(self, video: Tensor, keep: Tensor | None) -> Tensor:
        """Pixels to tokens [B, K, D]: the patch embedding."""
        self.grid_of(video)  # refuses what cannot be cut into tokens
        if not video.is_floating_point():
            raise UserError(
                f"expected normalised floating-point pixels, got {video.dtype}; encoder.preprocess(frames) makes "
                "them of uint8 frames."
            )
        if video.ndim == 4:
            video = video.unsqueeze(2)
        image = self.is_image(video)
        if not image and video.shape[2] == 1:
            video = video.expand(-1, -1, self.config.tubelet_frames, -1, -1)
        patch_embed = self.patch_embed_img if image else self.patch_embed
        return patch_embed(video, keep)

    def _with_positions(
        self, x: Tensor, video: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, RopeTable | None]:
        """Tokens with everything but rotary positions, and the rotary table."""
        config, grid = self.config, self.grid_of(video)
        if config.modality_embedding:
            single = video.ndim == 4 or video.shape[2] == 1
            x = x + (self.img_mod_embed if single else self.video_mod_embed)
        return with_positions(
            x, keep, grid, config.num_heads, config.position, config.rope_reference_grid, config.sincos_grid
        )
