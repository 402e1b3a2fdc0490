"""A hyper-parameter sweep of 20 heads on cached features: the library's stacked heads, and one head after another.

    python benchmarks/probe_sweep.py HEAD [samples] [tokens] [channels] [steps] [sets]
    python benchmarks/probe_sweep.py HEAD DATA [label column] [group column] [steps] [sets]

HEAD is linear, attentive (light) or vjepa2_attentive. The first form makes features up (class means in noise, shown
by an eighth of the tokens); the second takes those of timm's efficientnet_lite0 for a folder of labelled clips, eight
frames each, projected to 64 channels at random, and divides it by groups. SETS data sets, or divisions, are swept in
turn.

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
from jepa.probes.config import HeadSettings
from jepa.probes.data.labels import class_names, read_labelled
from jepa.probes.evaluation.calibration import softmax_calibrator
from jepa.probes.features.encode import encode
from jepa.probes.features.image_model import ImageFrames
from jepa.probes.heads.base import FitData, class_targets
from jepa.probes.heads.stacked import (
    Order,
    Setting,
    StackedAttentive,
    StackedHeads,
    StackedLinear,
    standardise,
    train_stacked,
)
from jepa.probes.heads.successive_halving import PUBLISHED_GRID as GRID
from jepa.probes.heads.successive_halving import StackedTraining, fast_dtype, successive_halving
from jepa.probes.heads.vjepa2_attentive import StackedClassifiers, classifier_config

BATCH = 64
Logits = Callable[[np.ndarray], torch.Tensor]


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
    samples, (features,), _ = encode(read_labelled(root, label, group), [model], None)
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


def one_by_one(kind: str, data: Data, steps: int) -> Logits:
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
            loss = functional.cross_entropy(_logits(head, data.x[chosen]), data.y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        score = _score(_all_logits(head, data, data.val)[None], data)[0].item()
        if best is None or score > best[1]:
            best = head, score
    assert best is not None
    chosen_head = best[0]
    return lambda part: _all_logits(chosen_head, data, part)


def _alone(kind: str, data: Data) -> torch.nn.Module:
    generator, channels = torch.Generator().manual_seed(0), data.x.shape[-1]
    if kind == "vjepa2_attentive":
        heads = StackedClassifiers(1, 1, classifier_config(channels), data.classes)
        heads.init([generator])
        return heads.single(0, 0).train()
    light = (StackedLinear if kind == "linear" else StackedAttentive)(1, 1, channels, data.classes)
    light.init([generator])
    member = torch.zeros(1, len(data.y), dtype=torch.bool)
    member[:, data.train] = True
    standardise(light, data.x, member)
    return light


def _logits(head: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return head(x)["label"] if isinstance(head, AttentiveClassifier) else head(x.unsqueeze(0))[0, 0]


@torch.inference_mode()
def _all_logits(head: torch.nn.Module, data: Data, part: np.ndarray) -> torch.Tensor:
    return torch.cat([_logits(head, x) for x in data.x[part].split(BATCH)])


def _score(logits: torch.Tensor, data: Data) -> torch.Tensor:
    """Validation accuracy [G] of logits [G, n, C]; among equals the lower loss counts."""
    labels = data.y[data.val].expand(len(logits), -1)
    loss = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)
    return data.accuracy(logits, data.val) - 1e-6 * loss


def together(kind: str, data: Data, steps: int) -> Logits:
    """The same by the library: stacked heads, and successive halving for V-JEPA 2 heads."""

    fit_data = FitData(data.x, class_targets(data.y, data.classes, softmax_calibrator("temperature")))

    def judge(heads: StackedHeads) -> torch.Tensor:
        return _score(heads.logits(data.x[data.val], BATCH)[0], data)

    def start(tried: Sequence[Setting]) -> StackedTraining:
        budget = HeadSettings(steps=steps, batch_size=BATCH)
        return StackedTraining.fresh(fit_data, data.train, tried, [0], budget)

    if kind == "vjepa2_attentive":
        training, _ = successive_halving(start, judge)
        return lambda part: training.heads.logits(data.x[part], BATCH)[0, 0]
    family = StackedLinear if kind == "linear" else StackedAttentive
    heads = family(1, len(GRID), data.x.shape[-1], data.classes)
    train_stacked(heads, fit_data, [(data.train, setting) for setting in GRID], [0], steps, BATCH)
    best = int(judge(heads).argmax())
    return lambda part: heads.logits(data.x[part], BATCH)[0, best]


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
    warm = made_up(9, 60, 2, 32)  # the first call in a process includes the start of its libraries
    for run in (together, one_by_one):
        run(kind, warm if kind != "linear" else pooled(warm), 4)
    first = swept[0]
    print(f"{kind}: features {list(first.x.shape)}, {len(first.train)} train, {len(first.val)} choose, "
          f"{len(first.test)} test, {steps} steps of {BATCH}, 1 thread, torch {torch.__version__}, "
          f"{platform.processor() or platform.machine()}, {fast_dtype()}")  # fmt: skip
    seconds, results = [], []
    for data in swept:
        row, accuracies = [], []
        for run in (together, one_by_one):
            cpu = time.process_time()
            logits = run(kind, data, int(steps))
            row.append(time.process_time() - cpu)
            accuracies.append(float(data.accuracy(logits(data.test), data.test)))
        seconds.append(row)
        results.append(accuracies)
        print(f"together {row[0]:.2f} s, one by one {row[1]:.2f} s of CPU, {row[1] / row[0]:.1f}x; "
              f"results {accuracies[0]:.4f}, {accuracies[1]:.4f}", flush=True)  # fmt: skip
    total, difference = np.sum(seconds, 0), -np.diff(results, axis=1)
    print(f"all: {total[1] / total[0]:.1f}x; together minus one by one: mean {difference.mean():+.4f}, "
          f"worst {difference.min():+.4f}, largest {np.abs(difference).max():.4f}")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
