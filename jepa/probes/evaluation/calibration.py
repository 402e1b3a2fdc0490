"""Calibration: temperature scaling, isotonic regression and Platt scaling, fitted on a validation part.

No weight of a head was trained on that part. Each map is an object that turns logits into probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature that minimises the negative log likelihood (Guo et al., 2017).

    The loss has one minimum in 1/T, so a bounded scalar search finds it.

    Args:
        logits: [n, C] of samples that trained nothing.
        targets: class numbers [n].

    Returns:
        T in [0.05, 20]; probabilities are softmax(logits / T).

    Example:
        >>> overconfident = torch.tensor([[9.0, 0.0], [9.0, 0.0], [9.0, 0.0], [9.0, 0.0]])
        >>> round(fit_temperature(overconfident, torch.tensor([0, 0, 0, 1])), 1)  # right three times in four
        8.2
    """
    from scipy.optimize import minimize_scalar

    logits = logits.double()

    def loss(log_t: float) -> float:
        return float(functional.cross_entropy(logits / np.exp(log_t), targets))

    bounds = (float(np.log(0.05)), float(np.log(20.0)))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7}).x))


ISOTONIC_POINTS = 101


def fit_isotonic(probability: Tensor, targets: Tensor) -> Tensor:
    """A non-decreasing map per class from predicted to observed probability (Zadrozny and Elkan, 2002).

    It can correct what one temperature cannot, and needs far more samples.

    Args:
        probability: [n, C] of samples that trained nothing.
        targets: class numbers [n].

    Returns:
        Values of each class's map at 0, 0.01, ..., 1: [C, 101].

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]])
        >>> fit_isotonic(p, torch.tensor([0, 0, 1, 1])).shape
        torch.Size([2, 101])
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
    """Calibrated probabilities [n, C], rows sum to 1, by `fit_isotonic`'s maps [C, 101].

    Example:
        >>> identity = torch.linspace(0, 1, ISOTONIC_POINTS).repeat(2, 1)
        >>> apply_isotonic(torch.tensor([[0.75, 0.25]]), identity)
        tensor([[0.7500, 0.2500]])
    """
    position = probability.clamp(0, 1) * (ISOTONIC_POINTS - 1)
    low = position.floor().long().clamp_max(ISOTONIC_POINTS - 2)
    label = torch.arange(probability.shape[1]).expand_as(low)
    at = torch.lerp(maps[label, low], maps[label, low + 1], (position - low).to(maps.dtype)).clamp_min(1e-6)
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

    Example:
        >>> scale, offset = fit_platt(torch.tensor([-2.0, -1.0, 1.0, 2.0]), torch.tensor([0, 1, 0, 1]))
        >>> scale > 0, abs(offset) < 1e-3
        (True, True)
    """
    x, y = scores.double(), happened.double()
    w = torch.ones_like(x) if weight is None else weight.double()
    positives, negatives = float((w * y).sum()), float((w * (1 - y)).sum())
    soft = torch.where(y > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    theta = torch.tensor([0.0, float(np.log((positives + 1) / (negatives + 1)))], dtype=torch.float64)
    theta[0] = 1.0
    theta.requires_grad_(True)
    optimizer = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe")

    @torch.enable_grad()
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


@dataclass(frozen=True)
class SoftmaxCalibration:
    """Class probabilities from logits: softmax at a temperature, then isotonic maps where there are any.

    Example:
        >>> SoftmaxCalibration(2.0)(torch.tensor([[0.0, 0.0]])).tolist()
        [[0.5, 0.5]]
    """

    temperature: float
    isotonic: Tensor | None = None
    """maps of `fit_isotonic` [C, 101]"""

    def __call__(self, logits: Tensor) -> Tensor:
        """Probabilities [m, C], rows sum to 1."""
        p = (logits / self.temperature).softmax(-1)
        return p if self.isotonic is None else apply_isotonic(p, self.isotonic)

    @property
    def method(self) -> str:
        """Name of the method, for metadata."""
        return "temperature" if self.isotonic is None else "isotonic"


def softmax_calibrator(method: str) -> Callable[[Tensor, Tensor, Sequence[str]], SoftmaxCalibration]:
    """Fits a `SoftmaxCalibration` to logits [m, C], class numbers [m] and groups (not used).

    Args:
        method: temperature, or isotonic for maps on top of it.

    Example:
        >>> softmax_calibrator("temperature")(torch.eye(2), torch.tensor([0, 1]), ["a", "b"]).method
        'temperature'
    """

    def fit(logits: Tensor, targets: Tensor, groups: Sequence[str]) -> SoftmaxCalibration:
        found = SoftmaxCalibration(fit_temperature(logits, targets))
        if method == "temperature":
            return found
        return SoftmaxCalibration(found.temperature, fit_isotonic(found(logits), targets))

    return fit


@dataclass(frozen=True)
class SigmoidCalibration:
    """Independent probabilities from logits: Platt scaling per output.

    Example:
        >>> SigmoidCalibration(torch.tensor([[1.0, 0.0]]))(torch.tensor([[0.0]])).tolist()
        [[0.5]]
    """

    maps: Tensor
    """scale and offset of each output [T, 2]"""

    def __call__(self, logits: Tensor) -> Tensor:
        """Probabilities [m, T]."""
        return torch.sigmoid(logits * self.maps[:, 0] + self.maps[:, 1])

    @classmethod
    def fit(cls, logits: Tensor, targets: Tensor, groups: Sequence[str] = ()) -> SigmoidCalibration:
        """From samples that trained nothing; an output that is constant there keeps its logits."""
        return cls(
            torch.tensor(
                [
                    fit_platt(logits[:, t], targets[:, t])
                    if 0 < float(targets[:, t].sum()) < len(targets)
                    else (1.0, 0.0)
                    for t in range(targets.shape[1])
                ]
            )
        )
