"""Pooling: what a small event leaves in a pooled vector."""

from __future__ import annotations

import torch

from jepa.probes.features.feature_set import FeatureSet
from jepa.probes.features.pooling import pool_changes


def test_the_largest_change_shows_an_event_that_the_mean_hides() -> None:
    still = torch.ones(1, 4 * 25, 3)
    event = still.clone()
    event.unflatten(1, (4, 25))[0, 2, 7, 1] += 5.0  # one position, one time step, one channel
    mean, change, largest = pool_changes(event, time_slots=4).view(3, 3)
    assert torch.allclose(pool_changes(still, 4), torch.tensor([[1.0] * 3 + [0.0] * 6]))
    assert torch.allclose(change, torch.tensor([0.0, 10 / 3 / 25, 0.0]))
    assert torch.allclose(largest, torch.tensor([0.0, 10 / 3, 0.0]))
    assert torch.allclose(mean, torch.tensor([1.0, 1.05, 1.0]))


def test_a_single_time_step_and_plain_vectors_have_no_change() -> None:
    assert pool_changes(torch.rand(2, 9, 3), time_slots=1)[:, 3:].abs().sum() == 0
    vectors = torch.rand(4, 6)
    assert torch.allclose(FeatureSet.of("pixels", vectors).read("changes"), vectors)
