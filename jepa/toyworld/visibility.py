"""Bounding boxes and visible fractions of actors, without rendering: from the shapes' extents and a coarse grid."""

from __future__ import annotations

import math

import numpy as np

from jepa.toyworld.config import ToyWorldConfig
from jepa.toyworld.render import VIEW_M, Camera, Part, distance

_ROWS = 40  # of the grid that visible fractions are counted on


def extent(part: Part) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of a part in metres."""
    c, s = math.cos(part.angle), math.sin(part.angle)
    if part.kind == "capsule":
        dx, dy, r = part.size
        ex, ey = c * dx - s * dy, s * dx + c * dy
        return (
            part.x + min(0, ex) - r,
            part.y + min(0, ey) - r,
            part.x + max(0, ex) + r,
            part.y + max(0, ey) + r,
        )
    if part.kind == "polygon":
        points = list(zip(part.size[::2], part.size[1::2], strict=True))
        xs, ys = [c * a - s * b for a, b in points], [s * a + c * b for a, b in points]
        return part.x + min(xs), part.y + min(ys), part.x + max(xs), part.y + max(ys)
    a = part.size[0]
    b = part.size[1] if part.kind in ("box", "ellipse") else a
    if part.kind == "box":
        a, b = abs(c) * a + abs(s) * b, abs(s) * a + abs(c) * b
    return part.x - a, part.y - b, part.x + a, part.y + b


def visible_boxes(
    config: ToyWorldConfig, parts: list[Part], camera: Camera, actors: int
) -> list[list[float] | None]:
    """For each actor [left, top, right, bottom in pixels, visible fraction], or None where it is invisible.

    Of an actor in several parts, such as a shape that wraps round the table, the largest is boxed. The
    fraction is the part in the frame and not covered by something nearer.
    """
    scale = camera.zoom * config.height_px / VIEW_M
    width, height = float(config.width_px), float(config.height_px)
    fractions = _visible_fractions(config, parts, camera, actors)
    out: list[list[float] | None] = []
    for actor in range(actors):
        regions = []
        for part in parts:
            if part.actor == actor:
                x0, y0, x1, y1 = extent(part)
                left, right = (x0 - camera.x) * scale + width / 2, (x1 - camera.x) * scale + width / 2
                top, bottom = height / 2 - (y1 - camera.y) * scale, height / 2 - (y0 - camera.y) * scale
                box = [max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)]
                if box[0] < box[2] and box[1] < box[3]:
                    regions.append(box)
        joined = _join(regions)
        if not joined or fractions[actor] == 0:
            out.append(None)
            continue
        largest = max(joined, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        out.append([*(round(edge, 1) for edge in largest), fractions[actor]])
    return out


def _join(regions: list[list[float]]) -> list[list[float]]:
    """Boxes that touch become one."""
    joined: list[list[float]] = []
    for region in regions:
        box = region
        apart = []
        for other in joined:
            if box[0] <= other[2] and other[0] <= box[2] and box[1] <= other[3] and other[1] <= box[3]:
                box = [
                    min(box[0], other[0]),
                    min(box[1], other[1]),
                    max(box[2], other[2]),
                    max(box[3], other[3]),
                ]
            else:
                apart.append(other)
        joined = [*apart, box]
    return joined


def _visible_fractions(config: ToyWorldConfig, parts: list[Part], camera: Camera, actors: int) -> list[float]:
    """Visible fraction of each actor's area, counted on a grid over the frame and its surroundings."""
    high = VIEW_M / camera.zoom
    wide = high * config.width_px / config.height_px
    columns = round(_ROWS * config.width_px / config.height_px)
    x = (camera.x + wide * ((np.arange(2 * columns) + 0.5) / columns - 1)).astype(np.float32)[None, :]
    y = (camera.y + high * (1 - (np.arange(2 * _ROWS) + 0.5) / _ROWS)).astype(np.float32)[:, None]
    nearest = np.full((2 * _ROWS, 2 * columns), -1, np.int16)
    own = np.zeros((actors, 2 * _ROWS, 2 * columns), bool)
    cell = high / _ROWS
    under = True  # parts below the first actor cover none
    for part in parts:
        under = under and part.actor < 0
        if under or part.kind in ("puff", "shade"):
            continue
        x0, y0, x1, y1 = extent(part)
        c0, c1 = (int(np.searchsorted(x[0], edge)) for edge in (x0 - cell, x1 + cell))
        r0, r1 = (int(np.searchsorted(-y[:, 0], -edge)) for edge in (y1 + cell, y0 - cell))
        if c0 >= c1 or r0 >= r1:
            continue
        dx, dy = x[:, c0:c1] - part.x, y[r0:r1] - part.y
        c, s = math.cos(part.angle), math.sin(part.angle)
        inside = distance(part, c * dx + s * dy, c * dy - s * dx, 1.0) < 0
        nearest[r0:r1, c0:c1][inside] = part.actor
        if part.actor >= 0:
            own[part.actor, r0:r1, c0:c1] |= inside
    frame = np.zeros(nearest.shape, bool)
    frame[_ROWS // 2 : _ROWS // 2 + _ROWS, columns // 2 : columns // 2 + columns] = True
    uncovered = [int(((nearest == actor) & frame).sum()) for actor in range(actors)]
    return [round(count / max(int(own[i].sum()), 1), 2) for i, count in enumerate(uncovered)]
