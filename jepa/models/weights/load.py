"""Loading weights: this library's own, Meta's files, the Hugging Face layout, and timm's image models.

Which kind a source is shows in the source itself. All are opened as plain data, nothing in them is run, and every key
has to fit. A file that does not say which model it holds is refused, since the same names fit several.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TypeAlias, TypeVar

from jepa.errors import UserError
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
) -> Encoder:
    """Loads an encoder in evaluation mode, with its preprocessing where the source or its architecture states it.

    The model is built without memory and takes over the tensors of the file, which stay on disk until they
    are used: loading needs little more memory than the weights.

    Args:
        source: a folder written by `save_encoder`, or the `encoder.safetensors` in it; a Hugging Face folder or the
            name of one on the hub; a file of Meta's V-JEPA, V-JEPA 2 or 2.1, or its https address; or `timm:NAME`, an
            image model of timm that is applied to every frame.
        config: the architecture that the source must hold. Only needed where the source does not state it: a Meta
            file of an unpublished size, a bare state dict.
        preprocessing: replaces the preprocessing that the source states.
        key: part of a Meta file to read; by default the first present of ema_encoder, target_encoder and
            encoder.

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
    if os.fspath(source).startswith(PREFIX):
        if config is not None or key is not None:
            raise UserError(f"{os.fspath(source)} is an image model of timm; leave out config and key.")
        backbone = load_image_backbone(os.fspath(source))
        backbone.preprocessing = preprocessing or backbone.preprocessing
        return backbone
    path = locate(source)
    if key is not None and path.is_dir():
        raise UserError(f"key={key!r} names a part of a Meta file, but {path} is a folder.")
    if path.is_file() and is_safetensors(path):
        encoder = native.read_encoder(path, config)
    elif path.is_file():
        encoder = meta.encoder_from(read_pickle(path), path, key, config)
    elif (path / native.ENCODER_FILE).is_file():
        encoder = native.read_encoder(path / native.ENCODER_FILE)
    else:
        document = huggingface_read.read_json(path / "config.json")
        if document.get("model_type") == huggingface_custom.MODEL_TYPE:
            encoder = huggingface_custom.read_custom_folder(path, document)
        else:
            encoder = huggingface_read.Folder(path).encoder()
        encoder.metadata = {"format": "transformers", "source": os.fspath(source)}
    _check_architecture(source, encoder.config, config)
    encoder.preprocessing = preprocessing or encoder.preprocessing
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
    path = locate(source)
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
