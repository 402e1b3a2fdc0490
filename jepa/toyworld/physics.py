"""Rigid-body physics by pymunk: fixed small time steps, recorded once per frame, with no hidden state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from jepa.errors import require

if TYPE_CHECKING:  # an extra; a world without physics can be made without it
    import pymunk

STEP_HZ = 240
"""Physics steps in a second, at least; the nearest multiple of the frame rate is taken."""


@dataclass
class Motion:
    """What a simulation recorded."""

    poses: np.ndarray
    """[frames, bodies, 3]: x and y in metres, angle in radians"""
    contacts: dict[tuple[int, int], float] = field(default_factory=dict)
    """time in seconds at which two bodies first touched; -1 stands for what cannot move"""


class Simulation:
    """A space of discs and boxes; bodies are numbered in the order in which they are added.

    Args:
        gravity: m/s2, downwards.
        friction: Coulomb's coefficient of every body.
        damping: fraction of its speed that a body keeps in a second; below 1 for a table seen from above.

    Raises:
        UserError: pymunk is not installed.
    """

    def __init__(self, gravity: float, friction: float, damping: float = 1.0) -> None:
        self._pymunk = require("pymunk", "toyworld")
        self.space: pymunk.Space = self._pymunk.Space()
        self.space.gravity = (0.0, -gravity)
        self.space.damping = damping
        self.space.iterations = 20
        self.friction = friction
        self.bodies: list[pymunk.Body] = []

    def disc(self, x: float, y: float, radius: float, velocity: tuple[float, float], bounce: float) -> int:
        """Adds a disc of 10 kg/m2 and returns its number; on the floor it starts rolling without slip."""
        mass = 10 * math.pi * radius * radius
        body = self._pymunk.Body(mass, self._pymunk.moment_for_circle(mass, 0, radius))
        body.angular_velocity = -velocity[0] / radius if self.space.gravity[1] < 0 else 0.0
        return self._add(body, self._pymunk.Circle(body, radius), x, y, 0.0, velocity, bounce)

    def box(self, x: float, y: float, half_width: float, half_height: float, bounce: float = 0.05) -> int:
        """Adds a box of 10 kg/m2 at rest and returns its number."""
        mass = 40 * half_width * half_height
        size = 2 * half_width, 2 * half_height
        body = self._pymunk.Body(mass, self._pymunk.moment_for_box(mass, size))
        return self._add(body, self._pymunk.Poly.create_box(body, size), x, y, 0.0, (0.0, 0.0), bounce)

    def plank(self, x: float, y: float, half_width: float, half_height: float) -> int:
        """Adds a box that is moved by its velocity alone, whatever lies on it, and returns its number."""
        body = self._pymunk.Body(body_type=self._pymunk.Body.KINEMATIC)
        shape = self._pymunk.Poly.create_box(body, (2 * half_width, 2 * half_height))
        return self._add(body, shape, x, y, 0.0, (0.0, 0.0), 0.0)

    def wall(self, x0: float, y0: float, x1: float, y1: float, bounce: float = 0.4) -> None:
        """Adds an edge that cannot move, 2 cm thick."""
        shape = self._pymunk.Segment(self.space.static_body, (x0, y0), (x1, y1), 0.01)
        shape.friction, shape.elasticity = self.friction, bounce
        self.space.add(shape)

    def _add(
        self,
        body: pymunk.Body,
        shape: pymunk.Shape,
        x: float,
        y: float,
        angle: float,
        velocity: tuple[float, float],
        bounce: float,
    ) -> int:
        body.position, body.angle, body.velocity = (x, y), angle, velocity
        shape.friction, shape.elasticity = self.friction, bounce
        self.space.add(body, shape)
        self.bodies.append(body)
        return len(self.bodies) - 1

    def run(self, frames: int, rate: Fraction, each_step: Callable[[float], None] | None = None) -> Motion:
        """Steps through `frames` frames; `each_step` may steer bodies and gets the time in seconds."""
        substeps = max(1, round(STEP_HZ / float(rate)))
        dt = 1 / (float(rate) * substeps)
        poses = np.zeros((frames, len(self.bodies), 3))
        motion = Motion(poses)
        clock = 0.0
        number: dict[object, int] = {body: i for i, body in enumerate(self.bodies)}

        def touch(arbiter: pymunk.Arbiter, space: pymunk.Space, data: object) -> None:
            one, two = (number.get(shape.body, -1) for shape in arbiter.shapes)
            motion.contacts.setdefault((min(one, two), max(one, two)), clock)

        self.space.on_collision(begin=touch)
        for frame in range(frames):
            for i, body in enumerate(self.bodies):
                poses[frame, i] = *body.position, body.angle
            for _ in range(substeps):
                if each_step is not None:
                    each_step(clock)
                self.space.step(dt)
                clock += dt
        return motion


def let_down(motion: Motion, start: int, end: int, stretch: float) -> Motion:
    """The same poses from frame `start` to `end`, passed through steadily: what is let down instead of falling.

    What took `end - start` frames takes `stretch` times as many, along the path's length after Hermite's 3t^2 - 2t^3,
    so a single frame shows no more than a point of the path, which both have in common. Poses are interpolated
    linearly.
    """
    poses = motion.poses
    frames, last = np.arange(len(poses)), len(poses) - 1
    start, end = min(start, last), min(max(end, start + 1), last)
    steps = np.hypot(*np.moveaxis(np.diff(poses[..., :2], axis=0), -1, 0)).mean(axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps + 1e-6)])
    span = stretch * max(end - start, 1)
    way = np.clip((frames - start) / span, 0, 1)
    inside = length[start] + (length[end] - length[start]) * way * way * (3 - 2 * way)
    at = np.interp(inside, length, frames)
    at = np.where(frames < start, frames, np.where(frames > start + span, end + frames - start - span, at))
    low = np.minimum(at.astype(int), last - 1)
    weight = (at - low)[:, None, None]
    return Motion(poses[low] * (1 - weight) + poses[low + 1] * weight, motion.contacts)


def topple(start: float, speed: float, gravity: float, length: float, times: np.ndarray) -> np.ndarray:
    """Angle from upright of a rod that falls about its foot, at each time; it comes to rest lying, at pi / 2.

    The inverted pendulum, angle'' = gravity / length * sin(angle), in semi-implicit Euler steps of 1/STEP_HZ s.
    """
    angles = np.empty(len(times))
    angle, done = start, 0
    for i, time in enumerate(times):
        while done < round(float(time) * STEP_HZ):
            speed += gravity / length * math.sin(angle) / STEP_HZ
            angle = min(angle + speed / STEP_HZ, math.pi / 2)
            done += 1
        angles[i] = angle
    return angles


def topple_s(start: float, speed: float, gravity: float, length: float) -> float:
    """Seconds that such a rod takes to lie."""
    times = np.arange(0, 4 * STEP_HZ) / STEP_HZ
    return float(times[int(np.argmax(topple(start, speed, gravity, length, times) >= math.pi / 2))])
