"""Random access to packets: a short file's are kept, a long file's are read around the time that is requested.

What a seek finds is never believed. In containers with absolute times (MP4, Matroska) the packets found have to prove
themselves (`index`); in all others each has to be one that a pass over the file has read.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jepa.data.video.container import Container
from jepa.data.video.index import ENOUGH, PacketIndex, Plan
from jepa.data.video.packets import REORDERED, Start
from jepa.errors import VideoError

_SHORT_BYTES, _SHORT_FRAMES = 64 << 20, 4000  # up to here a file's packets are kept
_SEEK_GAP_S = 2.0  # below this distance from the start reading on costs less than a seek


@dataclass
class Stretch:
    """Packets in decoding order, what is proven of them, and those that follow."""

    index: PacketIndex
    packets: list[Any]
    plan: Plan
    rest: Iterator[Any]


class UnprovenError(Exception):
    """The packets do not prove which frame is right; a pass from the start has to tell."""


class ContradictedError(UnprovenError):
    """What was decoded is not what the packets say."""


class PacketAccess(Container):
    """Adds the packet index to an open file. It takes and raises what `Container` does."""

    _index: PacketIndex | None = None  # of the whole file
    _held: list[Any] | None = None  # its packets, if it is short
    _broken: VideoError | None = None  # why reading ended early

    def _extent(self) -> tuple[float, float]:
        if not self._is_short() or not self._load():
            return super()._extent()
        index, stream = self._whole(), self._stream
        if not index.timeline.problem and not index.clean_head():
            with contextlib.suppress(UnprovenError, VideoError):
                self._settle_head(index)
        times = self._clock()
        if not times:
            return super()._extent() if not self._format.startswith("matroska") else (0.0, 0.0)
        start = times[0] * self._unit
        end = (times[-1] + self._last_duration(index)) * self._unit
        if stream.duration and stream.duration > 0:
            # The container's own figure is finer than a last frame's length, unless packets contradict it.
            stated = ((stream.start_time or 0) + stream.duration) * self._unit
            if (
                max(times[-1] * self._unit, end - 2 * self._frame_step()) < stated
                and self._format[:3] == "mov"
            ):
                end = stated
        elif self._broken is None:
            self._check_stated(end)
        return start, end

    def _is_short(self) -> bool:
        if self._size > _SHORT_BYTES:
            return False
        frames = self._stream.frames or self._stream_seconds() / self._frame_step()
        return frames <= _SHORT_FRAMES if frames else self._size <= _SHORT_BYTES // 4

    def _stream_seconds(self) -> float:
        if self._stream.duration:
            return float(self._stream.duration * self._unit)
        return (self._container.duration or 0) / 1e6

    def _load(self) -> bool:
        """Reads and keeps all packets; False if they turn out to be too many."""
        index, held = PacketIndex(self._coding), []
        try:
            for packet in self._from_start():
                held.append(packet)
                if not len(held) % 1024:
                    self._check_frames(len(held))
                    if len(held) > 2 * _SHORT_FRAMES:
                        return False
        except VideoError as error:
            if error.stage != "decode" or not held:
                raise
            self._broken = error.with_traceback(None)  # a traceback would keep this file alive
        self._check_frames(len(held))
        index.extend(held)
        index.cut_open = self._cuts_open(index)
        index.complete = self._broken is None
        if not index.complete:
            index.decided = self._decided(index)
        self._index, self._held = index, held
        return True

    def _decided(self, index: PacketIndex) -> int | None:
        """The latest time at or before which no packet can be shown that follows a broken reading."""
        known = [p for i in index.shown() if (p := index.pts[i]) is not None]
        late = 2 * REORDERED.get(self._coding.codec, 0) + 1
        return sorted(known)[-late - 1] if len(known) > late else -(1 << 62)

    def _whole(self) -> PacketIndex:
        """The index of all packets; a long file is read once for it, apart from what is being decoded."""
        if self._index is None:
            if isinstance(self._source, (str, bytes)):
                other = Container(self._source, self.name, self.limits, self.lenient)
            else:
                other = self
            index = PacketIndex(self._coding, keyed=True)
            try:
                for packet in other._from_start():
                    index.add(packet)
                    if not len(index) % 4096:
                        self._check_frames(len(index))
            finally:
                if other is not self:
                    other.close()
            index.complete, index.cut_open = True, self._cuts_open(index)
            self._index = index
            if clock := self._clock():
                self._reaches(clock[0], clock[-1], self._last_duration(index))
        return self._index

    def _reaches(self, first: int, last: int, lasts: int) -> None:
        """Corrects start and duration of a long file of which a frame was found outside of what it states."""
        end = self.start_s + self.duration_s
        if last * self._unit >= end:
            end = (last + lasts) * self._unit
        self.start_s = min(self.start_s, first * self._unit)
        self.duration_s = end - self.start_s

    def _clock(self) -> list[int]:
        """Times of the frames in the order of display, ascending, in the stream's unit."""
        index = self._whole()
        if index.timeline.times:
            return index.timeline.times
        # The container has decoding times only, or none: frames are shown in the same ascending times.
        known = [p if d is None else d for i in index.shown() for p, d in [(index.pts[i], index.dts[i])]]
        before = next((i for i, at in enumerate(known) if at is not None), 0)
        last = (known[before] or 0) - (before + 1) * self._step if known else 0
        times = []
        for at in known:
            last = last + self._step if at is None else at
            times.append(last)
        return sorted(times)

    def _last_duration(self, index: PacketIndex) -> int:
        timeline = index.timeline
        if not timeline.order:
            return 0
        return index.durations[timeline.order[-1]] or self._step

    def _packets(self) -> Iterator[Any]:
        """All packets from the start."""
        if self._held is None:
            yield from self._from_start()
            return
        yield from self._held
        yield from self._ending()

    def _ending(self) -> Iterator[Any]:
        """Nothing, or the error that ended the reading."""
        if self._broken is not None:
            raise self._broken
        yield from ()

    def _settle_head(self, index: PacketIndex) -> None:
        """Finds out which frames at a head that is no clean start are shown; only a decoder determines that."""
        raise UnprovenError

    def _trusted(self) -> bool:
        """Whether times after a seek are the same as in a pass from the start."""
        if self._index is not None and self._index.timeline.problem:
            return False
        if self._format.startswith("matroska"):
            return self._first_has_time()  # Matroska before time 0 has no times
        # Fragments and several edits make times depend on what was read before.
        return self._format.startswith("mov") and self._stream.frames > 0 and self._edits() <= 1

    def _first_has_time(self) -> bool:
        if self._first_timed is None:
            self._rewind()
            first = next(self._read(), None)
            self._first_timed = first is None or first.pts is not None
        return self._first_timed

    _first_timed: bool | None = None

    def _edits(self) -> int:
        """Most entries in an edit list of an MP4 file that are more than an initial pause."""
        if self._known_edits is None:
            self._known_edits = _count_edits(self._source)
        return self._known_edits

    _known_edits: int | None = None

    def _cuts_open(self, index: PacketIndex) -> bool:
        opened = any(i and start == Start.OPEN for i, start in index.starts.items())
        return opened and self._format.startswith("mov") and self._edits() > 1

    def _stretch(self, targets: Sequence[int]) -> Stretch:
        """Packets that prove what is on screen at ascending `targets`.

        Raises:
            UnprovenError: only a pass from the start decides.
        """
        if self._index is None and self._is_short() and not self._load():
            self._held = None
        if self._held is not None:
            index = self._whole()
            return Stretch(index, self._held, self._proven(index, targets), self._ending())
        near = targets[0] * self._unit - self.start_s < _SEEK_GAP_S
        if self._trusted():
            return self._around(targets, near)
        return self._verified(targets)

    def _proven(self, index: PacketIndex, targets: Sequence[int]) -> Plan:
        if not index.timeline.problem and not index.settled and not index.clean_head():
            self._settle_head(index)
        plan = None if index.timeline.problem else index.plan(targets)
        if plan is None:
            raise UnprovenError
        if not index.complete and (index.decided is None or targets[-1] > index.decided):
            raise UnprovenError
        return plan

    def _around(self, targets: Sequence[int], near: bool) -> Stretch:
        """By seeking, further back each time, until the packets found prove themselves."""
        first, back = targets[0] * self._unit, 0.0
        while True:
            near = near or first - back <= self.start_s
            if near:
                self._rewind()
            else:
                self._seek(first - back)
            index, packets, later = PacketIndex(self._coding, near), [], 0
            reader = self._read()
            enough = ENOUGH if self._coding.codec in REORDERED else 1
            index.complete = True
            for packet in reader:
                packets.append(packet)
                index.add(packet)
                later = later + 1 if packet.pts is not None and packet.pts > targets[-1] else 0
                if later >= enough or (later and index.starts.get(len(index) - 1) == Start.CLEAN):
                    index.complete, index.decided = False, targets[-1]
                    break
            if index.timeline.problem or index.discards or not index.clean_head():
                self._whole_or_raise()
                return self._verified(targets)
            plan = index.plan(targets)
            if plan is not None:
                return Stretch(index, packets, plan, reader)
            if near:
                raise UnprovenError
            back = max(1.0, 2 * back)

    def _whole_or_raise(self) -> None:
        if self._whole().timeline.problem:
            raise UnprovenError

    def _verified(self, targets: Sequence[int]) -> Stretch:
        """By seeking in a container whose times cannot be trusted: each packet found is compared with the index."""
        whole = self._whole()
        plan = self._proven(whole, targets)
        first, last = plan.segments[0].first, plan.segments[-1].last
        known = {key: i for i, key in enumerate(whole.keys)}
        begin, back = whole.pts[first] or 0, 0.0
        # Several edits show the same packet twice, which leaves open which of the two was found.
        while len(known) == len(whole) and (at := begin * self._unit - back) > self.start_s:
            self._seek(at)
            reader = self._read()
            found = next(reader, None)
            position = known.get(whole.key(found)) if found is not None else None
            if position is not None and position <= first:
                rest = self._matched(itertools.chain([found], reader), position)
                stretch = self._cut(whole, rest, position, first, last, plan)
                if stretch is not None:
                    return stretch
            back = max(1.0, 2 * back)
        stretch = self._cut(whole, self._from_start(), 0, first, last, plan)
        if stretch is None:
            raise UnprovenError
        return stretch

    def _matched(self, packets: Iterator[Any], position: int) -> Iterator[Any]:
        """Packets, each equal to the index's from `position` on, with the index's times."""
        whole = self._whole()
        for number, packet in enumerate(packets, position):
            if number >= len(whole) or whole.key(packet) != whole.keys[number]:
                raise UnprovenError
            packet.pts, packet.dts = whole.pts[number], whole.dts[number]
            yield packet

    def _cut(
        self, whole: PacketIndex, packets: Iterator[Any], position: int, first: int, last: int, plan: Plan
    ) -> Stretch | None:
        try:
            kept = list(itertools.islice(packets, first - position, last + 1 - position))
        except UnprovenError:
            return None
        return Stretch(whole, [None] * first + kept, plan, packets) if len(kept) == last + 1 - first else None


def _count_edits(source: Any) -> int:
    """Entries of the longest edit list (ISO/IEC 14496-12, 8.6.6), but for an initial pause; 2 if that is not known."""
    if not isinstance(source, (str, bytes)):
        return 2
    data = _movie_box(source)
    most, at = 0, data.find(b"elst")
    while at >= 0:
        long, count = data[at + 4 : at + 5] == b"\1", int.from_bytes(data[at + 8 : at + 12], "big")
        media = data[at + 20 : at + 28] if long else data[at + 16 : at + 20]
        most = max(most, count - (count > 0 and media == b"\xff" * len(media)))
        at = data.find(b"elst", at + 4)
    return most


def _movie_box(source: str | bytes) -> bytes:
    import io

    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        while len(head := file.read(8)) == 8:
            size, kind = int.from_bytes(head[:4], "big"), head[4:]
            used = 8
            if size == 1:
                size, used = int.from_bytes(file.read(8), "big"), 16
            if kind == b"moov":
                return file.read(size - used if size else -1)
            if size < used:
                break
            file.seek(size - used, 1)
    return b""
