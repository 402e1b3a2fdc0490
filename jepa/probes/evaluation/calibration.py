"""Probabilities that mean what they say, fitted on a validation part that no weight has seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature that minimises the negative log likelihood (Guo et al., 2017).

    A golden-section search over the logarithm: the loss has one minimum in 1/T.

    Args:
        logits: [n, C] of samples that trained nothing.
        targets: class numbers [n].

    Returns:
        T in [0.05, 20]; probabilities are softmax(logits / T).
    """
    logits = logits.double()

    def loss(log_t: float) -> float:
        return float(functional.cross_entropy(logits / np.exp(log_t), targets))

    return float(np.exp(_minimise(loss, np.log(0.05), np.log(20.0))))


ISOTONIC_POINTS = 101


def fit_isotonic(probability: Tensor, targets: Tensor) -> Tensor:
    """A non-decreasing map per class from said to observed probability (Zadrozny and Elkan, 2002).

    It can mend what one temperature cannot, and needs far more samples.

    Args:
        probability: [n, C] of samples that trained nothing.
        targets: class numbers [n].

    Returns:
        Values of each class's map at 0, 0.01, ..., 1: [C, 101].
    """
    from sklearn.isotonic import IsotonicRegression

    grid = np.linspace(0, 1, ISOTONIC_POINTS)
    maps = [
        IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        .fit(p.double().numpy(), (targets == label).double().numpy())
        .predict(grid)
        for label, p in enumerate(probability.T)
    ]
    return torch.from_numpy(np.stack(maps)).float()


def apply_isotonic(probability: Tensor, maps: Tensor) -> Tensor:
    """Calibrated probabilities [n, C], rows sum to 1, by `fit_isotonic`'s maps [C, 101]."""
    place = probability.clamp(0, 1) * (ISOTONIC_POINTS - 1)
    low = place.floor().long().clamp_max(ISOTONIC_POINTS - 2)
    label = torch.arange(probability.shape[1]).expand_as(low)
    at = torch.lerp(maps[label, low], maps[label, low + 1], (place - low).to(maps.dtype)).clamp_min(1e-6)
    return at / at.sum(-1, keepdim=True)


def fit_platt(scores: Tensor, happened: Tensor, weight: Tensor | None = None) -> tuple[float, float]:
    """Scale and offset of a score so that sigmoid(scale * score + offset) fits (Platt, 1999, with his soft
    targets).

    Args:
        scores: logits [n].
        happened: 0 or 1 [n].
        weight: weight of each sample [n]; 0 leaves one out.

    Returns:
        (scale, offset), the scale at least 0.01 so that the order of scores is kept.
    """
    x, y = scores.double(), happened.double()
    w = torch.ones_like(x) if weight is None else weight.double()
    positives, negatives = float((w * y).sum()), float((w * (1 - y)).sum())
    soft = torch.where(y > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    theta = torch.tensor([0.0, float(np.log((positives + 1) / (negatives + 1)))], dtype=torch.float64)
    theta[0] = 1.0
    theta.requires_grad_(True)
    optimizer = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        each = functional.binary_cross_entropy_with_logits(theta[0] * x + theta[1], soft, reduction="none")
        # A faint pull towards scale 1 keeps separable data finite.
        loss = (each * w).sum() / w.sum().clamp_min(1) + 1e-4 * (theta[0] - 1) ** 2
        loss.backward()
        return loss

    optimizer.step(closure)
    scale, offset = theta.detach().tolist()
    return max(scale, 0.01), offset


def _minimise(function: Callable[[float], float], low: float, high: float, rounds: int = 60) -> float:
    ratio = (5**0.5 - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(rounds):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2
