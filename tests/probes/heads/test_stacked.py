"""Stacked heads against heads written out one by one, and against torch's own AdamW."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SkRidge
from torch.nn import functional

from jepa.probes.evaluation.calibration import softmax_calibrator
from jepa.probes.features.pooling import pool_stats
from jepa.probes.heads.base import FitData, class_targets
from jepa.probes.heads.closed_form import Ridge, knn_votes
from jepa.probes.heads.stacked import (
    Setting,
    StackedAttentive,
    StackedHeads,
    StackedLinear,
    standardise,
    train_stacked,
)

G = torch.Generator().manual_seed(0)


def data(n: int = 40, tokens: int = 6, channels: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, tokens, channels, generator=generator) * 2 + 1
    return x, torch.randint(0, 3, (n,), generator=generator)


def fit_data(inputs: torch.Tensor, labels: torch.Tensor) -> FitData:
    return FitData(inputs, class_targets(labels, 3, softmax_calibrator("temperature")))


def randomised(heads: StackedHeads) -> None:
    generator = torch.Generator().manual_seed(5)
    for value in heads.state_dict().values():
        value.copy_(torch.rand(value.shape, generator=generator) + 0.1)


def test_linear_heads_is_a_standardised_linear_layer_per_head() -> None:
    heads = StackedLinear(2, 3, 5, 4)
    randomised(heads)
    x = torch.randn(2, 7, 5, generator=G)
    out = heads(x)
    for s in range(2):
        for g in range(3):
            z = (x[s] - heads.shift[g]) * heads.scale[g]
            torch.testing.assert_close(out[s, g], z @ heads.weight[s, g] + heads.bias[s, g])


def test_attentive_heads_is_softmax_attention_with_learned_queries() -> None:
    heads = StackedAttentive(2, 3, 5, 4, queries=2)
    randomised(heads)
    x = torch.randn(2, 7, 6, 5, generator=G)
    out = heads(x)
    for s in range(2):
        for g in range(3):
            z = (x[s] - heads.shift[g]) * heads.scale[g]  # [B, N, D]
            read = [
                functional.scaled_dot_product_attention(q.expand(7, 1, 5), z, z).squeeze(1)
                for q in heads.query[s, g]
            ]
            expected = torch.cat(read, -1) @ heads.output.weight[s, g] + heads.output.bias[s, g]
            torch.testing.assert_close(out[s, g], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [StackedLinear, StackedAttentive])
def test_many_heads_at_once_equal_each_alone_under_torch_adamw(kind: type) -> None:
    x, y = data()
    inputs = x.mean(1) if kind is StackedLinear else x
    settings = [Setting(0.05, 0.1), Setting(0.01, 2.0)]
    member = torch.ones(2, 40, dtype=torch.bool)
    member[0, :10] = False
    jobs = [(np.arange(10, 40), settings[0]), (np.arange(40), settings[1])]
    heads = kind(2, 2, 5, 3)
    train_stacked(heads, fit_data(inputs, y), jobs, [4, 9], steps=12, batch_size=16)
    for s, seed in enumerate([4, 9]):
        for g, setting in enumerate(settings):
            alone = kind(1, 1, 5, 3)
            alone.init([torch.Generator().manual_seed(seed)])
            standardise(alone, inputs, member[g : g + 1])
            optimizer = torch.optim.AdamW(alone.parameters(), lr=1.0, weight_decay=setting.weight_decay)
            for step in range(12):
                for group in optimizer.param_groups:
                    group["lr"] = setting.lr * 0.5 * (1 + np.cos(np.pi * step / 12))
                epoch, position = divmod(step, 40 // 16)
                order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(40)
                chosen = torch.from_numpy(np.sort(order[position * 16 : position * 16 + 16]))
                mine = chosen[member[g, chosen]]
                loss = functional.cross_entropy(alone(inputs[mine].unsqueeze(0))[0, 0], y[mine])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            trained = heads.take([g], [s])
            for (name, a), b in zip(trained.state().items(), alone.state_dict().values(), strict=True):
                torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4, msg=f"{name} of head {s},{g}")


def test_samples_outside_a_head_do_not_touch_it() -> None:
    x, y = data()
    results = []
    for poison in (0.0, 1e3):
        spoiled, labels = x.mean(1).clone(), y.clone()
        spoiled[20:] += poison
        labels[20:] = 0
        heads = StackedLinear(1, 2, 5, 3)
        jobs = [(np.arange(20), Setting(0.05, 0.1)), (np.arange(40), Setting(0.05, 0.1))]
        train_stacked(heads, fit_data(spoiled, labels), jobs, [1], 10, 8)
        results.append(heads.take([0]).state()["weight"])
    torch.testing.assert_close(results[0], results[1])


def test_heads_learns_what_a_mean_cannot_hold() -> None:
    # The class is the sign of one marked token among noise: attention must find it.
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 12, 6, generator=generator) * 0.5
    x[:, :, 0] = 0
    position = torch.randint(0, 12, (400,), generator=generator)
    y = torch.randint(0, 2, (400,), generator=generator)
    x[torch.arange(400), position, 0] = 3
    x[torch.arange(400), position, 1] = y * 2.0 - 1
    heads = StackedAttentive(1, 1, 6, 2)
    train_stacked(heads, fit_data(x, y), [(np.arange(300), Setting(0.03, 0.01))], [0], 300, 64)
    right = heads.logits(x)[0, 0].argmax(-1) == y
    assert right[300:].float().mean() > 0.9


def test_pool_stats_shows_motion_that_the_mean_hides() -> None:
    still = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 4, 1)  # 2 time steps x 2 positions
    moving = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 4, 1)
    still = still.view(1, 2, 2, 1).transpose(1, 2).reshape(1, 4, 1)
    a, b = pool_stats(still, 2)[0], pool_stats(moving, 2)[0]
    assert a[0] == b[0] and a[1] == b[1]
    assert a[2] == 0 and b[2] == 1


@pytest.mark.parametrize("shape", [(30, 8), (12, 50)])
def test_ridge_equals_scikit_learn_in_both_forms(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=shape) + 2, rng.integers(0, 3, shape[0])
    ridge = Ridge(torch.from_numpy(x), torch.from_numpy(y), 3)
    for strength in (1e-2, 1.0):
        reference = SkRidge(alpha=strength * ridge.unit).fit(x, np.eye(3)[y])
        ask = rng.normal(size=(5, shape[1]))
        got = ridge.scores(torch.from_numpy(ask), [strength])[0]
        np.testing.assert_allclose(got, reference.predict(ask), rtol=1e-7, atol=1e-9)


def test_knn_votes() -> None:
    train = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0], [0.0, 5.0]])
    shares = knn_votes(train, torch.tensor([0, 0, 1, 2]), train, 3, [1, 4])
    assert shares[0].argmax(-1).tolist() == [0, 0, 1, 2]
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 4))
