"""Files of action-conditioned predictors in the layout of V-JEPA 2-AC: `vjepa2-ac-vitg.pt` and its like.

A file is a dict with a state dict `predictor`, whose names carry `module.` in front. It does not state the token grid,
the number of heads or whether extrinsics are used; the defaults are those of the published file. Published code makes
a projection of extrinsics in any case; without extrinsics it is untrained, is not read, and is written as zeros.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.files import atomic_path
from jepa.models.action.predictor import ActionPredictor, ActionPredictorConfig
from jepa.models.weights.sources import locate, read_pickle
from jepa.models.weights.strict import build_strictly, clean_names, unwrapped

_PREFIXED = ("embed.", "blocks.", "norm.", "proj.")
_EXTRINSICS = "extrinsics_encoder."


def load_action_predictor(
    source: str | os.PathLike[str],
    grid: tuple[int, int] = (16, 16),
    num_heads: int = 16,
    use_extrinsics: bool = False,
) -> ActionPredictor:
    """Reads the predictor of a V-JEPA 2-AC file, in evaluation mode.

    Args:
        source: a file.
        grid: rows and columns of a frame's tokens, which a file does not state; 256 pixels give 16 x 16.
        num_heads: attention heads, which a file does not state.
        use_extrinsics: the predictor was trained with a token for the camera's pose.

    Raises:
        UserError: the file holds no such predictor, or it does not fit.

    Example:
        >>> predictor = load_action_predictor("vjepa2-ac-vitg.pt")  # doctest: +SKIP
    """
    path = locate(source)
    document = read_pickle(path)
    part = document.get("predictor", document)
    state = {name: value for name, value in part.items() if isinstance(value, Tensor)}
    state = {re.sub(r"^predictor_", "", k): v for k, v in clean_names(state, str(path)).items()}
    if "action_encoder.weight" not in state or "proj.weight" not in state:
        raise UserError(
            f"{path} holds no action-conditioned predictor: it has no action_encoder.weight. jepa.load_predictor reads "
            "masked predictors."
        )
    if not use_extrinsics:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(_EXTRINSICS)}
    dim, action_dim = state["action_encoder.weight"].shape
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    config = ActionPredictorConfig(
        encoder_dim=len(state["proj.weight"]),
        grid=grid,
        dim=dim,
        depth=len(blocks),
        num_heads=num_heads,
        mlp_dim=len(state.get("blocks.0.mlp.fc1.weight", ())),
        action_dim=action_dim,
        state_dim=state["state_encoder.weight"].shape[1] if "state_encoder.weight" in state else 0,
        extrinsics_dim=state[f"{_EXTRINSICS}weight"].shape[1] if use_extrinsics else 0,
    )
    return build_strictly(lambda: ActionPredictor(config), state, str(path))


def save_action_predictor(path: str | os.PathLike[str], predictor: torch.nn.Module) -> None:
    """Writes a predictor in the published layout, as `load_action_predictor` and the published code read it.

    Raises:
        UserError: it is no ActionPredictor, or has no state token, which the layout needs.
    """
    predictor = unwrapped(predictor)
    if not isinstance(predictor, ActionPredictor):
        raise UserError(f"save_action_predictor writes an ActionPredictor, not a {type(predictor).__name__}.")
    config = predictor.config
    if config.state_dim != config.action_dim:
        raise UserError(
            f"The layout of V-JEPA 2-AC has states as long as actions; these have {config.state_dim} and "
            f"{config.action_dim} numbers. Save the world model with save_world_model instead."
        )
    state = {
        f"module.{'predictor_' if name.startswith(_PREFIXED) else ''}{name}": tensor.detach().cpu()
        for name, tensor in predictor.state_dict().items()
    }
    if not config.extrinsics_dim:
        state[f"module.{_EXTRINSICS}weight"] = torch.zeros(config.dim, config.action_dim - 1)
        state[f"module.{_EXTRINSICS}bias"] = torch.zeros(config.dim)
    with atomic_path(Path(path)) as partial:
        torch.save({"predictor": state}, partial)
