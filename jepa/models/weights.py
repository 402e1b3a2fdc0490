"""One place that reads and writes weights.

An export is a folder with `encoder.safetensors` and `config.json`. The weights file carries the config in its
header as well, and that copy rules: a kill between the two renames leaves weights that still describe
themselves.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.files import atomic_path, write_json
from jepa.models.encoder import EncoderConfig, VideoEncoder
from jepa.models.preprocessing import Preprocessing

SCHEMA = "jepa.encoder/1"
WEIGHTS_FILE = "encoder.safetensors"
CONFIG_FILE = "config.json"


def save_encoder(
    folder: str | os.PathLike[str],
    encoder: VideoEncoder,
    preprocessing: Preprocessing,
    about: dict[str, Any],
) -> None:
    """Writes an export that `load_encoder` reads.

    Args:
        folder: where `encoder.safetensors` and `config.json` go; made if needed, replaced file by file.
        encoder: the encoder; its dtype is kept.
        preprocessing: what the encoder expects of its input.
        about: where the weights come from, as plain JSON data.
    """
    from safetensors.torch import save_file

    document = {
        "schema": SCHEMA,
        "encoder": dataclasses.asdict(encoder.config),
        "preprocessing": dataclasses.asdict(preprocessing),
        "about": about,
    }
    state = {name: tensor.detach().contiguous() for name, tensor in encoder.state_dict().items()}
    header = {"format": "pt", "jepa": json.dumps(document, allow_nan=False)}
    with atomic_path(Path(folder) / WEIGHTS_FILE) as partial:
        save_file(state, partial, metadata=header)
    write_json(Path(folder) / CONFIG_FILE, document)


def load_encoder(
    source: str | os.PathLike[str],
    config: EncoderConfig | None = None,
    preprocessing: Preprocessing | None = None,
) -> VideoEncoder:
    """Loads an encoder with its preprocessing.

    The model is built without memory and takes over the tensors of the file, so that loading needs little
    more than the size of the weights.

    Args:
        source: a folder written by `save_encoder`.
        config: if given, the architecture that the file must hold.
        preprocessing: replaces the preprocessing that the file states.

    Raises:
        UserError: the file is missing, damaged or of another kind, or its keys do not fit the architecture.
    """
    folder = Path(source)
    document, state = _read_native(folder)
    found = from_document(EncoderConfig, document["encoder"])
    if config is not None and config != found:
        raise UserError(f"{folder} holds {found}, which is not the architecture asked for, {config}.")
    encoder = build_with(found, state, str(folder))
    encoder.preprocessing = preprocessing or from_document(Preprocessing, document["preprocessing"])
    encoder.about = document["about"]
    return encoder


def _read_native(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise UserError(f"{folder} is not an export: it has no {WEIGHTS_FILE}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise UserError(f"{path} is damaged and cannot be read ({error}); export it again.") from error
    if "jepa" not in header:
        raise UserError(f"{path} has no description of its encoder; it was not written by save_encoder.")
    document = json.loads(header["jepa"])
    if document.get("schema") != SCHEMA:
        raise UserError(f"{path} states schema {document.get('schema')!r}; this version reads {SCHEMA!r}.")
    return document, state


def from_document(kind: type, fields: dict[str, Any]) -> Any:
    """Makes a config dataclass from JSON data, lists becoming tuples.

    Raises:
        UserError: a field is missing or unknown.
    """
    known = {field.name for field in dataclasses.fields(kind)}
    if set(fields) != known:
        raise UserError(
            f"a stored {kind.__name__} does not fit this version: missing {sorted(known - set(fields))}, "
            f"unknown {sorted(set(fields) - known)}."
        )
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    )


def build_with(config: EncoderConfig, state: dict[str, Tensor], source: str) -> VideoEncoder:
    """Builds an encoder around tensors, without copying them.

    Raises:
        UserError: keys are missing, unexpected or misshapen; all are listed.
    """
    with torch.device("meta"):
        encoder = VideoEncoder(config)
    assign_strictly(encoder, state, source)
    return encoder


def assign_strictly(module: torch.nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Makes `state` the parameters of a module, after checking every key.

    Raises:
        UserError: keys are missing, unexpected or misshapen; all are listed.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    misshapen = [
        f"{name} is {list(state[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    problems = [
        f"{label}: {', '.join(found)}"
        for label, found in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if found
    ]
    if problems:
        raise UserError(
            f"the weights in {source} do not fit {type(module).__name__}; {'; '.join(problems)}. "
            f"Use the architecture that they were saved from."
        )
    module.load_state_dict(state, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(True)
