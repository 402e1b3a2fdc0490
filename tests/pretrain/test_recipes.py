"""Every recipe composes, and takes two steps with a model that fits a test."""

import json
import math

import pytest
import torch

from jepa.cli import main
from jepa.config import COMMANDS, compose_config, config_class, recipes, to_dataclass
from jepa.masking import sample_masks
from jepa.models import load_encoder
from jepa.pretrain import Trainer, trainer
from jepa.pretrain.export import ExportConfig
from jepa.pretrain.export import run as export
from jepa.pretrain.objectives import ViewInvariance

SMALL = ("model.name=vit_nano", "model.patch_px=8", "model.predictor_dim=32", "model.predictor_depth=1",
         "model.predictor_heads=2", "data.crop_px=32", "data.num_frames=4")  # fmt: skip
# Keys that only some objectives have.
NARROW = {"levjepa": ("objective.slices=16", "objective.hidden_dim=32", "objective.out_dim=8")}
NAMES = recipes()


def composed(name, *overrides):
    keys = [f"recipe={name}", "data.root=videos", "out=run", *overrides]
    return to_dataclass("pretrain", compose_config("pretrain", config_class(COMMANDS["pretrain"]), keys))


def test_the_recipes_are_those_of_the_documents():
    """The parametrised tests below take every file of the folder; this one notices a recipe that went missing."""
    documented = {
        "act_small",
        "vjepa2_ac",
        "demo",
        "levjepa",
        "one_cpu",
        "one_gpu",
        "small",
        "vjepa2",
        "vjepa2_1",
        "vjepa2_cooldown",
    }
    assert set(NAMES) == documented


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_composes_and_its_masks_fit_its_clips(name):
    config = composed(name)
    data, model = config.data, config.model
    side = data.crop_px // model.patch_px
    grid = (data.num_frames // model.tubelet_frames, side, side)
    for stream, mask in enumerate(config.masks):
        drawn = sample_masks(mask, grid, 0, range(2), stream)
        assert drawn.context.shape[1] + drawn.target.shape[1] == math.prod(grid)
    assert config.optim.warmup_steps < config.train.steps


# Recipes of world models that act need trajectories: tests/pretrain/objectives/test_action_prediction.py.
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("act_small", "vjepa2_ac")])
def test_a_recipe_takes_two_steps(name):
    """Through the trainer's own step, on clips from Python; recipes with an image tokenizer see images as well."""
    batch = (
        "train.steps=8",
        "train.batch_size=3",
        "train.device=cpu",
        "data.workers=0",
        "optim.warmup_steps=1",
    )
    config = composed(name, *SMALL, *NARROW.get(name, ()), *batch)
    config.out = "???"
    clips = [torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8) for _ in range(3)]
    trainer = Trainer(config, dataset=clips)
    objective, trained = trainer.objective, set()
    for parameter_name, parameter in objective.named_parameters():
        parameter.register_hook(lambda grad, n=parameter_name: trained.add(n))
    before = [p.detach().clone() for p in objective.parameters()]
    for frames in [4, 1] if getattr(config.objective, "image_tokenizer", False) else [4, 4]:
        video = torch.stack(clips).transpose(1, 2)[:, :, :frames]
        metrics = trainer.train_step([{"video": video, "index": torch.arange(3), "bad": []}])
        assert all(value.isfinite() for value in metrics.losses.values()) and metrics.skipped == 0
    # A parameter that never has a gradient costs memory and breaks data parallelism.
    assert trained == {n for n, _ in objective.named_parameters()}
    assert any(not torch.equal(a, b) for a, b in zip(before, objective.parameters(), strict=True))
    assert isinstance(objective, ViewInvariance) == (name == "levjepa")


@pytest.mark.parametrize("name", ["levjepa", "vjepa2_1", "vjepa2_cooldown"])
def test_a_recipe_runs_saves_and_exports(name, tiny, tmp_path):
    """The three that differ most: no target encoder, image tokenizer with multi-layer targets, other schedule."""
    config = tiny(f"recipe={name}", *NARROW.get(name, ()), "train.steps=2", "optim.warmup_steps=1")
    run = trainer.train(config)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 2
    assert math.isfinite(rows[-1]["loss"])
    weights = "context" if name == "levjepa" else "target"
    folder = export(ExportConfig(str(run), str(tmp_path / "export"), weights=weights))
    assert load_encoder(folder)(torch.randn(1, 3, 4, 32, 32)).shape[-1] == 128


def test_the_command_prints_a_recipe(capsys):
    assert main(["pretrain", "recipe=levjepa", "data.root=x", "out=y", "--cfg", "job"]) == 0
    shown = capsys.readouterr().out
    assert "name: view_invariance" in shown
    assert shown.count("kind: window") == 10
