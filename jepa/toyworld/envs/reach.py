"""Reach: bring the hand to where the goal image shows it, on an empty table."""

from __future__ import annotations

import numpy as np

from jepa.toyworld.envs.base import HAND_RADIUS_M, ToyEnv, hand_part, move, table, toward
from jepa.toyworld.render import VIEW_M, Part


class ReachEnv(ToyEnv):
    """The hand has to come within 0.25 m of its position in the goal image. True state: x, y of the hand.

    Example:
        >>> env = ReachEnv()
        >>> image, info = env.reset(seed=0)
        >>> image.shape, info["success"]
        ((64, 64, 3), False)
    """

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Start and goal at least 1 m apart."""
        while True:
            start, goal = rng.uniform(HAND_RADIUS_M, VIEW_M - HAND_RADIUS_M, (2, 2))
            if np.linalg.norm(start - goal) > 1.0:
                return start, goal

    def parts(self, truth: np.ndarray) -> list[Part]:
        """The hand."""
        return [hand_part(*truth)]

    def advance(self, truth: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The hand moves, up to the rim."""
        simulation = table()
        hand = simulation.disc(truth[0], truth[1], HAND_RADIUS_M, (0.0, 0.0), 0.0)
        move(simulation, hand, action)
        return np.array(simulation.bodies[hand].position)

    def expert_action(self) -> np.ndarray:
        """Straight to the goal."""
        return toward(self.goal - self.truth)
