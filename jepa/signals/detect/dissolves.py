"""Dissolve detection: one picture turns into the next while both are visible.

Three things distinguish a dissolve from motion, from a slow camera and from light. A pixel walks in equal steps from
what it was to what it will be (the linear blend of Hampapur, Jain and Weymouth, "Digital Video Segmentation", ACM
Multimedia 1994), where things that move make it jump. The picture half-way is as soft as the mean of both ends, where
a camera's is as sharp as they are. And neither end is the other made lighter or darker, as in a fade.

All are looked for in windows of half a second, in which little else moves, and of more, in which a slow dissolve
changes enough. One that lasts longer is a run of windows, because each part of a linear blend is one too.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction

import cv2
import numpy as np

_SIDE_PX = 48
_WINDOWS_S = (0.5, 1.25)
_STEPS = 6  # steps of a window, whatever the frame rate; even, so that there is a picture half-way
_CHANGED = 8.0  # grey levels from one end of a window to the other; less is noise
_STEP_ERROR = 0.25  # of a pixel's change; how far off equal steps it may be
_FRACTION = 0.05  # of the picture must change in equal steps
_SOFTER = 0.2  # of its sharpness is what a blend of these ends would lose; else they are too alike to decide
_SOFT = 0.5  # of that is lost half-way
_NEW = 0.05  # of the change is more than the same picture made lighter or darker
_DARK = 12.0  # mean grey level; what touches black is a fade, however it gets there
_LONGEST_S = 4.0  # what lasts longer is no dissolve


class DissolveFinder:
    """Reads every frame once and returns each dissolve when it has ended.

    Args:
        fps: average frame rate.
    """

    def __init__(self, fps: Fraction) -> None:
        self._strides = [max(1, round(length * fps / _STEPS)) for length in _WINDOWS_S]
        self._longest = round(_LONGEST_S * fps)
        self._frames: deque[np.ndarray] = deque(maxlen=self._strides[-1] * _STEPS + 1)
        self._count = 0
        self._run: tuple[int, int] | None = None

    def push(self, image: np.ndarray) -> tuple[int, int] | None:
        """Takes the next frame, BGR [h, w, 3]; returns first and last frame of a dissolve that has ended."""
        reduced = cv2.resize(image, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
        self._frames.append(cv2.cvtColor(reduced, cv2.COLOR_BGR2GRAY).astype(np.float32))
        index, self._count = self._count, self._count + 1
        frames = list(self._frames)
        for stride in self._strides:
            reach = stride * _STEPS
            if len(frames) > reach and is_blend(np.stack(frames[-1 - reach :: stride])):
                first = index - reach
                self._run = (min(first, self._run[0]) if self._run else first, index)
                return None
        # Both lengths may leave a gap between them, so a run is over when nothing came for a short window.
        if self._run is None or index - self._run[1] <= self._strides[0] * _STEPS:
            return None
        ended, self._run = self._run, None
        return ended if ended[1] - ended[0] <= self._longest else None


def is_blend(window: np.ndarray) -> bool:
    """Whether a window of grey frames [n + 1, h, w], evenly spaced in time, blends its first into its last."""
    first, last = window[0], window[-1]
    if window.mean(axis=(1, 2)).min() < _DARK:
        return False
    change = last - first
    changed = np.abs(change) >= _CHANGED
    steps = np.arange(1, len(window) - 1)[:, None] / (len(window) - 1)
    error = np.abs(window[1:-1, changed] - first[changed] - steps * change[changed])
    even = (error <= _STEP_ERROR * np.abs(change[changed])).all(axis=0)
    if even.sum() < _FRACTION * change.size:
        return False
    walked = change[changed][even]
    if any(_explained(walked, end[changed][even]) > 1 - _NEW for end in (first, last)):
        return False
    sharp = (_sharpness(first) + _sharpness(last)) / 2
    lost = sharp - _sharpness(window[len(window) // 2])
    to_lose = sharp - _sharpness((first + last) / 2)
    return bool(to_lose >= _SOFTER * sharp and lost >= _SOFT * to_lose)


def _explained(change: np.ndarray, picture: np.ndarray) -> float:
    """Fraction of a change's energy that a multiple of the picture and a constant account for."""
    centred, difference = picture - picture.mean(), change - change.mean()
    slope = (centred * difference).sum() / max(float((centred**2).sum()), 1e-6)
    return 1.0 - float(((difference - slope * centred) ** 2).sum() / (change**2).sum())


def _sharpness(picture: np.ndarray) -> float:
    """Energy of the differences between neighbouring pixels."""
    return float((np.diff(picture, axis=0) ** 2).sum() + (np.diff(picture, axis=1) ** 2).sum())
