"""WorldModel: an encoder of frames and a predictor of the next one, as planning uses them; saved and loaded as one.

Shapes: B batch, N tokens of a frame, D channels, H actions ahead.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepa.errors import UserError
from jepa.files import atomic_path
from jepa.models.action.predictor import ActionPredictor, ActionPredictorConfig
from jepa.models.action.rollout import NEXT_STATES, imagine, normalise_tokens
from jepa.models.base import Encoder
from jepa.models.image_backbone import PREFIX, ImageBackbone
from jepa.models.preprocessing import Preprocessing
from jepa.models.weights.load import load_encoder
from jepa.models.weights.native import save_encoder
from jepa.models.weights.sources import TensorFile
from jepa.models.weights.stored_config import from_document

SCHEMA = "jepa.world_model/1"
FILE = "world_model.safetensors"


@dataclass(frozen=True)
class WorldModelConfig:
    """What encoder and predictor mean to planning."""

    normalise: bool = True
    """Layer norm of features and predictions."""
    next_state: str = ""
    """How a state follows from an action, pose or sum; empty without states."""
    action_mode: str = "recorded"
    """What an action of the predictor is: recorded, state_difference or pose_difference."""

    def __post_init__(self) -> None:
        if self.next_state and self.next_state not in NEXT_STATES:
            raise UserError(
                f"next_state={self.next_state!r} is unknown; choose one of {', '.join(NEXT_STATES)} or leave it empty."
            )


class FrameProjector(nn.Module):
    """One vector of a frame's tokens: all of them side by side through a small MLP, so that where something is counts.

    Args:
        in_dim: N * D.
        out_dim: channels of the vector.
        hidden_dim: channels in between.

    Example:
        >>> list(FrameProjector(4 * 8, 16).eval()(torch.zeros(2, 4, 8)).shape)
        [2, 1, 16]
    """

    def __init__(self, in_dim: int, out_dim: int, hidden_dim: int = 256) -> None:
        super().__init__()
        self.in_dim, self.out_dim, self.hidden_dim = in_dim, out_dim, hidden_dim
        self.register_buffer("mean", torch.zeros(in_dim))
        self.register_buffer("scale", torch.ones(in_dim))
        self.fc1 = nn.Linear(in_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim)

    mean: Tensor
    scale: Tensor

    def standardise(self, tokens: Tensor) -> None:
        """Makes the input of mean 0 and about unit variance for frames like these [B, N, D].

        A static background is most of a frozen encoder's features, and would hide what moves. Channels that hardly vary
        are held back, so that their noise is not made large.
        """
        flat = tokens.flatten(1)
        std = flat.std(dim=0)
        self.mean.copy_(flat.mean(dim=0))
        self.scale.copy_(1.0 / (std + 0.1 * std.mean()).clamp_min(1e-6))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D] -> [B, 1, out_dim]."""
        if tokens.shape[1] * tokens.shape[2] != self.in_dim:
            raise UserError(
                f"The projector reads {self.in_dim} numbers of a frame, and the encoder gives {list(tokens.shape[1:])}"
                ": images have to be of the size of training."
            )
        hidden = self.norm(self.fc1((tokens.flatten(1) - self.mean) * self.scale))
        return self.fc2(nn.functional.gelu(hidden)).unsqueeze(1)


class WorldModel(nn.Module):
    """Frames to features, features and actions to later features.

    Args:
        config: what they mean.
        encoder: of single frames: a VideoEncoder, or any timm model as an ImageBackbone.
        predictor: of the next frame.
        projector: makes one vector of a frame, or None to keep its tokens.

    Example:
        >>> from jepa.models import create_model
        >>> encoder = create_model("vit_nano", tubelet_frames=1)
        >>> predictor = ActionPredictor(
        ...     ActionPredictorConfig(128, (4, 4), dim=32, depth=1, num_heads=2, mlp_dim=64, action_dim=2, state_dim=0))
        >>> world = WorldModel(WorldModelConfig(), encoder, predictor)
        >>> z = world.encode(torch.zeros(1, 3, 64, 64))
        >>> list(z.shape), list(world.imagine(z, torch.zeros(1, 5, 2)).shape)
        ([1, 16, 128], [1, 5, 16, 128])
    """

    def __init__(
        self,
        config: WorldModelConfig,
        encoder: Encoder,
        predictor: ActionPredictor,
        projector: FrameProjector | None = None,
    ) -> None:
        super().__init__()
        self.config, self.encoder, self.predictor, self.projector = config, encoder, predictor, projector

    def encode(self, images: Tensor) -> Tensor:
        """Features [B, N, D] of images [B, C, H, W], float and normalised.

        Raises:
            UserError: images of a size that gives another token grid than the predictor's.
        """
        return self.project(self.encoder(images.unsqueeze(2)))

    def project(self, tokens: Tensor) -> Tensor:
        """Features [B, N, D] of the encoder's tokens [B, N, D].

        Raises:
            UserError: tokens of another grid than the predictor's.
        """
        if self.projector is not None:
            tokens = self.projector(tokens)
        expected = self.predictor.config.frame_tokens
        if tokens.shape[1] != expected:
            raise UserError(
                f"An image gives {tokens.shape[1]} tokens, and the predictor was made for {expected} "
                f"({self.predictor.config.grid[0]} x {self.predictor.config.grid[1]}): resize it to that of training."
            )
        return normalise_tokens(tokens) if self.config.normalise else tokens

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Features [B, N, D] of frames uint8 [B, C, H, W], preprocessed as the encoder states.

        Raises:
            UserError: the encoder states no preprocessing, or the frames are of another size than those of training.
        """
        stated = self.encoder.preprocessing
        device = next(self.predictor.parameters()).device
        if stated is not None and tuple(frames.shape[-2:]) != (stated.crop_px, stated.crop_px):
            raise UserError(
                f"The world model was trained on images of {stated.crop_px} x {stated.crop_px} pixels, and these have "
                f"{frames.shape[-2]} x {frames.shape[-1]}; make the environment with size_px={stated.crop_px}."
            )
        return self.encode(self.encoder.preprocess(frames).transpose(0, 1).to(device))

    def imagine(self, z: Tensor, actions: Tensor, states: Tensor | None = None) -> Tensor:
        """Features [B, H, N, D] after each of the actions [B, H, A], from z [B, N, D] and, if needed, states [B, S]."""
        return imagine(self.predictor, z, actions, states, self.config.next_state, self.config.normalise)


def save_world_model(
    folder: str | os.PathLike[str],
    world: WorldModel,
    preprocessing: Preprocessing | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Writes a folder that `load_world_model` reads: the encoder as `save_encoder` does, the rest beside it.

    A timm encoder is written by name: its weights are those of its package.

    Raises:
        UserError: the encoder states no preprocessing.
    """
    from safetensors.torch import save_file

    encoder, place = world.encoder, Path(folder)
    document: dict[str, Any] = {
        "schema": SCHEMA, "config": asdict(world.config), "predictor": asdict(world.predictor.config)
    }  # fmt: skip
    if isinstance(encoder, ImageBackbone):
        stated = preprocessing or encoder.preprocessing
        document["encoder"] = f"{PREFIX}{encoder.config.name}"
        document["preprocessing"] = None if stated is None else asdict(stated)
    else:
        save_encoder(folder, encoder, preprocessing, metadata)
    tensors = {f"predictor.{name}": tensor for name, tensor in world.predictor.state_dict().items()}
    if (projector := world.projector) is not None:
        document["projector"] = [projector.in_dim, projector.out_dim, projector.hidden_dim]
        tensors |= {f"projector.{name}": tensor for name, tensor in projector.state_dict().items()}
    header = {"format": "pt", "jepa": json.dumps(document, allow_nan=False)}
    with atomic_path(place / FILE) as partial:
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, partial, metadata=header
        )


def load_world_model(folder: str | os.PathLike[str]) -> WorldModel:
    """Reads what `save_world_model` or `jepa export` wrote, in evaluation mode.

    Raises:
        UserError: the folder holds no world model, or one that does not fit this version.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise UserError(
            f"{folder} holds no world model ({FILE} is absent): give the folder that `jepa export` wrote of a run with "
            "objective=action_prediction."
        )
    file = TensorFile([path])
    document = json.loads(file.metadata.get("jepa", "{}"))
    if document.get("schema") != SCHEMA:
        raise UserError(f"{path} states schema {document.get('schema')!r}; this version reads {SCHEMA!r}.")
    if isinstance(name := document.get("encoder"), str):
        encoder: Encoder = load_encoder(name)
        if document.get("preprocessing"):
            encoder.preprocessing = from_document(Preprocessing, document["preprocessing"])
    else:
        encoder = load_encoder(folder)
    predictor = ActionPredictor(from_document(ActionPredictorConfig, document["predictor"]))
    projector = FrameProjector(*document["projector"]) if "projector" in document else None
    world = WorldModel(from_document(WorldModelConfig, document["config"]), encoder, predictor, projector)
    state = file.read(list(file.home))
    given = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()} | state
    if given.keys() != world.state_dict().keys():
        differ = sorted(given.keys() ^ world.state_dict().keys())[:6]
        raise UserError(f"{path} does not fit its own description: {', '.join(differ)} differ.")
    world.load_state_dict(given)
    return world.eval()
