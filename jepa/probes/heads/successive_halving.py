"""Successive halving for the V-JEPA 2 attentive probe: weak settings are stopped early.

A sweep looks for its best head, so a head that is far behind after a tenth of its steps need not be finished. And its
grid is a product, so it need not be searched as a list. All learning rates are compared at one weight decay (successive
halving, Jamieson and Talwalkar, 2016), and only the best one's other decays are tried. Whatever stays takes exactly the
steps that it would have taken alone: same start, same order of samples, same schedule, same optimizer state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepa.errors import UserError
from jepa.probes.config import HeadSettings
from jepa.probes.data.splits import Fold
from jepa.probes.heads.base import Candidate, FitData, Head, Job, register_head
from jepa.probes.heads.stacked import Order, Setting
from jepa.probes.heads.vjepa2_attentive import StackedClassifiers, classifier_config

PUBLISHED_GRID = [
    Setting(lr, decay) for lr in (5e-3, 3e-3, 1e-3, 3e-4, 1e-4) for decay in (0.01, 0.1, 0.4, 0.8)
]
"""the settings of the published classification sweeps (reference: facebookresearch/vjepa2, configs/eval)"""

FIRST_BUDGET, SECOND_BUDGET = 1 / 10, 3 / 20
"""fractions of the steps: rates and decays are compared after the first, the best two rates again after the second"""


def fast_dtype(device: str = "cpu") -> torch.dtype:
    """bfloat16 where matrix units for it exist (GPUs since Ampere, CPUs with AMX), else float32.

    Example:
        >>> fast_dtype("cpu") in (torch.float32, torch.bfloat16)
        True
    """
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if known.get("amx_bf16") else torch.float32


class StackedTraining:
    """Training of stacked classifiers, each with a learning rate and weight decay of its own.

    Args:
        heads: S seeds x G heads, started by `heads.init`; trained in place, on the device where they are.
        data: tokens and targets.
        samples: indices of the training samples.
        settings: one per head g.
        seeds: one per seed axis entry; decides the order of the windows.
        steps: length of the schedule, a cosine to zero as in the published evaluation.
        batch_size: windows per step and seed.

    Raises:
        UserError: nothing to train on.
    """

    def __init__(
        self,
        heads: StackedClassifiers,
        data: FitData,
        samples: np.ndarray,
        settings: Sequence[Setting],
        seeds: Sequence[int],
        steps: int,
        batch_size: int,
    ) -> None:
        used = data.windows(samples)
        if not len(used):
            raise UserError("No sample is left to train on.")
        self.heads, self.data, self.steps = heads, data, steps
        self.settings = [list(settings) for _ in seeds]
        self.orders = [Order(used, seed, min(batch_size, len(used))) for seed in seeds]
        self.done = 0
        self._attach({})

    @classmethod
    def fresh(
        cls,
        data: FitData,
        samples: np.ndarray,
        settings: Sequence[Setting],
        seeds: Sequence[int],
        budget: HeadSettings,
    ) -> StackedTraining:
        """A training of new heads of the published shape, on the GPU if there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        shape = classifier_config(data.inputs.shape[-1])
        heads = StackedClassifiers(len(seeds), len(settings), shape, data.targets.outputs, fast_dtype(device))
        heads.init([torch.Generator().manual_seed(seed) for seed in seeds])
        return cls(heads.to(device), data, samples, settings, seeds, budget.steps, budget.batch_size)

    def _attach(self, states: dict[tuple[int, int], list[dict[str, Tensor]]]) -> None:
        """One fused AdamW; its parameters are rows of the stack's own storage, a group for each head."""
        self.rows: list[tuple[int, int, list[nn.Parameter]]] = []
        groups = []
        for s, line in enumerate(self.settings):
            for g, setting in enumerate(line):
                row = [nn.Parameter(parameter.data[s, g]) for parameter in self.heads.parameters()]
                self.rows.append((s, g, row))
                groups.append({"params": row, "lr": setting.lr, "weight_decay": setting.weight_decay})
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        for (s, g), state in states.items():
            row = next(row for a, b, row in self.rows if (a, b) == (s, g))
            self.optimizer.state.update(zip(row, state, strict=True))

    @torch.enable_grad()
    def advance(self, until: int) -> None:
        """Trains up to step `until`, counted from the start."""
        device = next(self.heads.parameters()).device
        for step in range(self.done, until):
            chosen = torch.from_numpy(np.stack([order.batch(step) for order in self.orders]))
            inputs = self.data.inputs[chosen].to(device)
            targets = self.data.window_targets[chosen].to(device)
            # Sum over heads: a head's gradient does not depend on the others.
            self.data.targets.loss(self.heads(inputs), targets).mean(-1).sum().backward()
            factor = 0.5 * (1 + np.cos(np.pi * step / self.steps))
            for (s, g, row), group in zip(self.rows, self.optimizer.param_groups, strict=True):
                group["lr"] = self.settings[s][g].lr * factor
                for part, whole in zip(row, self.heads.parameters(), strict=True):
                    assert whole.grad is not None
                    part.grad = whole.grad[s, g]
            self.optimizer.step()
            self.heads.zero_grad(set_to_none=True)
        self.done = until

    def keep(self, rows: Tensor) -> None:
        """Continues with some of the heads.

        Args:
            rows: head numbers [S, K] of each seed.
        """
        have = {(s, g): [self.optimizer.state[part] for part in row] for s, g, row in self.rows}
        states = {(s, k): have[s, g] for s, line in enumerate(rows.tolist()) for k, g in enumerate(line)}
        self.settings = [[self.settings[s][g] for g in line] for s, line in enumerate(rows.tolist())]
        self.heads = self.heads.keep(rows)
        self._attach(states)


def successive_halving(
    start: Callable[[Sequence[Setting]], StackedTraining],
    judge: Callable[[StackedClassifiers], Tensor],
    grid: Sequence[Setting] = PUBLISHED_GRID,
) -> tuple[StackedTraining, Setting]:
    """Finds the best head of a grid and trains it, and only it, to the end.

    All learning rates get the first budget at a middle weight decay, the best two of them the second, the best one's
    other decays the first. For the published grid that is 5 / 10 + 2 / 20 + 3 / 10 of a head's steps and then the rest
    of the winner's, 17 / 20 or 18 / 20: at most 1.8 heads' steps instead of twenty's.

    Args:
        start: makes a fresh training of one seed for some settings.
        judge: validation score [G] of stacked heads.
        grid: every learning rate with every weight decay.

    Returns:
        The training, finished, with the winner alone; and the winner's setting.
    """
    rates = list(dict.fromkeys(setting.lr for setting in grid))
    decays = list(dict.fromkeys(setting.weight_decay for setting in grid))
    middle = decays.pop((len(decays) - 1) // 2)
    tried = [Setting(lr, middle) for lr in rates]
    training = start(tried)
    budget = max(1, round(training.steps * FIRST_BUDGET))
    training.advance(budget)
    early = judge(training.heads)
    ahead = early.argsort(descending=True, stable=True)[:2]
    if len(ahead) > 1:
        training.keep(ahead[None])
        training.advance(max(budget, round(training.steps * SECOND_BUDGET)))
        best = int(judge(training.heads).argmax())
        training.keep(torch.tensor([[best]]))
        ahead = ahead[best : best + 1]
    winner = tried[int(ahead[0])]
    if decays:
        others = [Setting(winner.lr, decay) for decay in decays]
        other = start(others)
        other.advance(budget)
        scores = judge(other.heads)
        if scores.max() > early[ahead[0]]:
            other.keep(scores.argmax()[None, None])
            training, winner = other, others[int(scores.argmax())]
    training.advance(training.steps)
    return training, winner


@register_head
class VJEPA2AttentiveHead(Head):
    """V-JEPA 2's attentive probe with the published grid of twenty settings, searched by successive halving."""

    name, reads, classes_only = "vjepa2_attentive", "tokens", True

    def grid(self, settings: HeadSettings) -> list[Setting]:
        """The published settings; `heads.lrs` has no effect."""
        return PUBLISHED_GRID

    def fit(
        self, data: FitData, jobs: Sequence[Job], settings: HeadSettings, seeds: Sequence[int]
    ) -> StackedClassifiers:
        """Trains one classifier per job and seed, job by job: their training parts differ."""
        trained = []
        for samples, setting in jobs:
            training = StackedTraining.fresh(data, samples, [setting], seeds, settings)
            training.advance(settings.steps)
            trained.append(training.heads)
        return StackedClassifiers.joined(trained)

    def from_state(self, state: dict[str, Tensor]) -> StackedClassifiers:
        """Classifiers with saved weights."""
        return StackedClassifiers.from_state(state).eval().requires_grad_(False)

    def search(
        self, data: FitData, folds: Sequence[Fold], settings: HeadSettings, seed: int
    ) -> list[Candidate]:
        """The best of the grid in each fold, its rivals stopped early."""
        found = []
        for fold in folds:
            inputs = data.inputs[data.windows(fold.val)]

            def judge(heads: StackedClassifiers, inputs: Tensor = inputs, fold: Fold = fold) -> Tensor:
                logits = heads.logits(inputs, settings.batch_size)[0]
                score, loss = data.targets.score(logits, data.targets.values[fold.val], data.clips)
                return score - 1e-6 * loss  # equal accuracies are common in small validation parts

            def start(tried: Sequence[Setting], fold: Fold = fold) -> StackedTraining:
                return StackedTraining.fresh(data, fold.train, tried, [seed], settings)

            training, setting = successive_halving(start, judge, self.grid(settings))
            winner = training.heads.take([0])  # in float32, as it is saved
            logits = winner.logits(inputs)[0]
            _, score = self.choose(logits, data, fold.val)
            found.append(Candidate(setting, winner, score, logits[0]))
        return found
