"""A sweep of 20 heads on cached features: the library's way, and one head after another, both to their end.

    python benchmarks/probe_sweep.py HEAD [samples] [tokens] [channels] [steps] [sets]
    python benchmarks/probe_sweep.py HEAD DATA [label column] [group column] [steps] [sets]

HEAD is linear, attentive (light) or published. The first form makes features up (class means in noise, shown by an
eighth of the tokens); the second takes those of timm's efficientnet_lite0 for a folder of labelled clips, eight frames
each, projected to 64 channels at random, and divides it by groups. SETS data sets, or divisions, are swept in turn.

"One by one" is what the published loop does for each of the twenty settings: a module, an optimizer and backward passes
in float32 of its own, on the same samples in the same order, and at its end the validation part. Time is that of the
process on the CPU, for training and choosing; the result is the test accuracy of the head that validation prefers, and
the test part is looked at outside of the time.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from jepa.models import AttentiveClassifier
from jepa.models.weights.timm_images import load_image_backbone
from jepa.probes.data.labels import class_names, read_samples
from jepa.probes.features.encode import encode
from jepa.probes.features.image_model import ImageFrames
from jepa.probes.heads.stacked import (
    AttentiveBank,
    LinearBank,
    Order,
    Setting,
    bank_logits,
    cross_entropy,
    standardise,
    train_bank,
)
from jepa.probes.heads.successive_halving import PUBLISHED_GRID as GRID
from jepa.probes.heads.successive_halving import Training, fast_dtype, race
from jepa.probes.heads.vjepa2_attentive import PublishedBank, published_config

BATCH = 64
Answers = Callable[[np.ndarray], torch.Tensor]


@dataclass
class Data:
    """Features [n, N, D] with class numbers [n], and indices of three parts."""

    x: torch.Tensor
    y: torch.Tensor
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1

    def accuracy(self, logits: torch.Tensor, part: np.ndarray) -> torch.Tensor:
        return (logits.argmax(-1) == self.y[part]).float().mean(-1)


def made_up(seed: int, samples: int, tokens: int, channels: int) -> Data:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 10, (samples,), generator=generator)
    means = torch.randn(10, 1, channels, generator=generator) * 0.7
    shown = torch.rand(samples, tokens, 1, generator=generator) < 1 / 8
    x = torch.randn(samples, tokens, channels, generator=generator) + shown * means[y]
    return Data(x, y, *np.split(np.arange(samples), [samples * 3 // 5, samples * 4 // 5]))


def real(root: str, label: str, group: str, sets: int) -> list[Data]:
    model = ImageFrames("efficientnet_lite0", load_image_backbone("efficientnet_lite0"), "cpu")
    samples, (features,), _ = encode(read_samples(root, label, group), [model], None)
    x, names = features.rows()[:, 0].float(), class_names(samples)
    generator = torch.Generator().manual_seed(0)
    x = x @ torch.randn(x.shape[-1], 64, generator=generator) * x.shape[-1] ** -0.5
    y, groups = torch.tensor([names.index(s.label) for s in samples]), np.array([s.group for s in samples])
    out = []
    for seed in range(sets):
        order = np.random.default_rng(seed).permutation(np.unique(groups))
        parts = np.split(order, [len(order) * 3 // 5, len(order) * 4 // 5])
        out.append(Data(x, y, *(np.flatnonzero(np.isin(groups, part)) for part in parts)))
    return out


def one_by_one(kind: str, data: Data, steps: int) -> Answers:
    """The head that validation prefers, as a function from samples to logits."""
    best: tuple[torch.nn.Module, float] | None = None
    for setting in GRID:
        head = _alone(kind, data)
        optimizer = torch.optim.AdamW(head.parameters(), lr=setting.lr, weight_decay=setting.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: 0.5 * (1 + np.cos(np.pi * s / steps))
        )
        order = Order(data.train, 0, min(BATCH, len(data.train)))
        for step in range(steps):
            chosen = torch.from_numpy(order.batch(step))
            loss = functional.cross_entropy(_say(head, data.x[chosen]), data.y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        good = _goodness(_ask(head, data, data.val)[None], data)[0].item()
        if best is None or good > best[1]:
            best = head, good
    assert best is not None
    chosen_head = best[0]
    return lambda part: _ask(chosen_head, data, part)


def _alone(kind: str, data: Data) -> torch.nn.Module:
    generator, channels = torch.Generator().manual_seed(0), data.x.shape[-1]
    if kind == "published":
        bank = PublishedBank(1, 1, published_config(channels), data.classes)
        bank.init([generator])
        return bank.single(0, 0).train()
    light = (LinearBank if kind == "linear" else AttentiveBank)(1, 1, channels, data.classes)
    light.init([generator])
    member = torch.zeros(1, len(data.y), dtype=torch.bool)
    member[:, data.train] = True
    standardise(light, data.x, member)
    return light


def _say(head: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return head(x)["label"] if isinstance(head, AttentiveClassifier) else head(x.unsqueeze(0))[0, 0]


@torch.inference_mode()
def _ask(head: torch.nn.Module, data: Data, part: np.ndarray) -> torch.Tensor:
    return torch.cat([_say(head, x) for x in data.x[part].split(BATCH)])


def _goodness(logits: torch.Tensor, data: Data) -> torch.Tensor:
    """Validation accuracy [G] of logits [G, n, C]; among equals the lower loss counts."""
    wanted = data.y[data.val].expand(len(logits), -1)
    loss = functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").mean(1)
    return data.accuracy(logits, data.val) - 1e-6 * loss


def together(kind: str, data: Data, steps: int) -> Answers:
    """The same by the library: all at once, and of published heads only the promising ones."""

    def judge(bank: torch.nn.Module) -> torch.Tensor:
        return _goodness(bank_logits(bank, data.x[data.val], BATCH)[0], data)

    def start(tried: Sequence[Setting]) -> Training:
        return Training.fresh(data.x, data.y, data.classes, data.train, tried, [0], steps, BATCH)

    if kind == "published":
        training, _ = race(start, judge)
        return lambda part: bank_logits(training.bank, data.x[part], BATCH)[0, 0]
    bank = (LinearBank if kind == "linear" else AttentiveBank)(1, len(GRID), data.x.shape[-1], data.classes)
    member = torch.zeros(len(GRID), len(data.y), dtype=torch.bool)
    member[:, data.train] = True
    train_bank(bank, data.x, data.y, member, GRID, [0], steps, BATCH, cross_entropy)
    best = int(judge(bank).argmax())
    return lambda part: bank_logits(bank, data.x[part], BATCH)[0, best]


def pooled(data: Data) -> Data:
    """The mean over tokens, for linear heads."""
    return Data(data.x.mean(1), data.y, data.train, data.val, data.test)


def main(kind: str, *given: str) -> None:
    torch.set_num_threads(1)
    if given and not given[0].isdecimal():
        root, label, group, steps, sets = [*given, *("", "label", "group", "200", "5")[len(given) :]]
        swept = real(root, label, group, int(sets))
    else:
        samples, tokens, channels, steps, sets = [
            int(x) for x in (*given, *("600", "8", "64", "200", "3")[len(given) :])
        ]
        swept = [made_up(seed, samples, tokens, channels) for seed in range(sets)]
    if kind == "linear":
        swept = [pooled(data) for data in swept]
    warm = made_up(9, 60, 2, 32)  # whatever comes first in a process pays for starting its libraries
    for run in (together, one_by_one):
        run(kind, warm if kind != "linear" else pooled(warm), 4)
    first = swept[0]
    print(f"{kind}: features {list(first.x.shape)}, {len(first.train)} train, {len(first.val)} choose, "
          f"{len(first.test)} test, {steps} steps of {BATCH}, 1 thread, torch {torch.__version__}, "
          f"{platform.processor() or platform.machine()}, {fast_dtype()}")  # fmt: skip
    seconds, results = [], []
    for data in swept:
        row, said = [], []
        for run in (together, one_by_one):
            cpu = time.process_time()
            answers = run(kind, data, int(steps))
            row.append(time.process_time() - cpu)
            said.append(float(data.accuracy(answers(data.test), data.test)))
        seconds.append(row)
        results.append(said)
        print(f"together {row[0]:.2f} s, one by one {row[1]:.2f} s of CPU, {row[1] / row[0]:.1f}x; "
              f"results {said[0]:.4f}, {said[1]:.4f}", flush=True)  # fmt: skip
    total, difference = np.sum(seconds, 0), -np.diff(results, axis=1)
    print(f"all: {total[1] / total[0]:.1f}x; together minus one by one: mean {difference.mean():+.4f}, "
          f"worst {difference.min():+.4f}, largest {np.abs(difference).max():.4f}")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
