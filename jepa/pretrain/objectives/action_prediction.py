"""Action-conditioned prediction: the next frame's features from frames, actions and states (V-JEPA 2-AC, LeWorldModel).

Each frame is encoded on its own. With a frozen encoder (the default) this is V-JEPA 2-AC (arXiv 2506.09985, section 3):
layer-normed tokens, L1, teacher forcing plus a rollout of two steps. With `train_encoder` encoder and predictor are
trained together: `latent_dim` makes one vector of each frame, and two regularisers keep it from collapsing,

L = teacher forcing + rollout + sigreg_weight * SIGReg(z) + inverse_weight * |W (z_next - z) - action|^2,

the first as in LeWorldModel (arXiv 2603.19312), the second an inverse dynamics model as in PLDM (arXiv 2502.14819),
here linear in the difference, so that where the hand is becomes linear in z.

Shapes: B batch, T frames, N tokens of a frame, D channels; video [B, C, T, H, W], actions [B, T - 1, A], states
[B, T, S].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from jepa.data import Stream
from jepa.data.trajectory_windows import TrajectoryDataset, WindowConfig, open_trajectories
from jepa.data.transforms import normalise
from jepa.errors import UserError, VideoError
from jepa.masking import Mask
from jepa.models import Encoder
from jepa.models.action import (
    ActionPredictor,
    ActionPredictorConfig,
    FrameProjector,
    WorldModel,
    WorldModelConfig,
)
from jepa.models.action.rollout import autoregressive, prediction_loss, teacher_forced
from jepa.pretrain.objectives.base import MakePredictor, Objective, register_objective
from jepa.pretrain.objectives.sigreg import SIGReg

if TYPE_CHECKING:
    from jepa.pretrain.config import PretrainConfig

_STATISTICS = 64  # trajectories whose features standardise a projector's input


@dataclass
class ActionPredictionConfig:
    """Predict the next frame's features from frames, actions and states."""

    train_encoder: bool = False
    """false: the encoder is frozen (V-JEPA 2-AC); true: trained together with the predictor (LeWorldModel)"""
    latent_dim: int = 0
    """0: predict a frame's tokens; otherwise one vector of so many channels for each frame, by a trained projector"""
    action_dim: int = 7
    """numbers in an action; where several recorded actions fall on one frame, all of them"""
    state_dim: int = 7
    """numbers in a state; 0 conditions on actions alone"""
    actions: str = "pose_difference"
    """recorded: those of a frame's interval, joined; pose_difference, state_difference: from frame to frame"""
    next_state: str = "pose"
    """how planning gets a state from an action: pose (apply the difference of poses) or sum"""
    camera: str = ""
    """which view, where a data set has several"""
    rollout_steps: int = 2
    """frames of the rollout loss; 1 leaves it out"""
    exponent: float = 1.0
    """distance between predictions and features: 1 is L1, 2 is half the squared error"""
    normalise: bool = True
    """layer norm of features and predictions"""
    sigreg_weight: float = 0.0
    """weight of SIGReg, which keeps trained vectors from collapsing"""
    inverse_weight: float = 0.0
    """weight of the linear inverse dynamics model"""
    slices: int = 256
    """random directions of SIGReg in a step"""
    cache_mib: int = 2048
    """memory for decoded frames and for the features of a frozen encoder, which are then computed once; 0 keeps none"""

    def __post_init__(self) -> None:
        if self.latent_dim and not (self.sigreg_weight > 0 or self.inverse_weight > 0):
            raise UserError(
                "objective.latent_dim has a trained projector and needs objective.sigreg_weight or "
                "objective.inverse_weight above 0: features that are all the same are predicted without error."
            )
        if self.train_encoder and not self.latent_dim:
            raise UserError("objective.train_encoder=true needs objective.latent_dim, for example 32.")
        if self.rollout_steps < 1 or self.exponent <= 0:
            raise UserError(
                f"objective.rollout_steps={self.rollout_steps} has to be at least 1 and objective.exponent="
                f"{self.exponent} above 0."
            )


@register_objective("action_prediction", ActionPredictionConfig)
class ActionPrediction(Objective):
    """The loss at the head of this file.

    Args:
        config: of the loss.
        encoder: of single frames.
        predictor: of the next frame.
        projector: from a frame's tokens to one vector, or None.
        mean: that frames were normalised with, for the frozen encoder's cache.
        std: likewise.
        seed: of the run.
    """

    batch_keys: ClassVar[tuple[str, ...]] = ("actions", "states", "tokens")
    uses_masks: ClassVar[bool] = False

    def __init__(
        self,
        config: ActionPredictionConfig,
        encoder: Encoder,
        predictor: ActionPredictor,
        projector: FrameProjector | None = None,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        seed: int = 0,
    ) -> None:
        super().__init__(encoder)  # type: ignore[arg-type]
        self.settings, self.mean, self.std = config, tuple(mean), tuple(std)
        self.predictor = predictor  # type: ignore[assignment]
        self.projector = projector
        self.inverse = (
            nn.Linear(predictor.config.encoder_dim, config.action_dim) if config.inverse_weight else None
        )
        self.sigreg = SIGReg(config.slices, seed)
        if not config.train_encoder:
            encoder.requires_grad_(False)

    @classmethod
    def build(cls, run: PretrainConfig, encoder: Encoder, make_predictor: MakePredictor) -> ActionPrediction:
        """Predictor and projector of a run, around an encoder.

        Raises:
            UserError: predictor sizes that do not fit together.
        """
        config, model = run.objective, run.model
        grid = encoder.grid_of(torch.zeros(1, 3, 1, run.data.crop_px, run.data.crop_px))
        dim = model.predictor_dim or (1024 if encoder.embed_dim >= 768 else max(96, encoder.embed_dim))
        projector = None
        if config.latent_dim:
            projector = FrameProjector(grid.size * encoder.embed_dim, config.latent_dim)
        predictor = ActionPredictor(
            ActionPredictorConfig(
                encoder_dim=config.latent_dim or encoder.embed_dim,
                grid=(1, 1) if config.latent_dim else (grid.h, grid.w),
                dim=dim,
                depth=model.predictor_depth or (24 if dim >= 1024 else 3),
                num_heads=model.predictor_heads or max(1, dim // (64 if dim >= 1024 else 32)),
                mlp_dim=4 * dim,
                action_dim=config.action_dim,
                state_dim=config.state_dim,
                # As the encoder's: V-JEPA 2-AC has the flavour of V-JEPA 2.
                position="tiled" if getattr(encoder.config, "position", "") == "tiled" else "interleaved",
            )
        )
        return cls(config, encoder, predictor, projector, run.data.mean, run.data.std, run.train.seed)

    @classmethod
    def open_data(cls, run: PretrainConfig) -> Stream:
        """The trajectories of `data.root`.

        Raises:
            UserError: there are none, or a window cannot be cut from them.
        """
        config, data = run.objective, run.data
        if not data.root:
            raise UserError("objective=action_prediction needs data.root, a data set of trajectories.")
        window = WindowConfig(data.num_frames, data.fps, data.crop_px, config.actions, config.cache_mib)
        return open_trajectories(data.root, window, run.train.seed, run.train.batch_size, config.camera)

    def attach(self, dataset: Any, workers: int) -> None:
        """Lets the dataset keep the features of a frozen encoder, if it reads in this process, and standardises the
        input of a projector by those of the first trajectories."""
        if self.settings.train_encoder or not isinstance(dataset, TrajectoryDataset):
            return
        if self.settings.cache_mib and workers == 0:
            dataset.encode = self.encode_frames
        if self.projector is not None:
            found = [
                t
                for number in range(min(_STATISTICS, len(dataset)))
                if (t := self._frames(dataset, number)) is not None
            ]
            if found:
                self.projector.standardise(torch.cat([self.encode_frames(frames) for frames in found]))

    @staticmethod
    def _frames(dataset: TrajectoryDataset, number: int) -> Tensor | None:
        """Frames of a trajectory; None where it is bad, which training will report."""
        try:
            return dataset.aligned(number).frames
        except (VideoError, UserError):
            return None

    @torch.no_grad()
    def encode_frames(self, frames: Tensor) -> Tensor:
        """Frames uint8 [T, C, H, W] -> the encoder's tokens [T, N, D] on the CPU, for the cache."""
        device = next(self.encoder.parameters()).device
        video = normalise(frames.transpose(0, 1).unsqueeze(0).to(device), self.mean, self.std)
        return self.encoder(video[0].transpose(0, 1).unsqueeze(2)).float().cpu()

    def train(self, mode: bool = True) -> ActionPrediction:
        """As `nn.Module.train`; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if not self.settings.train_encoder:
            self.encoder.eval()
        return self

    @property
    def world(self) -> WorldModel:
        """The networks as a world model, sharing their weights."""
        config, settings = self.predictor.config, self.settings  # type: ignore[union-attr]
        document = WorldModelConfig(
            normalise=settings.normalise,
            next_state=settings.next_state if config.state_dim else "",  # type: ignore[union-attr]
            action_mode=settings.actions,
        )
        return WorldModel(document, self.encoder, self.predictor, self.projector)  # type: ignore[arg-type]

    def frame_tokens(self, video: Tensor) -> Tensor:
        """The encoder's tokens [B, T, N, D] of a video [B, C, T, H, W], each frame on its own."""
        batch, _, frames = video.shape[:3]
        with torch.set_grad_enabled(self.settings.train_encoder and torch.is_grad_enabled()):
            images = video.transpose(1, 2).flatten(0, 1).unsqueeze(2)
            return self.encoder(images).unflatten(0, (batch, frames))

    def loss(
        self,
        video: Tensor,
        targets: Tensor | None,
        masks: Sequence[Mask],
        progress: float = 0.0,
        actions: Tensor | None = None,
        states: Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """As `Objective.loss`, from the batch's actions, states and, where they are kept, features [B, T, N, D].

        Raises:
            UserError: there are no actions, or they do not fit the predictor.
        """
        settings = self.settings
        if actions is None:
            raise UserError("objective=action_prediction needs trajectories: the batch holds no actions.")
        tokens = self.frame_tokens(video) if tokens is None else tokens
        z = self.world.project(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2]).flatten(1, 2)
        given = states if settings.state_dim else None
        predictor, size = self.predictor, self.predictor.config.frame_tokens  # type: ignore[union-attr]
        assert isinstance(predictor, ActionPredictor)
        forced = teacher_forced(predictor, z, actions, given, normalise=settings.normalise)
        first = prediction_loss(forced, z, size, settings.exponent)
        losses = {"teacher_forced": first.detach()}
        total = first
        if settings.rollout_steps > 1:
            steps = min(settings.rollout_steps, actions.shape[1])
            rolled = autoregressive(
                predictor, z, forced, actions, given, steps=steps, normalise=settings.normalise
            )
            second = prediction_loss(rolled, z, size, settings.exponent)
            total, losses["rollout"] = total + second, second.detach()
        if settings.sigreg_weight:
            vectors = z.float().unflatten(1, (-1, size)).flatten(2)
            statistic = torch.stack([self.sigreg(z_t, progress) for z_t in vectors.unbind(1)]).mean()
            total, losses["sigreg"] = total + settings.sigreg_weight * statistic, statistic.detach()
        if self.inverse is not None:
            error = (self.inverse(z[:, size:] - z[:, :-size]) - actions).square().mean()
            total, losses["inverse"] = total + settings.inverse_weight * error, error.detach()
        return {"loss": total, **losses}

    def world_model(self) -> WorldModel:
        """As `Objective.world_model`."""
        return self.world
