import json
from pathlib import Path

import pytest
import torch

from jepa.config import COMMANDS, compose_config, config_class, to_dataclass
from jepa.pretrain.checkpoint import newest_checkpoint, read_tensors

TINY = (
    "model.name=vit_nano", "model.patch_px=8", "model.predictor_dim=32", "model.predictor_depth=1",
    "model.predictor_heads=2", "data.crop_px=32", "data.num_frames=4", "data.fps=4", "data.workers=0",
    "train.steps=8", "train.batch_size=4", "train.save_every=3", "train.log_every=2", "train.device=cpu",
    "optim.warmup_steps=2",
)  # fmt: skip


# For tests with two processes: micro-batches of one size, so that the same sums are taken in the same order.
TWENTY = (
    "train.steps=20", "train.save_every=10", "train.log_every=1", "train.keep=9", "train.micro_batch=2",
)  # fmt: skip

PRINCIPAL = (
    "objective.target_layers=[0,1]",
    "objective.temporally_centred=true",
    "objective.pca_components=3",
)


@pytest.fixture
def tiny(video_folder, tmp_path):
    """Builds the configuration of a run that takes a second."""

    def build(*overrides, out="run"):
        command = COMMANDS["pretrain"]
        keys = [f"data.root={video_folder}", f"out={tmp_path / out}", *TINY, *overrides]
        return to_dataclass("pretrain", compose_config("pretrain", config_class(command), keys))

    return build


def checkpoints(run):
    """The folders of a run's checkpoints, the oldest first."""
    return sorted((Path(run) / "checkpoints").glob("step_*"))


def saved_values(run):
    """Plain values of the newest checkpoint."""
    return newest_checkpoint(Path(run))[1]


def tensors(run):
    """Tensors of the newest checkpoint."""
    return read_tensors(newest_checkpoint(Path(run))[0])


def differences(a, b):
    """Names of the tensors in which the newest checkpoints of two runs differ by even one bit."""
    a, b = tensors(a), tensors(b)
    return sorted(a.keys() ^ b.keys()) + [
        name for name in a if name in b and not torch.equal(a[name], b[name])
    ]


def journal(run):
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def losses(run):
    return [(row["step"], row["loss"]) for row in journal(run)]
