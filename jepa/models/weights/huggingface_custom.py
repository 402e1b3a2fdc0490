"""Hugging Face folders of this library's own model class (adapters/transformers_model), handled without
transformers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from jepa.files import atomic_path, write_json, write_text
from jepa.models.encoder import EncoderConfig, VideoEncoder
from jepa.models.preprocessing import Preprocessing
from jepa.models.weights.sources import TensorFile
from jepa.models.weights.stored_config import from_document
from jepa.models.weights.strict import build_strictly, clean_names

MODEL_TYPE = "jepa_encoder"
_CODE = '"""Where transformers finds the classes of this folder."""\n\n' + (
    "from jepa.models.adapters.transformers_model import (  # noqa: F401\n"
    "    JepaEncoderConfig,\n"
    "    JepaEncoderModel,\n"
    "    JepaVideoProcessor,\n"
    ")\n"
)


def write_custom_folder(
    folder: Path, encoder: VideoEncoder, preprocessing: Preprocessing, processor: dict[str, Any]
) -> None:
    """Writes the folder; `processor` is the config of its video processor."""
    from safetensors.torch import save_file

    state = clean_names(encoder.state_dict(), "the encoder")
    state = {f"encoder.{name}": tensor.detach().contiguous() for name, tensor in state.items()}
    with atomic_path(folder / "model.safetensors") as partial:
        save_file(state, partial, metadata={"format": "pt"})
    write_text(folder / "modeling_jepa.py", _CODE)
    write_json(folder / "video_preprocessor_config.json", processor)
    document = {
        "model_type": MODEL_TYPE,
        "architectures": ["JepaEncoderModel"],
        "auto_map": {
            "AutoConfig": "modeling_jepa.JepaEncoderConfig",
            "AutoModel": "modeling_jepa.JepaEncoderModel",
        },
        "dtype": str(next(encoder.parameters()).dtype).removeprefix("torch."),
        "encoder": asdict(encoder.config),
        "preprocessing": asdict(preprocessing),
    }
    write_json(folder / "config.json", document)


def read_custom_folder(folder: Path, document: dict[str, Any]) -> VideoEncoder:
    """The encoder of such a folder, from its config.json and weights.

    Raises:
        UserError: a key or a field does not fit.
    """
    config = from_document(EncoderConfig, document["encoder"])
    file = TensorFile([folder / "model.safetensors"])
    state = {name.removeprefix("encoder."): tensor for name, tensor in file.read(list(file.home)).items()}
    encoder = build_strictly(lambda: VideoEncoder(config), state, str(folder))
    encoder.preprocessing = from_document(Preprocessing, document["preprocessing"])
    return encoder
