"""Scores over time. A null score means that its head did not assess that window, which is no zero.

W windows; window i ends at `window_end_ms[i]`, and its last frame is `last_frame[i]`.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from jepa.signals.document.fields import Count, Id, Ms, Part, Probability, Text


class ObservedTrack(Part):
    """The probability that `label` is happening, at the end of each window; null where it was not assessed."""

    head: Id
    label: Text
    p: list[Probability | None]


class AnticipatedTrack(Part):
    """The probability that `label` starts within `within_ms` after the end of each window; null where it was not
    assessed."""

    head: Id
    label: Text
    within_ms: Annotated[int, Field(gt=0)]
    p: list[Probability | None]


class DomainTrack(Part):
    """How unlike a head's training windows each window is. Above the `domain.threshold` of the head, it was not
    assessed."""

    head: Id
    distance: list[Annotated[float, Field(ge=0)]]


class Tracks(Part):
    """Scores over time. Window i ends at `window_end_ms[i]` and its last frame is `last_frame[i]`."""

    window_end_ms: list[Ms]
    last_frame: list[Count]
    observed: list[ObservedTrack]
    anticipated: list[AnticipatedTrack]
    domain: list[DomainTrack] = Field(default_factory=list)

    def rows(self, after_ms: int, until_ms: int) -> range:
        """The windows that end in `(after_ms, until_ms]`."""
        ends = self.window_end_ms
        return range(bisect.bisect_right(ends, after_ms), bisect.bisect_right(ends, until_ms))

    def watched(self, label: str, after_ms: int, until_ms: int) -> bool:
        """Whether heads that observe `label` assessed every window in `(after_ms, until_ms]`, so that silence there
        means that it did not start."""
        return all_assessed(
            [track for track in self.observed if track.label == label], self.rows(after_ms, until_ms)
        )

    def shows_onset(self, head: str, label: str, start_ms: int) -> bool:
        """Whether a span that starts here began here. After a window that was not assessed nobody knows: it may have
        been going on."""
        row = bisect.bisect_left(self.window_end_ms, start_ms)
        own = [track for track in self.observed if (track.head, track.label) == (head, label)]
        return row == 0 or all_assessed(own, range(row - 1, row))


def all_assessed(tracks: Sequence[ObservedTrack | AnticipatedTrack], rows: range) -> bool:
    """Whether each of these windows was assessed by one of these tracks at least; False without any track."""
    return bool(tracks) and all(
        any(row < len(track.p) and track.p[row] is not None for track in tracks) for row in rows
    )


def spans_of(
    left_out: Sequence[bool], window_end_ms: Sequence[int], stride_ms: int, duration_ms: int
) -> list[tuple[int, int]]:
    """Stretches of windows as times; the window that ends at t stands for `[t, t + stride_ms)`.

    Example:
        >>> spans_of([True, True, False, True], [1000, 1500, 2000, 2500], 500, 2700)
        [(1000, 2000), (2500, 2700)]
    """
    found: list[tuple[int, int]] = []
    for row, end in enumerate(window_end_ms):
        if not left_out[row]:
            continue
        start = found.pop()[0] if row and left_out[row - 1] else end
        found.append((start, min(duration_ms, end + stride_ms)))
    return found
