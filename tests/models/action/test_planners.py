from __future__ import annotations

import pytest
import torch

from jepa.errors import UserError
from jepa.models.action.planners import (
    ActionLimits,
    CEMConfig,
    GradientConfig,
    MPPIConfig,
    search,
)

GOALS = torch.tensor([[0.8, -0.4], [-0.3, 1.5]])
PLANNERS = {
    "cem": CEMConfig(samples=128, elites=12, iterations=8),
    "mppi": MPPIConfig(samples=256, iterations=10),
    "gradient": GradientConfig(samples=8, iterations=60),
}


def energy(actions: torch.Tensor) -> torch.Tensor:
    """A point that moves by the sum of the actions, and a goal for each of two tasks."""
    return (actions.sum(2) - GOALS[:, None]).square().sum(-1)


@pytest.mark.parametrize("name", PLANNERS)
def test_reaches_the_goals_of_a_batch(name) -> None:
    plan = search(PLANNERS[name], energy, ActionLimits.symmetric(2), torch.zeros(2, 4, 2))
    assert (plan.actions.sum(1) - GOALS).abs().max() < 0.15
    assert (plan.history[-1] <= plan.history[0]).all()


@pytest.mark.parametrize("name", PLANNERS)
def test_never_leaves_the_limits(name) -> None:
    limits, seen = ActionLimits((-0.1, 0.0), (0.1, 0.05), (0.6, 0.6)), []

    def watched(actions):
        seen.append(actions.detach())
        return energy(actions)

    plan = search(PLANNERS[name], watched, limits, torch.zeros(2, 4, 2))
    for actions in [*seen, plan.actions]:
        assert (actions >= torch.tensor(limits.low)).all() and (actions <= torch.tensor(limits.high)).all()


@pytest.mark.parametrize("name", PLANNERS)
def test_candidates_that_are_not_finite_lose(name) -> None:
    def broken(actions):
        values = energy(actions)
        return torch.where(actions[:, :, 0, 0] > 0.5, torch.nan, values)

    plan = search(PLANNERS[name], broken, ActionLimits.symmetric(2, std=0.3), torch.zeros(2, 4, 2))
    assert plan.energy.isfinite().all()


def test_a_task_without_any_finite_energy_is_refused() -> None:
    def lost(actions):
        values = energy(actions)
        values[1] = torch.nan
        return values

    with pytest.raises(UserError, match="No candidate of task 1 has a finite energy"):
        search(PLANNERS["cem"], lost, ActionLimits.symmetric(2), torch.zeros(2, 4, 2))


def test_a_warm_start_begins_where_the_last_plan_ended() -> None:
    config, limits = CEMConfig(samples=32, elites=4, iterations=1), ActionLimits.symmetric(2, std=0.05)
    cold = search(config, energy, limits, torch.zeros(2, 4, 2))
    warm = search(config, energy, limits, GOALS[:, None].expand(-1, 4, -1) / 4)
    assert (warm.energy < cold.energy).all()


def test_published_limits_keep_rotations_at_zero_and_round_small_grips() -> None:
    def pull(actions):
        return (actions.sum(2) - 0.02).square().sum(-1)

    config = CEMConfig.published()
    plan = search(config, pull, ActionLimits.droid(), torch.zeros(1, 2, 7))
    assert (plan.actions[..., 3:6] == 0).all()
    grip = plan.actions[..., 6].abs()
    assert ((grip == 0) | (grip >= 0.25)).all()


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="elites <= samples"):
        CEMConfig(samples=4, elites=5)
    with pytest.raises(UserError, match="low <= high"):
        ActionLimits((1.0,), (0.0,), (1.0,))
