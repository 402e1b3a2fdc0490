"""What can be added from outside the package, without touching it, and the test of each in its room."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from jepa.cli import main
from jepa.config import compose_config, to_dataclass
from jepa.fields import to_dict
from jepa.pretrain import Objective, PretrainConfig, Trainer, register_objective
from jepa.pretrain.objectives import base

TESTS = Path(__file__).parent
ELSEWHERE = {
    "a mask kind": ("test_masking.py", "test_a_kind_is_added_from_outside"),
    "an architecture": ("models/test_registry.py", "test_a_class_of_ones_own_is_added_from_outside"),
    "a head": ("probes/heads/test_base.py", "test_a_head_from_outside_is_fitted_compared_saved_and_loaded"),
    "a task": ("probes/tasks/test_base.py", "test_a_task_from_outside_is_run_saved_and_loaded"),
    "a detector": (
        "signals/test_analysis.py",
        "test_a_detector_that_is_no_probe_runs_beside_others_and_reaches",
    ),
    "an export format": ("signals/test_export.py", "test_an_export_is_added_from_outside"),
}


@pytest.mark.parametrize("part", ELSEWHERE)
def test_each_extension_point_has_a_test_in_its_room(part):
    file, name = ELSEWHERE[part]
    assert f"def {name}" in (TESTS / file).read_text(encoding="utf-8")


@dataclass
class BrightnessConfig:
    """Predict how bright each clip is."""

    weight: float = 1.0
    """factor of the loss"""


class Brightness(Objective):
    """Regresses the mean of a clip from its visible tokens."""

    @classmethod
    def from_config(cls, config, encoder, make_predictor, *, seed, num_masks):
        objective = cls(encoder)
        objective.head = torch.nn.Linear(encoder.embed_dim, 1)
        objective.weight = config.weight
        return objective

    def loss(self, video, targets, masks, progress=0.0):
        mean = video.mean(dim=(1, 2, 3, 4))
        errors = [
            F.mse_loss(self.head(self.encoder(video, keep=m.context).mean(1))[:, 0], mean) for m in masks
        ]
        return {"loss": self.weight * torch.stack(errors).mean()}


def test_an_objective_is_added_from_outside(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    register_objective("brightness", BrightnessConfig)(Brightness)
    keys = ["objective=brightness", "objective.weight=2", "model.name=vit_nano", "model.patch_px=8"]
    keys += [
        "data.root=unused",
        "data.num_frames=2",
        "data.crop_px=16",
        "train.steps=3",
        "train.batch_size=2",
    ]
    keys += ["train.device=cpu", f"out={tmp_path / 'run'}"]
    config = to_dataclass("pretrain", compose_config("pretrain", PretrainConfig, keys))
    assert to_dict(config)["objective"] == {"name": "brightness", "weight": 2.0}
    clips = [torch.full((2, 3, 16, 16), shade, dtype=torch.uint8) for shade in (0, 80, 160, 240)]
    trainer = Trainer(config, dataset=clips)
    trainer.fit()
    assert trainer.step == 3
    assert isinstance(trainer.objective, Brightness)
    assert "name: brightness" in (tmp_path / "run" / "config.yaml").read_text()


def test_the_command_imports_a_module_that_registers_an_objective(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_brightness.py").write_text(
        "from dataclasses import dataclass\n"
        "from jepa.pretrain import Objective, register_objective\n"
        "@dataclass\n"
        "class Config:\n"
        '    """Brightness."""\n'
        "    shades: int = 3\n"
        '    """how many shades"""\n'
        "@register_objective('my_brightness', Config)\n"
        "class MyBrightness(Objective):\n"
        "    pass\n"
    )
    keys = [
        "pretrain",
        "objective=my_brightness",
        "objective.shades=5",
        "data.root=x",
        "out=y",
        "--cfg",
        "job",
    ]
    assert main(keys) == 2
    assert "my_brightness is unknown" in capsys.readouterr().err
    assert main([*keys, "modules=[my_brightness]"]) == 0
    assert "shades: 5" in capsys.readouterr().out
