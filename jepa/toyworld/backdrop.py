"""Nuisance variables of a frame: static background, light, temporal noise, camera."""

from __future__ import annotations

import math

import numpy as np

from jepa.toyworld.config import ToyWorldConfig
from jepa.toyworld.random_streams import stream
from jepa.toyworld.render import VIEW_M, Camera

_MARGIN_M = 1.5  # a moving camera sees this much beyond the frame
FLOOR_Y = 0.7
"""Height in metres of the floor in scenes that are seen from the side."""


def lerp_grid(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear samples of `image` [h, w, c] at rows [H] and columns [W] -> [H, W, c]; edges repeat."""
    rows = np.clip(rows, 0, image.shape[0] - 1).astype(np.float32)
    columns = np.clip(columns, 0, image.shape[1] - 1).astype(np.float32)
    r0 = np.minimum(rows.astype(np.int64), image.shape[0] - 2)
    c0 = np.minimum(columns.astype(np.int64), image.shape[1] - 2)
    fr, fc = (rows - r0)[:, None, None], (columns - c0)[None, :, None]
    lines = image[r0] * (1 - fr) + image[r0 + 1] * fr
    out, right = lines.take(c0, axis=1), lines.take(c0 + 1, axis=1)  # a third of the time of lines[:, c0]
    out *= 1 - fc
    right *= fc
    out += right
    return out


class Backdrop:
    """The painted world behind the actors, constant within a video.

    Args:
        config: the world's keys; `background` decides between one plain backdrop and one per video.
        index: the video's number.
        side: True where the scene is seen from the side and stands on a floor, False for a table seen from
        above.
    """

    def __init__(self, config: ToyWorldConfig, index: int, side: bool) -> None:
        self.config = config
        self.resolution = config.height_px / VIEW_M
        height, width = VIEW_M + 2 * _MARGIN_M, VIEW_M * config.width_px / config.height_px + 2 * _MARGIN_M
        self.left = VIEW_M / 2 - width / 2
        self.top = VIEW_M / 2 + height / 2
        h, w = math.ceil(height * self.resolution), math.ceil(width * self.resolution)
        y = (self.top - (np.arange(h, dtype=np.float32) + 0.5) / np.float32(self.resolution))[:, None]
        x = (self.left + (np.arange(w, dtype=np.float32) + 0.5) / np.float32(self.resolution))[None, :]
        if config.background == "plain":
            self.light = (-0.6, 0.8)
            self.image = _plain(x, y, side)
        else:
            rng = stream(config.seed, index, "backdrop")
            angle = rng.uniform(math.radians(50), math.radians(130))
            self.light = (math.cos(angle), math.sin(angle))
            self.image = _varied(x, y, side, rng)
        self._cached: tuple[Camera, np.ndarray] | None = None

    def seen_by(self, camera: Camera) -> np.ndarray:
        """The backdrop [H, W, 3] as the camera sees it; kept until the camera moves."""
        if self._cached is None or self._cached[0] != camera:
            scale = camera.zoom * self.resolution
            width, height = self.config.width_px, self.config.height_px
            x = camera.x + (np.arange(width) + 0.5 - width / 2) / scale
            y = camera.y - (np.arange(height) + 0.5 - height / 2) / scale
            rows, columns = (self.top - y) * self.resolution - 0.5, (x - self.left) * self.resolution - 0.5
            self._cached = camera, lerp_grid(self.image, rows, columns)
        return self._cached[1]


def _plain(x: np.ndarray, y: np.ndarray, side: bool) -> np.ndarray:
    wall, floor = np.array([0.83, 0.86, 0.88], np.float32), np.array([0.66, 0.62, 0.57], np.float32)
    if not side:
        return np.broadcast_to(wall, (y.size, x.size, 3)).copy()
    return _room(x, y, wall, floor)


def _room(x: np.ndarray, y: np.ndarray, wall: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """A wall above a floor, the edge between them one pixel soft, the floor darker towards the viewer."""
    pixel = float(y[0, 0] - y[1, 0])
    below = np.clip((FLOOR_Y - y) / pixel + 0.5, 0, 1)[..., None]
    depth = np.clip((FLOOR_Y - y) / 1.2, 0, 1)[..., None]
    image = wall * (1 - below) + floor * (1 - 0.3 * depth) * below
    return np.broadcast_to(image, (y.size, x.size, 3)).astype(np.float32)


def _varied(x: np.ndarray, y: np.ndarray, side: bool, rng: np.random.Generator) -> np.ndarray:
    wall = _pastel(rng)
    image = (
        _room(x, y, wall, _pastel(rng) * np.float32(0.75))
        if side
        else np.broadcast_to(wall, (y.size, x.size, 3))
    )
    image = image.astype(np.float32).copy()
    image *= 1 + _stripes(x, y, rng)[..., None]
    image *= 1 + _clouds(y.size, x.size, rng)
    fall = math.cos(rng.uniform(0, 2 * math.pi)), math.sin(rng.uniform(0, 2 * math.pi))
    image *= (1 + rng.uniform(0, 0.07) * ((x - 2) * fall[0] + (y - 2) * fall[1]))[..., None]
    return np.clip(image, 0.05, 1).astype(np.float32)


def _pastel(rng: np.random.Generator) -> np.ndarray:
    base = rng.uniform(0.5, 0.92)
    return np.clip(base + rng.uniform(-0.14, 0.14, 3), 0.2, 0.96).astype(np.float32)


def _stripes(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wallpaper: soft triangle waves in a random direction, or tiles where two directions meet."""
    total = np.zeros((y.size, x.size), np.float32)
    for _ in range(rng.integers(0, 3)):
        angle, period, strength = rng.uniform(0, math.pi), rng.uniform(0.25, 1.1), rng.uniform(0.02, 0.09)
        phase = (x * math.cos(angle) + y * math.sin(angle)) / period + rng.uniform()
        total += np.float32(strength) * np.clip(8 * np.abs(phase - np.floor(phase) - 0.5) - 2, -1, 1)
    return total


def _clouds(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Value noise in three octaves: stains, plaster, foliage."""
    total = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((4, 0.10), (9, 0.07), (24, 0.05)):
        field = rng.uniform(-1, 1, (cells + 1, cells + 1, 3)).astype(np.float32)
        field = 0.6 * field.mean(axis=2, keepdims=True) + 0.4 * field
        total += strength * lerp_grid(field, np.linspace(0, cells, height), np.linspace(0, cells, width))
    return total


def temporal_noise(config: ToyWorldConfig, index: int, frame: int) -> np.ndarray | None:
    """Temporal noise of one frame: blotches and grain, drawn anew in every frame; None at strength 0."""
    if config.temporal_noise == 0:
        return None
    rng = stream(config.seed, index, "temporal_noise", frame)
    field = rng.uniform(-1, 1, (9, 9, 3)).astype(np.float32)
    height, width = config.height_px, config.width_px
    noise = lerp_grid(field, np.linspace(0, 8, height), np.linspace(0, 8, width))
    noise *= 0.35
    noise += 0.05 * rng.standard_normal((height, width, 1), dtype=np.float32)
    noise *= np.float32(config.temporal_noise)
    return noise


def camera_path(config: ToyWorldConfig, index: int, frames: int) -> list[Camera]:
    """Where the camera is in every frame of a shot."""
    if config.camera == "still":
        return [Camera()] * frames
    rng = stream(config.seed, index, "camera")
    first, last = (_aim(rng) for _ in range(2))
    if config.camera == "varied":
        return [first] * frames
    ease = np.linspace(0, 1, frames)
    ease = ease * ease * (3 - 2 * ease)
    return [Camera(*(a + (b - a) * float(t) for a, b in zip(first, last, strict=True))) for t in ease]


def _aim(rng: np.random.Generator) -> Camera:
    """A view that keeps the middle of the scene in the frame."""
    middle = VIEW_M / 2
    return Camera(
        middle + rng.uniform(-0.35, 0.35), middle + rng.uniform(-0.35, 0.35), rng.uniform(0.85, 1.12)
    )
