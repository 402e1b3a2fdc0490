"""Stacked heads: linear and attentive probes trained many at once by one AdamW.

A sweep over learning rate, weight decay, fold and seed is one module here: its parameters carry two leading
axes, and one matrix product serves all heads. Published sweeps run a Python loop over twenty heads with an
optimizer each.

Axes: S seeds (each with its own order of the samples), G heads per seed (settings x folds), B samples of a
step, N tokens, D channels, Q queries, C outputs, F = length of a pooled vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from jepa.errors import UserError
from jepa.probes.config import HeadSettings
from jepa.probes.heads.base import FitData, Head, Job, Reads, register_head
from jepa.rng import generator


@dataclass(frozen=True)
class Setting:
    """Hyper-parameters of a head that gradient steps fit."""

    lr: float
    """peak learning rate, with a cosine to zero"""
    weight_decay: float
    """decoupled weight decay (AdamW)"""


class StackedHeads(nn.Module):
    """S x G heads in one module: every parameter has the leading axes [S, G], every buffer [G]."""

    shift: Tensor
    """mean of a head's training windows [G, D]"""
    scale: Tensor
    """one over their standard deviation [G, D]"""

    def init(self, generators: list[torch.Generator]) -> None:
        """Sets the initial weights, one generator per seed."""
        raise NotImplementedError

    def set_bias(self, bias: Tensor) -> None:
        """Sets the output bias [C] of all heads, before the first step."""
        raise NotImplementedError

    @torch.inference_mode()
    def logits(self, inputs: Tensor, batch_size: int = 256) -> Tensor:
        """Logits [S, G, m, C] of inputs [m, ...], on the CPU, in batches on the module's device."""
        weight = next(self.parameters())
        parts = [
            self(part.to(weight.device).unsqueeze(0).expand(weight.shape[0], *part.shape)).cpu()
            for part in inputs.split(batch_size)
        ]
        return torch.cat(parts, dim=2)

    def take(self, heads: Sequence[int], seeds: Sequence[int] | None = None) -> StackedHeads:
        """Some of the heads as a module of their own."""
        chosen = list(range(len(next(self.parameters())))) if seeds is None else list(seeds)
        rows = list(heads)
        parameters = {name for name, _ in self.named_parameters()}
        return self.rebuilt(
            {
                name: (
                    value[chosen][:, rows] if name in parameters else self.take_buffer(name, value, rows)
                ).clone()
                for name, value in self.state_dict().items()
            }
        )

    def take_buffer(self, name: str, value: Tensor, rows: list[int]) -> Tensor:
        """A buffer of some of the heads."""
        return value[rows]

    def rebuilt(self, state: dict[str, Tensor]) -> StackedHeads:
        """A module of the same kind with the shape and the weights of a state."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers on the CPU."""
        return {name: value.cpu() for name, value in self.state_dict().items()}


class StackedLinear(StackedHeads):
    """S x G linear heads on vectors, each with the standardisation of its own training part.

    Example:
        >>> heads = StackedLinear(seeds=2, heads=3, channels=4, outputs=5)
        >>> heads.logits(torch.zeros(7, 4)).shape
        torch.Size([2, 3, 7, 5])
    """

    def __init__(self, seeds: int, heads: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(seeds, heads, channels, outputs))
        self.bias = nn.Parameter(torch.zeros(seeds, heads, outputs))
        self.register_buffer("shift", torch.zeros(heads, channels))
        self.register_buffer("scale", torch.ones(heads, channels))

    def rebuilt(self, state: dict[str, Tensor]) -> StackedHeads:
        """Linear heads with the weights of a state."""
        made = type(self)(*state["weight"].shape)
        made.load_state_dict(state)
        return made.eval().requires_grad_(False)

    def init(self, generators: list[torch.Generator]) -> None:
        """Small random weights, the same for all heads of a seed."""
        for weight, source in zip(self.weight.data, generators, strict=True):
            weight.copy_(torch.randn(weight.shape[1:], generator=source).expand_as(weight) * 0.01)

    def set_bias(self, bias: Tensor) -> None:
        """Sets the bias of all heads."""
        self.bias.data.copy_(bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """Maps [S, B, F] to logits [S, G, B, C]."""
        weight = self.weight * self.scale.unsqueeze(-1)
        bias = self.bias - torch.einsum("gf,sgfc->sgc", self.shift, weight)
        heads, outputs = weight.shape[1], weight.shape[-1]
        flat = weight.permute(0, 2, 1, 3).flatten(2)
        logits = torch.bmm(vectors.float(), flat).unflatten(-1, (heads, outputs))
        return logits.transpose(1, 2) + bias.unsqueeze(2)


class StackedAttentive(StackedHeads):
    """S x G light attentive heads: Q learned queries read the tokens, a linear layer the rest.

    The key projection is folded into the query and the value projection into the output layer, which leaves
    the same functions as single-layer cross-attention with full-rank projections at 1/D of the cost (the
    published head has three more self-attention layers and an MLP).

    Example:
        >>> heads = StackedAttentive(seeds=2, heads=3, channels=4, outputs=5)
        >>> heads.logits(torch.zeros(7, 6, 4)).shape
        torch.Size([2, 3, 7, 5])
    """

    def __init__(self, seeds: int, heads: int, channels: int, outputs: int, queries: int = 4) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(seeds, heads, queries, channels))
        self.output = StackedLinear(seeds, heads, queries * channels, outputs)
        self.register_buffer("shift", torch.zeros(heads, channels))
        self.register_buffer("scale", torch.ones(heads, channels))

    def rebuilt(self, state: dict[str, Tensor]) -> StackedHeads:
        """Attentive heads with the weights of a state."""
        seeds, heads, queries, channels = state["query"].shape
        made = type(self)(seeds, heads, channels, state["output.bias"].shape[-1], queries)
        made.load_state_dict(state)
        return made.eval().requires_grad_(False)

    def init(self, generators: list[torch.Generator]) -> None:
        """Random queries that differ enough to specialise."""
        for query, source in zip(self.query.data, generators, strict=True):
            query.copy_(torch.randn(query.shape[1:], generator=source).expand_as(query))
        self.output.init(generators)

    def set_bias(self, bias: Tensor) -> None:
        """Sets the bias of all output layers."""
        self.output.set_bias(bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps [S, B, N, D] to logits [S, G, B, C]."""
        seeds, batch, count, channels = tokens.shape
        heads, queries = self.query.shape[1:3]
        tokens = tokens.float()
        # Softmax ignores what is the same for all tokens, so standardising them only scales the query.
        query = (self.query * self.scale.unsqueeze(1)).flatten(1, 2) * channels**-0.5
        scores = torch.bmm(query, tokens.flatten(1, 2).mT).view(seeds, heads * queries, batch, count)
        # In this layout the softmax runs along memory, and the second product needs no copy either.
        attention = scores.softmax(dim=-1).transpose(1, 2)
        read = torch.matmul(attention, tokens).view(seeds, batch, heads, queries, channels)
        read = (read - self.shift.unsqueeze(1)) * self.scale.unsqueeze(1)
        weight, bias = self.output.weight, self.output.bias
        logits = torch.einsum("sbgf,sgfc->sgbc", read.flatten(3), weight)
        return logits + bias.unsqueeze(2)


def standardise(heads: StackedHeads, inputs: Tensor, member: Tensor) -> None:
    """Sets each head's shift and scale to the mean and standard deviation of its own training windows.

    Args:
        heads: a module with buffers `shift` and `scale`.
        inputs: vectors [n, F] or tokens [n, N, D].
        member: [G, n] bool, which windows train which head.
    """
    with torch.no_grad():
        # Folds repeat over settings: equal rows are computed once.
        unique, row_of = torch.unique(member, dim=0, return_inverse=True)
        shifts, scales = [], []
        for row in unique:
            values = inputs[row].float().flatten(0, -2)
            shifts.append(values.mean(0))
            scales.append(1 / values.std(0, correction=0).clamp_min(1e-3))
        heads.shift.copy_(torch.stack(shifts)[row_of])
        heads.scale.copy_(torch.stack(scales)[row_of])


@torch.enable_grad()  # whoever calls may have switched gradients off, as a notebook does
def train_stacked(
    heads: StackedHeads, data: FitData, jobs: Sequence[Job], seeds: Sequence[int], steps: int, batch_size: int
) -> None:
    """Trains stacked heads together with AdamW; each takes the steps that it would take alone.

    Each seed draws its own initial weights and its own order of windows; head g sees only the samples of job g.

    Args:
        heads: `len(seeds)` x `len(jobs)` heads; trained in place.
        data: inputs (float16 is fine) and targets.
        jobs: indices of the training samples and a `Setting`, per head.
        seeds: one per seed axis entry.
        steps: optimizer steps.
        batch_size: windows per step and seed.

    Raises:
        UserError: there is nothing to train on.

    Example:
        >>> from jepa.probes.evaluation.calibration import softmax_calibrator
        >>> from jepa.probes.heads.base import class_targets
        >>> numbers = torch.arange(20) % 2
        >>> data = FitData(numbers[:, None].float(), class_targets(numbers, 2, softmax_calibrator("temperature")))
        >>> heads = StackedLinear(seeds=1, heads=1, channels=1, outputs=2)
        >>> train_stacked(heads, data, [(np.arange(20), Setting(0.1, 0.0))], seeds=[0], steps=30, batch_size=8)
        >>> heads.logits(data.inputs)[0, 0].argmax(-1).tolist() == numbers.tolist()
        True
    """
    member = torch.zeros(len(jobs), len(data.inputs), dtype=torch.bool)
    for row, (samples, _) in zip(member, jobs, strict=True):
        row[torch.from_numpy(data.windows(samples))] = True
    heads.init([torch.Generator().manual_seed(seed) for seed in seeds])
    standardise(heads, data.inputs, member)
    if data.targets.initial_bias is not None:
        heads.set_bias(data.targets.initial_bias(data.window_targets[member.any(0)]).flatten())
    used = np.flatnonzero(member.any(0).numpy())
    if not len(used):
        raise UserError("No sample is left to train on.")
    batch_size = min(batch_size, len(used))
    optimizer = _StackedAdamW(heads, [setting for _, setting in jobs])
    orders = [Order(used, seed, batch_size) for seed in seeds]
    for step in range(steps):
        chosen = torch.from_numpy(np.stack([order.batch(step) for order in orders]))
        weight = member[:, chosen].transpose(0, 1).float()  # [S, G, B]
        each = data.targets.loss(heads(data.inputs[chosen]), data.window_targets[chosen])
        # Sum over heads: a head's gradient does not depend on the others.
        ((each * weight).sum(-1) / weight.sum(-1).clamp_min(1)).sum().backward()
        optimizer.step(0.5 * (1 + np.cos(np.pi * step / steps)))


class Order:
    """Endless batches of sample indices: a new permutation per epoch, a pure function of (seed, epoch).

    Example:
        >>> order = Order(np.arange(4), seed=0, batch_size=2)
        >>> sorted([*order.batch(0).tolist(), *order.batch(1).tolist()])
        [0, 1, 2, 3]
    """

    def __init__(self, used: np.ndarray, seed: int, batch_size: int) -> None:
        self.used, self.seed, self.batch_size = used, seed, batch_size
        self.order = np.array([], int)

    def batch(self, step: int) -> np.ndarray:
        """Sorted indices of one step."""
        per_epoch = len(self.used) // self.batch_size
        epoch, position = divmod(step, per_epoch)
        if position == 0 or not len(self.order):
            self.order = generator([self.seed, epoch]).permutation(self.used)
        return np.sort(self.order[position * self.batch_size : (position + 1) * self.batch_size])


class _StackedAdamW:
    """AdamW (Loshchilov and Hutter, 2019) whose learning rate and weight decay differ from head to head."""

    def __init__(
        self, heads: nn.Module, settings: list[Setting], betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        self.parameters = list(heads.parameters())
        self.lr = torch.tensor([setting.lr for setting in settings])
        self.decay = torch.tensor([setting.weight_decay for setting in settings])
        self.betas, self.count = betas, 0
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update with all learning rates multiplied by `factor`; clears the gradients."""
        self.count += 1
        beta1, beta2 = self.betas
        correct1, correct2 = 1 - beta1**self.count, 1 - beta2**self.count
        for parameter, first, second in zip(self.parameters, self.first, self.second, strict=True):
            assert parameter.grad is not None
            shape = (1, -1) + (1,) * (parameter.ndim - 2)
            lr = (self.lr * factor).view(shape)
            first.lerp_(parameter.grad, 1 - beta1)
            second.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
            update = (first / correct1).div_((second / correct2).sqrt_().add_(1e-8))
            parameter.mul_(1 - lr * self.decay.view(shape)).sub_(update.mul_(lr))
            parameter.grad = None


class _Trained(Head):
    """Heads that gradient steps fit; the grid is learning rates by weight decays."""

    def grid(self, settings: HeadSettings) -> list[Setting]:
        """All pairs of learning rate and weight decay."""
        return [Setting(lr, decay) for lr in settings.lrs for decay in settings.weight_decays]

    def fit(
        self, data: FitData, jobs: Sequence[Job], settings: HeadSettings, seeds: Sequence[int]
    ) -> StackedHeads:
        """Trains one head per job and seed, all at once."""
        heads = self.build(len(seeds), len(jobs), data.inputs.shape[-1], data.targets.outputs, settings)
        train_stacked(heads, data, jobs, seeds, settings.steps, settings.batch_size)
        return heads

    def build(
        self, seeds: int, heads: int, channels: int, outputs: int, settings: HeadSettings
    ) -> StackedHeads:
        """Stacked heads before training."""
        raise NotImplementedError


@register_head
class LinearHead(_Trained):
    """One linear layer on a pooled vector; softmax regression where targets are classes."""

    name = "linear"
    reads: ClassVar[Reads] = "vectors"

    def build(
        self, seeds: int, heads: int, channels: int, outputs: int, settings: HeadSettings
    ) -> StackedHeads:
        """Stacked linear layers."""
        return StackedLinear(seeds, heads, channels, outputs)

    def from_state(self, state: dict[str, Tensor]) -> StackedHeads:
        """Linear heads with saved weights."""
        return StackedLinear(1, 1, 1, 1).rebuilt(state)


@register_head
class AttentiveHead(_Trained):
    """A few learned queries that attend to all tokens, and a linear layer."""

    name, reads = "attentive", "tokens"

    def build(
        self, seeds: int, heads: int, channels: int, outputs: int, settings: HeadSettings
    ) -> StackedHeads:
        """Stacked attentive heads."""
        return StackedAttentive(seeds, heads, channels, outputs, settings.queries)

    def from_state(self, state: dict[str, Tensor]) -> StackedHeads:
        """Attentive heads with saved weights."""
        return StackedAttentive(1, 1, 1, 1).rebuilt(state)
