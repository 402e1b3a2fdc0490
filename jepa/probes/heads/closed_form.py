"""Heads without training steps: ridge regression in closed form, and nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

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


def knn_scores(
    train: Tensor, targets: Tensor, inputs: Tensor, classes: int, neighbours: Sequence[int] = NEIGHBOURS
) -> Tensor:
    """Votes of the nearest training samples by cosine, weighted by exp(similarity / 0.07) (Wu et al., 2018).

    Vectors are standardised with the training mean and deviation first: token means share a large constant
    part that would make every cosine nearly one.

    Args:
        train: vectors [n, F].
        targets: class numbers [n].
        inputs: vectors [m, F] to classify.
        classes: number of classes.
        neighbours: values of k.

    Returns:
        Shares of the vote [len(neighbours), m, C].
    """
    shift, scale = train.float().mean(0), train.float().std(0, correction=0).clamp_min(1e-3)
    known = functional.normalize((train.float() - shift) / scale, dim=1)
    asked = functional.normalize((inputs.float() - shift) / scale, dim=1)
    similar, nearest = (asked @ known.T).topk(min(max(neighbours), len(known)), dim=1)
    votes = functional.one_hot(targets, classes)[nearest] * (similar / 0.07).exp().unsqueeze(-1)
    running = votes.cumsum(1)
    chosen = torch.stack([running[:, min(k, running.shape[1]) - 1] for k in neighbours])
    return chosen / chosen.sum(-1, keepdim=True)
