"""Exporting a run: the newest checkpoint's encoder, native, for Hugging Face transformers, or as ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import jepa
from jepa.errors import UserError, require
from jepa.fields import from_dict, path_key, to_dict
from jepa.models import Preprocessing, VideoEncoder, save_encoder, save_hf
from jepa.models.action import save_world_model
from jepa.pretrain.checkpoint import newest_checkpoint, read_tensors
from jepa.pretrain.config import PretrainConfig
from jepa.pretrain.factory import build_objective
from jepa.pretrain.objectives import Objective
from jepa.pretrain.resume import translate_config

FORMATS = ("native", "hf", "onnx")


@dataclass
class ExportConfig:
    """Which weights of a run, in which format."""

    run: str = path_key("???")
    """folder of a pretraining run"""
    out: str = path_key("???")
    """folder to write; receives config.json, encoder.safetensors and predictor.safetensors"""
    format: str = "native"
    """native: what jepa.load_encoder reads; hf: what transformers.AutoModel reads, with this library installed; onnx"""
    weights: str = "target"
    """target: the EMA of the encoder, the usual choice; context: the encoder that was trained"""


def run(config: ExportConfig) -> Path:
    """Writes the newest checkpoint's encoder, with preprocessing and training metadata beside it.

    Raises:
        UserError: no run, no readable checkpoint, or an unknown option.
    """
    if config.format not in FORMATS:
        raise UserError(f"format={config.format!r} is unknown; choose {', '.join(FORMATS)}.")
    if config.format == "onnx":
        require("onnxscript", "export")  # before any work
    encoder, objective = _trained(Path(config.run), config.weights)
    preprocessing = cast(Preprocessing, encoder.preprocessing)
    if config.format == "hf":
        save_hf(config.out, encoder, preprocessing, custom_code=True)
    elif config.format == "onnx":
        from jepa.models.adapters.onnx import export_onnx

        export_onnx(config.out, encoder)
    elif (world := objective.world_model()) is not None:
        save_world_model(config.out, world)
    else:
        # What a predictor of pixels predicts is nothing that a probe could read.
        predictor = objective.predictor if objective.predicts_latents else None
        save_encoder(config.out, encoder, predictor=predictor)
    print(f"wrote {config.out}, the {config.weights} encoder after {encoder.metadata['steps']} steps")
    return Path(config.out)


def encoder_of_run(run: Path, weights: str = "") -> VideoEncoder:
    """The encoder of a run's newest checkpoint, in evaluation mode, with preprocessing and training metadata.

    Args:
        run: folder of the run.
        weights: target (the EMA) or context (the encoder that was trained); by default target where there is one.

    Raises:
        UserError: no run, no readable checkpoint, or the run has no such encoder.
    """
    return _trained(run, weights)[0].eval()


def _trained(run: Path, weights: str) -> tuple[VideoEncoder, Objective]:
    """An encoder of a run's newest checkpoint, and the objective with its weights."""
    if weights not in ("target", "context", ""):
        raise UserError(f"weights={weights!r} is unknown; choose target or context.")
    path, values, _ = newest_checkpoint(run)
    if path is None:
        raise UserError(
            f"There is no checkpoint in {run}. Give the folder that was "
            "out= of `jepa pretrain`, after its first save."
        )
    trained = from_dict(PretrainConfig, translate_config(values["config"]))
    trained.model.weights = ""  # the checkpoint holds what came of them
    objective = build_objective(trained)
    objective.load_state_dict(read_tensors(path, "learner."))
    encoders = objective.exportable()
    weights = weights or ("target" if "target" in encoders else "context")
    if weights not in encoders:
        raise UserError(
            f"The run in {run} has no EMA of the encoder; export the trained one with weights=context."
        )
    encoder = encoders[weights]
    if weights == "target":
        encoder.load_state_dict(read_tensors(path, "target."))
    data = trained.data
    encoder.metadata = {
        "model": trained.model.name,
        "weights": weights,
        "objective": to_dict(trained)["objective"]["name"],
        "steps": values["step"],
        "batch_size": trained.train.batch_size,
        "seed": trained.train.seed,
        "data_sha256": values["data"],
        "tool": f"jepa {jepa.__version__}",
    }
    encoder.preprocessing = Preprocessing(
        data.num_frames, data.fps, data.crop_px, data.crop_px, data.mean, data.std
    )
    return encoder, objective
