"""Closed-form heads: ridge regression, and k nearest neighbours (kNN)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jepa.probes.config import HeadSettings
from jepa.probes.heads.base import FitData, FittedHeads, Head, Job, Reads, register_head
from jepa.probes.heads.stacked import StackedHeads, StackedLinear

RIDGE_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
NEIGHBOURS = (1, 3, 5, 10, 20)


class Ridge:
    """Ridge regression on class indicators for several strengths from one decomposition.

    Minimises |Y - XW|^2 + a |W|^2 with centred X and Y; `a` is given in units of the mean squared length of a
    sample, so that one list of strengths serves pixels and tokens alike.

    Args:
        inputs: vectors [n, F].
        targets: class numbers [n].
        classes: number of classes.

    Example:
        >>> ridge = Ridge(torch.eye(3), torch.tensor([0, 1, 1]), classes=2)
        >>> ridge.scores(torch.eye(3), [1e-6])[0].argmax(-1).tolist()
        [0, 1, 1]
    """

    def __init__(self, inputs: Tensor, targets: Tensor, classes: int) -> None:
        x = inputs.double()
        y = functional.one_hot(targets, classes).double()
        self.x_mean, self.y_mean = x.mean(0), y.mean(0)
        x, y = x - self.x_mean, y - self.y_mean
        self.unit = float(x.square().sum(1).mean().clamp_min(1e-12))
        # The smaller Gram matrix: samples when there are fewer of them than features, features otherwise.
        self.dual = len(x) <= x.shape[1]
        self.values, self.vectors = torch.linalg.eigh(x @ x.T if self.dual else x.T @ x)
        self.x, self.right = x, self.vectors.T @ (y if self.dual else x.T @ y)

    def weights(self, strength: float) -> tuple[Tensor, Tensor]:
        """Weight [F, C] and bias [C] for one strength."""
        solved = self.vectors @ (self.right / (self.values.clamp_min(0) + strength * self.unit).unsqueeze(1))
        weight = self.x.T @ solved if self.dual else solved
        return weight, self.y_mean - self.x_mean @ weight

    def scores(self, inputs: Tensor, strengths: Sequence[float] = RIDGE_STRENGTHS) -> Tensor:
        """Scores [len(strengths), m, C] of vectors [m, F]."""
        x = inputs.double()
        made = [self.weights(strength) for strength in strengths]
        return torch.stack([x @ weight + bias for weight, bias in made])


@dataclass(frozen=True)
class RidgeSetting:
    """Hyper-parameters of ridge regression."""

    strength: float
    """weight of the penalty, in units of the mean squared length of a sample"""


@register_head
class RidgeHead(Head):
    """Ridge regression on class indicators; its scores become probabilities by a temperature."""

    name, classes_only, seeded, prefers_first = "ridge", True, False, True
    reads: ClassVar[Reads] = "vectors"

    def grid(self, settings: HeadSettings) -> list[RidgeSetting]:
        """Strengths from the smoothest: it wins among equals."""
        return [RidgeSetting(strength) for strength in sorted(RIDGE_STRENGTHS, reverse=True)]

    def fit(
        self, data: FitData, jobs: Sequence[Job], settings: HeadSettings, seeds: Sequence[int]
    ) -> StackedLinear:
        """Solves all strengths of a training part from one decomposition.

        Parts of a pooled vector differ in size and are standardised. Pixels share one unit and stay as they are.
        """
        heads = StackedLinear(1, len(jobs), data.inputs.shape[-1], data.targets.outputs)
        solved: dict[bytes, tuple[Ridge, Tensor, Tensor]] = {}
        for number, (samples, setting) in enumerate(jobs):
            key = samples.tobytes()
            if key not in solved:
                windows = data.windows(samples)
                x = data.inputs[windows].double()
                shift, scale = torch.zeros(x.shape[1]).double(), torch.ones(x.shape[1]).double()
                if data.standardise:
                    shift, scale = x.mean(0), 1 / x.std(0, correction=0).clamp_min(1e-3)
                ridge = Ridge((x - shift) * scale, data.window_targets[windows], data.targets.outputs)
                solved[key] = ridge, shift, scale
            ridge, shift, scale = solved[key]
            weight, bias = ridge.weights(setting.strength)
            heads.weight.data[0, number], heads.bias.data[0, number] = weight.float(), bias.float()
            heads.shift[number], heads.scale[number] = shift.float(), scale.float()
        return heads

    def from_state(self, state: dict[str, Tensor]) -> StackedHeads:
        """Saved weights: a linear head."""
        return StackedLinear(1, 1, 1, 1).rebuilt(state)


def knn_votes(
    train: Tensor, targets: Tensor, inputs: Tensor, classes: int, neighbours: Sequence[int] = NEIGHBOURS
) -> Tensor:
    """Votes of the nearest training samples by cosine, weighted by exp(similarity / 0.07) (Wu et al., 2018).

    Vectors are standardised with the training mean and standard deviation first: token means have a large constant
    part in common that would make every cosine nearly one.

    Args:
        train: vectors [n, F].
        targets: class numbers [n].
        inputs: vectors [m, F] to classify.
        classes: number of classes.
        neighbours: values of k.

    Returns:
        Fractions of the vote [len(neighbours), m, C].

    Example:
        >>> known = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> knn_votes(known, torch.tensor([0, 1]), torch.tensor([[0.9, 0.1]]), 2, [1]).tolist()
        [[[1.0, 0.0]]]
    """
    shift, scale = train.float().mean(0), train.float().std(0, correction=0).clamp_min(1e-3)
    known = functional.normalize((train.float() - shift) / scale, dim=1)
    query = functional.normalize((inputs.float() - shift) / scale, dim=1)
    similar, nearest = (query @ known.T).topk(min(max(neighbours), len(known)), dim=1)
    votes = functional.one_hot(targets, classes)[nearest] * (similar / 0.07).exp().unsqueeze(-1)
    running = votes.cumsum(1)
    chosen = torch.stack([running[:, min(k, running.shape[1]) - 1] for k in neighbours])
    return chosen / chosen.sum(-1, keepdim=True)


@dataclass(frozen=True)
class KNNSetting:
    """Hyper-parameters of the nearest-neighbour vote."""

    neighbours: int
    """k"""


@dataclass(frozen=True)
class Neighbours:
    """Nearest-neighbour votes: for every head its training vectors, their classes, and k."""

    known: tuple[tuple[Tensor, Tensor, int], ...]
    classes: int

    def logits(self, inputs: Tensor) -> Tensor:
        """Logarithms of the votes [1, G, m, C]; a class without a vote gets log(1e-9)."""
        out: list[Tensor] = []
        for number, (vectors, targets, _) in enumerate(self.known):
            if number and vectors is self.known[number - 1][0]:
                continue  # one search serves every k of a training part
            ks = [k for other, _, k in self.known if other is vectors]
            out += knn_votes(vectors, targets, inputs, self.classes, ks)
        return torch.stack(out).clamp_min(1e-9).log().unsqueeze(0)

    def take(self, heads: Sequence[int], seeds: Sequence[int] | None = None) -> Neighbours:
        """Some of the heads."""
        return Neighbours(tuple(self.known[head] for head in heads), self.classes)

    def state(self) -> dict[str, Tensor]:
        """The training vectors of a single head."""
        ((vectors, targets, k),) = self.known
        sizes = torch.tensor([k, self.classes])
        return {"vectors": vectors, "targets": targets, "neighbours_and_classes": sizes}


@register_head
class KNNHead(Head):
    """A vote of the nearest training samples."""

    name, reads, classes_only, seeded, prefers_first = "knn", "means", True, False, True

    def grid(self, settings: HeadSettings) -> list[KNNSetting]:
        """Numbers of neighbours from the largest: it wins among equals."""
        return [KNNSetting(k) for k in sorted(NEIGHBOURS, reverse=True)]

    def fit(
        self, data: FitData, jobs: Sequence[Job], settings: HeadSettings, seeds: Sequence[int]
    ) -> FittedHeads:
        """Remembers the training vectors."""
        parts: dict[bytes, tuple[Tensor, Tensor]] = {}
        known = []
        for samples, setting in jobs:
            windows = data.windows(samples)
            part = parts.setdefault(
                np.asarray(samples).tobytes(), (data.inputs[windows], data.window_targets[windows])
            )
            known.append((*part, setting.neighbours))
        return Neighbours(tuple(known), data.targets.outputs)

    def from_state(self, state: dict[str, Tensor]) -> FittedHeads:
        """A vote of saved training vectors."""
        k, classes = state["neighbours_and_classes"].tolist()
        return Neighbours(((state["vectors"], state["targets"], k),), classes)
