"""One video, decoded once from start to end: every frame goes to the timeline and to the windows, and is let
go.

What stays in memory is one clip per clip rate, a batch of windows, a few numbers per frame and window, and
some small pictures for the report.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from jepa.data import LimitsConfig, open_video
from jepa.errors import VideoError
from jepa.signals.decide.events import EventDesk, rounded
from jepa.signals.detect.detector import Scorer, ScoreTrack
from jepa.signals.detect.risks import Watch
from jepa.signals.detect.shots import TimelineMaker, reduce_frame
from jepa.signals.detect.windows import Window, WindowMaker
from jepa.signals.policy import Policy

_STRIP_MOST = 128  # pictures of the film strip; when there are more, every second one goes
_STRIP_PX = 240
_EVIDENCE_PX = 480
_EVIDENCE_MOST = 400  # pictures of evidence kept for the report; the document lists all of it


@dataclass(frozen=True)
class Seen:
    """The last frame of a window, as evidence: where it is, what it hashes to, and a small picture as
    JPEG."""

    frame: int
    """index of the frame"""
    start_ms: int
    """first moment that the window saw"""
    end_ms: int
    """end of the window"""
    sha256: str
    """hash of the frame's size and RGB bytes"""
    jpeg: bytes | None
    """a picture for the report"""


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
    timeline: TimelineMaker
    """shots, scenes and pauses"""
    track: ScoreTrack
    """scores of every window"""
    tags: list[np.ndarray]
    """[K] for each window"""
    contexts: dict[int, tuple[int, int]]
    """by window, first and last moment that it saw"""
    desk: EventDesk
    """runs and forecasts"""
    evidence: dict[int, Seen]
    """by window: those at which a forecast was issued or a run is highest"""
    strip: list[tuple[int, bytes]]
    """(milliseconds, JPEG), evenly spread"""
    short: bool
    """whether the video is shorter than one window"""
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
    """Evenly spread pictures of a stream of unknown length, in bounded memory."""

    step_ms: int = 250
    pictures: list[tuple[int, bytes]] = field(default_factory=list)

    def push(self, frame: Tensor, at_ms: int) -> None:
        if self.pictures and at_ms < self.pictures[-1][0] + self.step_ms:
            return
        self.pictures.append((at_ms, jpeg(frame, _STRIP_PX)))
        if len(self.pictures) > _STRIP_MOST:
            self.pictures, self.step_ms = self.pictures[::2], self.step_ms * 2


class _Scoring:
    """Scores windows in batches and keeps what they bring."""

    def __init__(
        self, scorer: Scorer, policy: Policy, watch: Watch, batch_size: int, clock: Stopwatch
    ) -> None:
        self.scorer, self.watch, self.batch_size, self.clock = scorer, watch, batch_size, clock
        signals = list(watch.signals)
        self.desk = EventDesk(policy, signals, scorer.anticipated, scorer.horizons_ms)
        self.track = ScoreTrack(signals, list(scorer.anticipated), list(scorer.horizons_ms))
        self.tags: list[np.ndarray] = []
        self.contexts: dict[int, tuple[int, int]] = {}
        self.evidence: dict[int, Seen] = {}
        self._peaks: dict[int, int] = {}
        self._issued: set[int] = set()
        self._waiting: list[Window] = []

    def push(self, window: Window) -> None:
        self._waiting.append(window)
        if len(self._waiting) >= self.batch_size:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        with self.clock.stage("encode"):
            count = len(self._waiting[0].clips)
            clips = [torch.stack([window.clips[i] for window in self._waiting]) for i in range(count)]
            scores = self.scorer.score(clips)
        with self.clock.stage("events"):
            seen, foreseen = rounded(self.watch.read(scores.observed)), rounded(scores.anticipated)
            for i, window in enumerate(self._waiting):
                self._keep(window, seen[i], foreseen[i], rounded(scores.tags[i]))
        self._waiting = []

    def _keep(self, window: Window, seen: np.ndarray, foreseen: np.ndarray, tags: np.ndarray) -> None:
        row = len(self.track.end_ms)
        self.track.add(window.end_ms, window.last_frame, seen, foreseen)
        self.tags.append(tags)
        self.contexts[row] = window.context_ms
        moments = self.desk.push(row, window.end_ms, seen, foreseen)
        if not moments.issues and not moments.peaks:
            return
        picture = jpeg(window.image, _EVIDENCE_PX) if len(self.evidence) < _EVIDENCE_MOST else None
        self.evidence[row] = Seen(
            window.last_frame, window.context_ms[0], window.end_ms, frame_sha256(window.image), picture
        )
        if moments.issues:
            self._issued.add(row)
        for column in moments.peaks:
            self._replace_peak(column, row)

    def _replace_peak(self, column: int, row: int) -> None:
        """Lets the picture of a run's former height go, unless something else needs it."""
        former = self._peaks.get(column)
        self._peaks[column] = row
        run = self.desk.trackers[column].runs()[-1]
        if former is None or former < run.first or former in self._issued:
            return
        if former not in self._peaks.values():
            kept = {run.peak for tracker in self.desk.trackers for run in tracker.closed}
            if former not in kept:
                del self.evidence[former]


def scan(
    path: Path,
    scorer: Scorer,
    policy: Policy,
    watch: Watch,
    stride_ms: int,
    batch_size: int,
    limits: LimitsConfig | None = None,
) -> Scan:
    """Decodes a video once and reads everything from it.

    Args:
        path: the video.
        scorer: encoder and probes.
        policy: thresholds of spans and forecasts.
        watch: which risks to watch for.
        stride_ms: time between the ends of two windows.
        batch_size: windows per forward pass.
        limits: what the file may cost.

    Raises:
        VideoError: the file cannot be read, or holds no frame.
    """
    clock = Stopwatch()
    scoring = _Scoring(scorer, policy, watch, batch_size, clock)
    strip = _Strip()

    def prepare(frame: Tensor) -> Tensor:
        with clock.stage("prepare"):
            return scorer.prepare(frame)

    windows = WindowMaker(scorer.specs, stride_ms, prepare)
    with clock.stage("decode"):
        reader = open_video(path, limits=limits)
    with reader:
        fps = Fraction(reader.fps).limit_denominator(1001) if reader.fps > 0 else Fraction(25)
        timeline = TimelineMaker(fps)
        frames, first_s, last_s, gap_s = iter(reader), 0.0, 0.0, float(1 / fps)
        width = height = index = 0
        while True:
            with clock.stage("decode"):
                item = next(frames, None)
            if item is None:
                break
            frame, moment = item
            if index == 0:
                first_s, height, width = moment, frame.shape[1], frame.shape[2]
            # Damaged files jump back; time only goes forward here.
            at_s = max(last_s, moment - first_s)
            if at_s > last_s:
                gap_s = at_s - last_s
            last_s = at_s
            with clock.stage("shots"):
                timeline.push(reduce_frame(frame), at_s)
                strip.push(frame, round(at_s * 1000))
            for window in windows.push(index, frame, at_s):
                scoring.push(window)
            index += 1
    if index == 0:
        raise VideoError(str(path), "decode", "the file opens but holds no frame")
    # Whole milliseconds, because that is what a document keeps and a replay starts from.
    duration_ms = max(round((last_s + min(gap_s, 1.0)) * 1000), round(last_s * 1000) + 1)
    for window in windows.finish(duration_ms / 1000):
        scoring.push(window)
    scoring.flush()
    return Scan(
        frames=index,
        size=(width, height),
        fps=fps,
        duration_ms=duration_ms,
        timeline=timeline,
        track=scoring.track,
        tags=scoring.tags,
        contexts=scoring.contexts,
        desk=scoring.desk,
        evidence=scoring.evidence,
        strip=strip.pictures,
        short=windows.short,
        seconds=clock.seconds,
    )
