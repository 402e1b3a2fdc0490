"""Planning with a world model: energies to goals, and a controller that plans again after every few actions.

The energy of a sequence of actions is the distance between the features that it is predicted to end in and those of a
goal image (V-JEPA 2-AC, arXiv 2506.09985, section 3.2). A `Controller` plans for several tasks at once, warm-started
with the rest of the last plan (receding horizon), towards a goal image or through a sequence of sub-goal images.

Shapes: B tasks, K samples, H actions ahead, A numbers in an action, N tokens of a frame, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.models.action.planners import ActionLimits, CEMConfig, Plan, PlannerConfig, search
from jepa.models.action.world_model import WorldModel

Distance = Callable[[Tensor, Tensor], Tensor]


def l1(z: Tensor, goal: Tensor) -> Tensor:
    """Mean absolute difference over tokens and channels, as V-JEPA 2-AC has: [..., N, D] -> [...]."""
    return (z - goal).abs().mean(dim=(-2, -1))


def l2(z: Tensor, goal: Tensor) -> Tensor:
    """Mean squared difference over tokens and channels: [..., N, D] -> [...]."""
    return (z - goal).square().mean(dim=(-2, -1))


DISTANCES: dict[str, Distance] = {"l1": l1, "l2": l2}


@dataclass
class ControllerConfig:
    """How a controller plans."""

    planner: Any = field(default_factory=CEMConfig)
    """a CEMConfig, MPPIConfig or GradientConfig"""
    horizon: int = 5
    """actions ahead"""
    execute: int = 1
    """actions taken before planning again"""
    distance: str = "l2"
    """between features: l1 (V-JEPA 2-AC) or l2"""
    path_weight: float = 0.0
    """weight of the mean distance along the way, beside that at the end; above 0 it prefers to arrive early"""
    chunk: int = 4096
    """candidates that go through the model at once"""

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise UserError(f"distance={self.distance!r} is unknown; choose one of {', '.join(DISTANCES)}.")
        if not 1 <= self.execute <= self.horizon:
            raise UserError(
                f"execute={self.execute} has to be at least 1 and at most horizon={self.horizon}."
            )


def goal_energy(
    world: WorldModel,
    z: Tensor,
    goal: Tensor,
    states: Tensor | None = None,
    distance: Distance = l1,
    path_weight: float = 0.0,
    chunk: int = 4096,
) -> Callable[[Tensor], Tensor]:
    """The energy of candidates: distance of the last predicted features to the goal's.

    Args:
        world: predicts.
        z: [B, N, D], the present features.
        goal: [B, N, D].
        states: [B, S], if the predictor takes them.
        distance: between features.
        path_weight: of the mean distance along the way.
        chunk: candidates that go through the model at once, which bounds the memory.

    Returns:
        A function from actions [B, K, H, A] to energies [B, K].
    """

    def energy(actions: Tensor) -> Tensor:
        batch, samples = actions.shape[:2]
        flat = actions.flatten(0, 1)
        task = torch.arange(batch, device=actions.device).repeat_interleave(samples)
        parts: list[Tensor] = []
        for rows, some in zip(task.split(chunk), flat.split(chunk), strict=True):
            given = None if states is None else states[rows]
            later = world.imagine(z[rows], some, given)
            gaps = distance(later, goal[rows].unsqueeze(1))
            parts.append(gaps[:, -1] + path_weight * gaps.mean(dim=1) if path_weight else gaps[:, -1])
        return torch.cat(parts).unflatten(0, (batch, samples))

    return energy


class Controller:
    """Acts towards goals, for several tasks side by side.

    Args:
        world: a world model in evaluation mode.
        config: how to plan.
        limits: of actions.
        seed: of the candidates; a plan is a function of it, the images and the number of the plan.

    Example:
        >>> from jepa.models import create_model
        >>> from jepa.models.action import ActionPredictor, ActionPredictorConfig, WorldModelConfig
        >>> from jepa.models.preprocessing import Preprocessing
        >>> encoder = create_model("vit_nano", tubelet_frames=1)
        >>> encoder.preprocessing = Preprocessing(1, 4.0, 32, 32)
        >>> predictor = ActionPredictor(
        ...     ActionPredictorConfig(128, (2, 2), dim=32, depth=1, num_heads=2, mlp_dim=64, action_dim=2, state_dim=0))
        >>> world = WorldModel(WorldModelConfig(), encoder, predictor).eval()
        >>> planner = CEMConfig(samples=8, elites=2, iterations=2)
        >>> controller = Controller(world, ControllerConfig(planner, horizon=3), ActionLimits.symmetric(2))
        >>> images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        >>> controller.set_goals(images)
        >>> list(controller.act(images).shape)
        [2, 2]
    """

    def __init__(
        self, world: WorldModel, config: ControllerConfig, limits: ActionLimits, seed: int = 0
    ) -> None:
        size = world.predictor.config.action_dim
        if len(limits.low) != size:
            raise UserError(
                f"The world model takes actions of {size} numbers, and the limits are for {len(limits.low)}."
            )
        self.world, self.config, self.limits, self.seed = world.eval(), config, limits, seed
        self.plan: Plan | None = None
        self._goals: Tensor | None = None
        self._planned, self._taken = 0, 0

    @torch.no_grad()
    def set_goals(self, images: Tensor, keep_plan: bool = False) -> None:
        """Sets the goal image uint8 [B, C, H, W] of each task, and forgets the old plan unless told to keep it.

        Raises:
            UserError: images of another size than those of training.
        """
        self._goals = self.world.encode_frames(images)
        if not keep_plan:
            self.plan = None
        self._taken = self.config.execute

    @torch.no_grad()
    def act(self, images: Tensor, states: Tensor | None = None) -> Tensor:
        """The next action [B, A] of each task.

        Args:
            images: uint8 [B, C, H, W], what is seen now.
            states: float [B, S], if the world model takes states.

        Raises:
            UserError: no goals are set, other sizes, or nothing has a finite energy.
        """
        if self._goals is None:
            raise UserError("there is no goal: call set_goals first.")
        if self.plan is None or self._taken >= self.config.execute:
            self.plan = self.make_plan(images, states)
            self._taken = 0
        self._taken += 1
        return self.plan.actions[:, self._taken - 1]

    def make_plan(self, images: Tensor, states: Tensor | None = None) -> Plan:
        """Plans for all tasks from what is seen now, warm-started with the rest of the last plan."""
        assert self._goals is not None
        config, world = self.config, self.world
        with torch.no_grad():
            z = world.encode_frames(images)
        if len(z) != len(self._goals):
            raise UserError(f"there are {len(z)} images and {len(self._goals)} goals.")
        energy = goal_energy(
            world, z, self._goals, states, DISTANCES[config.distance], config.path_weight, config.chunk
        )
        start = z.new_zeros(len(z), config.horizon, len(self.limits.low))
        if self.plan is not None and self._taken < config.horizon:
            rest = self.plan.actions[:, self._taken :]
            start[:, : rest.shape[1]] = rest
        self._planned += 1
        planner: PlannerConfig = config.planner
        return search(planner, energy, self.limits, start, seed=self.seed * 1_000_003 + self._planned)

    def select(self, rows: Sequence[int]) -> None:
        """Goes on with some of the tasks only, in this order: the others are over."""
        index = torch.tensor(list(rows), dtype=torch.int64)
        if self._goals is not None:
            self._goals = self._goals[index]
        if self.plan is not None:
            self.plan = Plan(self.plan.actions[index], self.plan.energy[index])


@torch.no_grad()
def energy_landscape(
    world: WorldModel,
    image: Tensor,
    goal: Tensor,
    axes: tuple[int, int] = (0, 1),
    bound: float = 1.0,
    points: int = 21,
    steps: int = 1,
    state: Tensor | None = None,
    distance: str = "l1",
) -> tuple[Tensor, Tensor]:
    """Energy of one action, repeated `steps` times, over a grid of two of its entries; the others are 0.

    The published notebook draws this for displacements in x and z.

    Args:
        world: a world model.
        image: uint8 [C, H, W], what is seen now.
        goal: uint8 [C, H, W].
        axes: the two entries of an action.
        bound: the grid goes from -bound to bound.
        points: along each axis.
        steps: how often the action is repeated.
        state: float [S], if the world model takes states.
        distance: l1 or l2.

    Returns:
        The values along an axis [points], and the energies [points, points], the first axis down.
    """
    values = torch.linspace(-bound, bound, points)
    actions = torch.zeros(points, points, world.predictor.config.action_dim)
    actions[..., axes[0]], actions[..., axes[1]] = values[:, None], values[None, :]
    z, target = world.encode_frames(torch.stack([image, goal])).split(1)
    states = None if state is None else state[None].to(z.device)
    energy = goal_energy(world, z, target, states, DISTANCES[distance])
    candidates = actions.flatten(0, 1)[None, :, None].expand(-1, -1, steps, -1).to(z.device)
    return values, energy(candidates)[0].unflatten(0, (points, points)).cpu()
