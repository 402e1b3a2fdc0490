"""Loading weights: this library's own, Meta's files, the Hugging Face layout, timm's image models, and training runs.

Which kind a source is shows in the source itself. All are opened as plain data, nothing in them is run, and every key
has to fit. A file that does not say which model it holds is refused, since the same names fit several.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch

from jepa.errors import UserError, install_command
from jepa.models.architectures import ENTRIES, published_weights
from jepa.models.base import Encoder
from jepa.models.encoder import EncoderConfig
from jepa.models.image_backbone import PREFIX
from jepa.models.pooler import AttentiveClassifier
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.models.preprocessing import Preprocessing
from jepa.models.weights import huggingface_custom, huggingface_read, meta, native
from jepa.models.weights.sources import is_safetensors, locate, read_pickle
from jepa.models.weights.timm_images import load_image_backbone

Source: TypeAlias = "str | os.PathLike[str]"
Config = TypeVar("Config", EncoderConfig, PredictorConfig)


def load_encoder(
    source: Source,
    config: EncoderConfig | None = None,
    preprocessing: Preprocessing | None = None,
    key: str | None = None,
    *,
    device: str | torch.device | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Encoder:
    """Loads an encoder in evaluation mode, with its preprocessing where the source or its architecture states it.

    The model is built without memory and takes over the tensors of the file, which stay on disk until they
    are used: loading needs little more memory than the weights.

    Args:
        source: a folder written by `save_encoder`, or the `encoder.safetensors` in it; a folder of a pretraining run,
            for the EMA encoder of its newest checkpoint; a Hugging Face folder or the name of one on the hub; a file of
            Meta's V-JEPA, V-JEPA 2 or 2.1, or its https address; a name of `list_models()` for its published weights,
            or `NAME:FILE` for weights of that architecture in a file that does not state one; or `timm:NAME`, an image
            model of timm that is applied to every frame.
        config: the architecture that the source must hold. Only needed where the source does not state it: a Meta
            file of an unpublished size, a bare state dict.
        preprocessing: replaces the preprocessing that the source states.
        key: part of a Meta file to read; by default the first present of ema_encoder, target_encoder and
            encoder.
        device: where the encoder goes; by default the CPU.
        revision: branch, tag or commit of a repository on the hub.
        token: access token for the hub; True for the one that `hf auth login` stored.

    Returns:
        The encoder; `.preprocessing` is None if neither the source nor a published architecture states it, and
        `.metadata` states what was read.

    Raises:
        UserError: the source is missing, damaged, unsafe or of another kind, its keys do not fit, or it does not
            say which architecture it holds.

    Example:
        >>> import tempfile
        >>> from jepa.models import create_model, save_encoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_encoder(folder, create_model("vit_nano"))
        ...     encoder = load_encoder(folder)
        >>> encoder.training, encoder.preprocessing.crop_px
        (False, 224)
    """
    encoder = _read(source, config, key, revision, token)
    encoder.preprocessing = preprocessing or encoder.preprocessing
    return encoder if device is None else encoder.to(device)


def _read(
    source: Source,
    config: EncoderConfig | None,
    key: str | None,
    revision: str | None,
    token: str | bool | None,
) -> Encoder:
    """The encoder of a source, with the preprocessing that it states."""
    name = os.fspath(source)
    if name.startswith(PREFIX):
        if config is not None or key is not None:
            raise UserError(f"{name} is an image model of timm; leave out config and key.")
        return load_image_backbone(name)
    if (named := zoo_name(source)) is not None:
        return _load_named(*named, source, config, key, revision, token)
    path = locate(source, revision, token)
    if key is not None and path.is_dir():
        raise UserError(f"key={key!r} names a part of a Meta file, but {path} is a folder.")
    encoder: Encoder
    if path.is_file() and is_safetensors(path):
        encoder = native.read_encoder(path, config)
    elif path.is_file():
        encoder = meta.encoder_from(read_pickle(path), path, key, config)
    elif (path / native.ENCODER_FILE).is_file():
        encoder = native.read_encoder(path / native.ENCODER_FILE)
    elif (path / "checkpoints").is_dir():
        encoder = _read_run(path)
    else:
        document = huggingface_read.read_json(path / "config.json")
        if document.get("model_type") == huggingface_custom.MODEL_TYPE:
            encoder = huggingface_custom.read_custom_folder(path, document)
        else:
            encoder = huggingface_read.Folder(path).encoder()
        encoder.metadata = {"format": "transformers", "source": name}
    _check_architecture(source, encoder.config, config)
    return encoder


def _read_run(path: Path) -> Encoder:
    """The encoder of a pretraining run."""
    try:
        # By name, and only for a folder of this kind: models need nothing of the trainer.
        export = importlib.import_module("jepa.pretrain.export")
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} is the folder of a run, and reading one needs {error.name} (extra train): "
            f"{install_command('train')}. An export of it, `jepa export run={path} out=FOLDER`, is read without."
        ) from error
    encoder: Encoder = export.encoder_of_run(path)
    return encoder


def zoo_name(source: Source) -> tuple[str, str] | None:
    """The model and the weights that `NAME` or `NAME:FILE` stands for; None where the source is no such name.

    Raises:
        UserError: nothing was published for the name.

    Example:
        >>> zoo_name("vit_nano:weights.safetensors")
        ('vit_nano', 'weights.safetensors')
    """
    name, _, weights = os.fspath(source).partition(":")
    if name not in ENTRIES or Path(source).exists():
        return None
    return name, weights or published_weights(name)


def _load_named(
    name: str,
    weights: str,
    source: Source,
    config: EncoderConfig | None,
    key: str | None,
    revision: str | None,
    token: str | bool | None,
) -> Encoder:
    """An encoder whose architecture a name states."""
    entry = ENTRIES[name]
    if config is not None and config != entry.encoder:
        raise UserError(f"{os.fspath(source)} states the architecture already; leave out config.")
    encoder = load_encoder(weights, entry.encoder, key=key, revision=revision, token=token)
    if type(encoder) is not entry.module:
        raise UserError(
            f"{weights} holds a {type(encoder).__name__}, and {name} is a {entry.module.__name__}."
        )
    encoder.preprocessing = encoder.preprocessing or entry.preprocessing
    encoder.metadata = {**encoder.metadata, "model": name}
    return encoder


def load_predictor(source: Source, config: PredictorConfig | None = None) -> Predictor:
    """Loads a predictor in evaluation mode from the same sources as `load_encoder`.

    Which mask token to use depends on the source: ours states it, transformers always takes token 1, and in a
    Meta file it is the one that training moved from zero, or token 1 if several were.

    Args:
        source: as for `load_encoder`.
        config: the architecture that the source must hold. Only needed for a Meta file of an unpublished
            width.

    Raises:
        UserError: as `load_encoder`; or the source has no predictor.

    Example:
        >>> import tempfile
        >>> from jepa.models import create_model, create_predictor, save_encoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_encoder(folder, create_model("vit_nano"), predictor=create_predictor("vit_nano"))
        ...     load_predictor(folder).config.depth
        2
    """
    named = zoo_name(source)
    path = locate(source if named is None else named[1])
    if path.is_file() and is_safetensors(path):
        predictor = native.read_predictor(path)
    elif path.is_file():
        predictor = meta.predictor_from(read_pickle(path), path, config)
    elif (path / native.ENCODER_FILE).is_file():
        predictor = native.read_predictor(path / native.PREDICTOR_FILE)
    else:
        predictor = huggingface_read.Folder(path).predictor()
    _check_architecture(source, predictor.config, config)
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

    Example:
        >>> probes = load_classifiers("ssv2-vitl-16x2x3.pt")  # doctest: +SKIP
        >>> probes[0](tokens)["label"].softmax(-1)  # doctest: +SKIP
    """
    path = locate(source)
    if path.is_file():
        return meta.probes_from(read_pickle(path), path, num_heads)
    return [huggingface_read.Folder(path).classifier()]


def _check_architecture(source: Source, found: Config, requested: Config | None) -> None:
    if requested is None or requested == found:
        return
    fields = {field.name: getattr(requested, field.name) for field in dataclasses.fields(requested)}
    differences = [
        f"{name} is {value!r} instead of {fields[name]!r}"
        for name, value in dataclasses.asdict(found).items()
        if fields.get(name) != value
    ]
    raise UserError(f"{source} is not of the requested architecture: {', '.join(differences)}.")
