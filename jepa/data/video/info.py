"""Video metadata: size, rate, duration, orientation, and the display size with square pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type as SideDataType

from jepa.data.crops import Orientation

AS_CODED: Orientation = (False, False, False)


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video. Times in seconds, sizes in pixels as displayed."""

    path: str
    container: str
    codec: str
    width: int
    height: int
    sample_aspect: float
    fps: float
    start_s: float
    duration_s: float
    orientation: Orientation


def read_orientation(frame: Any) -> Orientation:
    """Reads the display matrix as FFmpeg's own player does (fftools/ffmpeg_filter.c, autorotate)."""
    try:
        side = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    except ValueError:
        # PyAV gives up on a frame with side data that it does not support (spatial video); only the angle is left then.
        return {90: (True, False, True), 180: (False, True, True), 270: (True, True, False)}.get(
            round(frame.rotation) % 360, AS_CODED
        )
    if side is None:
        return AS_CODED
    a, b, _, c, d = np.frombuffer(bytes(side), dtype="<i4")[:5].tolist()
    if abs(b) > abs(a) and abs(c) > abs(d):
        # Displayed x comes from coded y: transpose, then mirror where the matrix has a minus.
        return (True, c < 0, b < 0)
    return (False, a < 0, d < 0)


def upright(frame: np.ndarray, orientation: Orientation) -> np.ndarray:
    """Applies (transpose, flip horizontally, flip vertically) to [H, W, 3]."""
    transpose, horizontal, vertical = orientation
    if transpose:
        frame = frame.transpose(1, 0, 2)
    if horizontal:
        frame = frame[:, ::-1]
    if vertical:
        frame = frame[::-1]
    return np.ascontiguousarray(frame) if any(orientation) else frame


def display_size(width: int, height: int, aspect: float, orientation: Orientation) -> tuple[int, int]:
    """(width, height) with square pixels and upright; the shorter way of a pixel grows, nothing shrinks."""
    if aspect > 1:
        width = round(width * aspect)
    elif 0 < aspect < 1:
        height = round(height / aspect)
    return (height, width) if orientation[0] else (width, height)
