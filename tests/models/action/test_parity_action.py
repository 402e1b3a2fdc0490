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

from jepa.models.action import load_action_predictor, save_action_predictor
from tests.models.test_parity_published import NORM, TOLERANCE, importing_from, random, shaken

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
        droid = None
        return SimpleNamespace(
            predictor=importlib.import_module("src.models.ac_predictor").VisionTransformerPredictorAC,
            cem=planner.cem,
            new_pose=planner.compute_new_pose,
            difference=planner.poses_to_diff,
            droid=droid,
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
