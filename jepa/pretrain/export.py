"""From a run folder to an encoder that others can load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

import jepa
from jepa.errors import UserError
from jepa.fields import path_key
from jepa.models import Preprocessing, save_encoder, save_hf
from jepa.pretrain.checkpoint import newest_checkpoint, read_tensors
from jepa.pretrain.config import PretrainConfig
from jepa.pretrain.factory import build_learner


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
    """target: the averaged encoder, the usual choice; context: the one that was trained"""


def run(config: ExportConfig) -> Path:
    """Writes the newest checkpoint's encoder, with the facts about preprocessing and training beside it.

    Raises:
        UserError: no run, no readable checkpoint, or an unknown option.
    """
    if config.format not in ("native", "hf"):
        raise UserError(f"format={config.format!r} is unknown; choose native or hf.")
    if config.weights not in ("target", "context"):
        raise UserError(f"weights={config.weights!r} is unknown; choose target or context.")
    path, facts, _ = newest_checkpoint(Path(config.run))
    if path is None:
        raise UserError(
            f"There is no checkpoint in {config.run}, so there is nothing to export. Give run= the folder that was "
            "out= of `jepa pretrain`, after its first save."
        )
    settings = OmegaConf.merge(OmegaConf.structured(PretrainConfig), facts["config"])
    trained: PretrainConfig = OmegaConf.to_object(settings)  # type: ignore[assignment]
    learner = build_learner(trained)
    learner.load_state_dict(read_tensors(path, "learner."))
    if config.weights == "target":
        if trained.objective.teacher != "ema":
            raise UserError(
                f"The run in {config.run} has no averaged encoder (objective.teacher={trained.objective.teacher}); "
                "export the trained one with weights=context."
            )
        learner.encoder.load_state_dict(read_tensors(path, "target."))
    data = trained.data
    about = {
        "model": trained.model.name,
        "weights": config.weights,
        "objective": trained.objective.predict,
        "steps": facts["step"],
        "batch_size": trained.train.batch_size,
        "seed": trained.train.seed,
        "data_sha256": facts["data"],
        "tool": f"jepa {jepa.__version__}",
    }
    preprocessing = Preprocessing(data.num_frames, data.fps, data.crop_px, data.crop_px, data.mean, data.std)
    if config.format == "hf":
        save_hf(config.out, learner.encoder, preprocessing, custom_code=True)
    else:
        # A predictor of pixels guesses nothing that a probe could read.
        predictor = learner.predictor if trained.objective.predict == "latents" else None
        save_encoder(config.out, learner.encoder, preprocessing, about, predictor)
    print(f"wrote {config.out}, the {config.weights} encoder after {facts['step']} steps")
    return Path(config.out)
