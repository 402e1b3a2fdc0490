"""V-JEPA 2-AC side by side with the published code, on shared random weights in the published file layout.

    JEPA_VJEPA2_REPO=...   a copy of facebookresearch/vjepa2

`pytest -m parity -s` prints the largest relative difference of each comparison; none may exceed 1e-5.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from jepa.models.action import WorldModel, WorldModelConfig, load_action_predictor, save_action_predictor
from jepa.models.action.plan import goal_energy, l1
from jepa.models.action.planners import ActionLimits, CEMConfig, search
from jepa.models.action.rollout import autoregressive, normalise_tokens, prediction_loss, teacher_forced
from jepa.poses import apply_pose_difference, pose_differences
from tests.models.test_parity_published import NORM, TOLERANCE, importing_from, random, shaken
from tests.pretrain.test_parity_loss import published_functions

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SHAPES = {
    "square": {"img_size": (64, 64)},
    "wide": {"img_size": (64, 96)},
    "extrinsics": {"img_size": (64, 64), "use_extrinsics": True},
}


@pytest.fixture(scope="module")
def published() -> SimpleNamespace:
    with importing_from("JEPA_VJEPA2_REPO"):
        planner = importlib.import_module("notebooks.utils.mpc_utils")
        return SimpleNamespace(
            predictor=importlib.import_module("src.models.ac_predictor").VisionTransformerPredictorAC,
            cem=planner.cem,
            new_pose=planner.compute_new_pose,
            difference=planner.poses_to_diff,
        )


def make(published, **fields):
    torch.manual_seed(0)
    theirs = published.predictor(
        patch_size=16, num_frames=16, tubelet_size=1, embed_dim=48, predictor_embed_dim=96, depth=3, num_heads=2,
        norm_layer=NORM, **fields,
    )  # fmt: skip
    return shaken(theirs, seed=1)


def compare(what: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"{what}: {difference:.1e}")
    assert difference <= TOLERANCE


def write_published(path, predictor) -> None:
    state = {f"module.{name}": tensor for name, tensor in predictor.state_dict().items()}
    torch.save({"predictor": state, "encoder": {}, "epoch": 3, "opt": None}, path)


@pytest.mark.parametrize("shape", SHAPES)
def test_predictor(published, tmp_path, shape) -> None:
    theirs = make(published, **SHAPES[shape])
    write_published(tmp_path / "ac.pt", theirs)
    height, width = (side // 16 for side in SHAPES[shape]["img_size"])
    extrinsics = "use_extrinsics" in SHAPES[shape]
    ours = load_action_predictor(
        tmp_path / "ac.pt", grid=(height, width), num_heads=2, use_extrinsics=extrinsics
    )
    frames = 5
    tokens, actions = random(2, frames * height * width, 48), random(2, frames, 7, seed=1)
    states, cameras = random(2, frames, 7, seed=2), random(2, frames, 6, seed=3)
    with torch.no_grad():
        expected = theirs(tokens, actions, states, cameras)
        found = ours(tokens, actions, states, cameras if extrinsics else None)
    compare(f"predictor, {shape}", found, expected)


def test_a_written_file_loads_into_the_published_code(published, tmp_path) -> None:
    theirs = make(published, img_size=(64, 64))
    write_published(tmp_path / "ac.pt", theirs)
    ours = load_action_predictor(tmp_path / "ac.pt", grid=(4, 4), num_heads=2)
    save_action_predictor(tmp_path / "ours.pt", ours)
    again = make(published, img_size=(64, 64))
    state = torch.load(tmp_path / "ours.pt", weights_only=True)["predictor"]
    again.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    kept = {name for name in theirs.state_dict() if not name.startswith("extrinsics_encoder")}
    assert all(torch.equal(again.state_dict()[name], theirs.state_dict()[name]) for name in kept)


def pair(published, tmp_path):
    theirs = make(published, img_size=(64, 64))
    write_published(tmp_path / "ac.pt", theirs)
    return load_action_predictor(tmp_path / "ac.pt", grid=(4, 4), num_heads=2), theirs


@pytest.mark.parametrize("rollout", [2, 4])
def test_loss_and_gradients(published, tmp_path, rollout) -> None:
    ours, theirs = pair(published, tmp_path)
    frames = 6
    h = normalise_tokens(random(2, frames * 16, 48))
    actions, states = random(2, frames - 1, 7, seed=1), random(2, frames, 7, seed=2)
    scope = {
        "torch": torch, "F": functional, "predictor": theirs, "tokens_per_frame": 16, "normalize_reps": True,
        "actions": actions, "states": states, "extrinsics": states[..., :6], "auto_steps": rollout, "loss_exp": 1.0,
    }  # fmt: skip
    code = published_functions(
        "JEPA_VJEPA2_REPO", "app/vjepa_droid/train.py", ("forward_predictions", "loss_fn"), scope
    )
    forced, rolled = code.forward_predictions(h)
    expected = code.loss_fn(forced, h) + code.loss_fn(rolled, h)
    expected.backward()
    mine = teacher_forced(ours, h, actions, states)
    second = autoregressive(ours, h, mine, actions, states, steps=rollout)
    found = prediction_loss(mine, h, 16) + prediction_loss(second, h, 16)
    found.backward()
    compare(f"loss, rollout of {rollout}", found, expected)
    names = {name.replace("predictor_", ""): p for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        compare(f"gradient of {name}", parameter.grad, names[name].grad)


def test_poses(published) -> None:
    poses = random(40, 7) * 0.8
    actions = pose_differences(poses.unflatten(0, (20, 2)))[:, 0]
    expected = torch.stack([published.difference(a, b) for a, b in zip(poses[::2], poses[1::2], strict=True)])
    compare("pose differences", actions, expected.float())
    after = published.new_pose(poses[::2, None], actions[:, None])[:, 0]
    compare("pose after an action", apply_pose_difference(poses[::2], actions), after)


def test_cem(published, tmp_path, monkeypatch) -> None:
    """The published planner on the same samples: three iterations of 32 candidates, two actions ahead."""
    ours, theirs = pair(published, tmp_path)
    z, goal = normalise_tokens(random(1, 16, 48)), normalise_tokens(random(1, 16, 48, seed=1))
    pose = random(1, 7, seed=2) * 0.3
    samples, iterations, horizon = 32, 3, 2
    draws = random(iterations, horizon, samples, 4, seed=3)

    def world(frames, actions, poses):
        after = theirs(frames.flatten(1, 2), actions, poses)[:, -16:]
        return functional.layer_norm(after, (48,))[:, None], published.new_pose(
            poses[:, -1:], actions[:, -1:]
        )

    queue = iter(draws.flatten(0, 1))
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "randn", lambda *shape, device=None: next(queue))
        expected = published.cem(
            z[:, None], pose[:, None], goal[:, None], world, rollout=horizon, cem_steps=iterations, samples=samples,
            topk=6, momentum_mean=0.25, momentum_std=0.95, momentum_mean_gripper=0.15, momentum_std_gripper=0.15,
        )  # fmt: skip

    def noise(iteration: int, shape) -> torch.Tensor:
        full = torch.zeros(shape)
        full[0][..., [0, 1, 2, 6]] = draws[iteration].transpose(0, 1)
        return full

    settings = CEMConfig.published()
    settings.samples, settings.elites, settings.iterations = samples, 6, iterations
    model = WorldModel(WorldModelConfig(next_state="pose"), torch.nn.Identity(), ours)
    energy = goal_energy(model, z, goal, pose, l1)
    plan = search(settings, energy, ActionLimits.droid(0.05), torch.zeros(1, horizon, 7), noise)
    compare("actions of CEM", plan.actions, expected)
