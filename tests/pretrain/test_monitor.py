"""The monitor measures what its names say, warns of a collapse and of nothing else."""

import math

import pytest
import torch

from jepa.config import COMMANDS, compose_config, config_class, to_dataclass
from jepa.errors import UserError
from jepa.masking import MaskConfig, sample_masks
from jepa.models import TokenGrid
from jepa.pretrain import diagnostics
from jepa.pretrain.factory import build_objective
from jepa.pretrain.monitor import Monitor, MonitorConfig, _mask_fractions
from jepa.pretrain.objectives import gather_tokens

SMALL = (
    "data.root=none", "out=none", "model.name=vit_nano", "model.patch_px=8", "model.predictor_dim=32",
    "model.predictor_depth=1", "model.predictor_heads=2", "data.crop_px=16", "data.num_frames=4",
)  # fmt: skip


def build(*keys):
    command = COMMANDS["pretrain"]
    config = to_dataclass("pretrain", compose_config("pretrain", config_class(command), [*SMALL, *keys]))
    return config, build_objective(config)


def clips(seed, count=8):
    """A bright square that moves over noise, [count, 3, 4, 16, 16]."""
    draws = torch.Generator().manual_seed(seed)
    video = 0.3 * torch.randn(count, 3, 4, 16, 16, generator=draws)
    start, step = (torch.randint(0, high, (count, 2), generator=draws) for high in (12, 2))
    for clip in range(count):
        for t in range(4):
            y, x = ((start[clip] + t * step[clip]) % 12).tolist()
            video[clip, :, t, y : y + 4, x : x + 4] += 3
    return video


def masks_of(config, grid, count, step=0):
    indices = range(step * count, (step + 1) * count)
    return [sample_masks(mask, grid, 0, indices, stream) for stream, mask in enumerate(config.masks)]


def train(keys, steps, lr, seed):
    """A tiny run; returns the rows of its log steps and all warnings."""
    config, objective = build(f"train.seed={seed}", *keys)
    monitor, rows, warned = Monitor(MonitorConfig()), [], []
    optimizer = torch.optim.AdamW(objective.parameters(), lr=lr, weight_decay=0.04)
    for step in range(steps):
        video = clips(1000 * seed + step)
        masks = masks_of(config, objective.encoder.grid_of(video), len(video), step)
        targets = objective.make_targets(video)
        objective(video, targets, masks, step / steps)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        objective.update_targets(0.99)
        if (step + 1) % 25 == 0 or step == 0:
            rows.append(monitor.measure(objective, video, targets, masks))
            warned += monitor.warnings(step + 1, rows[-1])
    return rows, warned


def test_a_run_made_to_collapse_is_called_out_and_a_healthy_one_is_not():
    masks = "masks=[{kind: temporal, ratio: 0.5}]"
    rows, warned = train((masks, "objective.target_encoder=none"), 75, 2e-3, seed=0)
    assert rows[-1]["target_varies"] < 0.05 * rows[0]["target_varies"]
    assert warned and "collapse" in warned[0] and "optim.lr" in warned[0]
    rows, warned = train((masks,), 75, 5e-4, seed=0)
    assert not warned, warned


def test_what_is_looked_at_is_what_the_names_say():
    config, objective = build("masks=[{kind: tokens, ratio: 0.5}, {kind: future, ratio: 0.5}]")
    video = clips(0, 6)
    grid = objective.encoder.grid_of(video)
    masks = masks_of(config, grid, 6)
    targets = objective.make_targets(video)
    row = Monitor(MonitorConfig(clips=4)).measure(objective, video, targets, masks)
    with torch.no_grad():
        tokens = objective.exportable()["target"](video[:4])
        masks = [type(mask)(*(part[:4] for part in mask)) for mask in masks]
        predictions = [objective.predict(video[:4], mask) for mask in masks]
    at_targets = [gather_tokens(targets[:4], mask.target) for mask in masks]
    assert row["rank"] == pytest.approx(diagnostics.rank_me(tokens.flatten(0, 1)), rel=1e-4)
    assert row["std_clips"] == pytest.approx(diagnostics.std_across_clips(tokens), rel=1e-4)
    assert row["target_varies"] == pytest.approx(diagnostics.varying_fraction(targets[:4]), rel=1e-4)
    for i in range(2):
        explained = diagnostics.explained_variance(predictions[i], at_targets[i])
        assert row[f"explained/mask{i}"] == pytest.approx(explained, rel=1e-4)
    whole = diagnostics.explained_variance(torch.cat(predictions, 1), torch.cat(at_targets, 1))
    assert row["explained"] == pytest.approx(whole, rel=1e-4)
    assert row["mask1/context_time00"] == 1 and row["mask1/target_time01"] == 1 and row["mask1/target"] == 0.5
    assert row["spectrum/1"] >= row["spectrum/2"] > 0
    assert all(math.isfinite(value) for value in row.values())
    assert all(p.grad is None for p in objective.parameters()) and objective.training


@pytest.mark.parametrize(
    "keys",
    [
        ("objective.target_encoder=none",),
        ("objective.target=pixels",),
        ("objective.multi_layer=true", "objective.context.weight=0.5"),
        (
            "objective=view_invariance",
            "masks=[{kind: tokens, ratio: 0.5}, {kind: tokens, ratio: 0.75}]",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("frames", [4, 1])
def test_every_objective_can_be_looked_at(keys, frames):
    config, objective = build(*keys)
    video = clips(0)[:, :, :frames]
    masks = masks_of(config, objective.encoder.grid_of(video), len(video))
    targets = objective.make_targets(video)
    row = Monitor(MonitorConfig()).measure(objective, video, targets, masks)
    assert {"rank", "lidar", "mask0/context"} <= row.keys()
    assert ("explained" in row) == ("objective=view_invariance" not in keys)
    assert all(math.isfinite(value) for value in row.values()), row


def test_a_fall_is_warned_of_once_with_its_values_and_again_after_a_recovery():
    monitor = Monitor(MonitorConfig())
    assert monitor.warnings(0, {"rank": 180.0, "loss": 1.0}) == []
    assert monitor.warnings(100, {"rank": 210.0}) == []
    assert monitor.warnings(150, {"rank": 60.0}) == []  # a young encoder's dip
    (warned,) = monitor.warnings(200, {"rank": 9.0})
    assert "rank fell from 210 to 9 between steps 100 and 200: collapse" in warned and "optim.ema" in warned
    assert monitor.warnings(250, {"rank": 8.0}) == []
    assert monitor.warnings(300, {"rank": 150.0}) == []
    assert "partial collapse" in monitor.warnings(350, {"rank": 40.0})[0]


def test_values_that_are_missing_or_not_numbers_are_ignored():
    monitor = Monitor(MonitorConfig())
    assert monitor.warnings(0, {"rank": float("nan")}) == []
    assert monitor.warnings(1, {"rank": 20.0, "target_varies": 0.06}) == []
    assert monitor.warnings(2, {}) == []
    (warned,) = monitor.warnings(3, {"rank": 19.0, "target_varies": 0.001})
    assert "from 6 % to 0.1 %" in warned


def test_a_run_that_fell_before_the_first_look_is_called_out_too():
    monitor = Monitor(MonitorConfig())
    assert monitor.warnings(50, {"target_varies": 0.0133}) == []
    (warned,) = monitor.warnings(100, {"target_varies": 0.0041})
    assert "fell from 1.3 % to 0.41 % between steps 50 and 100: partial collapse" in warned
    assert (
        "is only 0.1 % at step 7: collapse"
        in Monitor(MonitorConfig()).warnings(7, {"target_varies": 0.001})[0]
    )


def test_a_resumed_watch_says_what_one_never_stopped_says():
    rows = [{"rank": value} for value in (30.0, 40.0, 9.0, 8.0, 35.0, 5.0)]
    whole, first, second = Monitor(MonitorConfig()), Monitor(MonitorConfig()), Monitor(MonitorConfig())
    expected = [whole.warnings(step, row) for step, row in enumerate(rows)]
    warned = [first.warnings(step, row) for step, row in enumerate(rows[:3])]
    second.load_state_dict(first.state_dict())
    warned += [second.warnings(step, row) for step, row in enumerate(rows) if step >= 3]
    assert warned == expected and sum(map(len, warned)) == 2


def test_masks_that_starve_late_time_steps_are_named():
    grid = TokenGrid(8, 16, 16)
    published = sample_masks(MaskConfig("reference", 0.15), grid, 0, range(24))
    (warned,) = Monitor(MonitorConfig()).warnings(1, _mask_fractions([published], grid))
    assert "time step 7" in warned and "masks.kind" in warned
    for kind in ("blocks", "temporal", "tokens", "future"):
        mask = sample_masks(MaskConfig(kind, 0.5), grid, 0, range(24))
        assert Monitor(MonitorConfig()).warnings(1, _mask_fractions([mask], grid)) == []


def test_thresholds_that_make_no_sense_are_refused():
    for keys in ({"clips": 1}, {"min_rank": 1.5}, {"min_cover": -0.1}):
        with pytest.raises(UserError, match="monitor"):
            MonitorConfig(**keys)


def test_a_run_that_predicts_only_the_mean_is_named_once_and_again_after_a_recovery():
    def said(monitor, step, explained, last=False):
        return monitor.warnings(step, {"explained": explained}, last)

    monitor = Monitor(MonitorConfig(plateau_steps=200))
    assert not said(monitor, 100, 0.0)
    (sentence,) = said(monitor, 200, 0.01)
    assert "mean for 200 steps" in sentence and "1 % of the targets' variance" in sentence
    assert "model.predictor_depth" in sentence
    assert not said(monitor, 300, 0.0)
    assert not said(monitor, 400, 0.3)
    assert not said(monitor, 550, 0.02)
    resumed = Monitor(MonitorConfig(plateau_steps=200))
    resumed.load_state_dict(monitor.state_dict())
    (sentence,) = said(resumed, 600, -0.1)
    assert "mean for 200 steps" in sentence and " 0 % of" in sentence


def test_a_short_run_that_ends_on_the_plateau_is_named_at_its_end():
    monitor = Monitor(MonitorConfig())
    assert not monitor.warnings(50, {"explained": 0.0})
    assert monitor.warnings(100, {"explained": 0.0}, last=True)
    assert not Monitor(MonitorConfig()).warnings(100, {"explained": 0.2}, last=True)
    assert not Monitor(MonitorConfig(min_explained=0)).warnings(100, {"explained": -0.1}, last=True)
    assert not Monitor(MonitorConfig()).warnings(100, {"loss": 1.0}, last=True)  # this objective has none


def test_a_real_run_without_learning_says_that_it_predicts_the_mean():
    rows, warned = train(("masks=[{kind: temporal, ratio: 0.5}]",), 26, 0.0, seed=0)
    assert rows[-1]["explained"] < 0.1 and not warned  # shorter than plateau_steps
    monitor = Monitor(MonitorConfig(plateau_steps=20))
    assert any("the mean" in sentence for step, row in zip((1, 25), rows, strict=True) for sentence in
               monitor.warnings(step, row))  # fmt: skip
