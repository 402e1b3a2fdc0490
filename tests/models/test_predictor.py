"""Predictor: positions are explicit, order is nothing, and every refusal names its cause."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.models import Predictor, PredictorConfig, TokenGrid, create_predictor

GRID = TokenGrid(3, 2, 5)
PLAIN = PredictorConfig(24, 1, 24, 32, 2, 2, 64, num_mask_tokens=3, mask_index=1)
DENSE = PredictorConfig(
    24,
    2,
    48,
    32,
    2,
    2,
    64,
    num_mask_tokens=2,
    rope_reference_grid=16,
    context_head=True,
    modality_embedding=True,
)
SINCOS = PredictorConfig(24, 1, 24, 32, 2, 2, 64, position="sincos", sincos_grid=tuple(GRID))


def seeded(config: PredictorConfig) -> Predictor:
    predictor = Predictor(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in predictor.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return predictor.eval()


def request(target_layers: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    order = torch.stack([torch.randperm(GRID.size, generator=generator) for _ in range(2)])
    return torch.randn(2, 12, 24 * target_layers, generator=generator), order[:, :12], order[:, 12:20]


@torch.no_grad()
@pytest.mark.parametrize("config", [PLAIN, DENSE, SINCOS], ids=["rope", "dense", "sincos"])
def test_order_of_context_and_of_targets_is_nothing(config):
    predictor, (tokens, context, target) = seeded(config), request(config.target_layers)
    expected = predictor(tokens, context, target, GRID)
    assert expected.shape == (2, 8, config.out_dim)
    shuffled = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(
        predictor(tokens[:, shuffled], context[:, shuffled], target, GRID), expected, atol=1e-5
    )
    assert torch.allclose(predictor(tokens, context, target.flip(1), GRID), expected.flip(1), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("config", [PLAIN, SINCOS], ids=["rope", "sincos"])
def test_positions_decide_the_prediction(config):
    predictor, (tokens, context, target) = seeded(config), request()
    expected = predictor(tokens, context, target, GRID)
    assert not torch.allclose(predictor(tokens, context, target.roll(1, 1), GRID), expected, atol=1e-3)
    assert not torch.allclose(predictor(tokens, context.roll(1, 1), target, GRID), expected, atol=1e-3)


@torch.no_grad()
def test_each_mask_token_is_its_own_and_the_config_names_one():
    predictor, (tokens, context, target) = seeded(PLAIN), request()
    predictions = [predictor(tokens, context, target, GRID, mask_index=index) for index in range(3)]
    assert torch.equal(predictor(tokens, context, target, GRID), predictions[1])
    assert not torch.allclose(predictions[0], predictions[1], atol=1e-3)
    predictor.mask_tokens[1] = 7.0
    assert torch.equal(predictor(tokens, context, target, GRID, mask_index=0), predictions[0])


@torch.no_grad()
def test_both_heads_and_both_modalities():
    predictor, (tokens, context, target) = seeded(DENSE), request(2)
    video, seen = predictor(tokens, context, target, GRID, with_context=True)
    assert video.shape == (2, 8, 48)
    assert seen.shape == (2, 12, 48)
    assert torch.equal(predictor(tokens, context, target, GRID), video)
    assert not torch.allclose(predictor(tokens, context, target, GRID, image=True), video, atol=1e-3)


def test_malformed_requests_are_refused():
    predictor, (tokens, context, target) = seeded(PLAIN), request()
    requests = [
        (lambda: predictor(tokens, context.int(), target, GRID), "context"),
        (lambda: predictor(tokens, context, target[:1], GRID), "target"),
        (lambda: predictor(tokens[:, :5], context, target, GRID), r"context_tokens must be \[B, 12, 24\]"),
        (lambda: predictor(tokens[..., :8], context, target, GRID), r"context_tokens must be \[B, 12, 24\]"),
        (lambda: predictor(tokens, context, target, GRID, mask_index=3), "mask_index=3"),
        (lambda: predictor(tokens, context, target, GRID, with_context=True), "context_head"),
        (lambda: PredictorConfig(num_mask_tokens=2, mask_index=2), "mask_index=2"),
        (lambda: PredictorConfig(position="sincos"), "sincos_grid"),
        (lambda: create_predictor("vit_nano", heads=3), "has no heads"),
    ]
    for ask, message in requests:
        with pytest.raises(UserError, match=message):
            ask()


def test_initial_weights_and_gradients():
    torch.manual_seed(0)
    predictor = Predictor(DENSE).train()
    assert predictor.mask_tokens.abs().max() == 0
    tokens, context, target = request(2)
    loss = sum(
        prediction.square().sum()
        for image in (False, True)
        for prediction in predictor(tokens, context, target, GRID, image=image, with_context=True)
    )
    loss.backward()
    assert [name for name, p in predictor.named_parameters() if p.grad is None] == []


def test_built_on_meta_and_initialised_leaves_no_weight_out():
    with torch.device("meta"):
        predictor = Predictor(DENSE)
    predictor.to_empty(device="cpu")
    for parameter in predictor.parameters():
        parameter.data.fill_(float("nan"))
    predictor.init_weights(torch.Generator().manual_seed(5))
    assert all(parameter.isfinite().all() for parameter in predictor.parameters())
