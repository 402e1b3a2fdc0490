"""This library's own export: `encoder.safetensors`, which describes itself, beside a `config.json` for people.

The weights file carries config, preprocessing and metadata in its header, and that copy is the one that is read: a
kill between the two renames leaves weights that still describe themselves, and the file alone is enough.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jepa.errors import UserError
from jepa.files import atomic_path, write_json
from jepa.models.architectures import entry_of, name_of_module
from jepa.models.cards import write_card
from jepa.models.encoder import EncoderConfig, VideoEncoder
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.models.preprocessing import Preprocessing
from jepa.models.weights.sources import TensorFile
from jepa.models.weights.stored_config import from_document
from jepa.models.weights.strict import build_strictly, clean_names, unwrapped

SCHEMA = "jepa.encoder/2"
# Schema 1 counted layers by block number and had other names for some fields; `from_document` reads both.
_READABLE = (SCHEMA, "jepa.encoder/1")
ENCODER_FILE = "encoder.safetensors"
PREDICTOR_FILE = "predictor.safetensors"
CONFIG_FILE = "config.json"


def save_encoder(
    folder: str | os.PathLike[str],
    encoder: nn.Module,
    preprocessing: Preprocessing | None = None,
    metadata: dict[str, Any] | None = None,
    predictor: nn.Module | None = None,
) -> None:
    """Writes an export that `load_encoder` reads.

    Args:
        folder: where `encoder.safetensors` and `config.json` go; made if needed, replaced file by file.
        encoder: a VideoEncoder, as it is or wrapped by `torch.compile` or DistributedDataParallel; its dtype is kept.
        preprocessing: what the encoder expects of its input; by default `encoder.preprocessing`.
        metadata: where the weights come from, as plain JSON data; by default `encoder.metadata`.
        predictor: if given, a Predictor that is written beside as `predictor.safetensors`, for `load_predictor`.

    Raises:
        UserError: neither the call nor the encoder states a preprocessing, or the module is none that could be loaded.

    Example:
        >>> import tempfile
        >>> from jepa.models import create_model, load_encoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_encoder(folder, create_model("vit_nano"))
        ...     load_encoder(folder).metadata
        {'model': 'vit_nano', 'weights': 'random'}
    """
    encoder = unwrapped(encoder)
    if not isinstance(encoder, VideoEncoder):
        raise UserError(
            f"save_encoder writes a VideoEncoder; a {type(encoder).__name__} cannot be loaded again."
        )
    stated = preprocessing or encoder.preprocessing
    if stated is None:
        raise UserError("this encoder carries no preprocessing; give save_encoder one.")
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "encoder": asdict(encoder.config),
        "preprocessing": asdict(stated),
        "metadata": encoder.metadata if metadata is None else metadata,
    }
    if (name := name_of_module(type(encoder))) is not None:
        document["architecture"] = name
    if predictor is not None:
        predictor = unwrapped(predictor)
        if not isinstance(predictor, Predictor):
            raise UserError(f"predictor= is a {type(predictor).__name__}, not a Predictor.")
        fields = {"schema": SCHEMA, "predictor": asdict(predictor.config)}
        _write(Path(folder) / PREDICTOR_FILE, predictor, fields)
    _write(Path(folder) / ENCODER_FILE, encoder, document)
    write_json(Path(folder) / CONFIG_FILE, document)
    write_card(Path(folder), encoder, stated, document["metadata"])


def read_encoder(path: Path, config: EncoderConfig | None = None) -> VideoEncoder:
    """The encoder of a safetensors file.

    Args:
        path: the file.
        config: the architecture, for a file without a header of `save_encoder`.

    Raises:
        UserError: the file does not state its architecture and the caller does not either, or it does not fit.
    """
    file = _open(path)
    if "jepa" not in file.metadata and config is not None:
        return build_strictly(lambda: VideoEncoder(config), _tensors(file, path), str(path))
    document = _document(file, path)
    if "encoder" not in document:
        raise UserError(
            f"{path} holds no encoder but {sorted({*document} - {'schema'})}; name the encoder's file."
        )
    module, kind = VideoEncoder, EncoderConfig
    if "architecture" in document:
        entry = entry_of(document["architecture"])
        module, kind = entry.module, type(entry.encoder)
    found = from_document(kind, document["encoder"])
    encoder = build_strictly(lambda: module(found), _tensors(file, path), str(path))
    encoder.preprocessing = from_document(Preprocessing, document["preprocessing"])
    encoder.metadata = document["metadata" if "metadata" in document else "about"]
    return encoder


def read_predictor(path: Path) -> Predictor:
    """The predictor of a safetensors file that `save_encoder` wrote.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    file = _open(path)
    document = _document(file, path)
    if "predictor" not in document:
        raise UserError(f"{path} holds no predictor; name the file {PREDICTOR_FILE} or its folder.")
    found = from_document(PredictorConfig, document["predictor"])
    return build_strictly(lambda: Predictor(found), _tensors(file, path), str(path))


def _write(path: Path, module: nn.Module, document: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    state = clean_names(module.state_dict(), type(module).__name__)
    # A tensor of its own for each name: safetensors refuses shared memory.
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    header = {"format": "pt", "jepa": json.dumps(document, allow_nan=False)}
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata=header)


def _open(path: Path) -> TensorFile:
    if not path.is_file():
        raise UserError(f"{path.parent} is an export without {path.name}.")
    return TensorFile([path])


def _document(file: TensorFile, path: Path) -> dict[str, Any]:
    if "jepa" not in file.metadata:
        raise UserError(
            f"{path} does not describe its model: it was not written by save_encoder. The names of its tensors fit "
            "several kinds of rotary positions, and the wrong one gives wrong features. Give the architecture, "
            "create_model(NAME, weights=FILE) or load_encoder(FILE, config=EncoderConfig(...))."
        )
    document = json.loads(file.metadata["jepa"])
    if document.get("schema") not in _READABLE:
        raise UserError(f"{path} states schema {document.get('schema')!r}; this version reads {SCHEMA!r}.")
    return document


def _tensors(file: TensorFile, path: Path) -> dict[str, Tensor]:
    return clean_names(file.read(list(file.home)), str(path))
