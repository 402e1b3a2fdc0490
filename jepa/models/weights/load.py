"""One place that reads and writes weights: ours, Meta's files, and the Hugging Face layout.

Which kind a source is shows in the source itself: a folder with `encoder.safetensors` is ours, a folder with
a `config.json` of another kind is Hugging Face's, a file is Meta's. All are opened as plain data, nothing in
them is run, and every key has to fit.

Our export is a folder with `encoder.safetensors` and `config.json`. The weights file carries the config in
its header as well, and that copy rules: a kill between the two renames leaves weights that still describe
themselves.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from jepa.errors import UserError
from jepa.files import atomic_path, write_json
from jepa.models.encoder import EncoderConfig, VideoEncoder
from jepa.models.pooler import AttentiveClassifier
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.models.preprocessing import Preprocessing
from jepa.models.weights import huggingface_custom, huggingface_read, huggingface_write, meta
from jepa.models.weights.sources import TensorFile, locate, read_pickle
from jepa.models.weights.stored_config import from_document
from jepa.models.weights.strict import build_strictly

SCHEMA = "jepa.encoder/2"
# Version 1 counted layers by block number from 0 and called them levels; `from_document` reads both.
_READABLE = (SCHEMA, "jepa.encoder/1")
ENCODER_FILE = "encoder.safetensors"
PREDICTOR_FILE = "predictor.safetensors"
CONFIG_FILE = "config.json"
Source: TypeAlias = "str | os.PathLike[str]"


def save_encoder(
    folder: Source,
    encoder: VideoEncoder,
    preprocessing: Preprocessing | None = None,
    metadata: dict[str, Any] | None = None,
    predictor: Predictor | None = None,
) -> None:
    """Writes an export that `load_encoder` reads.

    Args:
        folder: where `encoder.safetensors` and `config.json` go; made if needed, replaced file by file.
        encoder: the encoder; its dtype is kept.
        preprocessing: what the encoder expects of its input; by default `encoder.preprocessing`.
        metadata: where the weights come from, as plain JSON data; by default `encoder.metadata`.
        predictor: if given, written beside as `predictor.safetensors`, for `load_predictor`.

    Raises:
        UserError: neither the call nor the encoder states a preprocessing.
    """
    stated = preprocessing or encoder.preprocessing
    if stated is None:
        raise UserError("this encoder carries no preprocessing; give save_encoder one, for whoever loads it.")
    document = {
        "schema": SCHEMA,
        "encoder": asdict(encoder.config),
        "preprocessing": asdict(stated),
        "metadata": encoder.metadata if metadata is None else metadata,
    }
    if predictor is not None:
        _write(
            Path(folder) / PREDICTOR_FILE,
            predictor,
            {"schema": SCHEMA, "predictor": asdict(predictor.config)},
        )
    _write(Path(folder) / ENCODER_FILE, encoder, document)
    write_json(Path(folder) / CONFIG_FILE, document)


def save_hf(
    folder: Source,
    encoder: VideoEncoder,
    preprocessing: Preprocessing,
    predictor: Predictor | None = None,
    classifier: AttentiveClassifier | None = None,
    custom_code: bool = False,
) -> None:
    """Writes a folder that `transformers.AutoModel.from_pretrained` loads as V-JEPA 2, with the same numbers.

    Args:
        folder: where the files go; made if needed, replaced file by file.
        encoder: an encoder of V-JEPA 2's kind, with position "tiled".
        preprocessing: what the encoder expects of its input.
        predictor: without one, transformers makes its own with random weights and warns of it.
        classifier: if given, the folder is one of `VJEPA2ForVideoClassification`.
        custom_code: write any encoder, alone, with a reference to this library's own model class; whoever
            loads the folder needs this library, and either `import jepa.models.adapters.transformers_model` or
            `trust_remote_code=True`.

    Raises:
        UserError: transformers has no model that gives the same numbers; the message says which part differs.
    """
    if not custom_code:
        huggingface_write.write_folder(Path(folder), encoder, preprocessing, predictor, classifier)
        return
    if predictor is not None or classifier is not None:
        raise UserError("custom_code=True writes an encoder alone; leave out predictor and classifier.")
    processor = (
        huggingface_write.processor_config(preprocessing)
        if huggingface_write.is_published(preprocessing)
        else None
    )
    huggingface_custom.write_custom_folder(Path(folder), encoder, preprocessing, processor)


def load_encoder(
    source: Source,
    config: EncoderConfig | None = None,
    preprocessing: Preprocessing | None = None,
    key: str | None = None,
) -> VideoEncoder:
    """Loads an encoder in evaluation mode, with its preprocessing where the source or the zoo states it.

    The model is built without memory and takes over the tensors of the file, which stay on disk until they
    are used: loading needs little more memory than the weights.

    Args:
        source: a folder written by `save_encoder`; a Hugging Face folder or the name of one on the hub; a
            file of Meta's V-JEPA, V-JEPA 2 or 2.1, or its https address.
        config: the architecture that the source must hold. Only needed for a Meta file of an unpublished
            size.
        preprocessing: replaces the preprocessing that the source states.
        key: part of a Meta file to read; by default the first present of ema_encoder, target_encoder and
            encoder.

    Returns:
        The encoder; `.preprocessing` is None if neither the source nor the zoo tells it, `.metadata` says what
        was read.

    Raises:
        UserError: the source is missing, damaged, unsafe or of another kind, or its keys do not fit.
    """
    path = locate(source)
    if key is not None and path.is_dir():
        raise UserError(f"key={key!r} names a part of a Meta file, but {path} is a folder.")
    if path.is_file():
        encoder = meta.encoder_from(read_pickle(path), path, key, config)
    elif (path / ENCODER_FILE).is_file():
        encoder = _native_encoder(path)
    else:
        document = huggingface_read.read_json(path / "config.json")
        if document.get("model_type") == huggingface_custom.MODEL_TYPE:
            encoder = huggingface_custom.read_custom_folder(path, document)
        else:
            encoder = huggingface_read.Folder(path).encoder()
        encoder.metadata = {"format": "transformers", "source": os.fspath(source)}
    if config is not None and config != encoder.config:
        raise UserError(
            f"{source} holds {encoder.config}, which is not the architecture asked for, {config}."
        )
    encoder.preprocessing = preprocessing or encoder.preprocessing
    return encoder


def load_predictor(source: Source, config: PredictorConfig | None = None) -> Predictor:
    """Loads a predictor in evaluation mode from the same sources as `load_encoder`.

    The mask token to use is a fact of the source: ours states it, transformers always takes token 1, and in a
    Meta file it is the one that training moved from zero, or token 1 if several were.

    Args:
        source: as for `load_encoder`.
        config: the architecture that the source must hold. Only needed for a Meta file of an unpublished
            width.

    Raises:
        UserError: as `load_encoder`; or the source has no predictor.
    """
    path = locate(source)
    if path.is_file():
        predictor = meta.predictor_from(read_pickle(path), path, config)
    elif (path / ENCODER_FILE).is_file():
        file, document = _native_file(path / PREDICTOR_FILE)
        found = from_document(PredictorConfig, document["predictor"])
        predictor = build_strictly(lambda: Predictor(found), file.read(list(file.home)), str(path))
    else:
        predictor = huggingface_read.Folder(path).predictor()
    if config is not None and config != predictor.config:
        raise UserError(
            f"{source} holds {predictor.config}, which is not the architecture asked for, {config}."
        )
    return predictor


def load_classifiers(source: Source, num_heads: int = 16) -> list[AttentiveClassifier]:
    """Loads attentive classifiers in evaluation mode: those of a Meta probe file, which holds one per setting
    of its sweep, or the one of a Hugging Face video classifier.

    Args:
        source: a file or a folder.
        num_heads: attention heads of a Meta file's poolers, which it does not state; all published ones have
            16. A folder states them.

    Raises:
        UserError: as `load_encoder`; or the source has no classifier.
    """
    path = locate(source)
    if path.is_file():
        return meta.probes_from(read_pickle(path), path, num_heads)
    return [huggingface_read.Folder(path).classifier()]


def _write(path: Path, module: nn.Module, document: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    state = {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}
    header = {"format": "pt", "jepa": json.dumps(document, allow_nan=False)}
    with atomic_path(path) as partial:
        save_file(state, partial, metadata=header)


def _native_encoder(folder: Path) -> VideoEncoder:
    file, document = _native_file(folder / ENCODER_FILE)
    found = from_document(EncoderConfig, document["encoder"])
    encoder = build_strictly(lambda: VideoEncoder(found), file.read(list(file.home)), str(folder))
    encoder.preprocessing = from_document(Preprocessing, document["preprocessing"])
    encoder.metadata = document["metadata" if "metadata" in document else "about"]
    return encoder


def _native_file(path: Path) -> tuple[TensorFile, dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path.parent} is an export without {path.name}.")
    file = TensorFile([path])
    if "jepa" not in file.metadata:
        raise UserError(f"{path} does not describe its model; it was not written by save_encoder.")
    document = json.loads(file.metadata["jepa"])
    if document.get("schema") not in _READABLE:
        raise UserError(f"{path} states schema {document.get('schema')!r}; this version reads {SCHEMA!r}.")
    return file, document
