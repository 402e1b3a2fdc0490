"""Meta's checkpoint files: V-JEPA, V-JEPA 2 and 2.1, and their attentive probes.

A training file is a dict of `encoder`, `target_encoder` (or `ema_encoder`), `predictor` and more; a probe
file holds a list `classifiers`. Names carry `module.` and `backbone.` in front, left by the wrappers of
training; a state dict whose names lack `backbone.` may be of any model, and needs its architecture named.

What a file does not state, such as the number of heads, is taken from the published architecture of the same
width and depth; if there is none, the caller has to say.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.models.architectures import ENTRIES, OUTPUT_LAYERS, SIZES
from jepa.models.encoder import EncoderConfig, VideoEncoder
from jepa.models.pooler import AttentiveClassifier, PoolerConfig
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.models.rope import TokenGrid, sincos_table
from jepa.models.weights.strict import build_strictly, clean_names

# In this order: distilled models are released as `ema_encoder`, the others as `target_encoder`.
_ENCODER_KEYS = ("ema_encoder", "target_encoder", "encoder")
# V-JEPA has 16 frames of 224 or 384 pixels; V-JEPA 2 files may carry positions too, but of other lengths.
_V1_GRIDS = {8 * 14 * 14: (8, 14, 14), 8 * 24 * 24: (8, 24, 24)}
_V2_LENGTHS = (8 * 16 * 16, 32 * 16 * 16, 32 * 24 * 24)
_BACKBONE = re.compile(r"^(?:(?:_orig_mod|module)\.)*backbone\.")
# A predictor with any of these was trained by V-JEPA 2.1.
_EXTRAS_OF_2_1 = {"proj_context.weight", "video_mod_embed", "embed.0.weight"}
_PROBE_HEADS = {
    "linear": "label",
    "verb_classifier": "verb",
    "noun_classifier": "noun",
    "action_classifier": "action",
}


def encoder_from(
    document: dict[str, Any], path: Path, key: str | None, config: EncoderConfig | None
) -> VideoEncoder:
    """The encoder of a checkpoint.

    Raises:
        UserError: there is none, or it does not fit.
    """
    key, state, is_meta = _part(document, path, _ENCODER_KEYS, key)
    source = f"{path} ({key})" if key else str(path)
    positions = state.pop("pos_embed", None)
    if not is_meta and config is None:
        raise UserError(
            f"{source} does not say which model it holds: its names lack the prefix backbone. of Meta's files, and fit "
            "several kinds of rotary positions, of which the wrong one gives wrong features. Give the architecture, "
            "create_model(NAME, weights=FILE) or load_encoder(FILE, config=encoder.config), or save the encoder with "
            "jepa.models.save_encoder, whose files describe themselves."
        )
    found = config or _encoder_config(state, positions, source)
    if is_meta:
        is_2_1 = any(name.startswith("norms_block.") for name in state)
        _check_flavour(found.position, is_2_1, positions, source)
    metadata = {"format": "meta", "source": str(path), "key": key}
    if found.sincos_grid is not None:
        _check_positions(positions, found.sincos_grid, found.embed_dim, source)
    elif positions is not None:
        metadata["ignored"] = "pos_embed, which rotary encoders do not use"
    encoder = build_strictly(lambda: VideoEncoder(found), state, source)
    named = [entry for entry in ENTRIES.values() if entry.encoder == found and entry.url]
    # Two input sizes may have one architecture, and the file does not say which of them it is for.
    encoder.preprocessing = named[0].preprocessing if len(named) == 1 else None
    encoder.metadata = metadata
    return encoder


def predictor_from(document: dict[str, Any], path: Path, config: PredictorConfig | None) -> Predictor:
    """The predictor of a checkpoint.

    Raises:
        UserError: there is none, it is conditioned on actions, or it does not fit.
    """
    _, state, _ = _part(document, path, ("predictor",), None)
    source = f"{path} (predictor)"
    if any(name.startswith("action_encoder.") for name in state):
        raise UserError(
            f"{source} is conditioned on actions; jepa.models.action.load_action_predictor reads it."
        )
    positions = state.pop("predictor_pos_embed", None)
    tokens = {name: state.pop(name) for name in list(state) if name.startswith("mask_tokens.")}
    names = [f"mask_tokens.{index}" for index in range(len(tokens))]
    shapes = {name: list(tensor.shape) for name, tensor in tokens.items()}
    dim = next(iter(tokens.values())).shape[-1:].numel() if tokens else 0
    if not names or shapes != {name: [1, 1, dim] for name in names}:
        raise UserError(
            f"{source} has mask tokens {shapes}; expected mask_tokens.0, .1 and so on, all [1, 1, {dim}]."
        )
    state = {re.sub(r"^predictor_", "", name): tensor for name, tensor in state.items()}
    state["mask_tokens"] = torch.cat([tokens[name][0] for name in names])
    found = config or _predictor_config(state, positions, source)
    _check_flavour(found.position, not _EXTRAS_OF_2_1.isdisjoint(state), positions, source)
    if found.sincos_grid is not None:
        _check_positions(positions, found.sincos_grid, found.dim, source)
    return build_strictly(lambda: Predictor(found), state, source)


def probes_from(document: dict[str, Any], path: Path, num_heads: int) -> list[AttentiveClassifier]:
    """The attentive probes of a probe file; training sweeps many at once.

    Raises:
        UserError: the file holds none, or one does not fit.
    """
    states = document.get("classifiers")
    if not isinstance(states, list) or not states:
        raise UserError(
            f"{path} is not a probe file: it has no list `classifiers`, but {sorted(document)[:12]}."
        )
    return [_probe(_clean(state), f"{path} (classifiers[{i}])", num_heads) for i, state in enumerate(states)]


def _probe(state: dict[str, Tensor], source: str, num_heads: int) -> AttentiveClassifier:
    shape = _shape_of(state, "pooler.query_tokens", 3, source)
    mlp_dim = _shape_of(state, "pooler.cross_attention_block.mlp.fc1.weight", 2, source)[0]
    depth = 1 + _count(state, "pooler.blocks.")
    pooler = PoolerConfig(shape[2], shape[1], depth, num_heads, mlp_dim)
    heads = {theirs: ours for theirs, ours in _PROBE_HEADS.items() if f"{theirs}.weight" in state}
    classes = {ours: _shape_of(state, f"{theirs}.weight", 2, source)[0] for theirs, ours in heads.items()}
    renamed = {}
    for name, tensor in state.items():
        first, _, rest = name.partition(".")
        renamed[f"heads.{heads[first]}.{rest}" if first in heads else name] = tensor
    return build_strictly(lambda: AttentiveClassifier(pooler, classes), renamed, source)


def _part(
    document: dict[str, Any], path: Path, known: tuple[str, ...], key: str | None
) -> tuple[str, dict[str, Tensor], bool]:
    """One state dict of a checkpoint under the requested key or the first known one, or a bare state dict; and whether
    its names carry Meta's prefix."""
    present = [name for name in known if isinstance(document.get(name), dict)]
    if key is not None and key not in present:
        raise UserError(f"{path} has no {key!r}; of the requested kind it has {present or 'nothing'}.")
    if present:
        key = key or present[0]
        return key, _clean(document[key]), _has_prefix(document[key])
    if document and all(isinstance(value, Tensor) for value in document.values()):
        return "", _clean(document), _has_prefix(document)
    raise UserError(f"{path} has none of {list(known)}; its keys are {sorted(map(str, document))[:12]}.")


def _clean(state: dict[str, Any]) -> dict[str, Tensor]:
    unexpected = [name for name, tensor in state.items() if not isinstance(tensor, Tensor)]
    if unexpected:
        raise UserError(f"a state dict holds values that are no tensor: {unexpected[:12]}.")
    plain = {_BACKBONE.sub("", name): tensor for name, tensor in state.items()}
    if len(plain) != len(state):
        raise UserError("a state dict holds more than one tensor per name; save one of them.")
    return clean_names(plain, "a state dict")


def _has_prefix(state: dict[str, Any]) -> bool:
    return all(_BACKBONE.match(str(name)) for name in state)


def _shape_of(state: dict[str, Tensor], name: str, axes: int, source: str) -> list[int]:
    if name not in state:
        raise UserError(f"{source} has no {name}; its first keys are {sorted(state)[:6]}.")
    shape = list(state[name].shape)
    if len(shape) != axes or 0 in shape:
        raise UserError(
            f"{source} has a misshapen {name}: {shape}, which should have {axes} axes, none empty."
        )
    return shape


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """Blocks numbered from 0 without a gap, so that one misnamed key does not pass for a deeper model."""
    present = {name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)}
    return next(number for number in range(len(present) + 1) if str(number) not in present)


def _encoder_config(state: dict[str, Tensor], positions: Tensor | None, source: str) -> EncoderConfig:
    patch = _shape_of(state, "patch_embed.proj.weight", 5, source)
    size = (patch[0], _count(state, "blocks."), _shape_of(state, "blocks.0.mlp.fc1.weight", 2, source)[0])
    heads = [heads for dim, depth, heads, mlp in SIZES.values() if (dim, depth, mlp) == size]
    if len(heads) != 1:
        raise UserError(
            f"{source} has width {size[0]}, {size[1]} blocks and {size[2]} hidden channels, which is no "
            f"published size: a tensor is misshapen, or give the architecture as `config`, since a file does not state "
            f"its number of heads."
        )
    fields: dict[str, Any] = {"tubelet_frames": patch[2], "patch_px": patch[3], "in_channels": patch[1]}
    if any(name.startswith("norms_block.") for name in state):
        if size[1] not in OUTPUT_LAYERS:
            raise UserError(f"{source} has norms per layer, but no published model of {size[1]} blocks does.")
        fields |= {
            "rope_reference_grid": 16,
            "image_tokenizer": "patch_embed_img.proj.weight" in state,
            "modality_embedding": "video_mod_embed" in state,
            "output_layers": OUTPUT_LAYERS[size[1]],
        }
    else:
        fields |= _positions_by_length(positions, source)
    return EncoderConfig(size[0], size[1], heads[0], size[2], **fields)


def _predictor_config(state: dict[str, Tensor], positions: Tensor | None, source: str) -> PredictorConfig:
    tokens = state["mask_tokens"]
    num_tokens, dim = tokens.shape
    if dim != 384:
        raise UserError(
            f"{source} has width {dim}; published predictors have 384, and a file does not state its number "
            f"of heads: give the architecture as `config`."
        )
    if "embed.0.weight" in state:
        encoder_dim, joined = _shape_of(state, "embed.0.weight", 2, source)
        target_layers = joined // encoder_dim
    else:
        encoder_dim, target_layers = _shape_of(state, "embed.weight", 2, source)[1], 1
    fields: dict[str, Any] = {
        "context_head": "proj_context.weight" in state,
        "modality_embedding": "video_mod_embed" in state,
    }
    if not _EXTRAS_OF_2_1.isdisjoint(state):
        fields["rope_reference_grid"] = 16
    else:
        fields |= _positions_by_length(positions, source)
    return PredictorConfig(
        encoder_dim=encoder_dim,
        target_layers=target_layers,
        out_dim=_shape_of(state, "proj.weight", 2, source)[0],
        dim=dim,
        depth=_count(state, "blocks."),
        num_heads=12,
        mlp_dim=_shape_of(state, "blocks.0.mlp.fc1.weight", 2, source)[0],
        num_mask_tokens=num_tokens,
        mask_index=trained_mask_token(tokens),
        **fields,
    )


def trained_mask_token(tokens: Tensor) -> int:
    """The mask token [n, d] to use: the only one that training moved from zero, or the published default, 1.

    Training reaches one token per group of clip lengths, the others keep their initial zeros; published code
    always infers with token 1 (modulo their number), which stays at its initial value when there was a single group.
    """
    moved = tokens.float().abs().amax(dim=1).nonzero().flatten().tolist()
    return moved[0] if len(moved) == 1 else 1 % len(tokens)


def _positions_by_length(positions: Tensor | None, source: str) -> dict[str, Any]:
    length = (
        None if positions is None else positions.shape[1:].numel() // max(positions.shape[-1:].numel(), 1)
    )
    if length in _V1_GRIDS:
        return {"position": "sincos", "sincos_grid": _V1_GRIDS[length]}
    if length is None or length in _V2_LENGTHS:
        return {"position": "tiled"}
    raise UserError(
        f"{source} has fixed positions for {length} tokens, which neither V-JEPA nor V-JEPA 2 was published "
        f"with: give the architecture as `config`."
    )


def _check_flavour(position: str, is_2_1: bool, positions: Tensor | None, source: str) -> None:
    """The keys fit several kinds of positions, but the weights only work with the one they were trained
    with."""
    allowed = ["interleaved"] if is_2_1 else ["tiled", *(["sincos"] if positions is not None else [])]
    if position not in allowed:
        raise UserError(
            f"{source} was trained with positions of kind {' or '.join(allowed)}, so it cannot be read as an "
            f"architecture with {position!r}; leave out the architecture, or use a name of the same family."
        )


def _check_positions(positions: Tensor | None, grid: tuple[int, int, int], dim: int, source: str) -> None:
    """Fixed positions are computed, not loaded; a file whose own differ would give other features."""
    expected = sincos_table(TokenGrid(*grid), dim, TokenGrid(*grid))
    if positions is None or positions.shape[1:] != expected.shape:
        shape = None if positions is None else list(positions.shape)
        raise UserError(f"{source} has fixed positions {shape}, expected [1, {len(expected)}, {dim}].")
    if not torch.allclose(positions[0].float(), expected, atol=1e-5):
        raise UserError(f"{source} has fixed positions that are not the sine-cosine ones of grid {grid}.")
