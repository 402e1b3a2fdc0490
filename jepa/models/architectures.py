"""Architectures by name: sizes, predictor, preprocessing, papers and licences, as plain data."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from jepa.errors import UserError
from jepa.models.encoder import EncoderConfig, VideoEncoder
from jepa.models.predictor import PredictorConfig
from jepa.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class Architecture:
    """A named encoder with all that belongs to it."""

    encoder: EncoderConfig
    """The encoder's architecture."""
    predictor: PredictorConfig
    """The predictor that goes with it."""
    preprocessing: Preprocessing
    """What the encoder expects of its input."""
    paper: str = ""
    """Paper that describes the architecture."""
    licence: str = ""
    """Licence of the published weights."""
    url: str = ""
    """Published weights file, if any."""
    hub_id: str = ""
    """Repository on the Hugging Face hub that holds the same weights, if any."""
    module: type[VideoEncoder] = VideoEncoder
    """The class that is built from the encoder's config."""


_V1 = "V-JEPA, arXiv 2404.08471"
_V2 = "V-JEPA 2, arXiv 2506.09985"
_V21 = "V-JEPA 2.1, arXiv 2603.14482"
_FILES = "https://dl.fbaipublicfiles.com/"

# name: (embed_dim, depth, num_heads, mlp_dim)
SIZES = {
    "pico": (64, 2, 2, 256),
    "nano": (128, 4, 4, 512),
    "micro": (192, 6, 3, 768),
    "tiny": (192, 12, 3, 768),
    "small": (384, 12, 6, 1536),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "huge": (1280, 32, 16, 5120),
    "giant": (1408, 40, 22, 6144),
    "gigantic": (1664, 48, 26, 8192),
}
# Depths with a norm of their own in V-JEPA 2.1, by number of blocks.
OUTPUT_LAYERS = {12: (3, 6, 9, 12), 24: (6, 12, 18, 24), 40: (10, 20, 30, 40), 48: (12, 24, 38, 48)}


def default_predictor(encoder: EncoderConfig) -> PredictorConfig:
    """The predictor of an encoder without a published one, with the encoder's kind of positions.

    From 768 channels on it is the published 384 x 12 (V-JEPA 2, arXiv 2506.09985). Smaller encoders get half their
    own width and depth, in heads of 32 channels as the published one has.

    Example:
        >>> config = default_predictor(EncoderConfig(192, 6, 3, 768))
        >>> config.dim, config.depth, config.num_heads
        (96, 3, 3)
    """
    dim, depth = 384, 12
    if encoder.embed_dim < 768:
        dim, depth = max(32, encoder.embed_dim // 2 // 32 * 32), max(1, encoder.depth // 2)
    return PredictorConfig(
        encoder_dim=encoder.embed_dim,
        out_dim=encoder.embed_dim,
        dim=dim,
        depth=depth,
        num_heads=dim // 32,
        mlp_dim=4 * dim,
        position=encoder.position,
        rope_reference_grid=encoder.rope_reference_grid,
        sincos_grid=encoder.sincos_grid,
        modality_embedding=encoder.modality_embedding,
    )


def _encoder(size: str, **fields: Any) -> EncoderConfig:
    embed_dim, depth, num_heads, mlp_dim = SIZES[size]
    return EncoderConfig(embed_dim, depth, num_heads, mlp_dim, **fields)


def _predictor(encoder: EncoderConfig, **fields: Any) -> PredictorConfig:
    return PredictorConfig(encoder_dim=encoder.embed_dim, **{"out_dim": encoder.embed_dim, **fields})


def _input(num_frames: int, crop_px: int, fps: float = 4.0) -> Preprocessing:
    return Preprocessing(num_frames, fps, int(crop_px * 256 / 224), crop_px)


def _ablation(size: str) -> Architecture:
    encoder = _encoder(size)
    paper = "sizes as in ViT, arXiv 2010.11929"
    return Architecture(encoder, default_predictor(encoder), _input(16, 224), paper)


def _vjepa1(size: str, crop_px: int, file: str) -> Architecture:
    grid = (8, crop_px // 16, crop_px // 16)
    encoder = _encoder(size, position="sincos", sincos_grid=grid)
    predictor = _predictor(encoder, position="sincos", sincos_grid=grid, num_mask_tokens=2)
    # Every fourth frame of video at about 30 frames per second.
    return Architecture(
        encoder, predictor, _input(16, crop_px, fps=7.5), _V1, "CC-BY-NC-4.0", f"{_FILES}jepa/{file}.pth.tar"
    )


def _vjepa2(size: str, crop_px: int, file: str, hub: str) -> Architecture:
    encoder = _encoder(size, position="tiled")
    predictor = _predictor(encoder, position="tiled", num_mask_tokens=10, mask_index=1)
    return Architecture(
        encoder, predictor, _input(64, crop_px), _V2, "MIT", f"{_FILES}vjepa2/{file}.pt", f"facebook/{hub}"
    )


def _vjepa21(size: str, file: str, distilled: bool) -> Architecture:
    encoder = _encoder(
        size,
        rope_reference_grid=16,
        image_tokenizer=True,
        modality_embedding=True,
        output_layers=OUTPUT_LAYERS[SIZES[size][1]],
    )
    # Distilled encoders predict the last layer of a 1664-channel target encoder, the others four layers of their own.
    target_layers, out_dim, depth = (1, 1664, 12) if distilled else (4, 4 * encoder.embed_dim, 24)
    predictor = _predictor(
        encoder,
        target_layers=target_layers,
        out_dim=out_dim,
        depth=depth,
        num_mask_tokens=8,
        mask_index=1,
        rope_reference_grid=16,
        context_head=True,
        modality_embedding=True,
    )
    return Architecture(encoder, predictor, _input(64, 384), _V21, "MIT", f"{_FILES}vjepa2/{file}.pt")


ENTRIES: dict[str, Architecture] = {
    **{f"vit_{size}": _ablation(size) for size in SIZES},
    "vjepa_vit_large_224": _vjepa1("large", 224, "vitl16/vitl16"),
    "vjepa_vit_huge_224": _vjepa1("huge", 224, "vith16/vith16"),
    "vjepa_vit_huge_384": _vjepa1("huge", 384, "vith16-384/vith16-384"),
    "vjepa2_vit_large_256": _vjepa2("large", 256, "vitl", "vjepa2-vitl-fpc64-256"),
    "vjepa2_vit_huge_256": _vjepa2("huge", 256, "vith", "vjepa2-vith-fpc64-256"),
    "vjepa2_vit_giant_256": _vjepa2("giant", 256, "vitg", "vjepa2-vitg-fpc64-256"),
    "vjepa2_vit_giant_384": _vjepa2("giant", 384, "vitg-384", "vjepa2-vitg-fpc64-384"),
    "vjepa2_1_vit_base_384": _vjepa21("base", "vjepa2_1_vitb_dist_vitG_384", distilled=True),
    "vjepa2_1_vit_large_384": _vjepa21("large", "vjepa2_1_vitl_dist_vitG_384", distilled=True),
    "vjepa2_1_vit_giant_384": _vjepa21("giant", "vjepa2_1_vitg_384", distilled=False),
    "vjepa2_1_vit_gigantic_384": _vjepa21("gigantic", "vjepa2_1_vitG_384", distilled=False),
}


def entry_of(name: str) -> Architecture:
    """The architecture of a name; its `predictor` holds the defaults that belong to the encoder.

    Raises:
        UserError: there is none; the message lists the names.

    Example:
        >>> entry_of("vjepa2_vit_large_256").predictor.depth
        12
    """
    if name not in ENTRIES:
        close = difflib.get_close_matches(name, ENTRIES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(f"there is no model named {name!r}.{hint} The known ones are {', '.join(ENTRIES)}.")
    return ENTRIES[name]


def published_weights(name: str) -> str:
    """Where the published weights of a model are: a hub name, or an address.

    Raises:
        UserError: there is no such model, or nothing was published for it.

    Example:
        >>> published_weights("vjepa2_vit_large_256")
        'facebook/vjepa2-vitl-fpc64-256'
    """
    entry = entry_of(name)
    if not entry.url:
        raise UserError(
            f"{name} is an architecture for experiments; no weights were published for it. Name a file of your own: "
            f"{name}:FILE."
        )
    return entry.hub_id or entry.url


def name_of_module(module: type[VideoEncoder]) -> str | None:
    """The first registered name whose encoders are of a class of their own; None for VideoEncoder itself.

    Raises:
        UserError: the class was not registered.
    """
    if module is VideoEncoder:
        return None
    for name, entry in ENTRIES.items():
        if entry.module is module:
            return name
    raise UserError(
        f"{module.__name__} is not the class of a registered architecture, so its weights could not be loaded: call "
        "jepa.register_model(NAME, config, module=...) first."
    )
