"""Shot boundary detection (cuts, fades, dissolves), scenes and pauses, from frames that the caller decodes.

Shots come from PySceneDetect: `AdaptiveDetector` for cuts, `ThresholdDetector` for fades through black, fed
frame by frame; dissolves from `dissolves.py`. With `transnetv2`, cuts and dissolves come from TransNet V2 instead, and
fades through black as before, because the network reports their two halves one by one.

Scenes are runs of shots that look alike: a shot that resembles none of the last few begins a new scene, and so does
one that comes out of a fade or a dissolve, because that is what editors use them for. Pauses are stretches of little
motion. All know the past only, apart from what a boundary needs to be sure: two frames after a cut, half a second after
a fade or a dissolve, and up to a hundred frames with TransNet V2.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ThresholdDetector
from torch import Tensor

from jepa.signals.detect.detector import DIGITS
from jepa.signals.detect.dissolves import DissolveFinder
from jepa.signals.detect.transnetv2 import Transition, TransitionFinder
from jepa.signals.document.objects import Pause, Scene, Shot

_WIDTH_PX = 256  # what detectors look at: wide enough for cuts, small enough to cost little
_MIN_SHOT_S = 0.5
_SCENE_MEMORY = 6  # shots that a new shot is compared with, so that shot and counter-shot stay one scene
_SCENE_CHANGE = 0.45  # fraction of colours that must differ from each of them for a new scene after a cut
_RECENT_S = 0.5
_BLACK = 12  # mean grey level below which PySceneDetect calls a frame black; its default
_DIM = 32  # a dip need not be sampled at its blackest time: at low frame rates the darkest frame of a fade is grey
_DIP_S = 1.5  # a fade out and in again takes no longer; what is dim for longer is a dark scene
_DIP_DEPTH = 3.0  # both sides of a dip are this many times brighter than its bottom
_DIP_STEP = 0.75  # of a dip's depth; a larger step between two frames is a cut to or from a dark shot
_STILL_FLOOR = 1.0  # grey levels; below this, compression noise would count as motion


def reduce_frame(frame: Tensor) -> np.ndarray:
    """A frame uint8 [C, H, W] in RGB as a small BGR image [h, w, 3], which is what OpenCV and PySceneDetect
    read."""
    image = frame.permute(1, 2, 0).numpy()
    height, width = image.shape[:2]
    if width > _WIDTH_PX:
        size = (_WIDTH_PX, max(1, round(height * _WIDTH_PX / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR)


def colour_histogram(image: np.ndarray) -> np.ndarray:
    """Fractions of 8 hues x 4 saturations x 4 values in a BGR image, [128], summing to 1."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    counts = cv2.calcHist([hsv], [0, 1, 2], None, [8, 4, 4], [0, 180, 0, 256, 0, 256])
    return counts.ravel() / counts.sum()


Kind = Literal["start", "cut", "fade", "dissolve"]


@dataclass(frozen=True)
class Cut:
    """A shot begins at this frame; `visual_change` is its distance in colour from the shots before (0 same,
    1 all new)."""

    frame: int
    kind: Kind
    visual_change: float
    score: float | None = None
    """what TransNet V2 gives the boundary, where it found it"""


class ShotFinder:
    """Reads every frame once and keeps per frame two numbers: its time and how static the picture is.

    Args:
        fps: average frame rate, for PySceneDetect's clock.
        transitions: TransNet V2, for cuts and dissolves; None leaves them to PySceneDetect and `dissolves.py`.
    """

    def __init__(self, fps: Fraction, transitions: TransitionFinder | None = None) -> None:
        self._fps = fps
        shortest = max(2, round(_MIN_SHOT_S * fps))
        self._cuts = AdaptiveDetector(min_scene_len=shortest)
        self._fades: Any = ThresholdDetector(threshold=_BLACK, min_scene_len=shortest)
        self._dissolves = DissolveFinder(fps)
        self._transitions = transitions
        self._shortest = shortest
        self._dark = (-1, -1)
        self._levels: deque[float] = deque(maxlen=max(5, round(_DIP_S * fps)))
        self.times_s: list[float] = []
        """when each frame is first shown"""
        self.stillness: list[float] = []
        """1 minus recent motion relative to the video so far, per frame"""
        self._starts: dict[int, Kind] = {0: "start"}
        self._scores: dict[int, float] = {}
        memory = 4 * shortest + 8 if transitions is None else 4 * shortest + transitions.delay
        self._histograms: deque[tuple[int, np.ndarray]] = deque(maxlen=memory)
        self._brightness: deque[tuple[int, float]] = deque(maxlen=memory)
        self._firsts: dict[int, np.ndarray] = {}
        self._settling = (0, -1)  # a shot that fades in, and the frame by which it is all there
        self._grey: np.ndarray | None = None
        self._recent: deque[tuple[float, float]] = deque()
        self._motion_sum, self._motion_count = 0.0, 0

    def push(self, image: np.ndarray, time_s: float) -> None:
        """Takes the next frame, reduced to BGR by `reduce_frame`."""
        index = len(self.times_s)
        self.times_s.append(time_s)
        self._histograms.append((index, colour_histogram(image)))
        if index == 0:
            self._firsts[0] = self._histograms[0][1]
        if index <= self._settling[1]:
            self._firsts[self._settling[0]] = self._histograms[-1][1]
        self._move(image, time_s)
        level = float(image.mean())
        self._brightness.append((index, level))
        code = FrameTimecode(index, fps=self._fps)
        if self._transitions is not None:
            self._add(self._transitions.push(image))
        else:
            self._find_cuts(code, image)
        dark_since = self._fades.last_fade["frame"]
        for found in self._fades.process_frame(code, image):
            self._fade(int(dark_since.frame_num), int(found.frame_num), index)
        self._dip(level, index)
        if self._transitions is None and (blend := self._dissolves.push(image)):
            self._dissolve(*blend, index)

    def finish(self) -> None:
        """Ends the stream: TransNet V2 judges the last frames only then."""
        if self._transitions is not None:
            self._add(self._transitions.finish())

    def _find_cuts(self, code: FrameTimecode, image: np.ndarray) -> None:
        for found in self._cuts.process_frame(code, image):
            cut = int(found.frame_num)
            # A cut is reported two frames late, so it may belong to a darkness that has just ended.
            if not self._dark[0] <= cut <= self._dark[1]:
                self._start(cut, "cut", cut)

    def _add(self, transitions: Sequence[Transition]) -> None:
        """Transitions of TransNet V2; one into darkness or out of it is half of a fade, which is found as a whole."""
        brightness = dict(self._brightness)
        for item in transitions:
            around = range(item.first - 1, item.last + 2)
            if any(brightness.get(frame, _BLACK) < _BLACK for frame in around):
                continue
            if item.gradual:
                frame = self._dissolve(item.first, item.last, item.last + 1)
            else:
                frame = self._start(item.last + 1, "cut", item.last + 1)
            if frame is not None:
                self._scores[frame] = item.score

    def _start(self, frame: int, kind: Kind, shown: int) -> int | None:
        """Begins a shot at a frame, unless one begins nearby; frame `shown` is the first that shows nothing else."""
        # Two detectors may report one boundary, a few frames apart: the first one counts.
        if frame >= len(self.times_s) or any(abs(frame - other) < self._shortest for other in self._starts):
            return None
        self._starts[frame] = kind
        index, latest = self._histograms[-1]
        self._firsts[frame] = dict(self._histograms).get(shown, latest)
        self._settling = (frame, index + self._shortest if kind == "fade" else -1)
        return frame

    def _forget(self, first: int, last: int) -> None:
        """Takes boundaries back that turn out to be part of a longer transition."""
        for frame in [f for f in self._starts if first <= f <= last and f > 0]:
            del self._starts[frame], self._firsts[frame]
            self._scores.pop(frame, None)
        self._settling = (0, -1)

    def _fade(self, dark: int, middle: int, light: int) -> None:
        """One boundary in the middle of the darkness; the steps into it and out of it are no cuts of their
        own."""
        self._dark = (dark, light)
        self._forget(dark, light)
        if dark > 0:  # a video that begins in black has not faded
            self._start(middle, "fade", light)

    def _dissolve(self, first: int, last: int, shown: int) -> int | None:
        """One boundary in the middle; a cut detected within it is dropped."""
        if any(self._starts.get(frame) == "fade" for frame in range(first, last + 1)):
            return None
        self._forget(first, last)
        return self._start((first + last + 1) // 2, "dissolve", shown)

    def _dip(self, level: float, index: int) -> None:
        """A fade whose darkest frame is not black: a short dip with slopes, and at least three frames in its lower
        half."""
        self._levels.append(level)
        levels = list(self._levels)
        # The rim is the lower of both sides, so a scene that merely gets brighter or darker has none.
        bottom = min(range(len(levels)), key=lambda i: levels[i])
        rim = min(max(levels[: bottom + 1]), level)
        deep = _BLACK <= levels[bottom] < _DIM and rim >= _DIP_DEPTH * levels[bottom]
        if not deep or sum(value < rim / 2 for value in levels) < 3:
            return
        # Slopes: a single large step would be a cut to a dark shot.
        start = max(i for i in range(bottom + 1) if levels[i] >= rim)
        steps = [abs(b - a) for a, b in itertools.pairwise(min(value, rim) for value in levels[start:])]
        if max(steps) > _DIP_STEP * (rim - levels[bottom]):
            return
        first = index - len(levels) + 1
        self._fade(first + next(i for i in range(len(levels)) if levels[i] < rim / 2), first + bottom, index)
        self._levels.clear()

    def _move(self, image: np.ndarray, time_s: float) -> None:
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
        if self._grey is not None and self._grey.shape == grey.shape:
            motion = float(np.abs(grey - self._grey).mean())
            usual = self._motion_sum / self._motion_count if self._motion_count else motion
            # A cut is no motion: it must not make what follows look calm.
            motion = min(motion, 3 * max(usual, _STILL_FLOOR))
            self._recent.append((time_s, motion))
            self._motion_sum, self._motion_count = self._motion_sum + motion, self._motion_count + 1
        self._grey = grey
        while self._recent and self._recent[0][0] < time_s - _RECENT_S:
            self._recent.popleft()
        if not self._recent:
            self.stillness.append(0.0)
            return
        # Relative to the video so far: what is calm in a football match is lively in an interview.
        recent = sum(motion for _, motion in self._recent) / len(self._recent)
        usual = max(self._motion_sum / self._motion_count, _STILL_FLOOR)
        self.stillness.append(max(0.0, 1.0 - recent / usual))

    def cuts(self) -> list[Cut]:
        """All shots' first frames, the video's first included, with their distance from what came before."""
        order = sorted(self._starts)
        found = []
        for position, frame in enumerate(order):
            # The most similar of the last few shots counts, so that shot and counter-shot are no change.
            before = order[max(0, position - _SCENE_MEMORY) : position]
            alike = [float(np.minimum(self._firsts[frame], self._firsts[other]).sum()) for other in before]
            change = min(1.0, max(0.0, 1.0 - max(alike))) if alike else 0.0
            found.append(Cut(frame, self._starts[frame], change, self._scores.get(frame)))
        return found

    def ms_of(self, frame: int, end_ms: int) -> int:
        """When a frame is first shown, in milliseconds; the end of the video for the frame after the last."""
        return round(self.times_s[frame] * 1000) if frame < len(self.times_s) else end_ms

    def shots_and_scenes(self, end_ms: int) -> tuple[list[Shot], list[Scene]]:
        """The video cut into shots, and the shots gathered into scenes."""
        cuts = self.cuts()
        ends = [*(cut.frame for cut in cuts[1:]), len(self.times_s)]
        shots: list[Shot] = []
        groups: list[list[int]] = []
        for number, (cut, end) in enumerate(zip(cuts, ends, strict=True), start=1):
            start_ms, stop_ms = self.ms_of(cut.frame, end_ms), self.ms_of(end, end_ms)
            shots.append(
                Shot(
                    id=f"s{number}",
                    start_ms=start_ms,
                    end_ms=max(stop_ms, start_ms + 1),
                    start_frame=cut.frame,
                    end_frame=end,
                    kind=cut.kind,
                    visual_change=round(cut.visual_change, DIGITS) if number > 1 else None,
                    score=None if cut.score is None else round(cut.score, DIGITS),
                )
            )
            # Editors end scenes with fades and dissolves, also where both sides look alike.
            if not groups or cut.visual_change >= _SCENE_CHANGE or cut.kind in ("fade", "dissolve"):
                groups.append([number - 1])
            else:
                groups[-1].append(number - 1)
        changes = [round(cuts[group[0]].visual_change, DIGITS) for group in groups[1:]] + [None]
        scenes = [
            Scene(
                id=f"c{number}",
                start_ms=shots[group[0]].start_ms,
                end_ms=shots[group[-1]].end_ms,
                shots=[shots[i].id for i in group],
                visual_change=change,
            )
            for number, (group, change) in enumerate(zip(groups, changes, strict=True), start=1)
        ]
        return shots, scenes

    def pauses(self, still_at: float, still_ms: int, end_ms: int) -> list[Pause]:
        """Stretches of at least `still_ms` in which the stillness stays at or above `still_at`."""
        found: list[Pause] = []
        first: int | None = None
        for frame in range(len(self.times_s) + 1):
            calm = frame < len(self.times_s) and self.stillness[frame] >= still_at
            if calm and first is None:
                first = frame
            elif not calm and first is not None:
                start, stop = self.ms_of(first, end_ms), self.ms_of(frame, end_ms)
                if stop - start >= still_ms:
                    level = round(float(np.mean(self.stillness[first:frame])), DIGITS)
                    name = f"p{len(found) + 1}"
                    found.append(Pause(id=name, start_ms=start, end_ms=stop, stillness=level))
                first = None
        return found
