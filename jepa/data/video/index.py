"""The packet index: frame times and order as proven by a video's packets, and which packets a request must decode.

Exact random access: for any request, in any order, the frame is the one that a pass from the start
would show at that time. A shortcut (a start in the middle, a skipped packet) is taken only where the index proves it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa.data.video.packets import HIDDEN, REORDERED, Start, mpeg4_type, start_of

ENOUGH = 34  # packets shown later than a time, after which none is shown earlier: 16 reordered frames of two fields
SLACK = 2  # units of time by which a container's rounding may move a time


@dataclass(frozen=True)
class Coding:
    """What is known of a stream before any packet: FFmpeg's name of the codec and how its packets are framed."""

    codec: str
    container: str
    nal_length: int
    intra_only: bool

    @property
    def has_times(self) -> bool:
        """Whether the container stores when frames are shown. AVI stores the order of decoding only."""
        return self.container != "avi" or self.codec not in REORDERED


@dataclass(frozen=True)
class Segment:
    """Packets `first` to `last` (inclusive) of an index, fed to a clean decoder."""

    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """How a request is served: the segments to decode, and the time of the frame that each target shows."""

    segments: list[Segment]
    shown: list[int]
    skip: bool  # non-reference frames that are not shown may be skipped


class PacketIndex:
    """Packets in decoding order: presentation time, whether they are shown, whether a decoder may start there.

    Args:
        coding: of the stream.
        from_start: whether the first packet is the file's first.
        keyed: remember by what each packet can be recognised.
    """

    def __init__(self, coding: Coding, from_start: bool = True, keyed: bool = False) -> None:
        self.coding, self.from_start = coding, from_start
        self.complete = False  # whether the last packet is the file's last
        self.decided: int | None = None  # otherwise: no later packet is shown at or before this time
        self.pts: list[int | None] = []
        self.dts: list[int | None] = []
        self.durations: list[int] = []
        self.hidden: set[int] = set()  # packets whose frame is not shown
        self.starts: dict[int, Start] = {}  # packets at which a decoder may start
        self.flagged: list[int] = []  # packets that the container calls key frames
        self.keys: list[tuple[int, int, bytes]] = []  # what a packet is recognised by, however it was reached
        self.new_header = self.discards = False
        self.damaged = False  # a packet that the container marks as damaged
        self.cut_open = (
            False  # several edits, between which a decoder may show fewer frames than there are packets
        )
        self.reordered = not coding.has_times and coding.codec != "mpeg4"  # whose packets tell
        self.settled = False  # whether it is known which frames at the head are shown
        self._keyed, self._hidden = keyed, HIDDEN.get(coding.codec)
        self._timeline: Timeline | None = None

    def __len__(self) -> int:
        return len(self.pts)

    def extend(self, packets: Sequence[Any]) -> None:
        """Appends packets. Columns are built by comprehensions: this is on the path of every short clip."""
        coding, base = self.coding, len(self.pts)
        self.pts += [p.pts for p in packets]
        self.dts += [p.dts for p in packets]
        self.durations += [p.duration for p in packets]
        for i, packet in enumerate(packets, base):
            if packet.is_keyframe:
                self.flagged.append(i)
                data = memoryview(packet)
                start = start_of(coding.codec, data, coding.nal_length, coding.intra_only)
                if start:
                    self.starts[i] = start
                self.new_header |= packet.has_sidedata("new_extradata")
            if self.hides(packet):
                self.hidden.add(i)
                self.discards |= packet.is_discard
        self.damaged |= any(p.is_corrupt for p in packets)
        if coding.codec == "mpeg4" and not coding.has_times:
            self.reordered |= any(mpeg4_type(memoryview(p)) not in (0, 1) for p in packets)
        if self._keyed:
            self.keys += [self.key(p) for p in packets]

    def add(self, packet: Any) -> None:
        """Appends one packet."""
        self.extend((packet,))

    def hides(self, packet: Any) -> bool:
        """Whether a packet's frame is not shown."""
        return packet.is_discard or (self._hidden is not None and self._hidden(memoryview(packet)))

    def shown(self) -> list[int]:
        """Packets whose frame is shown, in the order of decoding."""
        return (
            [i for i in range(len(self.pts)) if i not in self.hidden]
            if self.hidden
            else [*range(len(self.pts))]
        )

    def shown_times(self, first: int, last: int, begin: int | None) -> list[int]:
        """Times from `begin` on of the frames in packets `first` to `last`, ascending."""
        times = ((i, self.pts[i]) for i in range(first, last + 1) if i not in self.hidden)
        return sorted(pts for _, pts in times if pts is not None and (begin is None or pts >= begin))

    @staticmethod
    def key(packet: Any) -> tuple[int, int, bytes]:
        """Position in the file, size and last bytes."""
        return packet.pos or 0, packet.size, bytes(memoryview(packet)[-8:])

    def settle(self, first: int, kept: set[int]) -> None:
        """States which frames before the time `first` come out of a decoder; the others are not shown."""
        for i, pts in enumerate(self.pts):
            if pts is not None and pts < first and pts not in kept:
                self.hidden.add(i)
        self._timeline, self.settled = None, True

    @property
    def timeline(self) -> Timeline:
        """Derived tables; made again when packets were added."""
        if self._timeline is None or self._timeline.count != len(self.pts):
            self._timeline = Timeline(self)
        return self._timeline

    def clean_head(self) -> bool:
        """Whether every frame from the first packet on is shown by a decoder that starts there."""
        if not self.pts or not self.from_start:
            return True
        first = self.pts[0]
        if self.coding.codec not in REORDERED or first is None:
            return True
        return 0 in self.starts and all(
            i in self.hidden or pts is None or pts >= first for i, pts in enumerate(self.pts[:ENOUGH])
        )

    def closed(self) -> bool:
        """Whether a reader may start at every key frame of the container and be right from there on."""
        if self.timeline.problem or self.discards or not self.complete:
            return False
        for i in self.flagged:
            later, first = range(i + 1, min(i + ENOUGH, len(self))), self.pts[i] or 0
            leads = any(j not in self.hidden and (self.pts[j] or 0) < first for j in later)
            if leads or not (i in self.starts or i == 0):
                return False
        return True

    def plan(self, targets: Sequence[int]) -> Plan | None:
        """How to show what is on screen at ascending `targets`; None if these packets do not prove it."""
        timeline = self.timeline
        numbers = []
        for target in targets:
            at = bisect_right(timeline.times, target) - 1
            if at < 0 and not self.from_start:
                return None
            numbers.append(max(at, 0))
        if not timeline.times:
            return None
        return self.plan_numbers(numbers)

    def plan_numbers(self, numbers: Sequence[int]) -> Plan | None:
        """How to show frames by their number in this index's order of display, ascending; None if not proven."""
        timeline = self.timeline
        ends: dict[int, int] = {}  # start -> last packet
        for number in sorted(set(numbers)):
            begin = self._start_for(timeline.order[number])
            if begin is None:
                return None
            end = timeline.order[number] if timeline.tidy else timeline.group_end(timeline.order[number])
            ends[begin] = max(ends.get(begin, 0), end)
        segments: list[Segment] = []
        for begin, end in sorted(ends.items()):
            if segments and begin <= segments[-1].last + 1:
                segments[-1] = Segment(segments[-1].first, max(segments[-1].last, end))
            else:
                segments.append(Segment(begin, end))
        return Plan(segments, [timeline.times[n] for n in numbers], timeline.tidy)

    def _start_for(self, packet: int) -> int | None:
        """The last packet at which a decoder can start and be exact at `packet`."""
        pts = self.pts[packet]
        for start in reversed(self.timeline.start_list[: bisect_right(self.timeline.start_list, packet)]):
            first = self.pts[start]
            if first is not None and pts is not None and first <= pts:
                return start
        return 0 if self.from_start else None


class Timeline:
    """Frames of an index in the order of display, with their times and whether these are consistent."""

    def __init__(self, index: PacketIndex) -> None:
        self.index, self.count = index, len(index)
        shown = index.shown()
        self.start_list = [*index.starts]
        self.problem = ""
        if index.reordered:
            self.problem = "the container stores no times of display"
        elif None in index.pts and any(index.pts[i] is None for i in shown):
            self.problem = "packets without a time"
        self.untimed = bool(self.problem)
        self.order: list[int] = shown
        self.times: list[int] = []
        self.tidy = False
        if self.untimed:
            return
        pts = np.array([index.pts[i] for i in shown] if index.hidden else index.pts, np.int64)
        rank = np.argsort(pts, kind="stable")
        ranked = pts[rank]
        self.order = np.asarray(shown, dtype=np.int64)[rank].tolist() if index.hidden else rank.tolist()
        self.times = ranked.tolist()
        self.problem = self._disorder(index, shown, pts, ranked)
        self.tidy = not self.problem and self._is_tidy(index, shown, ranked)

    @staticmethod
    def _disorder(index: PacketIndex, shown: list[int], pts: np.ndarray, ranked: np.ndarray) -> str:
        """Why the order of display is not the order of these times; empty if nothing contradicts it."""
        if index.new_header:
            return "the decoder's configuration changes half-way"
        if index.damaged:
            return "damaged packets"
        if index.cut_open:
            return "several edits of open groups of pictures"
        if len(ranked) > 1 and not (ranked[1:] > ranked[:-1]).all():
            return "two frames with the same time"
        most = np.maximum.accumulate(pts) if len(pts) else pts
        far = 1 + 2 * REORDERED.get(index.coding.codec, 0)
        if (pts[far:] < most[:-far]).any():
            return "times that run backwards"
        if index.discards:
            return ""
        # All that is stored before a start is shown before it; all that is stored after a closed one is shown later.
        least = np.minimum.accumulate(pts[::-1])[::-1] if len(pts) else pts
        for kinds in ((Start.OPEN, Start.CLEAN), (Start.CLEAN,)):
            where = np.searchsorted(shown, [i for i, start in index.starts.items() if start in kinds])
            where = where[(where > 0) & (where < len(pts))]
            late, early = most[where - 1] >= pts[where], least[where] < pts[where]
            if late.any() or (len(kinds) == 1 and early.any()):
                return "times that run backwards"
        return ""

    @staticmethod
    def _is_tidy(index: PacketIndex, shown: list[int], ranked: np.ndarray) -> bool:
        """Whether a second source confirms each time, so that the packets between need not be decoded to check.

        That is the decoding times (each is an earlier presentation time, by a fixed number of frames) or an even rate.
        """
        if not index.complete and index.decided is not None:  # behind it, earlier frames are still to come
            ranked = ranked[: np.searchsorted(ranked, index.decided, side="right")]
            shown = shown[: len(ranked)]
        if index.coding.codec not in REORDERED or len(ranked) < 3:
            return True
        steps = np.diff(ranked)
        if steps.max() - steps.min() <= SLACK and steps.min() > SLACK:
            return True
        dts = [index.dts[i] for i in shown] if index.hidden else index.dts[: len(shown)]
        if None in dts:
            return False
        decoded = np.asarray(dts, dtype=np.int64)
        gaps = ranked - decoded
        if gaps.max() - gaps.min() <= SLACK:
            return True
        for delay in range(1, min(REORDERED[index.coding.codec] + 1, len(ranked) - 1)):
            if np.abs(decoded[delay:] - ranked[:-delay]).max() <= 1:
                return True
        return False

    def group_end(self, packet: int) -> int:
        """Last packet of the closed group that `packet` is in, or enough to include all of its neighbours."""
        last = min(self.count - 1, packet + ENOUGH)
        for start in self.start_list[bisect_right(self.start_list, packet) :]:
            if start > last:
                break
            if self.index.starts[start] == Start.CLEAN:
                return start - 1
        return last
