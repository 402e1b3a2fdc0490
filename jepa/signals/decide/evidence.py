"""Evidence: for each forecast, and for the highest score of each span, the last frame that its window held."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa.signals.decide.events import EventTracker
from jepa.signals.detect.scan import frame_sha256, jpeg
from jepa.signals.detect.windows import Window

_PICTURE_PX = 480
_PICTURES_MOST = 400  # pictures kept for the report; the document lists all of the evidence


@dataclass(frozen=True)
class EvidenceFrame:
    """The last frame of a window: its index, its hash, and a small picture as JPEG."""

    frame: int
    """index of the frame"""
    start_ms: int
    """first frame time of the window"""
    end_ms: int
    """end of the window"""
    sha256: str
    """hash of the frame's size and RGB bytes"""
    jpeg: bytes | None
    """a picture for the report"""


class EvidenceKeeper:
    """Tracks events window by window and keeps the frames that the document will name, and no others.

    Args:
        tracker: takes the scores.
    """

    def __init__(self, tracker: EventTracker) -> None:
        self.tracker = tracker
        self.frames: dict[int, EvidenceFrame] = {}
        """by window: those at which a forecast was issued or a run is highest"""
        self._peaks: dict[int, int] = {}
        self._issued: set[int] = set()

    def push(self, row: int, window: Window, observed: np.ndarray, anticipated: np.ndarray) -> None:
        """Takes the next window with its scores [R] and [A, H], rounded as the document keeps them."""
        events = self.tracker.push(row, window.end_ms, observed, anticipated)
        if not events.issues and not events.peaks:
            return
        picture = jpeg(window.image, _PICTURE_PX) if len(self.frames) < _PICTURES_MOST else None
        self.frames[row] = EvidenceFrame(
            window.last_frame, window.context_ms[0], window.end_ms, frame_sha256(window.image), picture
        )
        if events.issues:
            self._issued.add(row)
        for column in events.peaks:
            self._replace_peak(column, row)

    def _replace_peak(self, column: int, row: int) -> None:
        """Lets the picture of a run's former height go, unless something else needs it."""
        former = self._peaks.get(column)
        self._peaks[column] = row
        run = self.tracker.span_trackers[column].runs()[-1]
        # A former peak before this run belongs to a run that is over, and stays.
        if former is None or former < run.first or former in self._issued:
            return
        if former not in self._peaks.values():
            kept = {run.peak for tracker in self.tracker.span_trackers for run in tracker.closed}
            if former not in kept:
                del self.frames[former]
