"""Stacked V-JEPA 2 classifiers against `AttentiveClassifier`, one head at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from jepa.errors import UserError
from jepa.models import AttentiveClassifier, PoolerConfig
from jepa.probes.config import HeadSettings
from jepa.probes.data.splits import Fold
from jepa.probes.evaluation.calibration import softmax_calibrator
from jepa.probes.evaluation.cross_validate import cross_validate
from jepa.probes.features.cache import Features
from jepa.probes.features.feature_set import FeatureSet
from jepa.probes.heads.base import FitData, class_targets, get_head
from jepa.probes.heads.stacked import Order, Setting
from jepa.probes.heads.successive_halving import StackedTraining, successive_halving
from jepa.probes.heads.vjepa2_attentive import StackedClassifiers, classifier_config


def shaken(heads: StackedClassifiers, seed: int = 0) -> StackedClassifiers:
    """Every weight of every head moved off its start, so that zeros and ones hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    heads.init([torch.Generator().manual_seed(s) for s in range(next(heads.parameters()).shape[0])])
    for parameter in heads.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return heads


def tokens(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9)) * 2 + 0.5


@pytest.mark.parametrize("depth", [1, 4])
def test_scores_and_gradients_are_those_of_each_classifier(depth: int) -> None:
    heads = shaken(StackedClassifiers(2, 3, classifier_config(32, depth), 5))
    x = tokens(2, 4, 7, 32)
    out = heads(x)
    expected = torch.randint(0, 5, (2, 4), generator=torch.Generator().manual_seed(1))
    functional.cross_entropy(
        out.permute(0, 2, 3, 1).reshape(8, 5, 3), expected.view(8, 1).expand(8, 3)
    ).backward()
    for s in range(2):
        for g in range(3):
            one = heads.single(s, g).train()
            logits = one(x[s])["label"]
            torch.testing.assert_close(out[s, g], logits, rtol=1e-5, atol=1e-5)
            (functional.cross_entropy(logits, expected[s]) / 6).backward()
            for (name, alone), together in zip(one.named_parameters(), heads.parameters(), strict=True):
                assert alone.grad is not None and together.grad is not None
                torch.testing.assert_close(together.grad[s, g], alone.grad, rtol=1e-3, atol=2e-6, msg=name)


def test_published_weights_load_into_a_heads_and_give_the_same_scores() -> None:
    classifiers = [AttentiveClassifier(PoolerConfig(32, 1, 2, 4, 64), {"label": 3}) for _ in range(2)]
    for seed, one in enumerate(classifiers):
        for parameter in one.parameters():
            generator = torch.Generator().manual_seed(seed)
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    heads = StackedClassifiers.of(classifiers)
    x = tokens(1, 6, 9, 32)
    with torch.inference_mode():
        for g, one in enumerate(classifiers):
            torch.testing.assert_close(heads(x)[0, g], one(x[0])["label"], rtol=1e-5, atol=1e-5)
            for name, value in heads.single(0, g).state_dict().items():
                assert torch.equal(value, one.state_dict()[name])
    again = StackedClassifiers.from_state(heads.state_dict())
    assert again.config == classifiers[0].pooler.config and torch.equal(again(x), heads(x))
    other = AttentiveClassifier(PoolerConfig(32, 1, 3, 4, 64), {"label": 3})
    with pytest.raises(UserError, match="same shape"):
        StackedClassifiers.of([classifiers[0], other])


def test_narrow_tokens_get_fewer_attention_heads() -> None:
    assert classifier_config(1024).num_heads == classifier_config(128).num_heads == 16
    assert classifier_config(24).num_heads == 4


SETTINGS = [Setting(lr, decay) for lr in (3e-3, 1e-3, 1e-4) for decay in (0.01, 0.8)]


def training(settings: list[Setting], seeds: list[int], steps: int = 12) -> StackedTraining:
    x = tokens(40, 6, 16)
    y = torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(3))
    x[:, :, 0] += y[:, None] * 1.5
    heads = StackedClassifiers(len(seeds), len(settings), classifier_config(16, 2), 3)
    heads.init([torch.Generator().manual_seed(seed) for seed in seeds])
    data = FitData(x, class_targets(y, 3, softmax_calibrator("temperature")))
    return StackedTraining(heads, data, np.arange(30), settings, seeds, steps, 10)


def test_heads_trained_together_are_those_of_torch_adamw_alone() -> None:
    together = training(SETTINGS[:2], [4, 9])
    together.advance(12)
    for s, seed in enumerate([4, 9]):
        for g, setting in enumerate(SETTINGS[:2]):
            alone = training([setting], [seed])
            head = alone.heads.single(0, 0).train()
            optimizer = torch.optim.AdamW(head.parameters(), lr=1.0, weight_decay=setting.weight_decay)
            order = Order(np.arange(30), seed, 10)
            for step in range(12):
                optimizer.param_groups[0]["lr"] = setting.lr * 0.5 * (1 + np.cos(np.pi * step / 12))
                chosen = torch.from_numpy(order.batch(step))
                loss = functional.cross_entropy(
                    head(alone.data.inputs[chosen])["label"], alone.data.window_targets[chosen]
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.inference_mode():
                expected = head(alone.data.inputs)["label"]
                got = together.heads.single(s, g)(alone.data.inputs)["label"]
            torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize(
    ("scores", "wins"),
    [
        # Scores of three learning rates, of the best two somewhat later, of the winner's other decay.
        ([[3.0, 2.0, 1.0], [1.0, 0.0], [2.0]], 0),
        ([[3.0, 1.0, 2.0], [0.0, 1.0], [1.0]], 4),
        ([[1.0, 3.0, 2.0], [1.0, 0.0], [4.0]], 3),
    ],
)
def test_successive_halving_finishes_its_winner_exactly_as_if_it_had_trained_alone(
    scores: list[list[float]], wins: int
) -> None:
    verdicts, seen, steps = iter(scores), [], []
    full = training(SETTINGS, [1], steps=20)
    full.advance(20)

    def start(settings: Sequence[Setting]) -> StackedTraining:
        made = training(list(settings), [1], steps=20)
        advance = made.advance

        def counting(until: int) -> None:
            steps.append((until - made.done) * len(made.settings[0]))
            advance(until)

        made.advance = counting  # type: ignore[method-assign]
        return made

    def judge(heads: StackedClassifiers) -> torch.Tensor:
        seen.append(len(next(heads.parameters())[0]))
        return torch.tensor(next(verdicts))

    halved, setting = successive_halving(start, judge, SETTINGS)
    assert seen == [3, 2, 1] and setting == SETTINGS[wins]
    assert sum(steps) == 3 * 2 + 2 * 1 + 1 * 2 + (20 - (2 if wins == 3 else 3))
    for left, right in zip(
        halved.heads.single(0, 0).parameters(), full.heads.single(0, wins).parameters(), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("others", "times"), [(0.0, 11.4), (9.0, 11.1)])  # the middle decay wins, or another
def test_successive_halving_takes_less_than_a_tenth_of_the_steps_of_the_published_sweep(
    others: float, times: float
) -> None:
    taken = 0

    class Counted:
        """A training that only counts."""

        def __init__(self, settings: Sequence[Setting]) -> None:
            self.steps, self.done, self.count, self.heads = 1000, 0, len(settings), self

        def advance(self, until: int) -> None:
            nonlocal taken
            taken += (until - self.done) * self.count
            self.done = until

        def keep(self, rows: torch.Tensor) -> None:
            self.count = rows.numel()

    def judge(heads: Any) -> torch.Tensor:
        return torch.arange(heads.count) + (others if heads.count == 3 else 1.0)

    successive_halving(Counted, judge)  # type: ignore[arg-type]
    assert 20 * 1000 / taken == pytest.approx(times, abs=0.1)


def test_the_sweep_learns_and_answers_for_the_samples_of_its_fold() -> None:
    rng = np.random.Generator(np.random.Philox(key=[0, 1]))
    labels, number = rng.permutation(np.arange(48) % 3), np.arange(48)
    rows = rng.normal(size=(48, 2, 4, 16)).astype(np.float16)  # two windows of four tokens
    for row, label in zip(rows, labels, strict=True):
        row[..., 3 * label : 3 * label + 3] += 3
    data = FeatureSet("encoder", Features([rows], np.zeros(48, int), number), 2)
    folds = [
        Fold(str(k), number[number % 4 >= 2], number[number % 4 == 1 - k], number[number % 4 == k])
        for k in (0, 1)
    ]
    settings = HeadSettings(steps=12, batch_size=16)
    targets = class_targets(torch.from_numpy(labels), 3, softmax_calibrator("temperature"))
    groups = [str(i) for i in number]
    run = cross_validate(get_head("vjepa2_attentive"), data, targets, groups, folds, settings, [0])
    assert run.val_score == 1
    assert (run.prediction[0, number % 4 < 2].argmax(-1) == labels[number % 4 < 2]).all()
    assert np.isnan(run.prediction[0, number % 4 >= 2]).all()


def test_bfloat16_stays_near_float32() -> None:
    heads = shaken(StackedClassifiers(1, 2, classifier_config(64), 5))
    x = tokens(1, 8, 16, 64)
    with torch.inference_mode():
        exact = heads(x)
        heads.compute = torch.bfloat16
        rough = heads(x)
    assert 0 < (rough - exact).abs().max() < 0.05 * exact.std()
