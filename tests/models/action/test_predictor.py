from __future__ import annotations

import pytest
import torch

from jepa.errors import UserError
from jepa.models.action import ActionPredictor, ActionPredictorConfig, Cache
from jepa.models.action import predictor as module


def make(**fields) -> ActionPredictor:
    torch.manual_seed(0)
    sizes = {"encoder_dim": 24, "grid": (2, 3), "dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 64}
    return ActionPredictor(
        ActionPredictorConfig(**{**sizes, "action_dim": 3, "state_dim": 4, **fields})
    ).eval()


def batch(frames: int = 5):
    generator = torch.Generator().manual_seed(1)
    shapes = (2, frames * 6, 24), (2, frames, 3), (2, frames, 4)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_a_frame_sees_itself_and_earlier_ones_only() -> None:
    predictor, (tokens, actions, states) = make(), batch()
    before = predictor(tokens, actions, states)
    for changed in (tokens, actions, states):
        later = changed.clone()
        later[:, -changed.shape[1] // 5 :] += 1.0  # the last of five frames
        inputs = [later if value is changed else value for value in (tokens, actions, states)]
        after = predictor(*inputs)
        assert torch.equal(after[:, :24], before[:, :24])
        assert (after[:, 24:] - before[:, 24:]).abs().max() > 1e-4


def test_attention_frame_by_frame_is_that_with_a_mask(monkeypatch) -> None:
    predictor, inputs = make(), batch()
    with_mask = predictor(*inputs)
    monkeypatch.setattr(module, "_MASKED_TOKENS", 0)
    assert torch.allclose(predictor(*inputs), with_mask, atol=1e-6)


def test_a_cache_gives_what_the_entire_sequence_gives() -> None:
    predictor, (tokens, actions, states) = make(), batch()
    expected, cache, parts = predictor(tokens, actions, states), Cache(), []
    for first, last in ((0, 2), (2, 3), (3, 5)):
        part = tokens[:, first * 6 : last * 6], actions[:, first:last], states[:, first:last]
        parts.append(predictor(*part, cache=cache))
    assert torch.allclose(torch.cat(parts, dim=1), expected, atol=1e-6)
    assert cache.frames == 5


def test_without_states_and_with_extrinsics() -> None:
    tokens, actions, states = batch()
    assert make(state_dim=0)(tokens, actions).shape == tokens.shape
    cameras = make(extrinsics_dim=6)
    assert cameras.config.conditions == 3
    with pytest.raises(UserError, match="extrinsics must be"):
        cameras(tokens, actions, states)


def test_wrong_shapes_are_named() -> None:
    predictor, (tokens, actions, states) = make(), batch()
    with pytest.raises(UserError, match=r"actions must be \[B, T, 3\]"):
        predictor(tokens, actions[..., :2], states)
    with pytest.raises(UserError, match="tokens must be"):
        predictor(tokens[:, :-1], actions, states)
    with pytest.raises(UserError, match="states must be"):
        predictor(tokens, actions)
    with pytest.raises(UserError, match="state_dim"):
        ActionPredictorConfig(action_dim=0)
