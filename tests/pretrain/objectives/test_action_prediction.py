from __future__ import annotations

import numpy as np
import pytest
import torch

from jepa.config import COMMANDS, compose_config, config_class, to_dataclass
from jepa.data.trajectories import MANIFEST, write_manifest
from jepa.errors import UserError
from jepa.models.action import load_world_model
from jepa.pretrain import PretrainConfig, Trainer
from jepa.pretrain.export import ExportConfig
from jepa.pretrain.export import run as export
from jepa.pretrain.objectives import ActionPrediction, ActionPredictionConfig
from jepa.toyworld.mp4 import write_mp4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four videos of a white square that moves by the actions."""
    from fractions import Fraction

    root, random = tmp_path_factory.mktemp("moving"), np.random.default_rng(0)
    rows = []
    for number in range(4):
        place, images, states, actions = np.array([12.0, 12.0]), [], [], []
        for _ in range(12):
            image = np.full((32, 32, 3), 40, np.uint8)
            x, y = place.astype(int)
            image[y : y + 8, x : x + 8] = 230
            images.append(image)
            states.append(place / 32)
            actions.append(random.uniform(-1, 1, 2))
            place = np.clip(place + 6 * actions[-1], 0, 24)
        write_mp4(root / f"{number}.mp4", images, Fraction(4), 1)
        times = np.arange(12) / 4
        np.savez(
            root / f"{number}.npz", states=states, actions=actions, state_times=times, action_times=times
        )
        rows.append((f"{number}.mp4", f"{number}.npz"))
    write_manifest(root / MANIFEST, rows)
    return root


def config(data, out="", **objective) -> PretrainConfig:
    made = PretrainConfig()
    made.out, made.data.root = str(out), str(data)
    made.data.num_frames, made.data.crop_px, made.data.workers, made.data.fps = 4, 32, 0, 4.0
    made.model.name, made.model.patch_px, made.model.tubelet_frames = "vit_pico", 16, 1
    made.model.predictor_dim, made.model.predictor_depth, made.model.predictor_heads = 32, 1, 2
    fields = {"action_dim": 2, "state_dim": 2, "actions": "recorded", "next_state": "sum", **objective}
    made.objective = ActionPredictionConfig(**fields)
    made.train.steps, made.train.batch_size, made.train.device = 6, 4, "cpu"
    made.train.save_every, made.train.log_every = 3, 3
    return made


ARMS = {
    "frozen tokens": {},
    "trained projector": {"latent_dim": 8, "inverse_weight": 1.0, "sigreg_weight": 0.02, "slices": 16},
    "trained encoder": {
        "latent_dim": 8, "train_encoder": True, "sigreg_weight": 0.05, "slices": 16, "state_dim": 0
    },
}  # fmt: skip


@pytest.mark.parametrize("arm", ARMS)
def test_a_resumed_run_is_that_which_was_never_stopped(data, tmp_path, arm) -> None:
    found = []
    for stops in ([6], [3, 6]):
        out = tmp_path / str(len(stops))
        for stop in stops:
            made = config(data, out, **ARMS[arm])
            with Trainer(made) as trainer:
                if stop == 3:
                    trainer.callbacks.append(stop_at(3))
                trainer.fit()
        found.append({k: v.clone() for k, v in trainer.objective.state_dict().items()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def stop_at(step: int):
    from jepa.pretrain.callbacks import Callback

    class Stop(Callback):
        def on_step(self, trainer, metrics) -> None:
            if metrics.step == step:
                trainer.stop()

    return Stop()


@pytest.mark.parametrize("arm", ARMS)
def test_what_is_frozen_stays_and_what_is_trained_moves(data, arm) -> None:
    with Trainer(config(data, **ARMS[arm])) as trainer:
        before = {k: v.clone() for k, v in trainer.objective.state_dict().items()}
        trainer.fit()
    after = trainer.objective.state_dict()
    moved = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    expected = {"predictor"} | ({"projector"} if "latent_dim" in ARMS[arm] else set())
    expected |= {"encoder"} if "train_encoder" in ARMS[arm] else set()
    assert moved - {"inverse"} == expected


def test_cached_features_give_the_loss_of_fresh_ones(data) -> None:
    losses = []
    for cache in (64, 0):
        with Trainer(config(data, cache_mib=cache)) as trainer:
            batch = next(iter(trainer.batches()))
            assert ("tokens" in batch) == (cache > 0)
            losses.append(float(trainer.train_step([batch]).losses["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_actions_are_used(data) -> None:
    """After training on a square that moves as told, predictions with wrong actions are worse."""
    made = config(data, **ARMS["trained projector"])
    made.train.steps, made.train.batch_size, made.optim.lr, made.optim.warmup_steps = 150, 16, 3e-3, 10
    with Trainer(made) as trainer:
        trainer.fit()
        batch = next(iter(trainer.stream.dataset[i] for i in [0]))
        objective = trainer.objective.eval()
        video = torch.zeros(1, 3, 4, 32, 32)
        losses = []
        for actions in (batch["actions"][None], -batch["actions"][None]):
            with torch.no_grad():
                row = objective.loss(
                    video, None, [], 0.0, actions, batch["states"][None], batch["tokens"][None]
                )
            losses.append(float(row["rollout"]))
    assert losses[1] > 3 * losses[0]


def test_an_export_is_a_world_model(data, tmp_path) -> None:
    with Trainer(config(data, tmp_path / "run", **ARMS["trained projector"])) as trainer:
        trainer.fit()
    export(ExportConfig(run=str(tmp_path / "run"), out=str(tmp_path / "model"), weights="context"))
    world = load_world_model(tmp_path / "model")
    trained = trainer.objective.eval().state_dict()
    state = world.state_dict()
    assert all(torch.equal(state[name], trained[name]) for name in state)
    assert world.encoder.preprocessing.crop_px == 32 and world.config.next_state == "sum"


@pytest.mark.parametrize("name", ["act_small", "vjepa2_ac"])
def test_a_recipe_takes_two_steps(data, name) -> None:
    small = [
        "model.name=vit_pico", "data.crop_px=32", "data.num_frames=4", "data.workers=0", "model.predictor_dim=32",
        "model.predictor_depth=1", "model.predictor_heads=2", "train.steps=2", "train.batch_size=4",
        "train.precision=fp32", "train.device=cpu", "optim.warmup_steps=1", "objective.action_dim=2",
        "objective.state_dim=2", "objective.actions=recorded", "objective.next_state=sum", f"data.root={data}",
    ]  # fmt: skip
    cls = config_class(COMMANDS["pretrain"])
    made = to_dataclass("pretrain", compose_config("pretrain", cls, [f"recipe={name}", "out=x", *small]))
    made.out = ""
    with Trainer(made) as trainer:
        trainer.fit()
    assert trainer.step == 2


def test_a_timm_model_is_an_encoder(data) -> None:
    pytest.importorskip("timm")
    made = config(data)
    made.model.name = "timm:resnet10t"
    made.train.steps = 1
    try:
        with Trainer(made) as trainer:
            trainer.fit()
    except UserError as error:  # weights that cannot be had offline
        pytest.skip(str(error))
    assert isinstance(trainer.objective, ActionPrediction)


def test_settings_that_cannot_work_are_refused(data) -> None:
    with pytest.raises(UserError, match=r"needs objective\.latent_dim"):
        ActionPredictionConfig(train_encoder=True)
    with pytest.raises(UserError, match="predicted without error"):
        ActionPredictionConfig(latent_dim=8)
    with (
        pytest.raises(UserError, match=r"actions must be \[B, T, 3\]"),
        Trainer(config(data, action_dim=3)) as trainer,
    ):
        trainer.fit()
    with pytest.raises(UserError, match=r"needs data\.root"):
        Trainer(config(""))
