"""Schedules and diagnostics against their textbook forms."""

import math

import pytest

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
