"""Unreadable videos: one event per failure, and the count that stops a run when too many fail.

An unreadable video is neither a crash nor a secret. It becomes a `BadVideo` with its path and reason; a `BadVideoLog`
names each file once and raises when their fraction passes `max_bad_fraction`, the key of every command.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jepa.errors import UserError, VideoError
from jepa.files import write_text

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BadVideo:
    """One video that could not be read.

    Example:
        >>> str(BadVideo("a.mp4", "open", "the file does not exist"))
        "cannot open video 'a.mp4': the file does not exist"
    """

    path: str
    stage: str
    """what was being done: open, probe, seek, decode or convert"""
    reason: str
    index: int = -1
    """the sample that needed it; -1 outside a stream of samples"""
    name: str = ""
    """the file as its list calls it"""

    def __str__(self) -> str:
        return f"cannot {self.stage} video {self.path!r}: {self.reason}"

    @classmethod
    def of(cls, error: VideoError, index: int = -1, name: str = "") -> BadVideo:
        """The event of a failure."""
        return cls(error.path, error.stage, error.reason, index, name)


class TooManyBadVideosError(RuntimeError):
    """The fraction of unreadable videos passed its limit."""


class BadVideoLog:
    """Counts unreadable videos, names each once, and stops the run when they are too many.

    Args:
        max_bad_fraction: of all samples, above which `count` raises.
        quarantine: a JSON-lines file that lists each bad video once, or None.
        grace: unreadable samples that are tolerated whatever their fraction, so that an early one does not stop a run.
        total: how many samples there will be, where that is known; the fraction is then one of these.

    Raises:
        UserError: max_bad_fraction is not between 0 and 1.

    Example:
        >>> log = BadVideoLog(max_bad_fraction=0.5)
        >>> log.count([BadVideo("a.mp4", "open", "cut off")], samples=4)
        [BadVideo(path='a.mp4', stage='open', reason='cut off', index=-1, name='')]
        >>> log.fraction
        0.25
    """

    def __init__(
        self,
        max_bad_fraction: float,
        quarantine: Path | None = None,
        grace: int = 5,
        total: int | None = None,
    ) -> None:
        if not 0 <= max_bad_fraction <= 1:
            raise UserError(f"max_bad_fraction={max_bad_fraction!r} must be between 0 and 1.")
        self.max_bad_fraction, self.quarantine = max_bad_fraction, quarantine
        self.grace, self.total = grace, total
        self.bad, self.samples = 0, 0
        self._known: dict[str, BadVideo] = {}

    @property
    def fraction(self) -> float:
        """Unreadable samples over all samples so far, or over the total where that is known."""
        all_samples = self.samples if self.total is None else self.total
        return self.bad / all_samples if all_samples else 0.0

    @property
    def videos(self) -> list[BadVideo]:
        """The first event of each unreadable file."""
        return list(self._known.values())

    def count(self, events: Iterable[BadVideo], samples: int) -> list[BadVideo]:
        """Takes note of one batch; returns the videos that were not bad before.

        Raises:
            TooManyBadVideosError: the fraction is above its limit.
        """
        fresh = []
        self.samples += samples
        for event in events:
            self.bad += 1
            if event.path not in self._known:
                self._known[event.path] = event
                fresh.append(event)
        if fresh and self.quarantine is not None:
            write_text(self.quarantine, "".join(json.dumps(asdict(event)) + "\n" for event in self.videos))
        if self.bad > self.grace and self.fraction > self.max_bad_fraction:
            named = "; ".join(str(event) for event in self.videos[:3])
            of = self.samples if self.total is None else self.total
            count = len(self._known)
            files = "1 file is affected" if count == 1 else f"{count} files are affected, among them"
            raise TooManyBadVideosError(
                f"{self.bad} of {of} samples met an unreadable video, above data.max_bad_fraction="
                f"{self.max_bad_fraction:g}. {files}: {named}. Repair or "
                "remove them (`jepa doctor data.root=...` lists all), or raise data.max_bad_fraction."
            )
        return fresh

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"bad": self.bad, "samples": self.samples, "known": [asdict(event) for event in self.videos]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Takes over a saved state."""
        self.bad, self.samples = saved["bad"], saved["samples"]
        self._known = {row["path"]: BadVideo(**row) for row in saved["known"]}


def as_video_error(path: str, error: Exception) -> VideoError:
    """Any exception that one video provoked, as that video's typed failure.

    What a broken file provokes in a library cannot be foreseen, and must not end a run over the other files. A slip in
    our own code looks the same from here, so the traceback goes to the log.
    """
    if isinstance(error, VideoError):
        return error
    _log.warning("%r: %s while it was read", path, type(error).__name__, exc_info=error)
    return VideoError(path, "convert", f"{type(error).__name__}: {error}")
