"""A coloured shape glides over a table in one of eight directions.

A single frame does not tell where the shape goes: its position is uniform in every frame, because the table
wraps round, and its turn and looks are drawn apart from its direction.
"""

from __future__ import annotations

import itertools
import math

from jepa.toyworld.render import VIEW_M, Colour, Part
from jepa.toyworld.scene import COLOURS, Actor, Scene, Segment, Setting

_BEYOND_M = 0.8  # a camera that moves sees this much beyond the table

OUTCOMES = ("right", "up_right", "up", "up_left", "left", "down_left", "down", "down_right")
DECK = OUTCOMES
SHAPES = ("square", "triangle", "star", "cross", "ring", "disc")
LEAST_S = 0.0


def tasks(outcome: str) -> dict[str, str]:
    """The label columns that a video of this outcome answers."""
    return {"direction": outcome}


def build(setting: Setting) -> Scene:
    """Draws the path and looks of the shape; what it does is the plan's."""
    plan, rng = setting.plan, setting.rng
    angle = OUTCOMES.index(plan.outcome) * math.pi / 4
    radius, start, speed = rng.uniform(0.36, 0.56), rng.uniform(0, 1, 2), rng.uniform(0.7, 1.3)
    turn, turning = rng.uniform(0, 2 * math.pi), rng.uniform(-0.8, 0.8)
    wide = VIEW_M * setting.config.width_px / setting.config.height_px
    frames = []
    for t in setting.times:
        x = (start[0] * wide + speed * math.cos(angle) * t) % wide + (VIEW_M - wide) / 2
        y = (start[1] * VIEW_M + speed * math.sin(angle) * t) % VIEW_M
        frames.append(
            tiled(plan.shape, x, y, radius, COLOURS[plan.colour], turn + turning * float(t), wide, 0)
        )
    words = plan.outcome.replace("_", " and to the ") if "_" in plan.outcome else plan.outcome
    if words in ("left", "right"):
        words = f"to the {words}"
    name = f"{plan.colour} {plan.shape}"
    captions = (
        f"A {name} glides {words}.",
        f"A {name} moves {words} over the table.",
        f"Gliding {words}: a {name}.",
    )
    return Scene(
        side=False,
        frames=frames,
        actors=[Actor(name, plan.shape, plan.colour)],
        captions=captions,
        tags=("motion", plan.colour, plan.shape, plan.outcome),
        event_s=0.0,
        event_end_s=0.0,
        precursor_start_s=0.0,
        segments=[Segment(0.0, setting.duration_s, "glide", plan.outcome, captions[:2])],
    )


def tiled(
    shape: str, x: float, y: float, radius: float, colour: Colour, angle: float, wide: float, actor: int
) -> list[Part]:
    """A shape on a plane tiled with the table, once for each position where it is visible."""
    reach = _BEYOND_M + 1.2 * radius
    parts = []
    for column, row in itertools.product((-1, 0, 1), repeat=2):
        cx, cy = x + column * wide, y + row * VIEW_M
        if abs(cx - VIEW_M / 2) < wide / 2 + reach and abs(cy - VIEW_M / 2) < VIEW_M / 2 + reach:
            parts += outline(shape, cx, cy, radius, colour, angle, actor)
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
