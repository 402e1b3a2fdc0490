"""Exporting a run: the newest checkpoint's encoder, native or for Hugging Face transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jepa
from jepa.errors import UserError
from jepa.fields import from_dict, path_key, to_dict
from jepa.models import Preprocessing, save_encoder, save_hf
from jepa.pretrain.checkpoint import newest_checkpoint, read_tensors
from jepa.pretrain.config import PretrainConfig
from jepa.pretrain.factory import build_objective
from jepa.pretrain.resume import translate_config


@dataclass
class ExportConfig:
    """Which weights of a run, in which format."""

    run: str = path_key("???")
    """folder of a pretraining run"""
    out: str = path_key("???")
    """folder to write; receives config.json, encoder.safetensors and predictor.safetensors"""
    format: str = "native"
    """native: what jepa.load_encoder reads; hf: what transformers.AutoModel reads, with this library installed"""
    weights: str = "target"
    """target: the EMA of the encoder, the usual choice; context: the encoder that was trained"""


def run(config: ExportConfig) -> Path:
    """Writes the newest checkpoint's encoder, with preprocessing and training metadata beside it.

    Raises:
        UserError: no run, no readable checkpoint, or an unknown option.
    """
    if config.format not in ("native", "hf"):
        raise UserError(f"format={config.format!r} is unknown; choose native or hf.")
    if config.weights not in ("target", "context"):
        raise UserError(f"weights={config.weights!r} is unknown; choose target or context.")
    path, values, _ = newest_checkpoint(Path(config.run))
    if path is None:
        raise UserError(
            f"There is no checkpoint in {config.run}, so there is nothing to export. Give run= the folder that was "
            "out= of `jepa pretrain`, after its first save."
        )
    trained = from_dict(PretrainConfig, translate_config(values["config"]))
    trained.model.weights = ""  # the checkpoint holds what came of them
    objective = build_objective(trained)
    objective.load_state_dict(read_tensors(path, "learner."))
    encoders = objective.exportable()
    if config.weights not in encoders:
        raise UserError(
            f"The run in {config.run} has no EMA of the encoder; export the trained one with weights=context."
        )
    encoder = encoders[config.weights]
    if config.weights == "target":
        encoder.load_state_dict(read_tensors(path, "target."))
    data = trained.data
    metadata = {
        "model": trained.model.name,
        "weights": config.weights,
        "objective": to_dict(trained)["objective"]["name"],
        "steps": values["step"],
        "batch_size": trained.train.batch_size,
        "seed": trained.train.seed,
        "data_sha256": values["data"],
        "tool": f"jepa {jepa.__version__}",
    }
    preprocessing = Preprocessing(data.num_frames, data.fps, data.crop_px, data.crop_px, data.mean, data.std)
    if config.format == "hf":
        save_hf(config.out, encoder, preprocessing, custom_code=True)
    else:
        # What a predictor of pixels predicts is nothing that a probe could read.
        predictor = objective.predictor if objective.predicts_latents else None
        save_encoder(config.out, encoder, preprocessing, metadata, predictor)
    print(f"wrote {config.out}, the {config.weights} encoder after {values['step']} steps")
    return Path(config.out)
