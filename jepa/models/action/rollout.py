"""Predictions with an action-conditioned predictor: teacher-forced, autoregressive, and the loss over both.

Teacher forcing predicts each frame from true earlier ones; a rollout predicts from its own predictions, as planning
does. The loss of V-JEPA 2-AC is the sum of both (arXiv 2506.09985, equations 2 and 3), with the rollout's predictions
compared with the frames that they are about, as corrected in the published code in June 2025.

Shapes: B batch, T frames, N tokens of a frame, D channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from jepa.errors import UserError
from jepa.models.action.predictor import ActionPredictor, Cache
from jepa.poses import apply_pose_difference

NextState = Callable[[Tensor, Tensor], Tensor]
NEXT_STATES: dict[str, NextState] = {
    "pose": apply_pose_difference,
    "sum": lambda state, action: state + action,
}
"""How a state [..., S] follows from an action [..., A], by name."""


def normalise_tokens(tokens: Tensor) -> Tensor:
    """Layer norm without weights over the channels, as V-JEPA 2-AC applies it to tokens and predictions."""
    return functional.layer_norm(tokens, tokens.shape[-1:])


def teacher_forced(
    predictor: ActionPredictor,
    tokens: Tensor,
    actions: Tensor,
    states: Tensor | None = None,
    extrinsics: Tensor | None = None,
    normalise: bool = True,
) -> Tensor:
    """Predictions [B, (T - 1) * N, D] of frames 1 to T - 1, each from all true frames before it.

    Args:
        predictor: of the next frame.
        tokens: [B, T * N, D].
        actions: [B, T - 1, A].
        states: [B, T - 1, S] at least, if the predictor takes them.
        extrinsics: likewise.
        normalise: layer norm of the predictions.
    """
    frames = actions.shape[1]
    before = tokens[:, : frames * predictor.config.frame_tokens]
    predicted = predictor(before, actions, _first(states, frames), _first(extrinsics, frames))
    return normalise_tokens(predicted) if normalise else predicted


def autoregressive(
    predictor: ActionPredictor,
    tokens: Tensor,
    predicted: Tensor,
    actions: Tensor,
    states: Tensor | None = None,
    extrinsics: Tensor | None = None,
    steps: int = 2,
    normalise: bool = True,
) -> Tensor:
    """Predictions [B, steps * N, D] of frames 1 to `steps` from the first frame alone, with true actions and states.

    Args:
        predictor: of the next frame.
        tokens: [B, T * N, D]; the first frame is used.
        predicted: what `teacher_forced` returned; its first frame is the first step.
        actions: [B, T - 1, A].
        states: as there.
        extrinsics: as there.
        steps: at most T - 1.
        normalise: layer norm of the predictions.
    """
    size = predictor.config.frame_tokens
    sequence = torch.cat([tokens[:, :size], predicted[:, :size]], dim=1)
    for step in range(1, steps):
        seen = step + 1
        following = predictor(sequence, actions[:, :seen], _first(states, seen), _first(extrinsics, seen))
        following = following[:, -size:]
        sequence = torch.cat([sequence, normalise_tokens(following) if normalise else following], dim=1)
    return sequence[:, size:]


def prediction_loss(predicted: Tensor, tokens: Tensor, frame_tokens: int, exponent: float = 1.0) -> Tensor:
    """Mean of |prediction - target|^p / p, where the targets are the frames from the second on.

    Args:
        predicted: [B, k * N, D], frames 1 to k.
        tokens: [B, T * N, D] with T > k.
        frame_tokens: N.
        exponent: p; V-JEPA 2-AC uses 1.
    """
    targets = tokens[:, frame_tokens : frame_tokens + predicted.shape[1]]
    return (predicted - targets).abs().pow(exponent).mean() / exponent


def imagine(
    predictor: ActionPredictor,
    tokens: Tensor,
    actions: Tensor,
    states: Tensor | None = None,
    next_state: str = "",
    normalise: bool = True,
) -> Tensor:
    """Predicted frames after each of a sequence of actions, each computed once (keys and values are cached).

    Args:
        predictor: of the next frame.
        tokens: [B, N, D], the present frame.
        actions: [B, H, A].
        states: [B, S], the present state, if the predictor takes states.
        next_state: how states follow from actions: pose or sum; empty without states.
        normalise: layer norm of the predictions.

    Returns:
        [B, H, N, D].

    Raises:
        UserError: the predictor takes states and none are given, or next_state is unknown.
    """
    takes_states = predictor.config.state_dim > 0
    if takes_states and (states is None or next_state not in NEXT_STATES):
        raise UserError(
            f"This predictor takes states: give the present one, and next_state as one of {', '.join(NEXT_STATES)}, "
            f"not {next_state!r}."
        )
    cache, predicted = Cache(), []
    for step in range(actions.shape[1]):
        action = actions[:, step]
        given = states[:, None] if takes_states and states is not None else None
        tokens = predictor(tokens, action[:, None], given, cache=cache)
        tokens = normalise_tokens(tokens) if normalise else tokens
        predicted.append(tokens)
        if takes_states and states is not None:
            states = NEXT_STATES[next_state](states, action)
    return torch.stack(predicted, dim=1)


def _first(values: Tensor | None, count: int) -> Tensor | None:
    return None if values is None else values[:, :count]
