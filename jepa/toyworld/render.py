"""Renderer: anti-aliased shapes from signed distance functions, in NumPy.

Every shape is a function that gives each pixel its distance to the shape's edge, in pixels, negative inside.
Half a pixel on either side of the edge is blended, which is what makes an edge look sharp and still. World
coordinates are metres, x to the right and y up; a `Camera` is the part of the world that fills the frame.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

VIEW_M = 4.0
"""Height of the world that fills the frame at zoom 1."""

Colour = tuple[float, float, float]


def unit(values: np.ndarray) -> np.ndarray:
    """Limits an array to 0..1 in place and returns it; much faster than np.clip on small ones."""
    np.maximum(values, 0, out=values)
    return np.minimum(values, 1, out=values)


def _rgb(colour: np.ndarray | Colour) -> np.ndarray:
    return np.asarray(colour, np.float32)


class Camera(NamedTuple):
    """What the frame shows: its middle in metres and how much larger than life at zoom 1."""

    x: float = VIEW_M / 2
    y: float = VIEW_M / 2
    zoom: float = 1.0


class Part(NamedTuple):
    """One painted primitive.

    `kind` and `size` (metres): disc (radius), ellipse (half width, half height), box (half width, half
    height, corner radius), capsule (x and y from one end to the other, radius), polygon (x0, y0, x1, y1, ...
    about `x`, `y`), puff (radius; soft like smoke or a shadow), shade (half width, half height; soft).
    """

    kind: str
    x: float
    y: float
    size: tuple[float, ...]
    colour: Colour
    angle: float = 0.0
    alpha: float = 1.0
    actor: int = -1
    accent: Colour | None = None
    flat: bool = False
    drop: float = 0.0

    def reach(self) -> float:
        """Radius in metres of a circle about (x, y) that holds the part."""
        if self.kind in ("disc", "puff"):
            return self.size[0]
        if self.kind in ("ellipse", "shade"):
            return max(self.size)
        if self.kind == "box":
            return math.hypot(self.size[0], self.size[1])
        if self.kind == "capsule":
            return math.hypot(self.size[0], self.size[1]) + self.size[2]
        return max(math.hypot(a, b) for a, b in zip(self.size[::2], self.size[1::2], strict=True))


def distance(part: Part, u: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    """Signed distance in pixels from the points (u, v), given in pixels in the part's own frame.

    The forms are those of I. Quilez, "2D distance functions" (iquilezles.org).
    """
    size = [value * scale for value in part.size]
    if part.kind in ("disc", "puff"):
        return np.sqrt(u * u + v * v) - size[0]
    if part.kind in ("ellipse", "shade"):
        a, b = size
        near = np.sqrt((u / a) ** 2 + (v / b) ** 2)
        slope = np.sqrt((u / (a * a)) ** 2 + (v / (b * b)) ** 2)
        return near * (near - 1) / np.maximum(slope, 1e-6)
    if part.kind == "box":
        corner = min(size[2], size[0], size[1])
        x, y = np.abs(u) - (size[0] - corner), np.abs(v) - (size[1] - corner)
        outside = np.sqrt(np.maximum(x, 0) ** 2 + np.maximum(y, 0) ** 2)
        return outside + np.minimum(np.maximum(x, y), 0) - corner
    if part.kind == "capsule":
        x, y, radius = size
        along = unit((u * x + v * y) / max(x * x + y * y, 1e-6))
        return np.sqrt((u - along * x) ** 2 + (v - along * y) ** 2) - radius
    return _polygon_distance(size, u, v)


def _polygon_distance(flat: list[float], u: np.ndarray, v: np.ndarray) -> np.ndarray:
    points = list(zip(flat[::2], flat[1::2], strict=True))
    nearest: np.ndarray | None = None
    inside = np.zeros(np.broadcast(u, v).shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = u - ax, v - ay
        along = unit((wx * ex + wy * ey) / max(ex * ex + ey * ey, 1e-9))
        square = (wx - along * ex) ** 2 + (wy - along * ey) ** 2
        nearest = square if nearest is None else np.minimum(nearest, square)
        if ay != by:
            crosses = (v >= min(ay, by)) & (v < max(ay, by))
            inside ^= crosses & (u < ax + (v - ay) * (ex / ey))
    assert nearest is not None  # a polygon has corners
    return np.where(inside, -1.0, 1.0) * np.sqrt(nearest)


class Canvas:
    """A frame being painted, float32 RGB in 0..1.

    Args:
        width: pixels.
        height: pixels.
        light: direction the light comes from, x to the right and y up, length 1.
    """

    def __init__(self, width: int, height: int, light: tuple[float, float] = (-0.6, 0.8)) -> None:
        self.width, self.height, self.light = width, height, light
        self.image = np.zeros((height, width, 3), np.float32)
        self._columns = np.arange(width, dtype=np.float32) + np.float32(0.5 - width / 2)
        self._rows = np.float32(height / 2 - 0.5) - np.arange(height, dtype=np.float32)

    def paint(self, parts: list[Part], camera: Camera) -> None:
        """Paints parts over what is there, the first one lowest; all drop shadows come below all parts."""
        scale = camera.zoom * self.height / VIEW_M
        for part in parts:
            if part.drop > 0:
                self._paint_drop_shadow(part, camera, scale)
        for part in parts:
            self._paint_part(part, camera, scale)

    def _window(self, x: float, y: float, reach: float) -> tuple[slice, slice] | None:
        """Rows and columns within `reach` of a point, all in pixels from the frame's middle; None outside."""
        left = max(0, math.floor(x - reach + self.width / 2))
        right = min(self.width, math.ceil(x + reach + self.width / 2))
        top = max(0, math.floor(self.height / 2 - y - reach))
        bottom = min(self.height, math.ceil(self.height / 2 - y + reach))
        return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None

    def _local(
        self, part: Part, camera: Camera, scale: float, shift: tuple[float, float], margin: float
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
        """A window and its pixels relative to the part: unturned (dx, dy) and in its own frame (u, v)."""
        x = (part.x + shift[0] - camera.x) * scale
        y = (part.y + shift[1] - camera.y) * scale
        window = self._window(x, y, part.reach() * scale + margin)
        if window is None:
            return None
        dx = self._columns[window[1]][None, :] - np.float32(x)
        dy = self._rows[window[0]][:, None] - np.float32(y)
        if part.angle == 0:
            return window, dx, dy, dx, dy
        cosine, sine = np.float32(math.cos(part.angle)), np.float32(math.sin(part.angle))
        return window, dx, dy, cosine * dx + sine * dy, cosine * dy - sine * dx

    def _paint_drop_shadow(self, part: Part, camera: Camera, scale: float) -> None:
        shift = (-self.light[0] * part.drop, -self.light[1] * part.drop)
        soft = 1 + part.drop * scale
        local = self._local(part, camera, scale, shift, soft)
        if local is None:
            return
        window, _, _, u, v = local
        cover = unit(0.5 - distance(part, u, v, scale) / soft) * np.float32(0.32 * part.alpha)
        self.image[window] *= (1 - cover)[..., None]

    def _paint_part(self, part: Part, camera: Camera, scale: float) -> None:
        local = self._local(part, camera, scale, (0.0, 0.0), 1.5)
        if local is None:
            return
        window, dx, dy, u, v = local
        d = distance(part, u, v, scale)
        if part.kind in ("puff", "shade"):
            radius = min(part.size) * scale
            inner = unit(-d / radius)
            self._blend(window, inner * inner * (3 - 2 * inner) * np.float32(part.alpha), part.colour)
            return
        cover = unit(0.5 - d) * np.float32(part.alpha)
        paint: np.ndarray | Colour = part.colour
        if part.accent is not None:
            band = (
                min(part.size[0], part.size[1] if part.kind in ("box", "ellipse") else part.size[0])
                * scale
                * 0.28
            )
            stripe = unit(0.5 + band - np.abs(v))[..., None]
            paint = _rgb(part.colour) * (1 - stripe) + _rgb(part.accent) * stripe
        if not part.flat:
            paint = _rgb(paint) * self._shading(part, dx, dy, d, scale)[..., None]
            if part.kind == "disc":
                paint = paint + self._highlight(part, dx, dy, scale)[..., None]
        self._blend(window, cover, paint)

    def _blend(self, window: tuple[slice, slice], cover: np.ndarray, paint: np.ndarray | Colour) -> None:
        view = self.image[window]
        view += cover[..., None] * (_rgb(paint) - view)

    def _shading(self, part: Part, dx: np.ndarray, dy: np.ndarray, d: np.ndarray, scale: float) -> np.ndarray:
        """Brighter towards the light, darker at the rim, so that shapes stand off any background."""
        toward = (dx * np.float32(self.light[0]) + dy * np.float32(self.light[1])) / np.float32(
            max(part.reach() * scale, 1)
        )
        strength = np.float32(0.26 if part.kind == "disc" else 0.12)
        rim = unit((d + 1.9) / 1.4)
        return (1 + strength * toward) * (1 - np.float32(0.34) * rim)

    def _highlight(self, part: Part, dx: np.ndarray, dy: np.ndarray, scale: float) -> np.ndarray:
        radius = part.size[0] * scale
        x, y = self.light[0] * radius * 0.42, self.light[1] * radius * 0.42
        spot = unit(1 - ((dx - np.float32(x)) ** 2 + (dy - np.float32(y)) ** 2) / (0.36 * radius) ** 2)
        return np.float32(0.4) * spot * spot
