"""Frames by time or number from one file through PyAV (FFmpeg), in NumPy only, for a small decoding process.

How a request is served. Times become presentation times in the stream's own unit. The packet index (`index`) tells
which packets hold these frames, where decoding may start and which packets no requested frame depends on; those never
reach the decoder. For H.264 and HEVC it also skips non-reference frames that are not requested. What comes out is
bit-identical to a pass from the start. Where the index proves nothing, that pass is made.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jepa.data.crops import Cut
from jepa.data.video.access import ContradictedError, Stretch, UnprovenError
from jepa.data.video.container import END_SLACK_S, Source
from jepa.data.video.decoding import Decoding
from jepa.data.video.index import Segment
from jepa.data.video.info import AS_CODED, VideoInfo
from jepa.errors import VideoError

__all__ = ["TOLERANCE_S", "PyAvFile", "Source"]

# Containers store times rounded to their own unit, often a millisecond, so that frame 2 of 30 fps is at 0.067 while
# the caller asks for 0.0666. A frame counts as on screen this much before its stored time.
TOLERANCE_S = 1e-3

_SEEK_GAP_S = 2.0  # between two targets: below this distance reading on costs less than a seek
_CHUNK, _CHUNK_S = 64, 30.0  # targets looked ahead at once in a long file, which bounds the packets held


class PyAvFile(Decoding):
    """One open video: `info`, `times()`, `at(seconds)`, `numbered(indices)`, `every()`.

    Frames are uint8 [H, W, 3], upright, of the coded size; stretching to square pixels is the caller's, to be the same
    for all readers. It takes and raises what `Container` does.
    """

    _straight = False  # the index was contradicted: every request is a pass from the start
    _straight_times: np.ndarray | None = None

    @property
    def info(self) -> VideoInfo:
        """Everything known; decodes the first frame once, because only a frame states its orientation."""
        if self._info is None:
            if self._orientation is None:
                next(self.every(), None)
            width, height = self.display
            self._info = VideoInfo(
                path=self.name, container=self._format, codec=self._context.name, width=width, height=height,
                sample_aspect=self._aspect, fps=self._rate(), start_s=self.start_s,
                duration_s=self.duration_s, orientation=self._orientation or AS_CODED,
            )  # fmt: skip
        return self._info

    def closed(self) -> bool:
        """Whether another reader may start at every key frame; see PacketIndex.closed."""
        self.times()
        return not self._straight and self._whole().closed()

    @property
    def notices(self) -> tuple[str, ...]:
        """What a lenient reading passed over so far, one sentence each."""
        found = []
        if self._damaged:
            first = min(self._damaged) * self._unit
            count = len(self._damaged)
            found.append(
                f"{count} packet{'s' * (count > 1)} could not be decoded, the first at {first:.3f} s; "
                "the frame before it is held and later ones may be damaged"
            )
        if self._cut_off is not None:
            found.append(f"reading ended early: {self._cut_off.reason}")
        return tuple(found)

    def _rate(self) -> float:
        rate = self._stream.average_rate
        if rate and 0 < rate <= 240:
            return float(rate)
        # FLV and some Matroska files state 1000 frames a second: count instead.
        times = self.times()
        length = float(times[-1] - times[0]) if len(times) > 1 else 0.0
        return (len(times) - 1) / length if length > 0 else 1 / self._frame_step()

    def times(self) -> np.ndarray:
        """Float64 times in seconds of all frames in the order of display, read from the packets where they prove it.

        Raises:
            VideoError: the packets or, where they prove nothing, the frames cannot be read, or are too many.
        """
        if not self._straight and not self.lenient:
            if self._index is None and self._is_short():
                self._load()
            if self._index is None and not isinstance(self._source, (str, bytes)):
                self._requests += 1  # the one read position moves, which interrupts an iteration
            index = self._whole()
            if self._broken is not None:
                raise self._broken
            if not index.timeline.problem and not index.settled and not index.clean_head():
                self._begin()
                try:
                    self._settle_head(index)
                except UnprovenError:
                    self._straight = True
            if not index.timeline.problem and not self._straight:
                return np.asarray(index.timeline.times, dtype=np.int64) * self._unit
        if self._straight_times is None:
            self._straight_times = self._count()
            if len(self._straight_times):
                first, last = self._straight_times[[0, -1]] / self._unit
                self._reaches(round(first), round(last), self._step)
        return self._straight_times

    def _count(self) -> np.ndarray:
        """Times of all frames by decoding them."""
        if self._requests and isinstance(self._source, (str, bytes)):
            # Somebody may be half-way through this file's frames: count in a second one.
            other = PyAvFile(self._source, self.name, self.limits, self.lenient, self._threads)
            try:
                return other._count()
            finally:
                self._damaged |= other._damaged
                other.close()
        self._begin()
        found = []
        for at, _ in self._pass():
            found.append(at * self._unit)
            if not len(found) % 256:
                self._check_frames(len(found))
        return np.asarray(found, dtype=np.float64)

    def every(self, start_s: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """(seconds, frame) of all frames from the one on screen at `start_s` on, each decoded once, one in memory.

        Raises:
            VideoError: stage "decode"; when lenient, what cannot be decoded is passed over.
            UserError: other frames of this file were requested in between.
        """
        request = self._begin()
        target = None if start_s is None else self._unit_of(start_s)
        for count, (at, frame) in enumerate(self._onward(target)):
            if not count % 256:
                self._check_frames(count)
            yield at * self._unit, self._rgb(frame)
            self._check_turn(request)
            self._start_clock()  # a limit for each frame

    def _onward(self, target: int | None) -> Iterator[tuple[int, Any]]:
        last: int | None = None
        if target is not None and not self._straight and not self.lenient:
            try:
                for last, frame in self._onward_from(target):
                    yield last, frame
                return
            except UnprovenError:
                pass  # the pass goes on behind what is already proven
        elif self._index is None and self._is_short():
            self._load()
        held: tuple[int, Any] | None = None
        for pair in self._pass():
            if last is not None and pair[0] <= last:
                continue
            if last is None and target is not None and pair[0] <= target:
                held = pair
                continue
            if held is not None:
                yield held
                held, target = None, None
            yield pair
        if held is not None:
            yield held

    def _onward_from(self, target: int) -> Iterator[tuple[int, Any]]:
        """From the frame on screen at `target` on, while each packet's frame comes out in the order of their times."""
        self._ready(proving=True)
        stretch = self._stretch([target])
        first, begin = stretch.plan.shown[0], stretch.plan.segments[0].first
        pending: list[int] = []  # times of packets whose frames have not come out

        def noted() -> Iterator[Any]:
            for packet in itertools.chain(stretch.packets[begin:], stretch.rest):
                if packet.pts is None:
                    raise UnprovenError
                if packet.pts >= first and not stretch.index.hides(packet):
                    heapq.heappush(pending, packet.pts)
                yield packet

        for pts, frame in self._decoded(noted(), proving=True):
            if pts is not None and pts < first:
                continue
            if not pending or pts != heapq.heappop(pending):
                raise UnprovenError
            yield pts, frame
        if pending:
            raise UnprovenError

    def at(self, seconds: Sequence[float], cut: Cut | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """(time, frame) on screen at each of the ascending `seconds`.

        Before the first frame that is the first frame, after the last one the last. A frame that is shown several
        times in a row is the same array object. With `cut` frames are that part of the picture, resized: uint8
        [3, S, S], not mirrored.

        Raises:
            VideoError: stage "decode", also when a file ends more than half a second before its stated end.
        """
        request = self._begin()
        targets = [self._unit_of(s) for s in seconds]
        first = 0
        for index in range(1, len(targets) + 1):
            if index == len(targets) or (self._held is None and self._is_far(targets, first, index)):
                for at, array in self._shown(targets[first:index], cut):
                    yield at * self._unit, array
                    self._check_turn(request)
                first = index

    def _is_far(self, targets: list[int], first: int, index: int) -> bool:
        return (
            index - first >= _CHUNK
            or (targets[index] - targets[index - 1]) * self._unit > _SEEK_GAP_S
            or (targets[index] - targets[first]) * self._unit > _CHUNK_S
        )

    def numbered(self, numbers: Sequence[int]) -> Iterator[tuple[float, np.ndarray]]:
        """(time, frame) of the frames with these ascending numbers, counted from 0 in the order of display.

        Raises:
            VideoError: stage "decode", also when one of them does not decode.
        """
        times = self.times()
        if not self._straight and not self.lenient and not self._whole().timeline.problem:
            clock = self._whole().timeline.times
            exact = [clock[n] for n in numbers]
            request = self._begin()
            for at, picture in self._shown(exact, None, exact=True):
                yield at * self._unit, picture
                self._check_turn(request)
            return
        request, position = self._begin(), 0
        for number, (_, frame) in enumerate(self._pass()):
            array: np.ndarray | None = None
            while position < len(numbers) and numbers[position] == number:
                array = self._rgb(frame) if array is None else array
                yield float(times[number]), array
                self._check_turn(request)
                position += 1
            if position == len(numbers):
                return
        raise VideoError(self.name, "decode", f"frame {numbers[position]} could not be decoded")

    def _unit_of(self, seconds: float) -> int:
        # Half a step of the unit is added only where the tolerance is below it (one frame a second, say).
        return int(np.floor((seconds + TOLERANCE_S) / self._unit + 1e-6))

    def _shown(
        self, targets: list[int], cut: Cut | None, exact: bool = False
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The frame on screen at each target: by the index where it proves it, else by a pass from the start."""
        done = 0
        # A decoder does not detect all damage: leniently, a shortcut could miss it or what it does to later frames.
        while not self._straight and not self.lenient:
            try:
                for pair in self._fast(targets[done:], cut):
                    yield pair
                    done += 1
                return
            except ContradictedError:
                # The file marks as disposable what is not, or hides frames: decode all of them, then believe nothing.
                self._straight, self._skip = not self._skip, False
            except UnprovenError:
                break
        for at, array in self._by_pass(targets[done:], cut):
            if exact and at != targets[done]:
                reason = f"the frame at {targets[done] * self._unit:.3f} s could not be decoded"
                raise VideoError(self.name, "decode", reason)
            yield at, array
            done += 1

    def _fast(self, targets: list[int], cut: Cut | None) -> Iterator[tuple[int, np.ndarray]]:
        self._ready(proving=True)
        stretch = self._stretch(targets)
        plan, index = stretch.plan, stretch.index
        if index.complete:
            self._check_end(targets[-1], index.timeline.times[-1] + self._last_duration(index))
        position = 0
        for segment in plan.segments:
            # A decoder reports damage to a reference after frames that are predicted from it and shown earlier, so
            # nothing is believed before the segment's end.
            for pts, frame in self._proven_frames(stretch, segment):
                if position == len(targets) or pts != plan.shown[position]:
                    raise ContradictedError
                array = self._picture(frame, cut)
                while position < len(targets) and plan.shown[position] == pts:
                    yield pts, array
                    position += 1
        if position < len(targets):
            raise ContradictedError

    def _proven_frames(self, stretch: Stretch, segment: Segment) -> list[tuple[int, Any]]:
        """A segment's requested frames, once all that came out of the decoder is as the packets say."""
        index, plan, first = stretch.index, stretch.plan, segment.first
        requested = set(plan.shown)
        packets = stretch.packets[first : segment.last + 1]
        begin = index.pts[first] if first or not index.from_start else None
        kept: list[tuple[int, Any]] = []
        found: list[int] = []
        for pts, frame in self._decoded(packets, requested, skip=plan.skip, proving=True):
            if pts is None or (begin is not None and pts < begin):
                continue  # a leading picture, predicted from what was not decoded
            if found and pts <= found[-1]:
                raise ContradictedError
            found.append(pts)
            if pts in requested:
                kept.append((pts, frame))
        if not plan.skip and found != index.shown_times(first, segment.last, begin):
            raise ContradictedError
        return kept

    def _by_pass(self, targets: list[int], cut: Cut | None) -> Iterator[tuple[int, np.ndarray]]:
        held: tuple[int, Any] | None = None
        position, array = 0, None
        for at, frame in self._pass():
            while position < len(targets) and held is not None and at > targets[position]:
                array = self._picture(held[1], cut) if array is None else array
                yield held[0], array
                position += 1
            if position == len(targets):
                return
            held, array = (at, frame), None
        if held is None:
            raise VideoError(self.name, "decode", "not one frame could be decoded")
        end = held[0] + self._step
        if self._index is not None:
            end = max(end, self._clock()[-1] + self._last_duration(self._index)) if not self.lenient else end
        for target in targets[position:]:
            self._check_end(target, end)
            array = self._picture(held[1], cut) if array is None else array
            yield held[0], array

    def _check_end(self, target: int, end: int) -> None:
        """Refuses to hold the last frame over what is missing at the end of a file."""
        stated = self.start_s + self.duration_s
        if not self.lenient and (target - end) * self._unit > END_SLACK_S and target * self._unit < stated:
            reason = f"it ends at {end * self._unit:.3f} s but states {stated:.3f} s"
            raise VideoError(self.name, "decode", reason)
