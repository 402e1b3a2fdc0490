import pytest

from jepa.config import COMMANDS, compose_config, config_class, to_dataclass

TINY = (
    "model.name=vit_nano", "model.patch_px=8", "model.predictor_dim=32", "model.predictor_depth=1",
    "model.predictor_heads=2", "data.crop_px=32", "data.num_frames=4", "data.fps=4", "data.workers=0",
    "train.steps=8", "train.batch_size=4", "train.save_every=3", "train.log_every=2", "train.device=cpu",
    "optim.warmup_steps=2",
)  # fmt: skip


@pytest.fixture
def tiny(video_folder, tmp_path):
    """Builds the configuration of a run that takes a second."""

    def build(*overrides, out="run"):
        command = COMMANDS["pretrain"]
        keys = [f"data.root={video_folder}", f"out={tmp_path / out}", *TINY, *overrides]
        return to_dataclass("pretrain", compose_config("pretrain", config_class(command), keys))

    return build
