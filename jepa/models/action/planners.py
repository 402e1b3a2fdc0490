"""Planners: sequences of actions of low energy, by CEM, MPPI or gradient descent, for several tasks at once.

A planner asks for the energy [B, K] of K candidate sequences [B, K, H, A] of each of B tasks and knows nothing of
models or images. Candidates never leave the action limits. An energy that is not finite counts as infinitely bad; a
task without any finite energy is refused.

Shapes: B tasks, K samples, H actions ahead, A numbers in an action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from jepa.errors import UserError

Energy = Callable[[Tensor], Tensor]
Noise = Callable[[int, tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class ActionLimits:
    """What an action may be. Every field holds A numbers.

    Raises:
        UserError: lengths that differ, or a lower limit above the upper one.

    Example:
        >>> ActionLimits.symmetric(2).low
        (-1.0, -1.0)
    """

    low: tuple[float, ...]
    """smallest values"""
    high: tuple[float, ...]
    """largest values"""
    std: tuple[float, ...]
    """standard deviation of the first candidates; 0 keeps an entry at 0"""
    dead_zone: tuple[float, ...] = ()
    """entries of the chosen plan that are smaller in size become 0; empty leaves all"""

    def __post_init__(self) -> None:
        sizes = {len(self.low), len(self.high), len(self.std), len(self.dead_zone) or len(self.low)}
        if len(sizes) != 1 or not self.low or any(a > b for a, b in zip(self.low, self.high, strict=True)):
            raise UserError(
                f"Action limits need as many low, high and std, with low <= high: {self.low}, {self.high}, {self.std}."
            )

    @classmethod
    def symmetric(cls, size: int, bound: float = 1.0, std: float = 0.6) -> ActionLimits:
        """-bound to bound for each of `size` entries."""
        return cls((-bound,) * size, (bound,) * size, (std,) * size)

    @classmethod
    def droid(cls, max_norm: float = 0.05) -> ActionLimits:
        """V-JEPA 2-AC's on a Franka arm: translations up to `max_norm` metres, no rotation, the gripper up to 0.75
        (facebookresearch/vjepa2, notebooks/utils/mpc_utils.py)."""
        bound = (max_norm,) * 3 + (0.0,) * 3 + (0.75,)
        std = (max_norm,) * 3 + (0.0,) * 3 + (1.0,)
        return cls(tuple(-b for b in bound), bound, std, (0.0,) * 6 + (0.25,))

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """low, high and std as float32 [A]."""
        low, high, std = (torch.tensor(v, device=device) for v in (self.low, self.high, self.std))
        return low, high, std


@dataclass
class Plan:
    """The chosen actions of each task, and how they were found."""

    actions: Tensor
    """[B, H, A], within the limits"""
    energy: Tensor
    """[B], of these actions"""
    history: list[Tensor] = field(default_factory=list)
    """lowest energy [B] among the candidates of each iteration"""


@dataclass
class CEMConfig:
    """Cross-entropy method: samples from a Gaussian that moves to the best of them."""

    name: ClassVar[str] = "cem"
    samples: int = 400
    """candidates of an iteration; the published notebook has 400, the paper 800"""
    elites: int = 10
    """best candidates, to which mean and standard deviation move"""
    iterations: int = 10
    """rounds"""
    momentum_mean: tuple[float, ...] = (0.15,)
    """fraction of the old mean that stays, for all entries of an action or for each"""
    momentum_std: tuple[float, ...] = (0.15,)
    """fraction of the old standard deviation that stays"""
    correlation: float = 0.0
    """correlation of the noise of neighbouring actions, for horizons over which independent noise leads nowhere"""

    def __post_init__(self) -> None:
        if not 1 < self.elites <= self.samples or self.iterations < 1:
            raise UserError(
                f"CEM needs 2 <= elites <= samples and an iteration, not elites={self.elites}, samples={self.samples}, "
                f"iterations={self.iterations}."
            )

    @classmethod
    def published(cls) -> CEMConfig:
        """The defaults of V-JEPA 2's function `cem`, for ActionLimits.droid."""
        return cls(momentum_mean=(0.25,) * 6 + (0.15,), momentum_std=(0.95,) * 6 + (0.15,))


@dataclass
class MPPIConfig:
    """Model predictive path integral control (arXiv 1509.01149): the mean moves to a soft-min average."""

    name: ClassVar[str] = "mppi"
    samples: int = 400
    """candidates of an iteration"""
    iterations: int = 6
    """rounds"""
    temperature: float = 0.1
    """in standard deviations of the energies: lower follows the best candidates more closely"""
    correlation: float = 0.0
    """correlation of the noise of neighbouring actions"""


@dataclass
class GradientConfig:
    """Gradient descent on the actions through the model, from several starts."""

    name: ClassVar[str] = "gradient"
    samples: int = 16
    """starts, of which the best result is taken"""
    iterations: int = 30
    """steps of Adam"""
    lr: float = 0.1
    """step size, in units of the first candidates' standard deviation"""
    correlation: float = 0.0
    """correlation of neighbouring actions of a start"""


PlannerConfig = CEMConfig | MPPIConfig | GradientConfig
PLANNERS: dict[str, type] = {"cem": CEMConfig, "mppi": MPPIConfig, "gradient": GradientConfig}


def search(
    config: PlannerConfig,
    energy: Energy,
    limits: ActionLimits,
    start: Tensor,
    noise: Noise | None = None,
    seed: int = 0,
) -> Plan:
    """Finds actions of low energy.

    Args:
        config: which planner, with its settings.
        energy: candidates [B, K, H, A] -> [B, K]; differentiable for gradient descent.
        limits: of actions.
        start: [B, H, A], the mean of the first candidates: zeros, or a plan of before (a warm start).
        noise: (iteration, shape) -> standard normal numbers, instead of those that `seed` gives.
        seed: of the candidates.

    Raises:
        UserError: the energies have another shape, or those of a task are all not finite.

    Example:
        >>> goal = torch.tensor([0.5, -0.5])
        >>> energy = lambda actions: (actions.sum(2) - goal).square().sum(-1)
        >>> plan = search(CEMConfig(samples=64, elites=8), energy, ActionLimits.symmetric(2), torch.zeros(1, 3, 2))
        >>> bool((plan.actions.sum(1) - goal).abs().max() < 0.1)
        True
    """
    generator = torch.Generator(device=start.device).manual_seed(seed)

    def normal(iteration: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, device=start.device)

    draw = noise or normal
    if isinstance(config, CEMConfig):
        return _cem(config, energy, limits, start, draw)
    if isinstance(config, MPPIConfig):
        return _mppi(config, energy, limits, start, draw)
    return _gradient(config, energy, limits, start, draw)


def _cem(config: CEMConfig, energy: Energy, limits: ActionLimits, mean: Tensor, draw: Noise) -> Plan:
    low, high, first = limits.tensors(mean.device)
    std = first.expand_as(mean).clone()
    keep_mean = torch.tensor(config.momentum_mean, device=mean.device)
    keep_std = torch.tensor(config.momentum_std, device=mean.device)
    history = []
    with torch.no_grad():
        for iteration in range(config.iterations):
            steps = _noise(draw, iteration, config.samples, mean, config.correlation)
            candidates = (mean.unsqueeze(1) + std.unsqueeze(1) * steps).clamp(low, high)
            values = _checked(energy, candidates)
            best = values.topk(config.elites, dim=1, largest=False)
            history.append(best.values[:, 0])
            elites = candidates.gather(1, best.indices[:, :, None, None].expand(-1, -1, *mean.shape[1:]))
            mean = elites.mean(dim=1) * (1 - keep_mean) + mean * keep_mean
            std = elites.std(dim=1) * (1 - keep_std) + std * keep_std
        return _finish(energy, limits, mean, history)


def _mppi(config: MPPIConfig, energy: Energy, limits: ActionLimits, mean: Tensor, draw: Noise) -> Plan:
    low, high, std = limits.tensors(mean.device)
    history = []
    with torch.no_grad():
        for iteration in range(config.iterations):
            # Narrower from round to round, to half the width in the end.
            width = std * (1 - 0.5 * iteration / max(config.iterations - 1, 1))
            steps = _noise(draw, iteration, config.samples, mean, config.correlation)
            candidates = (mean.unsqueeze(1) + width * steps).clamp(low, high)
            values = _checked(energy, candidates)
            finite = values.masked_fill(values.isinf(), values[values.isfinite()].max())
            history.append(values.amin(dim=1))
            scale = (finite.std(dim=1, keepdim=True) * config.temperature).clamp_min(1e-8)
            weight = (-(finite - finite.amin(dim=1, keepdim=True)) / scale).softmax(dim=1)
            mean = (weight[:, :, None, None] * candidates).sum(dim=1)
        return _finish(energy, limits, mean, history)


def _gradient(
    config: GradientConfig, energy: Energy, limits: ActionLimits, mean: Tensor, draw: Noise
) -> Plan:
    low, high, std = limits.tensors(mean.device)
    steps = _noise(draw, 0, config.samples, mean, config.correlation)
    steps[:, 0] = 0.0  # one start is the given one
    unit = steps.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([unit], lr=config.lr)
    history = []
    for _ in range(config.iterations):
        with torch.enable_grad():
            candidates = _into(mean.unsqueeze(1) + std * unit, low, high)
            values = energy(candidates)
            finite = values.isfinite()
            optimizer.zero_grad()
            torch.where(finite, values, torch.zeros_like(values)).sum().backward()
        unit.grad = torch.nan_to_num(unit.grad) if unit.grad is not None else None
        optimizer.step()
        history.append(torch.where(finite, values, torch.inf).amin(dim=1).detach())
    with torch.no_grad():
        candidates = (mean.unsqueeze(1) + std * unit).clamp(low, high)
        best = _checked(energy, candidates).argmin(dim=1)
        return _finish(energy, limits, candidates[torch.arange(len(mean)), best], history)


def _into(actions: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Cut to the limits; the gradient passes, so that an action at its limit can come back."""
    return actions.clamp(low, high).detach() + (actions - actions.detach())


def _noise(draw: Noise, iteration: int, samples: int, mean: Tensor, correlation: float) -> Tensor:
    """Standard normal [B, K, H, A]; neighbouring actions are correlated on request (an AR(1) process)."""
    batch, horizon, size = mean.shape
    noise = draw(iteration, (batch, samples, horizon, size))
    if not correlation:
        return noise
    rows: list[Tensor] = [noise[:, :, 0]]
    for step in range(1, horizon):
        rows.append(correlation * rows[-1] + (1 - correlation**2) ** 0.5 * noise[:, :, step])
    return torch.stack(rows, dim=2)


def _checked(energy: Energy, candidates: Tensor) -> Tensor:
    """Energies [B, K], infinite where they are not finite.

    Raises:
        UserError: none of a task is finite, or the shape is wrong.
    """
    values = energy(candidates)
    if values.shape != candidates.shape[:2]:
        raise UserError(f"an energy gave {list(values.shape)} for candidates {list(candidates.shape)}.")
    values = torch.where(values.isfinite(), values, torch.inf)
    lost = values.isinf().all(dim=1).nonzero().flatten().tolist()
    if lost:
        raise UserError(
            f"No candidate of task {', '.join(map(str, lost[:8]))} has a finite energy: the image, the goal or the "
            "weights hold NaN or infinity."
        )
    return values


def _finish(energy: Energy, limits: ActionLimits, mean: Tensor, history: Sequence[Tensor]) -> Plan:
    low, high, _ = limits.tensors(mean.device)
    actions = mean.clamp(low, high)
    if limits.dead_zone:
        small = actions.abs() < torch.tensor(limits.dead_zone, device=mean.device)
        actions = actions.masked_fill(small, 0.0)
    return Plan(actions, _checked(energy, actions.unsqueeze(1))[:, 0], list(history))
