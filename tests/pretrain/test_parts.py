"""Objective, schedules, target encoder, diagnostics against their textbook forms."""

import math

import pytest
import torch
import torch.nn.functional as F

from jepa.errors import UserError
from jepa.masking import MaskConfig, sample_masks
from jepa.models import create_model, create_predictor
from jepa.pretrain.diagnostics import rank_me, spread_across_clips, spread_across_time
from jepa.pretrain.ema import TargetEncoder
from jepa.pretrain.objective import (
    MaskedPrediction,
    ObjectiveConfig,
    gather_tokens,
    latent_targets,
    pixel_targets,
)
from jepa.pretrain.schedules import linear, warmup_constant, warmup_cosine, warmup_linear


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    encoder = create_model("vit_nano", patch_px=8)
    predictor = create_predictor("vit_nano", dim=32, depth=1, num_heads=2, mlp_dim=64)
    return encoder, predictor, torch.randn(3, 3, 4, 16, 24)


@pytest.mark.parametrize("distance", ["l1", "l2", "smooth_l1"])
def test_the_loss_is_the_mean_distance_at_hidden_tokens_over_masks(parts, distance):
    encoder, predictor, video = parts
    grid = encoder.grid_of(video)
    masks = [sample_masks(MaskConfig("tokens", h), grid, 0, range(3), s) for s, h in enumerate((0.5, 0.75))]
    targets = torch.randn(3, grid.size, encoder.embed_dim)
    loss = MaskedPrediction(encoder, predictor, distance)(video, targets, masks)

    expected = []
    for context, target in masks:
        guess = predictor(encoder(video, keep=context), context, target, grid)
        for b in range(3):
            gap = guess[b] - targets[b, target[b]]
            size = gap.abs()
            per_value = {
                "l1": size,
                "l2": gap**2,
                "smooth_l1": torch.where(size < 1, 0.5 * gap**2, size - 0.5),
            }[distance]
            expected.append(per_value.mean() / 3)
    assert loss.item() == pytest.approx(sum(expected).item() / 2, rel=1e-5)


def test_gradients_reach_encoder_and_predictor_but_never_the_target(parts):
    encoder, predictor, video = parts
    target = TargetEncoder(encoder)
    mask = sample_masks(MaskConfig("slots", 0.5), encoder.grid_of(video), 0, range(3))
    learner = MaskedPrediction(encoder, predictor)
    learner(video, latent_targets(target.encoder, video, [-1]), [mask]).backward()
    trained = [
        name for name, p in learner.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    ]
    assert len(trained) == len(list(learner.named_parameters()))
    assert all(p.grad is None for p in target.encoder.parameters())
    learner.zero_grad()


def test_hidden_pixels_do_not_reach_the_encoder(parts):
    """Changing what is hidden changes neither the context tokens nor the guess: no leak."""
    encoder, predictor, video = parts
    grid = encoder.grid_of(video)
    context, target = sample_masks(MaskConfig("slots", 0.5), grid, 0, range(1))
    slots = sorted({int(t) // (grid.h * grid.w) for t in target[0]})
    other = video[:1].clone()
    for slot in slots:
        other[:, :, 2 * slot : 2 * slot + 2] = torch.randn(1, 3, 2, 16, 24)
    guesses = [predictor(encoder(v, keep=context), context, target, grid) for v in (video[:1], other)]
    assert torch.equal(*guesses)


def test_latent_targets_are_normalised_features_of_the_named_depths(parts):
    encoder, _, video = parts
    both = latent_targets(encoder, video, [0, 2, -1])
    embedded, second, last = both.split(encoder.embed_dim, dim=-1)
    assert torch.allclose(last, F.layer_norm(encoder(video), (128,)), atol=1e-5)
    assert torch.allclose(second, F.layer_norm(encoder.features(video, layers=[1])[0], (128,)), atol=1e-5)
    assert torch.allclose(embedded, F.layer_norm(encoder.patch_embed(video), (128,)), atol=1e-5)
    assert both.mean(-1).abs().max() < 1e-4
    assert not both.requires_grad


def test_pixel_targets_are_the_patches_in_token_order(parts):
    encoder, _, video = parts
    grid = encoder.grid_of(video)
    targets = pixel_targets(video, 2, 8)
    assert targets.shape == (3, grid.size, 2 * 8 * 8 * 3)
    t, h, w = 1, 0, 2
    token = (t * grid.h + h) * grid.w + w
    patch = video[1, :, 2:4, 0:8, 16:24].permute(1, 2, 3, 0).reshape(-1)
    assert torch.equal(targets[1, token], patch)


def test_gather_tokens_picks_rows():
    tokens = torch.arange(24.0).view(2, 4, 3)
    index = torch.tensor([[3, 0], [1, 1]])
    assert torch.equal(gather_tokens(tokens, index), torch.stack([tokens[0, [3, 0]], tokens[1, [1, 1]]]))


def test_unknown_objectives_are_refused():
    for keys in (dict(predict="sound"), dict(distance="cosine"), dict(levels=[])):
        with pytest.raises(UserError):
            ObjectiveConfig(**keys)


def test_the_target_is_an_exponential_average(parts):
    encoder = create_model("vit_nano", patch_px=8)
    target = TargetEncoder(encoder)
    start = target.encoder.norm.weight.clone()
    with torch.no_grad():
        encoder.norm.weight += 1.0
    for _ in range(3):
        target.update(0.9)
    assert torch.allclose(target.encoder.norm.weight, start + 1 - 0.9**3)
    target.update(1.0)
    assert torch.allclose(target.encoder.norm.weight, start + 1 - 0.9**3)
    target.update(0.0)
    assert torch.equal(target.encoder.norm.weight, encoder.norm.weight)
    assert not any(p.requires_grad for p in target.encoder.parameters())


def test_schedules_hit_their_ends():
    rates = [warmup_cosine(step, 100, 10, 1.0, 0.01) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0 == max(rates)
    assert rates[-1] == pytest.approx(0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    middle = 10 + (99 - 10) / 2
    assert warmup_cosine(math.floor(middle), 100, 10, 1.0, 0.01) == pytest.approx(0.505, abs=0.01)
    assert [linear(s, 5, 0.99, 0.999) for s in (0, 4)] == pytest.approx([0.99, 0.999])
    assert linear(2, 5, 0.0, 1.0) == pytest.approx(0.5)
    cooldown = [warmup_linear(step, 11, 0, 1.0, 0.0) for step in range(11)]
    assert cooldown == pytest.approx([1 - step / 10 for step in range(11)])
    flat = [warmup_constant(step, 50, 5, 1.0, 0.0) for step in range(50)]
    assert flat[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and set(flat[5:]) == {1.0}


def test_rank_counts_the_directions_in_use():
    torch.manual_seed(0)
    flat = torch.randn(500, 1) @ torch.randn(1, 32)
    assert rank_me(flat) == pytest.approx(1, abs=0.1)
    orthogonal = torch.eye(32).repeat(10, 1)
    assert rank_me(orthogonal) == pytest.approx(32, abs=0.1)


def test_spreads_tell_clips_and_moments_apart():
    constant_in_time = torch.randn(4, 1, 8).expand(4, 6, 8)  # 3 moments of 2 places
    assert spread_across_time(constant_in_time, 3) == pytest.approx(0, abs=1e-6)
    assert spread_across_clips(constant_in_time) > 0.3
    same_clip = torch.randn(1, 6, 8).expand(4, 6, 8)
    assert spread_across_clips(same_clip) == pytest.approx(0, abs=1e-6)
    assert spread_across_time(same_clip, 3) > 0.3
