"""Training published heads: many at once, with the hopeless ones stopped early.

A sweep looks for its best head, so a head that is far behind after a tenth of its steps need not be finished. And its
grid is a product, so it need not be searched as a list: learning rates race at one weight decay (successive halving,
Jamieson and Talwalkar, 2016), and only the winner's other decays are tried. Whatever stays takes exactly the steps that
it would have taken alone: same start, same order of samples, same schedule, same optimizer state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepa.errors import UserError
from jepa.probes.heads.stacked import Order, Setting, cross_entropy
from jepa.probes.heads.vjepa2_attentive import PublishedBank, published_config

PUBLISHED_GRID = [
    Setting(lr, decay) for lr in (5e-3, 3e-3, 1e-3, 3e-4, 1e-4) for decay in (0.01, 0.1, 0.4, 0.8)
]
"""the settings of the published classification sweeps (reference: facebookresearch/vjepa2, configs/eval)"""

RUNG, SECOND_RUNG = 1 / 10, 3 / 20
"""shares of the steps: rates and decays are compared at the first, the best two rates again at the second"""


def fast_dtype(device: str = "cpu") -> torch.dtype:
    """bfloat16 where matrix units for it exist (GPUs since Ampere, CPUs with AMX), else float32."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if known.get("amx_bf16") else torch.float32


class Training:
    """Steps of a bank of published heads, each with a learning rate and weight decay of its own.

    Args:
        bank: S seeds x G heads, started by `bank.init`; trained in place, on the device where it lies.
        inputs: tokens [n, N, D] as stored.
        targets: class numbers [n].
        used: indices of the training windows.
        settings: one per head g.
        seeds: one per seed axis entry; decides the order of the windows.
        steps: length of the schedule, a cosine to zero as in the published evaluation.
        batch_size: windows per step and seed.

    Raises:
        UserError: nothing to train on.
    """

    def __init__(
        self,
        bank: PublishedBank,
        inputs: Tensor,
        targets: Tensor,
        used: np.ndarray,
        settings: Sequence[Setting],
        seeds: Sequence[int],
        steps: int,
        batch_size: int,
    ) -> None:
        if not len(used):
            raise UserError("No sample is left to train on.")
        self.bank, self.inputs, self.targets, self.steps = bank, inputs, targets, steps
        self.settings = [list(settings) for _ in seeds]
        self.orders = [Order(used, seed, min(batch_size, len(used))) for seed in seeds]
        self.done = 0
        self._attach({})

    @classmethod
    def fresh(
        cls,
        inputs: Tensor,
        targets: Tensor,
        classes: int,
        used: np.ndarray,
        settings: Sequence[Setting],
        seeds: Sequence[int],
        steps: int,
        batch_size: int,
    ) -> Training:
        """A training of new heads of the published shape, on the GPU if there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        bank = PublishedBank(
            len(seeds), len(settings), published_config(inputs.shape[-1]), classes, fast_dtype(device)
        )
        bank.init([torch.Generator().manual_seed(seed) for seed in seeds])
        return cls(bank.to(device), inputs, targets, used, settings, seeds, steps, batch_size)

    def _attach(self, states: dict[tuple[int, int], list[dict[str, Tensor]]]) -> None:
        """One fused AdamW; its parameters are rows of the bank's own storage, a group for each head."""
        self.rows: list[tuple[int, int, list[nn.Parameter]]] = []
        groups = []
        for s, heads in enumerate(self.settings):
            for g, setting in enumerate(heads):
                row = [nn.Parameter(parameter.data[s, g]) for parameter in self.bank.parameters()]
                self.rows.append((s, g, row))
                groups.append({"params": row, "lr": setting.lr, "weight_decay": setting.weight_decay})
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        for (s, g), state in states.items():
            row = next(row for a, b, row in self.rows if (a, b) == (s, g))
            self.optimizer.state.update(zip(row, state, strict=True))

    def advance(self, until: int) -> None:
        """Trains up to step `until`, counted from the start."""
        device = next(self.bank.parameters()).device
        for step in range(self.done, until):
            chosen = torch.from_numpy(np.stack([order.batch(step) for order in self.orders]))
            inputs, targets = self.inputs[chosen].to(device), self.targets[chosen].to(device)
            # Sum over heads: a head's gradient does not depend on the others.
            cross_entropy(self.bank(inputs), targets).mean(-1).sum().backward()
            factor = 0.5 * (1 + np.cos(np.pi * step / self.steps))
            for (s, g, row), group in zip(self.rows, self.optimizer.param_groups, strict=True):
                group["lr"] = self.settings[s][g].lr * factor
                for part, whole in zip(row, self.bank.parameters(), strict=True):
                    assert whole.grad is not None
                    part.grad = whole.grad[s, g]
            self.optimizer.step()
            self.bank.zero_grad(set_to_none=True)
        self.done = until

    def keep(self, rows: Tensor) -> None:
        """Goes on with some of the heads.

        Args:
            rows: head numbers [S, K] of each seed.
        """
        have = {(s, g): [self.optimizer.state[part] for part in row] for s, g, row in self.rows}
        states = {(s, k): have[s, g] for s, line in enumerate(rows.tolist()) for k, g in enumerate(line)}
        self.settings = [[self.settings[s][g] for g in line] for s, line in enumerate(rows.tolist())]
        self.bank = self.bank.keep(rows)
        self._attach(states)


def race(
    start: Callable[[Sequence[Setting]], Training],
    judge: Callable[[PublishedBank], Tensor],
    grid: Sequence[Setting] = PUBLISHED_GRID,
) -> tuple[Training, Setting]:
    """Finds the best head of a grid and trains it, and only it, to the end.

    All learning rates go to the first rung at a middle weight decay, the best two of them to the second, the best one's
    other decays to the first. For the published grid that is 5 / 10 + 2 / 20 + 3 / 10 of a head's steps and then the
    rest of the winner's, 17 / 20 or 18 / 20: at most 1.8 heads' steps instead of twenty's.

    Args:
        start: makes a fresh training of one seed for some settings.
        judge: goodness [G] of the heads of a bank, on the validation part.
        grid: every learning rate with every weight decay.

    Returns:
        The training, finished, with the winner alone in its bank; and the winner's setting.
    """
    rates = list(dict.fromkeys(setting.lr for setting in grid))
    decays = list(dict.fromkeys(setting.weight_decay for setting in grid))
    middle = decays.pop((len(decays) - 1) // 2)
    tried = [Setting(lr, middle) for lr in rates]
    training = start(tried)
    rung = max(1, round(training.steps * RUNG))
    training.advance(rung)
    early = judge(training.bank)
    ahead = early.argsort(descending=True, stable=True)[:2]
    if len(ahead) > 1:
        training.keep(ahead[None])
        training.advance(max(rung, round(training.steps * SECOND_RUNG)))
        best = int(judge(training.bank).argmax())
        training.keep(torch.tensor([[best]]))
        ahead = ahead[best : best + 1]
    winner = tried[int(ahead[0])]
    if decays:
        others = [Setting(winner.lr, decay) for decay in decays]
        other = start(others)
        other.advance(rung)
        good = judge(other.bank)
        if good.max() > early[ahead[0]]:
            other.keep(good.argmax()[None, None])
            training, winner = other, others[int(good.argmax())]
    training.advance(training.steps)
    return training, winner
