from __future__ import annotations

import pytest
import torch

from jepa.errors import UserError
from jepa.models import create_model
from jepa.models.action import (
    ActionPredictor,
    ActionPredictorConfig,
    FrameProjector,
    WorldModel,
    WorldModelConfig,
    load_world_model,
    save_world_model,
)
from jepa.models.action.plan import Controller, ControllerConfig, energy_landscape
from jepa.models.action.planners import ActionLimits, CEMConfig
from jepa.models.preprocessing import Preprocessing


def make(vector: bool = False, state_dim: int = 0, action_dim: int = 2) -> WorldModel:
    torch.manual_seed(0)
    encoder = create_model("vit_pico", patch_px=16, tubelet_frames=1)
    encoder.preprocessing = Preprocessing(1, 4.0, 32, 32)
    config = ActionPredictorConfig(
        12 if vector else 64, (1, 1) if vector else (2, 2), dim=32, depth=1, num_heads=2, mlp_dim=64,
        action_dim=action_dim, state_dim=state_dim,
    )  # fmt: skip
    projector = FrameProjector(4 * 64, 12, 16) if vector else None
    meaning = WorldModelConfig(next_state="sum" if state_dim else "")
    return WorldModel(meaning, encoder, ActionPredictor(config), projector).eval()


def images(count: int, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(2)).byte()


@pytest.mark.parametrize("vector", [False, True])
def test_what_is_saved_is_loaded(tmp_path, vector) -> None:
    world = make(vector)
    if world.projector is not None:
        world.projector.standardise(torch.randn(20, 4, 64))
    save_world_model(tmp_path, world)
    again = load_world_model(tmp_path)
    actions = torch.randn(2, 3, 2)
    z = world.encode_frames(images(2))
    assert torch.equal(again.encode_frames(images(2)), z)
    assert torch.equal(again.imagine(z, actions), world.imagine(z, actions))


def test_a_rollout_is_the_predictor_applied_to_its_own_predictions() -> None:
    world = make(state_dim=2)
    z, actions, state = world.encode_frames(images(1)), torch.randn(1, 3, 2), torch.randn(1, 2)
    later = world.imagine(z, actions, state)
    frames, states = [z], [state]
    for step in range(3):
        given = torch.cat(frames, dim=1), actions[:, : step + 1], torch.stack(states, dim=1)
        following = torch.nn.functional.layer_norm(world.predictor(*given)[:, -4:], (64,))
        assert torch.allclose(later[:, step], following, atol=1e-5)
        frames.append(following)
        states.append(states[-1] + actions[:, step])


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"trained on images of 32 x 32 pixels, and these have 48 x 48"):
        make().encode_frames(images(1, size=48))


def test_a_folder_without_a_world_model_says_what_to_give(tmp_path) -> None:
    with pytest.raises(UserError, match="jepa export"):
        load_world_model(tmp_path)


def test_states_have_to_be_given_where_the_predictor_takes_them() -> None:
    world = make(state_dim=2)
    with pytest.raises(UserError, match="takes states"):
        world.imagine(world.encode_frames(images(1)), torch.zeros(1, 2, 2))


def controller(world: WorldModel, execute: int = 1, horizon: int = 3) -> Controller:
    planner = CEMConfig(samples=16, elites=4, iterations=2)
    return Controller(world, ControllerConfig(planner, horizon, execute), ActionLimits.symmetric(2))


def test_a_controller_plans_again_after_the_actions_that_it_executes() -> None:
    acting = controller(make(True), execute=2)
    acting.set_goals(images(2))
    plans = []
    for _ in range(4):
        acting.act(images(2))
        plans.append(acting.plan)
    assert plans[0] is plans[1] and plans[2] is plans[3] and plans[1] is not plans[2]


def test_a_controller_is_a_function_of_its_seed_and_goes_on_with_some_tasks() -> None:
    found = []
    for _ in range(2):
        acting = controller(make(True))
        acting.set_goals(images(3))
        acting.act(images(3))
        acting.select([0, 2])
        found.append(acting.act(images(3)[[0, 2]]))
    assert torch.equal(*found) and found[0].shape == (2, 2)


def test_weights_that_hold_nan_are_an_error_and_no_action() -> None:
    world = make(True)
    world.predictor.proj.weight.data[0] = torch.nan
    acting = controller(world)
    acting.set_goals(images(1))
    with pytest.raises(UserError, match="finite energy"):
        acting.act(images(1))


def test_limits_have_to_be_as_long_as_actions() -> None:
    with pytest.raises(UserError, match="actions of 2 numbers"):
        Controller(make(), ControllerConfig(), ActionLimits.symmetric(3))


def test_the_landscape_has_the_energy_of_each_action() -> None:
    world = make(True)
    start, goal = images(2)
    values, energies = energy_landscape(world, start, goal, points=5, distance="l2")
    z, target = world.encode_frames(torch.stack([start, goal])).split(1)
    action = torch.tensor([[[values[1], values[4]]]])
    expected = (world.imagine(z, action)[:, -1] - target).square().mean()
    assert torch.allclose(energies[1, 4], expected, atol=1e-6)
