"""Heads on frozen features, many of them trained at once.

A sweep over learning rate, weight decay, fold and seed is one module here: its parameters carry two leading
axes, and one matrix product serves all heads. Published sweeps run a Python loop over twenty heads with an
optimizer each.

Axes: S seeds (each with its own order of the samples), G heads per seed (settings x folds), B samples of a
step, N tokens, D channels, Q queries, C classes, F = length of a pooled vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa.errors import UserError
from jepa.rng import generator


def pool_mean(tokens: Tensor) -> Tensor:
    """Mean over tokens: [B, N, D] -> [B, D]."""
    return tokens.float().mean(dim=1)


def pool_stats(tokens: Tensor, time_slots: int) -> Tensor:
    """Mean, spread and change: [B, N, D] -> [B, 3 D].

    The mean over tokens, their standard deviation, and the mean absolute change of a place between two time
    slots. The last part lets a linear head see motion that a mean hides.

    Args:
        tokens: in the order (levels,) time, height, width.
        time_slots: slots of the grid, t; with several levels, t times their number.
    """
    values = tokens.float()
    slots = values.unflatten(1, (time_slots, -1))
    change = slots.diff(dim=1).abs().mean(dim=(1, 2)) if time_slots > 1 else torch.zeros_like(values[:, 0])
    return torch.cat([values.mean(1), values.std(1, correction=0), change], dim=-1)


class LinearBank(nn.Module):
    """S x G linear heads on vectors, each with the standardisation of its own training part."""

    shift: Tensor
    scale: Tensor

    def __init__(self, seeds: int, heads: int, channels: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(seeds, heads, channels, classes))
        self.bias = nn.Parameter(torch.zeros(seeds, heads, classes))
        self.register_buffer("shift", torch.zeros(heads, channels))
        self.register_buffer("scale", torch.ones(heads, channels))

    def init(self, generators: list[torch.Generator]) -> None:
        """Small random weights, the same for all heads of a seed."""
        for weight, source in zip(self.weight.data, generators, strict=True):
            weight.copy_(torch.randn(weight.shape[1:], generator=source).expand_as(weight) * 0.01)

    def forward(self, vectors: Tensor) -> Tensor:
        """Maps [S, B, F] to logits [S, G, B, C]."""
        weight = self.weight * self.scale.unsqueeze(-1)
        bias = self.bias - torch.einsum("gf,sgfc->sgc", self.shift, weight)
        heads, classes = weight.shape[1], weight.shape[-1]
        flat = weight.permute(0, 2, 1, 3).flatten(2)
        logits = torch.bmm(vectors.float(), flat).unflatten(-1, (heads, classes))
        return logits.transpose(1, 2) + bias.unsqueeze(2)


class AttentiveBank(nn.Module):
    """S x G light attentive heads: Q learned queries read the tokens, a linear layer the rest.

    The key projection is folded into the query and the value projection into the output layer, which leaves
    the same functions as single-layer cross-attention with full-rank projections at 1/D of the cost (the
    published head has three more self-attention layers and an MLP).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, seeds: int, heads: int, channels: int, classes: int, queries: int = 4) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(seeds, heads, queries, channels))
        self.output = LinearBank(seeds, heads, queries * channels, classes)
        self.register_buffer("shift", torch.zeros(heads, channels))
        self.register_buffer("scale", torch.ones(heads, channels))

    def init(self, generators: list[torch.Generator]) -> None:
        """Random queries that differ enough to part ways."""
        for query, source in zip(self.query.data, generators, strict=True):
            query.copy_(torch.randn(query.shape[1:], generator=source).expand_as(query))
        self.output.init(generators)

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


Bank = LinearBank | AttentiveBank


@dataclass(frozen=True)
class Setting:
    """Hyper-parameters of one head."""

    lr: float
    """peak learning rate, with a cosine to zero"""
    weight_decay: float
    """decoupled weight decay (AdamW)"""


def standardise(bank: Bank, inputs: Tensor, member: Tensor) -> None:
    """Sets each head's shift and scale to the mean and deviation of its own training samples.

    Args:
        bank: heads to set.
        inputs: vectors [n, F] or tokens [n, N, D].
        member: [G, n] bool, which samples train which head.
    """
    with torch.no_grad():
        # Folds repeat over settings: equal rows are computed once.
        unique, place = torch.unique(member, dim=0, return_inverse=True)
        shifts, scales = [], []
        for row in unique:
            values = inputs[row].float().flatten(0, -2)
            shifts.append(values.mean(0))
            scales.append(1 / values.std(0, correction=0).clamp_min(1e-3))
        bank.shift.copy_(torch.stack(shifts)[place])
        bank.scale.copy_(torch.stack(scales)[place])


def train_bank(
    bank: Bank,
    inputs: Tensor,
    targets: Tensor,
    member: Tensor,
    settings: list[Setting],
    seeds: list[int],
    steps: int,
    batch_size: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    start_bias: Tensor | None = None,
) -> None:
    """Trains all heads of a bank together with AdamW.

    Each seed draws its own start and its own order of samples; head g sees only samples with `member[g]`.

    Args:
        bank: a bank of `len(seeds)` x `len(settings)` heads; trained in place.
        inputs: [n, ...] vectors or tokens, as stored (float16 is fine).
        targets: [n, ...], handed to `loss`.
        member: [G, n] bool.
        settings: one per head g.
        seeds: one per seed axis entry.
        steps: optimizer steps.
        batch_size: samples per step and seed.
        loss: (logits [S, G, B, C], targets [S, B, ...]) -> loss per sample [S, G, B].
        start_bias: [C], the output's bias before the first step; rare events start at their base rate.
    """
    bank.init([torch.Generator().manual_seed(seed) for seed in seeds])
    standardise(bank, inputs, member)
    if start_bias is not None:
        (bank if isinstance(bank, LinearBank) else bank.output).bias.data.copy_(start_bias)
    used = np.flatnonzero(member.any(0).numpy())
    if not len(used):
        raise UserError("No sample is left to train on.")
    batch_size = min(batch_size, len(used))
    optimizer = _BankAdamW(bank, settings)
    orders = [Order(used, seed, batch_size) for seed in seeds]
    for step in range(steps):
        chosen = torch.from_numpy(np.stack([order.batch(step) for order in orders]))
        weight = member[:, chosen].transpose(0, 1).float()  # [S, G, B]
        each = loss(bank(inputs[chosen]), targets[chosen])
        # Sum over heads: a head's gradient does not depend on the others.
        ((each * weight).sum(-1) / weight.sum(-1).clamp_min(1)).sum().backward()
        optimizer.step(0.5 * (1 + np.cos(np.pi * step / steps)))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss per sample [S, G, B] of logits [S, G, B, C] against class numbers [S, B]."""
    seeds, heads, batch, classes = logits.shape
    wanted = targets.unsqueeze(1).expand(seeds, heads, batch)
    return functional.cross_entropy(logits.reshape(-1, classes), wanted.reshape(-1), reduction="none").view(
        seeds, heads, batch
    )


@torch.inference_mode()
def bank_logits(bank: nn.Module, inputs: Tensor, batch_size: int = 256) -> Tensor:
    """Logits [S, G, n, C] of all samples on the CPU, in batches on the bank's device."""
    weight = next(bank.parameters())
    parts = [
        bank(part.to(weight.device).unsqueeze(0).expand(weight.shape[0], *part.shape)).cpu()
        for part in inputs.split(batch_size)
    ]
    return torch.cat(parts, dim=2)


def take_head(bank: Bank, seed: int, head: int) -> Bank:
    """A bank that holds one head of another."""
    if isinstance(bank, LinearBank):
        single: Bank = LinearBank(1, 1, *bank.weight.shape[2:])
    else:
        queries, channels = bank.query.shape[2:]
        single = AttentiveBank(1, 1, channels, bank.output.bias.shape[-1], queries)
    state = {}
    for name, value in bank.state_dict().items():
        shared = name.endswith(("shift", "scale"))
        state[name] = (value[head : head + 1] if shared else value[seed : seed + 1, head : head + 1]).clone()
    single.load_state_dict(state)
    return single


class Order:
    """Endless batches of sample indices: a new permutation per epoch, a pure function of (seed, epoch)."""

    def __init__(self, used: np.ndarray, seed: int, batch_size: int) -> None:
        self.used, self.seed, self.batch_size = used, seed, batch_size
        self.order = np.array([], int)

    def batch(self, step: int) -> np.ndarray:
        """Sorted indices of one step."""
        per_epoch = len(self.used) // self.batch_size
        epoch, place = divmod(step, per_epoch)
        if place == 0 or not len(self.order):
            self.order = generator([self.seed, epoch]).permutation(self.used)
        return np.sort(self.order[place * self.batch_size : (place + 1) * self.batch_size])


class _BankAdamW:
    """AdamW (Loshchilov and Hutter, 2019) whose learning rate and weight decay differ from head to head."""

    def __init__(
        self, bank: nn.Module, settings: list[Setting], betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        self.parameters = list(bank.parameters())
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
