"""Every recipe composes, and takes two steps with a model that fits a test."""

import json
import math

import pytest
import torch

from jepa.cli import main
from jepa.config import COMMANDS, compose_config, config_class, recipes, to_dataclass
from jepa.masking import sample_masks
from jepa.models import load_encoder
from jepa.pretrain import trainer
from jepa.pretrain.export import ExportConfig
from jepa.pretrain.export import run as export
from jepa.pretrain.factory import build_objective
from jepa.pretrain.objectives import ViewInvariance
from jepa.pretrain.target_encoder import build_teacher

SMALL = ("model.name=vit_nano", "model.patch_px=8", "model.predictor_dim=32", "model.predictor_depth=1",
         "model.predictor_heads=2", "data.crop_px=32", "data.num_frames=4")  # fmt: skip
# Keys that only some objectives have.
NARROW = {
    "levjepa": ("objective.sigreg.slices=16", "objective.sigreg.hidden_dim=32", "objective.sigreg.out_dim=8")
}
NAMES = ["demo", "levjepa", "one_cpu", "one_gpu", "vjepa2", "vjepa2_1", "vjepa2_cooldown"]


def composed(name, *overrides):
    keys = [f"recipe={name}", "data.root=videos", "out=run", *overrides]
    return to_dataclass("pretrain", compose_config("pretrain", config_class(COMMANDS["pretrain"]), keys))


def test_all_recipes_are_tested():
    assert set(NAMES) <= set(recipes())


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


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_takes_two_steps(name):
    config = composed(name, *SMALL, *NARROW.get(name, ()))
    learner = build_objective(config)
    teacher = build_teacher(config, learner)
    optimizer = torch.optim.SGD(learner.parameters(), lr=1e-3)
    before = [p.detach().clone() for p in learner.parameters()]
    shapes = [4, 1] if config.objective.image_tokenizer else [4]
    trained = set()
    for step in range(2):
        for frames in shapes:
            video = torch.randn(3, 3, frames, 32, 32, generator=torch.Generator().manual_seed(step))
            grid = learner.encoder.grid_of(video)
            masks = [sample_masks(m, grid, 0, range(3), s) for s, m in enumerate(config.masks)]
            targets = None if teacher is None else teacher.targets(video)
            row = learner(video, targets, masks, progress=0.5 + step / 8)
            assert row["loss"].requires_grad
            assert all(value.isfinite() for value in row.values())
            row["loss"].backward()
        optimizer.step()
        trained |= {n for n, p in learner.named_parameters() if p.grad is not None}
        optimizer.zero_grad()
        if teacher is not None:
            teacher.follow(0.99)
    # Nothing lies idle: what never has a gradient costs memory and breaks data parallelism.
    assert trained == {n for n, _ in learner.named_parameters()}
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.parameters(), strict=True))
    assert isinstance(learner, ViewInvariance) == (teacher is None)


@pytest.mark.parametrize("name", ["levjepa", "vjepa2_1", "vjepa2_cooldown"])
def test_a_recipe_runs_saves_and_exports(name, tiny, tmp_path):
    """The three that differ most, through the trainer: no teacher, image tokenizer and levels, other schedule."""
    config = tiny(f"recipe={name}", *NARROW.get(name, ()), "train.steps=2", "optim.warmup_steps=1")
    run = trainer.train(config)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 2
    assert math.isfinite(rows[-1]["loss"])
    weights = "context" if config.objective.target_encoder == "none" else "target"
    folder = export(ExportConfig(str(run), str(tmp_path / "export"), weights=weights))
    assert load_encoder(folder)(torch.randn(1, 3, 4, 32, 32)).shape[-1] == 128


def test_the_command_prints_a_recipe(capsys):
    assert main(["pretrain", "recipe=levjepa", "data.root=x", "out=y", "--cfg", "job"]) == 0
    shown = capsys.readouterr().out
    assert "predict: views" in shown
    assert shown.count("kind: window") == 10
