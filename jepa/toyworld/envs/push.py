"""Push: move a block to where the goal image shows it, by pushing it with the hand."""

from __future__ import annotations

import math

import numpy as np

from jepa.toyworld.envs.base import HAND_RADIUS_M, ToyEnv, hand_part, move, table, toward
from jepa.toyworld.render import VIEW_M, Part

HALF_M = 0.35
"""Half the side of the block."""
_CONTACT_M = HAND_RADIUS_M + HALF_M
_COLOUR = (0.85, 0.30, 0.20)


class PushEnv(ToyEnv):
    """The block's centre has to come within 0.4 m of that in the goal image; its angle does not count.

    True state: x, y of the hand, then x, y (metres) and angle (radians) of the block.

    Example:
        >>> env = PushEnv()
        >>> _, info = env.reset(seed=0)
        >>> 0.8 < info["distance"] < 1.6
        True
    """

    threshold_m = 0.4

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A goal 0.8 to 1.6 m from the block, with the hand where it would be after the push."""
        while True:
            block = rng.uniform(0.8, VIEW_M - 0.8, 2)
            hand = rng.uniform(HAND_RADIUS_M, VIEW_M - HAND_RADIUS_M, 2)
            way, turn = rng.uniform(0.8, 1.6), rng.uniform(0, 2 * math.pi)
            course = np.array([math.cos(turn), math.sin(turn)])
            end = block + way * course
            apart = bool(np.linalg.norm(hand - block) > 1.5 * _CONTACT_M)
            behind = block - 1.2 * _CONTACT_M * course
            apart &= bool((behind > HAND_RADIUS_M).all() and (behind < VIEW_M - HAND_RADIUS_M).all())
            if apart and (end > 0.6).all() and (end < VIEW_M - 0.6).all():
                start = np.array([*hand, *block, rng.uniform(0, math.pi / 2)])
                return start, np.array([*(end - 1.15 * _CONTACT_M * course), *end, start[4]])

    def subgoals(self) -> list[np.ndarray]:
        """True states on the way from here to the goal, the goal last: first the hand behind the block, opposite the
        goal."""
        block = self.truth[2:4]
        course = (self.goal[2:4] - block) / max(float(np.linalg.norm(self.goal[2:4] - block)), 1e-6)
        behind = np.clip(block - 1.2 * _CONTACT_M * course, HAND_RADIUS_M, VIEW_M - HAND_RADIUS_M)
        return [np.concatenate([behind, self.truth[2:]]), self.goal.copy()]

    def parts(self, truth: np.ndarray) -> list[Part]:
        """Block, then hand."""
        block = Part("box", truth[2], truth[3], (HALF_M, HALF_M, 0.04), _COLOUR, angle=float(truth[4]))
        return [block, hand_part(truth[0], truth[1])]

    def advance(self, truth: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The hand moves and takes the block along where it touches it."""
        simulation = table()
        hand = simulation.disc(truth[0], truth[1], HAND_RADIUS_M, (0.0, 0.0), 0.0)
        block = simulation.box(truth[2], truth[3], HALF_M, HALF_M, bounce=0.0)
        simulation.bodies[block].angle = float(truth[4])
        move(simulation, hand, action)
        pushed = simulation.bodies[block]
        return np.array([*simulation.bodies[hand].position, *pushed.position, pushed.angle])

    def distance(self) -> float:
        """Metres between the block and its goal."""
        return float(np.linalg.norm(self.truth[2:4] - self.goal[2:4]))

    def expert_action(self) -> np.ndarray:
        """Around the block to its far side, then straight on."""
        hand, block, goal = self.truth[:2], self.truth[2:4], self.goal[2:4]
        course = (goal - block) / max(float(np.linalg.norm(goal - block)), 1e-6)
        side = np.array([-course[1], course[0]])
        along, across = float((hand - block) @ course), float((hand - block) @ side)
        if along < -0.5 * _CONTACT_M and abs(across) < 0.15:
            return toward(course * np.linalg.norm(goal - block) - 0.8 * across * side)
        if along < -0.85 * _CONTACT_M:
            return self._go_to(block - 1.15 * _CONTACT_M * course)
        # Beside or before the block: pass it at a distance first, on the side with more room.
        sides = [block + 1.4 * _CONTACT_M * turn for turn in (side, -side)]
        room = [np.minimum(point, VIEW_M - point).min() for point in sides]
        near = int(across < 0)
        chosen = near if room[near] > HAND_RADIUS_M else int(np.argmax(room))
        turn = (side, -side)[chosen]
        if (hand - block) @ turn < 1.1 * _CONTACT_M:
            return self._go_to(sides[chosen] + max(along, 0.0) * course)
        return self._go_to(sides[chosen] - 1.2 * _CONTACT_M * course)

    def _go_to(self, point: np.ndarray) -> np.ndarray:
        return toward(np.clip(point, HAND_RADIUS_M, VIEW_M - HAND_RADIUS_M) - self.truth[:2])
