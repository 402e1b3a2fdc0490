"""One sequential pass over a video: every frame goes to shot detection and to the windows, then is freed.

What stays in memory is one clip per clip rate, a batch of windows, a few numbers per frame and window, and some small
pictures for the report.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from jepa.data import LimitsConfig, VideoReader, open_video
from jepa.errors import VideoError
from jepa.signals.detect.detector import DetectorSet, ScoreTrack, rounded
from jepa.signals.detect.risks import Risks
from jepa.signals.detect.shots import ShotFinder, reduce_frame
from jepa.signals.detect.sound import Heard, Hearing
from jepa.signals.detect.transnetv2 import TransitionFinder, TransNetV2
from jepa.signals.detect.windows import Window, WindowMaker

_STRIP_MOST = 128  # pictures of the strip; when there are more, every second one goes
_STRIP_PX = 240
_NO_REASON = "The detector did not assess these windows."
_SLOWEST_FPS = Fraction(1, 60)  # slower than this, shot detection could not count frames

OnWindow = Callable[[int, Window, np.ndarray, np.ndarray], None]


@dataclass
class Scan:
    """What one pass over a video brought."""

    frames: int
    """number of frames"""
    size: tuple[int, int]
    """width and height in pixels"""
    fps: Fraction
    """average frame rate"""
    duration_ms: int
    """from the first frame to the end of the last"""
    shots: ShotFinder
    """shots, scenes and pauses"""
    heard: Heard
    """silence, speech and loudness"""
    track: ScoreTrack
    """scores of every window"""
    strip: list[tuple[int, bytes]]
    """(milliseconds, JPEG), evenly spaced"""
    notices: list[str]
    """what a reader of the document needs about the pass"""
    seconds: dict[str, float]
    """wall-clock time by stage"""


class Stopwatch:
    """Adds up wall-clock time by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the time spent inside towards `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def timed(self, name: str, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The function, with its time counted towards `name`."""

        def inner(frame: Tensor) -> Tensor:
            with self.stage(name):
                return function(frame)

        return inner


def frame_sha256(frame: Tensor) -> str:
    """Hash of a frame uint8 [3, H, W]: its size as text, then its RGB bytes row by row."""
    digest = hashlib.sha256(f"{frame.shape[1]}x{frame.shape[2]} rgb8\n".encode())
    digest.update(frame.permute(1, 2, 0).contiguous().numpy().tobytes())
    return digest.hexdigest()


def jpeg(frame: Tensor, width_px: int) -> bytes:
    """A frame uint8 [3, H, W] as a JPEG at most `width_px` wide."""
    image = np.ascontiguousarray(frame.permute(1, 2, 0).numpy()[:, :, ::-1])
    height, width = image.shape[:2]
    if width > width_px:
        size = (width_px, max(1, round(height * width_px / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])
    if not done:
        raise RuntimeError(f"OpenCV could not encode a picture of {image.shape}")
    return data.tobytes()


@dataclass
class _Strip:
    """Evenly spaced pictures of a stream of unknown length, in bounded memory."""

    step_ms: int = 250
    pictures: list[tuple[int, bytes]] = field(default_factory=list)

    def push(self, frame: Tensor, at_ms: int) -> None:
        if self.pictures and at_ms < self.pictures[-1][0] + self.step_ms:
            return
        self.pictures.append((at_ms, jpeg(frame, _STRIP_PX)))
        if len(self.pictures) > _STRIP_MOST:
            self.pictures, self.step_ms = self.pictures[::2], self.step_ms * 2


class _Scoring:
    """Scores windows in batches, keeps the scores, and hands each window on with them."""

    def __init__(
        self,
        detectors: DetectorSet,
        risks: Risks,
        batch_size: int,
        clock: Stopwatch,
        on_window: OnWindow | None,
    ) -> None:
        self.detectors, self.risks, self.batch_size, self.clock = detectors, risks, batch_size, clock
        self.on_window = on_window
        self.hearing: Hearing | None = None
        self.track = ScoreTrack(risks.signals, detectors.anticipated, detectors.horizons_ms)
        self._waiting: list[Window] = []

    def push(self, window: Window) -> None:
        self._waiting.append(window)
        if len(self._waiting) >= self.batch_size:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        assert self.hearing is not None  # windows come after the first frame
        with self.clock.stage("sound"):
            heard = self.hearing.scores([window.end_ms for window in self._waiting])
        with self.clock.stage("encode"):
            count = len(self._waiting[0].clips)
            clips = [torch.stack([window.clips[i] for window in self._waiting]) for i in range(count)]
            scores = self.detectors.score(clips, heard)
        with self.clock.stage("events"):
            tags = rounded(scores.observed)
            observed = rounded(self.risks.probabilities(scores.observed))
            assert scores.anticipated is not None
            anticipated = rounded(scores.anticipated)
            left_out = self.detectors.left_out(scores)
            for i, window in enumerate(self._waiting):
                missing = [
                    head.id for head, out in zip(self.detectors.heads, left_out[i], strict=True) if out
                ]
                self.track.reasons.append({name: scores.reasons.get(name, _NO_REASON) for name in missing})
                self.track.distances.append({name: float(d[i]) for name, d in scores.distances.items()})
                self._keep(window, observed[i], anticipated[i], tags[i])
        self._waiting = []

    def _keep(self, window: Window, observed: np.ndarray, anticipated: np.ndarray, tags: np.ndarray) -> None:
        track, row = self.track, len(self.track.end_ms)
        track.end_ms.append(window.end_ms)
        track.last_frame.append(window.last_frame)
        track.context_ms.append(window.context_ms)
        track.observed.append(observed)
        track.anticipated.append(anticipated)
        track.tags.append(tags)
        if self.on_window is not None:
            self.on_window(row, window, observed, anticipated)


class FrameClock:
    """Frame times from the first frame on, which never run backwards."""

    def __init__(self) -> None:
        self._first_s: float | None = None
        self.now_s = 0.0

    def at(self, time_s: float) -> float:
        """The time of the next frame, for the time that its file states."""
        if self._first_s is None:
            self._first_s = time_s
        # Damaged files jump back; time only goes forward here.
        self.now_s = max(self.now_s, time_s - self._first_s)
        return self.now_s


def scan(
    path: Path,
    detectors: DetectorSet,
    risks: Risks,
    stride_ms: int,
    batch_size: int,
    limits: LimitsConfig | None = None,
    lenient: bool = False,
    on_window: OnWindow | None = None,
    transnetv2: TransNetV2 | None = None,
) -> Scan:
    """Decodes a video once and reads everything from it.

    Args:
        path: the video.
        detectors: what scores the windows.
        risks: which risks to track.
        stride_ms: time between the ends of two windows.
        batch_size: windows per forward pass.
        limits: what the file may cost.
        lenient: pass over what does not decode; a notice says so.
        on_window: called for each window in order, with its row, the window, and its scores [R] and [A, H].
        transnetv2: finds cuts and dissolves in place of PySceneDetect.

    Raises:
        VideoError: the file cannot be read, or holds no frame.
    """
    clock = Stopwatch()
    scoring = _Scoring(detectors, risks, batch_size, clock, on_window)
    strip, times = _Strip(), FrameClock()
    windows = WindowMaker(detectors.feeds(clock.timed), stride_ms, detectors.hears)
    with clock.stage("decode"):
        reader = open_video(path, limits=limits, lenient=lenient)
    with reader:
        fps = _frame_rate(reader)
        finder = TransitionFinder(transnetv2) if transnetv2 is not None else None
        shots = ShotFinder(max(fps, _SLOWEST_FPS), finder)
        frames, index, size = iter(reader), 0, (0, 0)
        while True:
            with clock.stage("decode"):
                item = next(frames, None)
            if item is None:
                break
            frame, time_s = item
            if index == 0:
                size = (frame.shape[2], frame.shape[1])
                with clock.stage("sound"):
                    scoring.hearing = Hearing(path, detectors, time_s, limits)
            at_s = times.at(time_s)
            with clock.stage("shots"):
                shots.push(reduce_frame(frame), at_s)
                strip.push(frame, round(at_s * 1000))
            for window in windows.push(index, frame, at_s):
                scoring.push(window)
            index += 1
        if index == 0:
            raise VideoError(str(path), "decode", "the file opens but holds no frame")
        with clock.stage("shots"):
            shots.finish()
        duration_ms, notices = _end(reader, times.now_s)
    for window in windows.finish(duration_ms / 1000):
        scoring.push(window)
    scoring.flush()
    assert scoring.hearing is not None  # there was a frame
    with clock.stage("sound"):
        heard = scoring.hearing.finish(duration_ms)
    notices += heard.notices
    if windows.short:
        notices.append("The video is shorter than one window; its only window repeats the first frame.")
    return Scan(
        index, size, fps, duration_ms, shots, heard, scoring.track, strip.pictures, notices, clock.seconds
    )


def _frame_rate(reader: VideoReader) -> Fraction:
    """The average frame rate; 25 where the file states none."""
    if reader.fps <= 0:
        return Fraction(25)
    # A denominator of 1001 is exact for broadcast rates; rates below one frame a second need more.
    return Fraction(reader.fps).limit_denominator(1001 if reader.fps >= 1 else 10_000_000)


def _end(reader: VideoReader, last_s: float) -> tuple[int, list[str]]:
    """Length of the video in integer milliseconds, which a document keeps and a replay starts from; and notices.

    The last frame is on screen until the end that the file states. Where part of a file did not decode, nothing is
    known after the last frame that did, so the video ends one frame later.
    """
    end_s = reader.duration_s
    if reader.notices and reader.fps > 0:
        end_s = min(end_s, last_s + 1 / reader.fps)
    notices = [
        f"The file is damaged and was read leniently: {notice}. What is missing is not assessed."
        for notice in reader.notices
    ]
    return max(round(end_s * 1000), round(last_s * 1000) + 1), notices
