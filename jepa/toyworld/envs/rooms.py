"""Two rooms: bring the hand to where the goal image shows it, through the one door between the rooms."""

from __future__ import annotations

import numpy as np

from jepa.toyworld.envs.base import HAND_RADIUS_M, ToyEnv, hand_part, move, table, toward
from jepa.toyworld.render import VIEW_M, Part

WALL_X, WALL_HALF_M = VIEW_M / 2, 0.15
DOOR = (2.5, 3.5)
"""y of the door's two ends, in metres."""
_MIDDLE = np.array([WALL_X, sum(DOOR) / 2])
_COLOUR = (0.30, 0.28, 0.26)


class TwoRoomsEnv(ToyEnv):
    """Start and goal are in different rooms; the hand has to come within 0.25 m. True state: x, y of the hand.

    Example:
        >>> env = TwoRoomsEnv()
        >>> _ = env.reset(seed=0)
        >>> bool((env.truth[0] < 2.0) != (env.goal[0] < 2.0))
        True
    """

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One position in each room, either way round."""
        margin = HAND_RADIUS_M + WALL_HALF_M
        y = rng.uniform(HAND_RADIUS_M, VIEW_M - HAND_RADIUS_M, 2)
        left = rng.uniform(HAND_RADIUS_M, WALL_X - margin)
        right = rng.uniform(WALL_X + margin, VIEW_M - HAND_RADIUS_M)
        first, second = np.array([left, y[0]]), np.array([right, y[1]])
        return (first, second) if rng.random() < 0.5 else (second, first)

    def subgoals(self) -> list[np.ndarray]:
        """True states on the way from here to the goal, the goal last: first in the door, a little beyond the wall."""
        way = np.sign(self.goal[0] - WALL_X) or 1.0
        return [_MIDDLE + np.array([0.5 * way, 0.0]), self.goal.copy()]

    def parts(self, truth: np.ndarray) -> list[Part]:
        """The two pieces of the wall, then the hand."""
        walls = [
            Part("box", WALL_X, (low + high) / 2, (WALL_HALF_M, (high - low) / 2, 0.0), _COLOUR, flat=True)
            for low, high in ((0.0, DOOR[0]), (DOOR[1], VIEW_M))
        ]
        return [*walls, hand_part(*truth)]

    def advance(self, truth: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The hand moves; the wall stops it, or lets it slide along."""
        simulation = table()
        for low, high in ((0.0, DOOR[0]), (DOOR[1], VIEW_M)):
            simulation.plank(WALL_X, (low + high) / 2, WALL_HALF_M, (high - low) / 2)
        hand = simulation.disc(truth[0], truth[1], HAND_RADIUS_M, (0.0, 0.0), 0.0)
        move(simulation, hand, action)
        return np.array(simulation.bodies[hand].position)

    def expert_action(self) -> np.ndarray:
        """Straight to the goal in its room; else to the door's near side, then through it."""
        hand, goal = self.truth, self.goal
        side = np.sign(hand[0] - WALL_X) or 1.0
        if (hand[0] < WALL_X) == (goal[0] < WALL_X) and abs(hand[0] - WALL_X) > HAND_RADIUS_M:
            return toward(goal - hand)
        if abs(hand[1] - _MIDDLE[1]) < 0.2:
            way = np.sign(goal[0] - WALL_X) or 1.0
            return toward(_MIDDLE + np.array([0.6 * way, 0.0]) - hand)
        return toward(_MIDDLE + np.array([0.6 * side, 0.0]) - hand)
