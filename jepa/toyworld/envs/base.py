"""Base of the toy environments: a table of 4 m by 4 m, a hand that actions move, images out, gymnasium's interface.

One action lasts a quarter of a second of physics and ends at rest, so that a single image shows the complete state.
Every episode has a goal that is given as an image; `info` also holds what a robot would know of itself (`state`).

An environment knows its true state as a vector (`get_state`, `set_state`) and a scripted policy on it
(`expert_action`), from which data sets are collected and against which planners are compared.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np

from jepa.errors import UserError
from jepa.toyworld.physics import Simulation
from jepa.toyworld.render import VIEW_M, Camera, Canvas, Part

if TYPE_CHECKING:
    import pymunk

ACTION_S = 0.25
"""Seconds of physics in one action."""
SUBSTEPS = 30
"""Physics steps in one action."""
MAX_STEP_M = 0.4
"""How far an action of length 1 along an axis moves the hand, in metres."""
HAND_RADIUS_M = 0.25
FLOOR_COLOUR = (0.86, 0.84, 0.80)
HAND_COLOUR = (0.15, 0.35, 0.80)
_DT = ACTION_S / SUBSTEPS


class ToyEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One task of the toy world.

    Observations are images uint8 [size_px, size_px, 3]; actions are in [-1, 1], a displacement along x and y in units
    of 0.4 m first. The reward is the negative distance to the goal in metres; an episode ends at the goal.

    `info` has `goal` (image), `state` (float32, what the hand knows of itself), `distance` (metres) and `success`.

    Args:
        size_px: height and width of an image.
        render_mode: None or "rgb_array", which returns the observation.

    Raises:
        UserError: an unknown render mode, or an image that is too small.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": round(1 / ACTION_S)}  # noqa: RUF012
    action_names: ClassVar[tuple[str, ...]] = ("x", "y")
    state_names: ClassVar[tuple[str, ...]] = ("x", "y")
    threshold_m: ClassVar[float] = 0.25
    """Distance to the goal, in metres, at which the task is solved."""

    def __init__(self, size_px: int = 64, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"render_mode={render_mode!r} is unknown; use None or 'rgb_array'.")
        if size_px < 32:
            raise UserError(f"size_px={size_px} is too small to show the table; use at least 32.")
        self.size_px, self.render_mode = size_px, render_mode
        self.observation_space = gymnasium.spaces.Box(0, 255, (size_px, size_px, 3), np.uint8)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (len(self.action_names),), np.float32)
        self.truth: np.ndarray = np.zeros(0)
        self.goal: np.ndarray = np.zeros(0)
        self._goal_image = np.zeros((size_px, size_px, 3), np.uint8)

    @abstractmethod
    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A true state to start from and one that solves the task; float64 vectors."""

    @abstractmethod
    def parts(self, truth: np.ndarray) -> list[Part]:
        """What a true state looks like, lowest part first."""

    @abstractmethod
    def advance(self, truth: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The true state after one action, whose entries are in [-1, 1]."""

    @abstractmethod
    def expert_action(self) -> np.ndarray:
        """What a scripted policy that sees the true state does next; entries in [-1, 1]."""

    def distance(self) -> float:
        """Metres between the present state and the goal, of what the task is about."""
        return float(np.linalg.norm(self.truth[:2] - self.goal[:2]))

    def robot_state(self) -> np.ndarray:
        """What the hand knows of itself, float32, in the order of `state_names`."""
        return self.truth[: len(self.state_names)].astype(np.float32)

    def get_state(self) -> np.ndarray:
        """A copy of the true state."""
        return self.truth.copy()

    def set_state(self, truth: np.ndarray, goal: np.ndarray | None = None) -> None:
        """Puts the table into a true state, and makes another one the goal if given.

        Raises:
            UserError: a vector has another length than this task's, or holds what is not finite.
        """
        length = len(self.sample_task(np.random.default_rng(0))[0])
        for name, vector in (("state", truth), ("goal", goal)):
            if vector is not None and (np.shape(vector) != (length,) or not np.isfinite(vector).all()):
                raise UserError(
                    f"{type(self).__name__}: a {name} has {length} finite numbers, not {np.asarray(vector)}."
                )
        self.truth = np.array(truth, np.float64)
        if goal is not None:
            self.goal = np.array(goal, np.float64)
            self._goal_image = self.image_of(self.goal)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; `options` may hold a `state` and a `goal` as true states.

        Raises:
            UserError: an unknown option.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        start, goal = self.sample_task(self.np_random)
        self.set_state(options.pop("state", start), options.pop("goal", goal))
        if options:
            raise UserError(
                f"{type(self).__name__}.reset takes the options state and goal, not {sorted(options)}."
            )
        return self.image_of(self.truth), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One action; entries outside [-1, 1] are cut to it.

        Raises:
            UserError: the action has another shape or holds what is not finite.
        """
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise UserError(
                f"{type(self).__name__}: an action has {len(self.action_names)} finite numbers, not {action}."
            )
        self.truth = self.advance(self.truth, np.clip(action, -1.0, 1.0))
        info = self._info()
        return self.image_of(self.truth), -info["distance"], info["success"], False, info

    def render(self) -> np.ndarray | None:
        """The present image with render_mode="rgb_array", else None."""
        return self.image_of(self.truth) if self.render_mode == "rgb_array" else None

    def image_of(self, truth: np.ndarray) -> np.ndarray:
        """The image uint8 [size_px, size_px, 3] of a true state."""
        canvas = Canvas(self.size_px, self.size_px)
        canvas.image[:] = FLOOR_COLOUR
        canvas.paint(self.parts(truth), Camera())
        return (canvas.image.clip(0, 1) * 255 + 0.5).astype(np.uint8)

    def _info(self) -> dict[str, Any]:
        distance = self.distance()
        return {
            "state": self.robot_state(),
            "goal": self._goal_image.copy(),
            "distance": distance,
            "success": self.solved(distance),
        }

    def solved(self, distance: float) -> bool:
        """Whether the present state, `distance` metres from the goal, solves the task."""
        return distance < self.threshold_m


def table() -> Simulation:
    """A table seen from above, with a rim that nothing leaves."""
    simulation = Simulation(gravity=0.0, friction=0.3, damping=0.01)
    # Thick: a hand that is driven against a thin edge comes through it.
    half = VIEW_M / 2
    for x, y in ((-half, half), (VIEW_M + half, half), (half, -half), (half, VIEW_M + half)):
        simulation.plank(x, y, half, half)
    return simulation


def move(simulation: Simulation, number: int, action: np.ndarray) -> None:
    """Drives body `number` by an action's first two entries for its duration; walls stop it, blocks yield."""
    low, high = HAND_RADIUS_M, VIEW_M - HAND_RADIUS_M
    velocity = float(action[0]) * MAX_STEP_M / ACTION_S, float(action[1]) * MAX_STEP_M / ACTION_S
    hand = simulation.bodies[number]

    def drive(body: pymunk.Body, gravity: tuple[float, float], damping: float, dt: float) -> None:
        body.velocity, body.angular_velocity = velocity, 0.0

    # Within the step, before contacts are solved: a velocity set from outside would first carry the hand into a wall.
    hand.velocity_func = drive
    for _ in range(SUBSTEPS):
        simulation.space.step(_DT)
    x, y = hand.position
    hand.position = min(max(x, low), high), min(max(y, low), high)


def toward(offset: np.ndarray) -> np.ndarray:
    """The action that covers `offset` [2] metres, as far as one action can and in its direction."""
    action = offset / MAX_STEP_M
    return action / max(1.0, float(np.abs(action).max()))


def hand_part(x: float, y: float) -> Part:
    """The hand as a disc."""
    return Part("disc", x, y, (HAND_RADIUS_M,), HAND_COLOUR)
