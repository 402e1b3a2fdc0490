"""The published sweep of 20 heads on cached features: all at once, and one after another.

    python benchmarks/probe_sweep.py [samples] [tokens] [channels] [steps]

Features are made up (class means in noise), since the time does not depend on what they mean. "One by one" is what the
published loop does for each head: its own module, optimizer and backward pass, in mini-batches of the same samples in
the same order. Prints wall and CPU seconds; on a shared machine the second is the one to compare.
"""

from __future__ import annotations

import platform
import sys
import time

import numpy as np
import torch
from torch.nn import functional

from jepa.probes.heads import (
    AttentiveBank,
    LinearBank,
    Setting,
    _Order,
    bank_logits,
    cross_entropy,
    standardise,
    train_bank,
)

LRS, DECAYS = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4), (0.01, 0.1, 0.4, 0.8)


def features(
    samples: int, tokens: int, channels: int, classes: int = 10
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, classes, (samples,), generator=generator)
    means = torch.randn(classes, 1, channels, generator=generator) * 0.25
    return means[targets] + torch.randn(samples, tokens, channels, generator=generator), targets


def one_by_one(
    kind: type, inputs: torch.Tensor, targets: torch.Tensor, train: torch.Tensor, steps: int
) -> list[float]:
    used, accuracies = np.flatnonzero(train.numpy()), []
    for lr in LRS:
        for decay in DECAYS:
            head = kind(1, 1, inputs.shape[-1], 10)
            head.init([torch.Generator().manual_seed(0)])
            standardise(head, inputs, train[None])
            optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=decay)
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda s: 0.5 * (1 + np.cos(np.pi * s / steps))
            )
            order = _Order(used, 0, 64)
            for step in range(steps):
                chosen = torch.from_numpy(order.batch(step))
                loss = functional.cross_entropy(head(inputs[chosen].unsqueeze(0))[0, 0], targets[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            right = bank_logits(head, inputs)[0, 0].argmax(-1) == targets
            accuracies.append(float(right[~train].float().mean()))
    return accuracies


def at_once(
    kind: type, inputs: torch.Tensor, targets: torch.Tensor, train: torch.Tensor, steps: int
) -> list[float]:
    grid = [Setting(lr, decay) for lr in LRS for decay in DECAYS]
    bank = kind(1, len(grid), inputs.shape[-1], 10)
    train_bank(bank, inputs, targets, train.expand(len(grid), -1), grid, [0], steps, 64, cross_entropy)
    right = bank_logits(bank, inputs)[0].argmax(-1) == targets
    return right[:, ~train].float().mean(1).tolist()


def main(samples: int = 600, tokens: int = 64, channels: int = 128, steps: int = 200) -> None:
    torch.set_num_threads(1)
    inputs, targets = features(samples, tokens, channels)
    train = torch.arange(samples) < samples * 3 // 4
    print(f"{samples} samples, {tokens} tokens x {channels}, {steps} steps, 1 thread, torch {torch.__version__}, "
          f"{platform.processor() or platform.machine()}")  # fmt: skip
    for kind in (LinearBank, AttentiveBank):
        data = inputs.mean(1) if kind is LinearBank else inputs
        figures = []
        for run in (one_by_one, at_once):
            wall, cpu = time.perf_counter(), time.process_time()
            accuracies = run(kind, data, targets, train, steps)
            figures.append((time.perf_counter() - wall, time.process_time() - cpu, np.array(accuracies)))
        (wall_a, cpu_a, a), (wall_b, cpu_b, b) = figures
        print(
            f"{kind.__name__}: one by one {wall_a:.2f} s ({cpu_a:.2f} s CPU), "
            f"at once {wall_b:.2f} s ({cpu_b:.2f} s CPU), {cpu_a / cpu_b:.1f}x; "
            f"accuracy {a.mean():.4f} and {b.mean():.4f}, largest gap of a head {abs(a - b).max():.4f}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
