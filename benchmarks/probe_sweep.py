"""The published sweep of 20 heads on cached features: all at once, and one after another.

    python benchmarks/probe_sweep.py HEAD [samples] [tokens] [channels] [steps]

HEAD is linear, attentive (light) or published; step times single steps of published heads instead, where twenty of
them alone would take too long. Features are made up (class means in noise), since the time does not
depend on what they mean. "One by one" is what the published loop does for each head: its own module, optimizer and
backward pass in float32, in mini-batches of the same samples in the same order. Prints wall and CPU seconds; on a
shared machine the second is the one to compare. The result of a sweep is the test accuracy of the head that the
validation part prefers.
"""

from __future__ import annotations

import math
import os
import platform
import sys
import time

import numpy as np
import torch
from torch.nn import functional

from jepa.models import AttentiveClassifier
from jepa.probes.heads import (
    AttentiveBank,
    LinearBank,
    Order,
    bank_logits,
    cross_entropy,
    standardise,
    train_bank,
)
from jepa.probes.published import PublishedBank, published_config
from jepa.probes.sweep import PUBLISHED_GRID as GRID
from jepa.probes.sweep import RUNGS, Training, fast_dtype, race

BATCH = 64


class Data:
    """Samples whose class shows in an eighth of their tokens; 3/5 train, 1/5 choose, 1/5 test."""

    def __init__(self, samples: int, tokens: int, channels: int, classes: int = 10) -> None:
        generator = torch.Generator().manual_seed(0)
        self.y = torch.randint(0, classes, (samples,), generator=generator)
        means = torch.randn(classes, 1, channels, generator=generator) * 0.7
        shown = torch.rand(samples, tokens, 1, generator=generator) < 1 / 8
        self.x = torch.randn(samples, tokens, channels, generator=generator) + shown * means[self.y]
        place = torch.arange(samples)
        self.train, self.val = (
            place < samples * 3 // 5,
            (place >= samples * 3 // 5) & (place < samples * 4 // 5),
        )
        self.test = place >= samples * 4 // 5

    def accuracy(self, logits: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        return (logits.argmax(-1) == self.y[part]).float().mean(-1)


def one_by_one(kind: str, data: Data, steps: int) -> tuple[float, list[float]]:
    used, on_val, on_test = np.flatnonzero(data.train.numpy()), [], []
    for setting in GRID:
        generator = torch.Generator().manual_seed(0)
        if kind == "published":
            bank = PublishedBank(1, 1, published_config(data.x.shape[-1]), 10)
            bank.init([generator])
            head: torch.nn.Module = bank.single(0, 0).train()
        else:
            light = (LinearBank if kind == "linear" else AttentiveBank)(1, 1, data.x.shape[-1], 10)
            light.init([generator])
            standardise(light, data.x, data.train[None])
            head = light

        def say(x: torch.Tensor, head: torch.nn.Module = head) -> torch.Tensor:
            if isinstance(head, AttentiveClassifier):
                return head(x)["label"]
            return head(x.unsqueeze(0))[0, 0]

        optimizer = torch.optim.AdamW(head.parameters(), lr=setting.lr, weight_decay=setting.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: 0.5 * (1 + np.cos(np.pi * s / steps))
        )
        order = Order(used, 0, BATCH)
        for step in range(steps):
            chosen = torch.from_numpy(order.batch(step))
            loss = functional.cross_entropy(say(data.x[chosen]), data.y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.inference_mode():
            for kept, part in ((on_val, data.val), (on_test, data.test)):
                kept.append(float(data.accuracy(say(data.x[part]), part)))
    return on_test[int(np.argmax(on_val))], on_test


def at_once(kind: str, data: Data, steps: int) -> tuple[float, list[float]]:
    member = data.train.expand(len(GRID), -1)
    bank: LinearBank | AttentiveBank | PublishedBank
    if kind == "published":
        bank = PublishedBank(1, len(GRID), published_config(data.x.shape[-1]), 10, fast_dtype())
        bank.init([torch.Generator().manual_seed(0)])
        used = np.flatnonzero(data.train.numpy())
        training = Training(bank, data.x, data.y, used, GRID, [0], steps, BATCH)
        race(training, lambda b: data.accuracy(bank_logits(b, data.x[data.val], BATCH)[0], data.val))
        bank = training.bank
    else:
        bank = (LinearBank if kind == "linear" else AttentiveBank)(1, len(GRID), data.x.shape[-1], 10)
        train_bank(bank, data.x, data.y, member, GRID, [0], steps, BATCH, cross_entropy)
    on_val, on_test = (
        data.accuracy(bank_logits(bank, data.x[part], BATCH)[0], part).tolist()
        for part in (data.val, data.test)
    )
    return on_test[int(np.argmax(on_val))], on_test


def step_times(samples: int, tokens: int, channels: int, steps: int) -> None:
    """Published heads too large to train twenty of them twice: seconds of a step, and the steps that a race saves."""
    data, used = Data(max(samples, 2 * BATCH), tokens, channels), np.arange(2 * BATCH)
    bank = PublishedBank(1, 1, published_config(channels), 10)
    bank.init([torch.Generator().manual_seed(0)])
    head = bank.single(0, 0).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    together = Training.fresh(data.x, data.y, 10, used, GRID[:5], [0], steps + 1, BATCH)
    alone_times, bank_times = [], []
    for step in range(steps + 1):
        cpu = time.process_time()
        loss = functional.cross_entropy(head(data.x[:BATCH])["label"], data.y[:BATCH])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        alone_times.append(time.process_time() - cpu)
        cpu = time.process_time()
        together.advance(step + 1)
        bank_times.append((time.process_time() - cpu) / 5)
    alone, batched = np.median(alone_times[1:]), np.median(bank_times[1:])
    units, heads, before = 0.0, len(GRID), 0.0
    for share, kept in RUNGS:
        units, before, heads = units + heads * (share - before), share, max(1, math.ceil(heads * kept))
    saved = len(GRID) / (units + heads * (1 - before))
    print(f"step of a head, {tokens} tokens x {channels}, batch {BATCH}: alone {1e3 * alone:.0f} ms, in a bank of five "
          f"{1e3 * batched:.0f} ms, {alone / batched:.2f}x; a race takes {1 / saved:.3f} of the steps, {saved:.2f}x; "
          f"together {alone / batched * saved:.1f}x ({fast_dtype()}, load {os.getloadavg()[0]:.1f})")  # fmt: skip


def main(kind: str, samples: int = 600, tokens: int = 64, channels: int = 128, steps: int = 60) -> None:
    torch.set_num_threads(1)
    if kind == "step":
        step_times(samples, tokens, channels, steps)
        return
    data = Data(samples, tokens, channels)
    if kind == "linear":
        data.x = data.x.mean(1)
    print(f"{kind}: {samples} samples, {tokens} tokens x {channels}, {steps} steps of {BATCH}, 1 thread, "
          f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {fast_dtype()}")  # fmt: skip
    cpu_seconds = []
    for name, run in (("at once", at_once), ("one by one", one_by_one)):
        wall, cpu = time.perf_counter(), time.process_time()
        result, heads = run(kind, data, steps)
        cpu_seconds.append(time.process_time() - cpu)
        print(
            f"{name}: {time.perf_counter() - wall:.2f} s, {cpu_seconds[-1]:.2f} s CPU; result {result:.4f}; "
            f"{len(heads)} finished heads {min(heads):.3f} to {max(heads):.3f}",
            flush=True,
        )
    print(f"{cpu_seconds[1] / cpu_seconds[0]:.1f}x")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
