"""The training step by itself, called from Python without a run folder."""

import math
import re
from itertools import islice
from pathlib import Path

import pytest
import torch

from jepa.errors import UserError
from jepa.pretrain import Callback, PretrainConfig, Trainer


def small(**train):
    config = PretrainConfig()
    config.model.name, config.model.patch_px = "vit_nano", 8
    config.data.num_frames, config.data.crop_px, config.data.workers = 4, 16, 0
    config.train.device, config.train.batch_size = "cpu", 2
    for name, value in train.items():
        setattr(config.train, name, value)
    return config


def clips(count=4):
    return [torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8) for _ in range(count)]


def test_steps_from_python_write_nothing_and_hold_no_old_batch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(small(steps=6), dataset=clips())
    batches, known = trainer.batches(), []
    for step in range(1, 7):
        metrics = trainer.train_step(islice(batches, trainer.micro_steps))
        assert metrics.step == trainer.step == step and math.isfinite(metrics.losses["loss"].item())
        known += [status.step for status in metrics.statuses]
        assert len(trainer.guard._late) == 1  # the newest step alone keeps its batch
    assert known == [1, 2, 3, 4, 5]
    assert list(tmp_path.iterdir()) == []


def test_too_few_micro_batches_are_refused():
    trainer = Trainer(small(steps=2, micro_batch=1), dataset=clips())
    with pytest.raises(UserError, match="got 1 micro-batches, and a step of this run has 2"):
        trainer.train_step([next(trainer.batches())])


def test_too_many_non_finite_steps_stop_a_loop_of_ones_own():
    trainer = Trainer(small(steps=9, max_skipped=2), dataset=clips())
    with torch.no_grad():
        trainer.objective.encoder.norm.bias.fill_(float("nan"))
    batches = trainer.batches()
    with pytest.raises(RuntimeError, match="not finite in 3 steps in a row"):
        for batch in batches:
            trainer.train_step([batch])


def test_a_callback_sees_every_step_and_may_stop_the_run():
    seen = []

    class StopAtThree(Callback):
        def on_step(self, trainer, metrics):
            seen.append(metrics.step)
            if metrics.step == 3:
                trainer.stop()

    trainer = Trainer(small(steps=9), dataset=clips(), callbacks=[StopAtThree()])
    trainer.fit()
    assert seen == [1, 2, 3] and trainer.step == 3


def test_the_cell_of_the_documentation_runs():
    text = Path(__file__).parents[2].joinpath("docs", "pretraining.md").read_text(encoding="utf-8")
    cell = next(code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "trainer.fit()" in code)
    assert len([line for line in cell.splitlines() if line.strip()]) <= 10
    scope = {}
    exec(
        cell.replace("steps, config.train.batch_size = 20, 4", "steps, config.train.batch_size = 2, 4"), scope
    )
    assert scope["features"].shape == (1, 64, 128)
