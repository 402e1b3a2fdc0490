"""Tower: lift one block and set it down on the other, with a gripper seen from the side."""

from __future__ import annotations

import numpy as np

from jepa.toyworld.envs.base import ACTION_S, HAND_COLOUR, MAX_STEP_M, SUBSTEPS, ToyEnv, toward
from jepa.toyworld.physics import Simulation
from jepa.toyworld.render import VIEW_M, Part

HALF_M = 0.35
"""Half the side of a block."""
GROUND_M = 0.3
"""Height of the ground in the image."""
REACH_M = 0.3
"""How close to a block's top the fingers have to be when they close."""
_DT = ACTION_S / SUBSTEPS
_SETTLE_STEPS = 8 * SUBSTEPS
_COLOURS = ((0.85, 0.30, 0.20), (0.20, 0.60, 0.30))
_LOW, _HIGH = GROUND_M + HALF_M, VIEW_M - 0.3


class TowerEnv(ToyEnv):
    """The red block has to rest on the green one, released by the gripper.

    Actions: displacement along x and y, and the fingers: closed above 0, open otherwise. The gripper holds the block
    whose top is within 0.3 m of it when the fingers close, and passes through blocks otherwise.

    True state: x, y of the gripper's tip, fingers (1 closed), number of the block held (-1: none), then x, y (metres)
    and angle (radians) of both blocks.

    Example:
        >>> env = TowerEnv()
        >>> _, info = env.reset(seed=0)
        >>> info["state"].shape, env.action_space.shape
        ((3,), (3,))
    """

    action_names = ("x", "y", "fingers")
    state_names = ("x", "y", "fingers")
    threshold_m = 0.3

    def sample_task(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two blocks on the ground, at least two widths apart; the goal has the tower and the gripper above it."""
        while True:
            red, green = rng.uniform(0.6, VIEW_M - 0.6, 2)
            if abs(red - green) > 4 * HALF_M:
                break
        hand = rng.uniform(0.4, VIEW_M - 0.4), rng.uniform(2.0, _HIGH)
        y = GROUND_M + HALF_M
        start = np.array([*hand, 0.0, -1.0, red, y, 0.0, green, y, 0.0])
        above = y + 2 * HALF_M
        goal = np.array([green, above + HALF_M + 0.8, 0.0, -1.0, green, above, 0.0, green, y, 0.0])
        return start, goal

    def subgoals(self) -> list[np.ndarray]:
        """True states on the way from here to the goal, the goal last: grasped, lifted above the other block, stacked.

        V-JEPA 2-AC is given such images for pick and place (arXiv 2506.09985, section 4).
        """
        red, green = self.truth[4:7], self.truth[7:10]
        top = red[1] + HALF_M
        grasped = np.array([red[0], top, 1.0, 0.0, *red, *green])
        lift = green[1] + 2 * HALF_M + 0.25
        lifted = np.array([green[0], lift + HALF_M, 1.0, 0.0, green[0], lift, 0.0, *green])
        return [grasped, lifted, self.goal.copy()]

    def parts(self, truth: np.ndarray) -> list[Part]:
        """Ground, blocks, then the gripper: a beam with two fingers that are apart when open."""
        x, y, closed, held = truth[:4]
        ground = Part(
            "box", VIEW_M / 2, GROUND_M / 2, (VIEW_M / 2, GROUND_M / 2, 0.0), (0.45, 0.40, 0.35), flat=True
        )
        blocks = [
            Part("box", bx, by, (HALF_M, HALF_M, 0.04), colour, angle=float(turn))
            for (bx, by, turn), colour in zip(truth[4:].reshape(2, 3), _COLOURS, strict=True)
        ]
        gap = 0.12 if closed > 0.5 else 0.32
        colour = (0.95, 0.75, 0.10) if held >= 0 else HAND_COLOUR
        fingers = [
            Part("box", x + side * gap, y + 0.06, (0.08, 0.22, 0.02), colour, flat=True) for side in (-1, 1)
        ]
        beam = Part("box", x, y + 0.36, (0.42, 0.10, 0.02), colour, flat=True)
        return [ground, *blocks, beam, *fingers]

    def advance(self, truth: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Fingers first, then the motion, then whatever falls comes to rest."""
        hand, held, blocks = truth[:2].copy(), int(truth[3]), truth[4:].reshape(2, 3)
        closed = float(action[2] > 0)
        if closed and truth[2] < 0.5 and held < 0:
            gaps = [np.hypot(*(hand - (x, y + HALF_M))) for x, y, _ in blocks]
            held = int(np.argmin(gaps)) if min(gaps) < REACH_M else -1
        elif not closed:
            held = -1
        simulation = Simulation(gravity=9.8, friction=0.9)
        simulation.wall(-1.0, GROUND_M - 0.01, VIEW_M + 1.0, GROUND_M - 0.01, bounce=0.0)
        for x, y, turn in blocks:
            number = simulation.box(x, y, HALF_M, HALF_M, bounce=0.0)
            simulation.bodies[number].angle = float(turn)
        lowest = _LOW + HALF_M if held >= 0 else _LOW
        target = np.clip(hand + action[:2] * MAX_STEP_M, [0.4, lowest], [VIEW_M - 0.4, _HIGH])
        hand = self._carry(simulation, hand, target, held)
        self._settle(simulation, held)
        poses = [(*body.position, body.angle) for body in simulation.bodies]
        return np.array([*hand, closed, float(held), *poses[0], *poses[1]])

    @staticmethod
    def _carry(simulation: Simulation, hand: np.ndarray, target: np.ndarray, held: int) -> np.ndarray:
        """Moves the gripper, and the held block with it; a block in the way stops both."""
        if held < 0:
            for _ in range(SUBSTEPS):
                simulation.space.step(_DT)
            return target
        body = simulation.bodies[held]
        grip = np.array(body.position) - hand
        body.angle = 0.0
        for _ in range(SUBSTEPS):
            # Without gravity's pull within the step, the block moves as the gripper does.
            x, y = (target - hand) / ACTION_S
            body.velocity = float(x), float(y) + 9.8 * _DT
            body.angle, body.angular_velocity = 0.0, 0.0
            simulation.space.step(_DT)
        body.angle = 0.0
        return np.array(body.position) - grip

    @staticmethod
    def _settle(simulation: Simulation, held: int) -> None:
        x, y = simulation.bodies[max(held, 0)].position
        place = (float(x), float(y)) if held >= 0 else None
        for _ in range(_SETTLE_STEPS):
            speeds = [b.velocity.length for number, b in enumerate(simulation.bodies) if number != held]
            if max(speeds) < 0.05:
                return
            if place is not None:
                body = simulation.bodies[held]
                body.position, body.velocity, body.angle, body.angular_velocity = place, (0.0, 0.0), 0.0, 0.0
            simulation.space.step(_DT)
        if place is not None:
            simulation.bodies[held].position = place

    def distance(self) -> float:
        """Metres between the red block and its place on the green one, wherever that stands."""
        place = self.truth[7:9] + np.array([0.0, 2 * HALF_M])
        return float(np.linalg.norm(self.truth[4:6] - place))

    def solved(self, distance: float) -> bool:
        """Stacked and let go."""
        return distance < self.threshold_m and self.truth[3] < 0

    def expert_action(self) -> np.ndarray:
        """Above the red block, down, close, up, across, down, open."""
        hand, held, red, green = self.truth[:2], self.truth[3], self.truth[4:6], self.truth[7:9]
        if held == 0:
            place = green + np.array([0.0, 2 * HALF_M])
            offset = place - red
            clear = place[1] + 0.15
            if abs(offset[0]) > 0.12:
                # Rise first where the block would meet the other one on its way.
                low = red[1] < clear - 0.05
                return np.array([*toward(np.array([0.0 if low else offset[0], clear - red[1]])), 1.0])
            return np.array([0.0, 0.0, -1.0]) if offset[1] > -0.2 else np.array([*toward(offset), 1.0])
        offset = red + np.array([0.0, HALF_M]) - hand
        if held > 0 or self.solved(self.distance()):
            return np.array([0.0, 1.0, -1.0])
        if self.truth[2] > 0.5:
            return np.array([*toward(offset), -1.0])
        if np.hypot(*offset) < 0.1:
            return np.array([0.0, 0.0, 1.0])
        aside = abs(offset[0]) > 0.15
        return np.array([*toward(offset + np.array([0.0, 0.5 * aside])), -1.0])
