"""From packets to frames through PyAV (FFmpeg), and what is made of damage.

There are two ways of decoding. A *pass* from the start shows what FFmpeg shows, concealed damage included. A *proof*
decodes a part of the file and gives up at the first sign of damage, since what a decoder makes of damage depends on
what it decoded before; then the pass has to tell.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import av.error
import numpy as np

from jepa.data.crops import Cut, coded_box
from jepa.data.video.access import PacketAccess, UnprovenError
from jepa.data.video.container import reason_of
from jepa.data.video.index import PacketIndex
from jepa.data.video.info import AS_CODED, read_orientation, upright
from jepa.data.video.packets import flushes, may_skip_non_reference
from jepa.errors import VideoError

# Decoders that hide damage from their caller unless they are told to give up at it. H.264 marks the frames, and would
# give up at the leading pictures of an open group; HEVC would at the first pictures of a cut stream.
_EXPLODES = frozenset({"mpeg1video", "mpeg2video", "mpeg4"})


class Decoding(PacketAccess):
    """Adds decoding to the packets of an open file. It takes and raises what `Container` does."""

    _skip = True  # whether non-reference frames may be skipped
    _explodes = False  # whether the decoder was told to give up at damage

    def _ready(self, proving: bool) -> None:
        """An empty decoder, as at the start, that reports damage as a proof or a pass needs it.

        It may open the file again, so it comes before packets are looked for.
        """
        name, context = self._context.name, self._context
        # A JPEG's remainder behind damage is whatever was in memory.
        explodes = name == "mjpeg" or (proving and name in _EXPLODES)
        flushed = flushes(name, context.codec.intra_only)
        if context.is_open and (explodes != self._explodes or not (self._clean or flushed)):
            self._container.close()
            self._open()
            context = self._context
        if not context.is_open:
            self._explodes = explodes
            context.options = {"err_detect": "explode"} if explodes else {}
        elif not self._clean:
            context.flush_buffers()
        self._clean = True

    def _renew(self) -> None:
        """A decoder that never saw a packet. Flushing leaves parameter sets and what damage did to them."""
        if not self._clean or not self._at_start or self._context.is_open:
            self._container.close()
            self._open()

    def _decoded(
        self, packets: Iterable[Any], shown: Collection[int] = (), skip: bool = False, proving: bool = False
    ) -> Iterator[tuple[int | None, Any]]:
        """(time, frame) in the order of display.

        Args:
            packets: from a place at which a decoder may start.
            shown: times of frames that are requested.
            skip: non-reference frames that are not requested may be left out.
            proving: every sign of damage is an UnprovenError.
        """
        self._ready(proving)
        self._clean = False
        for frame in self._frames(packets, shown if skip and self._skip else None, proving):
            if self._orientation is None:
                self._orientation = read_orientation(frame)
            if proving and (frame.pts is None or frame.is_corrupt):
                raise UnprovenError
            yield frame.pts, frame

    def _frames(self, packets: Iterable[Any], needed: Collection[int] | None, proving: bool) -> Iterator[Any]:
        """All that comes out of the decoder; only `needed` and reference frames, if these are given."""
        context = self._context
        skips = needed is not None and may_skip_non_reference(context.name, context.extradata)
        skip_now = context.skip_frame = "DEFAULT"
        for packet in itertools.chain(packets, [None]):
            self._check_deadline()
            if skips and packet is not None:
                skip = "DEFAULT" if packet.pts in (needed or ()) else "NONREF"
                if skip != skip_now:
                    context.skip_frame = skip_now = skip
            try:
                frames = context.decode(packet)
            except (av.error.FFmpegError, ValueError) as error:
                if proving:
                    raise UnprovenError from None
                if not self.lenient:
                    raise VideoError(self.name, "decode", reason_of(error)) from error
                if packet is not None:
                    self._damaged.add(packet.pts or packet.dts or 0)
                continue
            yield from frames

    def _pass(self) -> Iterator[tuple[int, Any]]:
        """(time, frame) of a pass from the start, which is what every shortcut has to agree with; times ascend."""
        self._renew()
        timed = self._coding.has_times and (self._index is not None or self._first_has_time())
        index = self._whole() if self._index is not None or not timed else None
        # Frames come out in the order of display, so the n-th has the n-th time.
        clock = None if index is None or not index.timeline.untimed else self._clock()
        first: int | None = None
        last: int | None = None
        for number, (pts, frame) in enumerate(self._decoded(self._packets())):
            if clock is not None:
                at = clock[number] if number < len(clock) else (clock[-1] if clock else 0) + self._step
            elif pts is None:
                at = number * self._step if last is None else last + self._step
            else:
                at = pts
            last = at if last is None else max(last, at)
            first = last if first is None else first
            yield last, frame
        if first is not None and last is not None and self._index is None:
            self._reaches(first, last, self._step)

    def _settle_head(self, index: PacketIndex) -> None:
        first = next((i for i in index.starts if index.pts[i] is not None), None)
        if first is None:
            raise UnprovenError
        anchor = index.pts[first] or 0
        kept: set[int] = set()
        try:
            for pts, _ in self._decoded(self._packets()):
                if pts is None:
                    raise UnprovenError
                if pts >= anchor:
                    index.settle(anchor, kept)
                    return
                kept.add(pts)
        finally:
            self._ready(proving=True)  # before packets are read for what comes next
        raise UnprovenError

    def _picture(self, frame: Any, cut: Cut | None) -> np.ndarray:
        """The entire frame, or the part that a sample shows."""
        if cut is None:
            return self._rgb(frame)
        self._check_pixels(frame.width, frame.height)
        orientation = self._orientation or AS_CODED
        display = self.display
        box = coded_box(cut.box(display[1], display[0]), display, self._coded, orientation)
        try:
            part = self._to_rgb.cut(frame, box, cut.size)
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(self.name, "convert", reason_of(error)) from error
        return upright(part.transpose(1, 2, 0), orientation).transpose(2, 0, 1)

    def _rgb(self, frame: Any) -> np.ndarray:
        """Upright uint8 [H, W, 3] of the coded size."""
        self._check_pixels(frame.width, frame.height)
        try:
            array = self._to_rgb(frame)
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(self.name, "convert", reason_of(error)) from error
        return upright(array, self._orientation or AS_CODED)
