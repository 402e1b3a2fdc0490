"""A coloured shape glides over a table in one of eight directions, among grey ones that go their own ways.

Nothing in a single frame says where the shape goes: its place is uniform in every frame, because it leaves
on one side and comes back on the other, and its turn and shape are drawn apart from its direction.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from jepa.data.toyworld.render import VIEW_M, Colour, Part
from jepa.data.toyworld.scene import COLOURS, GREYS, Actor, Scene, Segment, Setting

_BEYOND_M = 0.8  # a camera that moves sees this much beyond the table

OUTCOMES = ("right", "up_right", "up", "up_left", "left", "down_left", "down", "down_right")
SHAPES = ("square", "triangle", "star", "cross", "ring", "disc")


def tasks(outcome: str) -> dict[str, str]:
    """The label columns that a video of this outcome answers."""
    return {"direction": outcome}


def build(setting: Setting) -> Scene:
    """Draws the target's path from the scene's generator and each grey shape's from the distractors'."""
    plan = setting.plan
    angle = OUTCOMES.index(plan.outcome) * math.pi / 4
    target = _Glider(setting.rng, plan.shape, COLOURS[plan.colour], angle, actor=0)
    greys = []
    for _ in range(setting.config.distractors):
        rng = setting.distractor_rng
        shape, grey = SHAPES[rng.integers(len(SHAPES))], GREYS[rng.integers(len(GREYS))]
        greys.append(_Glider(rng, shape, grey, rng.uniform(0, 2 * math.pi), actor=-1))
    wide = VIEW_M * setting.config.width_px / setting.config.height_px
    frames = [
        [part for glider in (*greys, target) for part in glider.at(float(t), wide)] for t in setting.times
    ]
    words = plan.outcome.replace("_", " and to the ") if "_" in plan.outcome else plan.outcome
    name = f"{plan.colour} {plan.shape}"
    return Scene(
        side=False,
        frames=frames,
        actors=[Actor(name, plan.shape, plan.colour)],
        caption=f"A {name} glides {words}.",
        segments=[Segment(0.0, setting.config.duration_s, "glide", plan.outcome)],
    )


class _Glider:
    """One shape with a straight path over a table that wraps round."""

    def __init__(
        self, rng: np.random.Generator, shape: str, colour: Colour, angle: float, actor: int
    ) -> None:
        self.shape, self.colour, self.actor = shape, colour, actor
        self.radius = rng.uniform(0.36, 0.56)
        self.turn, self.turning = rng.uniform(0, 2 * math.pi), rng.uniform(-0.8, 0.8)
        self.start = rng.uniform(0, 1, 2)
        speed = rng.uniform(0.7, 1.3)
        self.velocity = speed * math.cos(angle), speed * math.sin(angle)

    def at(self, time: float, wide: float) -> list[Part]:
        """The shape's parts, once for each place where it can be seen: the plane is tiled with the table."""
        x = (self.start[0] * wide + self.velocity[0] * time) % wide + (VIEW_M - wide) / 2
        y = (self.start[1] * VIEW_M + self.velocity[1] * time) % VIEW_M
        turn = self.turn + self.turning * time
        reach = _BEYOND_M + 1.2 * self.radius
        parts = []
        for column, row in itertools.product((-1, 0, 1), repeat=2):
            cx, cy = x + column * wide, y + row * VIEW_M
            if abs(cx - VIEW_M / 2) < wide / 2 + reach and abs(cy - VIEW_M / 2) < VIEW_M / 2 + reach:
                parts += outline(self.shape, cx, cy, self.radius, self.colour, turn, self.actor)
        return parts


def outline(
    shape: str, x: float, y: float, radius: float, colour: Colour, angle: float, actor: int
) -> list[Part]:
    """A flat shape of about the same area for each name, with a drop shadow."""

    def part(kind: str, *size: float) -> Part:
        return Part(kind, x, y, size, colour, angle, actor=actor, drop=0.09)

    if shape == "square":
        return [part("box", radius * 0.78, radius * 0.78, radius * 0.12)]
    if shape == "triangle":
        return [part("polygon", *_corners(3, radius * 1.1, radius * 1.1))]
    if shape == "star":
        return [part("polygon", *_corners(10, radius * 1.15, radius * 0.52))]
    if shape == "cross":
        a, b = radius, radius * 0.36
        return [
            part(
                "polygon", a, b, b, b, b, a, -b, a, -b, b, -a, b, -a, -b, -b, -b, -b, -a, b, -a, b, -b, a, -b
            )
        ]
    if shape == "ring":
        hole = Part("disc", x, y, (radius * 0.42,), (0.97, 0.96, 0.93), actor=actor)
        return [part("disc", radius * 0.92), hole]
    return [part("disc", radius * 0.88)]


def _corners(count: int, outer: float, inner: float) -> list[float]:
    flat = []
    for i in range(count):
        angle, radius = 2 * math.pi * i / count, inner if i % 2 and count > 3 else outer
        flat += [radius * math.cos(angle), radius * math.sin(angle)]
    return flat
