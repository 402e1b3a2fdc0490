"""Frames by time from one file through PyAV, in NumPy only, so that a decoding child process stays small.

How a request is served. Wanted times become presentation times in the stream's own unit. Packets are read ahead until
their decoding time passes the last wanted time, because no later packet can then be shown earlier. Now it is known
which packets hold wanted frames, and three kinds of work fall away: groups of pictures that hold none never reach the
decoder, neither do packets after the last wanted frame, and for H.264 and HEVC the decoder skips every non-reference
frame that nobody asked for. What comes out is bit-identical to a full decode, since a non-reference frame is by
definition one that no other frame is predicted from.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import av.error
import numpy as np

from jepa.data.crops import Cut, coded_box
from jepa.data.video.container import END_SLACK_S, Container, Source, reason_of
from jepa.data.video.info import AS_CODED, VideoInfo, read_orientation, upright
from jepa.data.video.packets import plan
from jepa.errors import VideoError

__all__ = ["TOLERANCE_S", "PyAvFile", "Source"]

# Containers store times rounded to their own unit, often a millisecond, so that frame 2 of 30 fps is at 0.067 while
# the caller asks for 0.0666. A frame counts as on screen this much before its stored time.
TOLERANCE_S = 1e-3

_SKIPPABLE = {"h264", "hevc"}  # decoders that let skip_frame change from packet to packet
_SEEK_GAP_S = 2.0  # below this distance reading on costs less than a seek
_REORDERED = 17  # frames that H.264 and HEVC may hold back, and one
_CHUNK, _CHUNK_S = 64, 30.0  # wanted frames looked ahead at once, which bounds the packets held


class PyAvFile(Container):
    """One open video: `info`, `times()`, `at(seconds)`, `every()`; frames are uint8 [H, W, 3], upright.

    Frames have the coded size; stretching to square pixels is the caller's, to be the same for all readers. It takes
    and raises what `Container` does.
    """

    @property
    def info(self) -> VideoInfo:
        """Everything known; decodes the first frame once, because only a frame tells which way is up."""
        if self._info is None:
            if self._orientation is None:
                next(self.every(), None)
            width, height = self.display
            self._info = VideoInfo(
                path=self.name, container=self._container.format.name, codec=self._context.name, width=width,
                height=height, sample_aspect=self._aspect, fps=self._rate(), start_s=self.start_s,
                duration_s=self.duration_s, orientation=self._orientation or AS_CODED,
            )  # fmt: skip
        return self._info

    def times(self) -> np.ndarray:
        """See Container.times; leaves out what is stored before the first key frame and cannot be decoded."""
        known = self._times is not None
        times = super().times()
        if not known and self._leading:
            self._rewind()
            first = next(self._decoded(self._packets()), None)
            if first is not None:
                times = self._times = times[times >= first[0] * self._unit - 1e-9]
        return times

    def _decoded(self, packets: Iterable[Any], wanted: set[int] | None = None) -> Iterator[tuple[int, Any]]:
        """(time, frame) in display order; with `wanted`, other non-reference frames are left out if possible."""
        context = self._context
        may_skip = wanted is not None and context.name in _SKIPPABLE and self._skip_unwanted
        skip_now = "DEFAULT"
        context.skip_frame = skip_now
        step, count = max(1, round(self._frame_step() / self._unit)), 0
        for packet in [*packets, None] if wanted is not None else _with_end(packets):
            if time.monotonic() > self._deadline:
                reason = f"took longer than limits.max_decode_s={self.limits.max_decode_s:g} s"
                raise VideoError(self.name, "decode", reason)
            if may_skip and packet is not None:
                skip = "DEFAULT" if wanted is None or packet.pts in wanted else "NONREF"
                if skip != skip_now:
                    context.skip_frame = skip_now = skip
            try:
                frames = context.decode(packet)
            except (av.error.FFmpegError, ValueError) as error:
                if self.lenient:
                    continue
                raise VideoError(self.name, "decode", reason_of(error)) from None
            for frame in frames:
                if self._orientation is None:
                    self._orientation = read_orientation(frame)
                if self._counted:
                    yield count * step, frame
                else:
                    yield (frame.dts or 0) if frame.pts is None else frame.pts, frame
                count += 1

    def every(self, start_s: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """(seconds, frame) of all frames from the one on screen at `start_s` on, each decoded once, one in memory.

        Raises:
            VideoError: stage "decode"; when lenient, what cannot be decoded is passed over.
            UserError: something else was asked of this file in between.
        """
        request = self._begin()
        if start_s is None or start_s - self.start_s < _SEEK_GAP_S or self._counted:
            self._rewind()
        else:
            self._seek(start_s - _SEEK_GAP_S)
        first = None if start_s is None else self._unit_of(start_s)
        before: list[tuple[int, Any]] = []
        for count, (pts, frame) in enumerate(self._decoded(self._packets())):
            if not count % 256:
                self._check_frames(count)
            if first is not None and pts <= first:
                before = [(pts, frame)]
                continue
            for moment, picture in [*before, (pts, frame)]:
                yield moment * self._unit, self._rgb(picture)
                self._check_turn(request)
                self._deadline = time.monotonic() + self.limits.max_decode_s  # a limit for each frame
            before, first = [], None
        for moment, picture in before:
            yield moment * self._unit, self._rgb(picture)

    def at(self, seconds: Sequence[float], cut: Cut | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """(time, frame) on screen at each of the ascending `seconds`.

        Before the first frame that is the first frame, after the last one the last. A frame wanted several times in
        a row is the same array object. With `cut` frames are that part of the picture, resized: uint8 [3, S, S], not
        mirrored.

        Raises:
            VideoError: stage "decode", also when a file ends more than half a second before it says.
        """
        request = self._begin()
        targets = [self._unit_of(s) for s in seconds]
        first = 0
        for index in range(1, len(targets) + 1):
            if (
                index == len(targets)
                or index - first >= _CHUNK
                or (targets[index] - targets[index - 1]) * self._unit > _SEEK_GAP_S
                or (targets[index] - targets[first]) * self._unit > _CHUNK_S
            ):
                for moment, array in self._chunk(targets[first:index], cut):
                    yield moment, array
                    self._check_turn(request)
                first = index

    def _unit_of(self, seconds: float) -> int:
        # Half a step of the unit is added only where the tolerance is below it (one frame a second, say).
        return int(np.floor((seconds + TOLERANCE_S) / self._unit + 1e-6))

    def _chunk(self, targets: list[int], cut: Cut | None) -> Iterator[tuple[float, np.ndarray]]:
        done = 0
        while done < len(targets):
            todo = targets[done:]
            packets, ended = self._read_ahead(todo)
            feed, wanted = plan(packets, todo)
            if self._counted:
                self._skip_unwanted, feed = False, packets
            try:
                for moment, array in self._emit(feed, wanted, todo, ended, cut):
                    yield moment, array
                    done += 1
            except _SkippedTooMuchError:
                # The file marks as disposable what is not, or hides frames. Decode all of it, from the same place on.
                self._skip_unwanted = False

    def _read_ahead(self, targets: list[int]) -> tuple[list[Any], bool]:
        """Packets that decide what is on screen at `targets`, from a key frame on, and whether the file ended."""
        first, back = targets[0] * self._unit, 0.0
        near_start = first - self.start_s < _SEEK_GAP_S or self._counted
        # Without times packets are numbered as they are stored, which is a few places from where they are shown.
        slack = _REORDERED * round(self._frame_step() / self._unit) if self._counted else 0
        while True:
            if near_start:
                self._rewind()
            else:
                self._seek(first - back)
            packets, ended = [], True
            for packet in self._packets():
                packets.append(packet)
                if (packet.pts if packet.dts is None else packet.dts) > targets[-1] + slack:
                    ended = False
                    break
            # Some containers seek by decoding time and land on a key frame that is shown after the wanted time.
            if near_start or any(p.pts <= targets[0] for p in packets):
                return packets, ended
            back = max(1.0, 2 * back)
            near_start = first - back <= self.start_s

    def _emit(
        self, feed: list[Any], wanted: list[int | None], targets: list[int], ended: bool, cut: Cut | None
    ) -> Iterator[tuple[float, np.ndarray]]:
        exact = self._skip_unwanted and self._context.name in _SKIPPABLE
        held: Any = None
        held_pts, index, array = 0, 0, None
        for pts, frame in self._decoded(feed, {w for w in wanted if w is not None}):
            while index < len(targets) and held is not None and pts > targets[index]:
                if exact and held_pts != wanted[index]:
                    raise _SkippedTooMuchError
                array = self._picture(held, cut) if array is None else array
                yield held_pts * self._unit, array
                index += 1
            if index == len(targets):
                return
            if held is None or pts >= held_pts:
                held, held_pts, array = frame, pts, None
        if held is None:
            if exact:
                raise _SkippedTooMuchError
            if not self.lenient:
                raise VideoError(self.name, "decode", "not one frame could be decoded")
            held_pts, held = self._last_good(targets[-1])
        for target, want in zip(targets[index:], wanted[index:], strict=True):
            if exact and held_pts != want:
                raise _SkippedTooMuchError
            gap = (target - held_pts) * self._unit - self._frame_step()
            if (
                ended
                and not self.lenient
                and gap > END_SLACK_S
                and target * self._unit < self.start_s + self.duration_s
            ):
                reason = f"it ends at {held_pts * self._unit:.3f} s but states {self.start_s + self.duration_s:.3f} s"
                raise VideoError(self.name, "decode", reason)
            array = self._picture(held, cut) if array is None else array
            yield held_pts * self._unit, array

    def _last_good(self, target: int) -> tuple[int, Any]:
        """The last frame up to `target` that decodes at all, found from the start of the file."""
        self._rewind()
        found: tuple[int, Any] | None = None
        for pts, frame in self._decoded(self._packets()):
            if found is not None and pts > target:
                break
            found = (pts, frame)
        if found is None:
            raise VideoError(self.name, "decode", "not one frame could be decoded")
        return found

    def _picture(self, frame: Any, cut: Cut | None) -> np.ndarray:
        """The whole frame, or the part that a sample shows."""
        if cut is None:
            return self._rgb(frame)
        self._check_pixels(frame.width, frame.height)
        orientation = self._orientation or AS_CODED
        display = self.display
        box = coded_box(cut.box(display[1], display[0]), display, self._coded, orientation)
        try:
            part = self._to_rgb.cut(frame, box, cut.size)
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(self.name, "convert", reason_of(error)) from None
        return upright(part.transpose(1, 2, 0), orientation).transpose(2, 0, 1)

    def _rgb(self, frame: Any) -> np.ndarray:
        """Upright uint8 [H, W, 3] of the coded size."""
        self._check_pixels(frame.width, frame.height)
        try:
            array = self._to_rgb(frame)
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(self.name, "convert", reason_of(error)) from None
        return upright(array, self._orientation or AS_CODED)


class _SkippedTooMuchError(Exception):
    pass


def _with_end(packets: Iterable[Any]) -> Iterator[Any]:
    yield from packets
    yield None
