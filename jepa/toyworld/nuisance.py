"""Nuisance objects that no label is about: grey moving distractors, and occluders."""

from __future__ import annotations

import math

import numpy as np

from jepa.toyworld.config import ToyWorldConfig
from jepa.toyworld.families.motion import SHAPES, tiled
from jepa.toyworld.random_streams import stream
from jepa.toyworld.render import VIEW_M, Part
from jepa.toyworld.scene import GREYS

_POST = (0.33, 0.29, 0.27)


def distractors(config: ToyWorldConfig, key: int, side: bool, times: np.ndarray) -> list[list[Part]]:
    """What moves behind the actors in each frame: shapes gliding on the table, or balloons high up on the wall."""
    rng = stream(config.seed, key, "distractor")
    wide = VIEW_M * config.width_px / config.height_px
    frames: list[list[Part]] = [[] for _ in times]
    for _ in range(config.distractors):
        grey, shape = GREYS[rng.integers(len(GREYS))], SHAPES[rng.integers(len(SHAPES))]
        radius, start, angle = rng.uniform(0.3, 0.5), rng.uniform(0, 1, 2), rng.uniform(0, 2 * math.pi)
        speed, turn, turning = rng.uniform(0.5, 1.2), rng.uniform(0, 2 * math.pi), rng.uniform(-0.8, 0.8)
        for parts, time in zip(frames, times.tolist(), strict=True):
            if side:
                x = (start[0] * wide + 0.3 * speed * math.cos(angle) * time) % wide + (VIEW_M - wide) / 2
                y = VIEW_M * (0.78 + 0.12 * start[1]) + 0.06 * math.sin(turn + 2 * time)
                parts.append(Part("capsule", x, y - 0.2, (0.0, -0.35, 0.012), (0.3, 0.3, 0.3), flat=True))
                parts.append(Part("ellipse", x, y, (0.17, 0.21), grey))
            else:
                x = (start[0] * wide + speed * math.cos(angle) * time) % wide + (VIEW_M - wide) / 2
                y = (start[1] * VIEW_M + speed * math.sin(angle) * time) % VIEW_M
                parts += tiled(shape, x, y, radius, grey, turn + turning * time, wide, actor=-1)
    return frames


def occluders(config: ToyWorldConfig, key: int) -> list[Part]:
    """Posts that stand before everything else, from the top of the picture to its bottom."""
    rng = stream(config.seed, key, "occluder")
    wide = VIEW_M * config.width_px / config.height_px
    posts = [
        (rng.uniform(0.12, 0.88) * wide + (VIEW_M - wide) / 2, rng.uniform(0.08, 0.18))
        for _ in range(config.occluders)
    ]
    return [Part("box", x, VIEW_M / 2, (half, VIEW_M, 0.01), _POST) for x, half in posts]
