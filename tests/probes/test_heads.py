"""Banks against heads written out one by one, and against torch's own AdamW."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SkRidge
from torch.nn import functional

from jepa.probes.heads.closed_form import Ridge, knn_scores
from jepa.probes.heads.stacked import (
    AttentiveBank,
    LinearBank,
    Setting,
    bank_logits,
    cross_entropy,
    pool_stats,
    standardise,
    take_head,
    train_bank,
)

G = torch.Generator().manual_seed(0)


def data(n: int = 40, tokens: int = 6, channels: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, tokens, channels, generator=generator) * 2 + 1
    return x, torch.randint(0, 3, (n,), generator=generator)


def random_bank(bank: LinearBank | AttentiveBank) -> None:
    generator = torch.Generator().manual_seed(5)
    for value in bank.state_dict().values():
        value.copy_(torch.rand(value.shape, generator=generator) + 0.1)


def test_linear_bank_is_a_standardised_linear_layer_per_head() -> None:
    bank = LinearBank(2, 3, 5, 4)
    random_bank(bank)
    x = torch.randn(2, 7, 5, generator=G)
    out = bank(x)
    for s in range(2):
        for g in range(3):
            z = (x[s] - bank.shift[g]) * bank.scale[g]
            torch.testing.assert_close(out[s, g], z @ bank.weight[s, g] + bank.bias[s, g])


def test_attentive_bank_is_softmax_attention_with_learned_queries() -> None:
    bank = AttentiveBank(2, 3, 5, 4, queries=2)
    random_bank(bank)
    x = torch.randn(2, 7, 6, 5, generator=G)
    out = bank(x)
    for s in range(2):
        for g in range(3):
            z = (x[s] - bank.shift[g]) * bank.scale[g]  # [B, N, D]
            read = [
                functional.scaled_dot_product_attention(q.expand(7, 1, 5), z, z).squeeze(1)
                for q in bank.query[s, g]
            ]
            wanted = torch.cat(read, -1) @ bank.output.weight[s, g] + bank.output.bias[s, g]
            torch.testing.assert_close(out[s, g], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [LinearBank, AttentiveBank])
def test_many_heads_at_once_equal_each_alone_under_torch_adamw(kind: type) -> None:
    x, y = data()
    inputs = x.mean(1) if kind is LinearBank else x
    settings = [Setting(0.05, 0.1), Setting(0.01, 2.0)]
    member = torch.ones(2, 40, dtype=torch.bool)
    member[0, :10] = False
    bank = kind(2, 2, 5, 3)
    train_bank(bank, inputs, y, member, settings, [4, 9], steps=12, batch_size=16, loss=cross_entropy)
    for s, seed in enumerate([4, 9]):
        for g, setting in enumerate(settings):
            alone = kind(1, 1, 5, 3)
            alone.init([torch.Generator().manual_seed(seed)])
            standardise(alone, inputs, member[g : g + 1])
            optimizer = torch.optim.AdamW(alone.parameters(), lr=1.0, weight_decay=setting.weight_decay)
            for step in range(12):
                for group in optimizer.param_groups:
                    group["lr"] = setting.lr * 0.5 * (1 + np.cos(np.pi * step / 12))
                epoch, place = divmod(step, 40 // 16)
                order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(40)
                chosen = torch.from_numpy(np.sort(order[place * 16 : place * 16 + 16]))
                mine = chosen[member[g, chosen]]
                loss = functional.cross_entropy(alone(inputs[mine].unsqueeze(0))[0, 0], y[mine])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            trained = take_head(bank, s, g)
            for (name, a), b in zip(trained.state_dict().items(), alone.state_dict().values(), strict=True):
                torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4, msg=f"{name} of head {s},{g}")


def test_samples_outside_a_head_do_not_touch_it() -> None:
    x, y = data()
    member = torch.zeros(1, 40, dtype=torch.bool)
    member[0, :20] = True
    results = []
    for poison in (0.0, 1e3):
        spoiled, labels = x.mean(1).clone(), y.clone()
        spoiled[20:] += poison
        labels[20:] = 0
        both = torch.cat([member, torch.ones(1, 40, dtype=torch.bool)])
        bank = LinearBank(1, 2, 5, 3)
        setting = [Setting(0.05, 0.1)] * 2
        train_bank(bank, spoiled, labels, both, setting, [1], 10, 8, cross_entropy)
        results.append(take_head(bank, 0, 0).state_dict()["weight"])
    torch.testing.assert_close(results[0], results[1])


def test_bank_learns_what_a_mean_cannot_hold() -> None:
    # The class is the sign of one marked token among noise: attention must find it.
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 12, 6, generator=generator) * 0.5
    x[:, :, 0] = 0
    place = torch.randint(0, 12, (400,), generator=generator)
    y = torch.randint(0, 2, (400,), generator=generator)
    x[torch.arange(400), place, 0] = 3
    x[torch.arange(400), place, 1] = y * 2.0 - 1
    member = (torch.arange(400) < 300)[None]
    bank = AttentiveBank(1, 1, 6, 2)
    train_bank(bank, x, y, member, [Setting(0.03, 0.01)], [0], 300, 64, cross_entropy)
    right = bank_logits(bank, x)[0, 0].argmax(-1) == y
    assert right[300:].float().mean() > 0.9


def test_pool_stats_shows_motion_that_the_mean_hides() -> None:
    still = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 4, 1)  # 2 slots x 2 places
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
    shares = knn_scores(train, torch.tensor([0, 0, 1, 2]), train, 3, [1, 4])
    assert shares[0].argmax(-1).tolist() == [0, 0, 1, 2]
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 4))
