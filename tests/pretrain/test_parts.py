"""Schedules and diagnostics against their textbook forms."""

import math

import pytest
import torch

from jepa.pretrain.diagnostics import rank_me, spread_across_clips, spread_across_time
from jepa.pretrain.schedules import linear, warmup_constant, warmup_cosine, warmup_linear


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
