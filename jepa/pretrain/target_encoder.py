"""Who says what the hidden tokens are: an average of the encoder over its recent past, a frozen encoder, or nobody."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.models import VideoEncoder, load_encoder
from jepa.pretrain.objectives.masked_prediction import Learner
from jepa.pretrain.objectives.pca_targets import PrincipalChanges
from jepa.pretrain.objectives.targets import features_of, latent_targets, own_pixels

if TYPE_CHECKING:
    from jepa.pretrain.config import PretrainConfig


class Teacher:
    """An encoder without gradient that says what each token should be predicted as.

    Args:
        encoder: put into eval mode and frozen.
        make: (encoder, video) -> targets [B, N, E].
        leader: the encoder whose weights it follows, or None if it stays as it is.
        principal: what `make` keeps note of from step to step, or None.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        make: Callable[[VideoEncoder, Tensor], Tensor],
        leader: VideoEncoder | None = None,
        principal: PrincipalChanges | None = None,
    ) -> None:
        self.encoder = encoder.requires_grad_(False).eval()
        self.leader = leader
        self.principal = principal
        self._make = make
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None

    @torch.no_grad()
    def targets(self, video: Tensor) -> Tensor:
        """Targets of every token, [B, N, E]."""
        return self._make(self.encoder, video)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Ends a step. Moves towards the leader: p = momentum * p + (1 - momentum) * q, in one fused pass.

        Momentum 1 stays, 0 copies. Without a leader nothing moves. The parameter lists are taken at the first call,
        so encoders may be sharded before it (BYOL, arXiv 2006.07733; V-JEPA 2, arXiv 2506.09985).
        """
        if self.principal is not None:
            self.principal.settle()
        if self.leader is None:
            return
        if self._pairs is None:
            self._pairs = list(self.encoder.parameters()), list(self.leader.parameters())
        torch._foreach_lerp_(*self._pairs, 1.0 - momentum)


def build_teacher(config: PretrainConfig, learner: Learner) -> Teacher | None:
    """The teacher that `config.objective` asks for, on the learner's device; None if there is none.

    A pixel baseline has a teacher as well: its targets are pixels, its encoder is the average that is exported.

    Raises:
        UserError: the frozen teacher cannot be read, or cuts a clip into other tokens than the trained encoder, or has
            fewer channels than directions are asked for.
    """
    objective = config.objective
    if objective.teacher == "none":
        return None
    if objective.predict == "pixels":
        return Teacher(copy.deepcopy(learner.encoder), own_pixels, leader=learner.encoder)
    device, leader = next(learner.parameters()).device, None
    if objective.teacher == "frozen":
        encoder = load_encoder(objective.teacher_from).to(device)
        if not isinstance(encoder, VideoEncoder):
            raise UserError(
                f"objective.teacher_from={objective.teacher_from} is an image model, not a VideoEncoder."
            )
        check_same_tokens(encoder, learner.encoder, objective.teacher_from)
    else:
        encoder, leader = copy.deepcopy(learner.encoder), learner.encoder
    if not objective.components:
        make = partial(
            latent_targets, levels=objective.levels, deep=objective.deep, changes=objective.changes
        )
        return Teacher(encoder, make, leader)
    if objective.components > encoder.embed_dim:
        raise UserError(
            f"objective.components={objective.components} asks for more directions than the teacher's "
            f"{encoder.embed_dim} channels have. Use fewer, or 0 for all of them."
        )
    principal = PrincipalChanges(objective.num_levels, encoder.embed_dim, objective.components).to(device)

    def principal_targets(encoder: VideoEncoder, video: Tensor) -> Tensor:
        features = features_of(encoder, video, objective.levels, objective.deep)
        return principal(features, encoder.grid_of(video).t)

    return Teacher(encoder, principal_targets, leader, principal)


def check_same_tokens(teacher: VideoEncoder, student: VideoEncoder, source: str) -> None:
    """Refuses a teacher whose tokens are not the student's.

    Raises:
        UserError: patch or tubelet differ.
    """
    for name in ("patch_px", "tubelet_frames"):
        theirs, ours = getattr(teacher.config, name), getattr(student.config, name)
        if theirs != ours:
            raise UserError(
                f"The teacher in {source} has {name}={theirs}, the trained encoder {ours}: they would cut a clip into "
                f"different tokens. Set model.{name}={theirs}, or take another teacher."
            )
