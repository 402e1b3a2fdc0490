"""Frames by time from one file through PyAV, in NumPy only, so that a decoding child process stays small.

How a request is served. Wanted times become presentation times in the stream's own unit. Packets are read ahead until
their decoding time passes the last wanted time, because no later packet can then be shown earlier. Now it is known
which packets hold wanted frames, and three kinds of work fall away: groups of pictures that hold none never reach the
decoder, neither do packets after the last wanted frame, and for H.264 and HEVC the decoder skips every non-reference
frame that nobody asked for. What comes out is bit-identical to a full decode, since a non-reference frame is by
definition one that no other frame is predicted from.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, TypeAlias

import av
import av.error
import numpy as np
from av.stream import Disposition

from jepa.data.colour import ToRgb, bits_of
from jepa.data.info import AS_CODED, Orientation, VideoInfo, display_size, read_orientation, upright
from jepa.data.limits import CONTAINERS, LimitsConfig, check_opening, check_path
from jepa.data.plan import HIDDEN, plan
from jepa.errors import UserError, VideoError

Source: TypeAlias = "str | bytes | BinaryIO"

# Containers store times rounded to their own unit, often a millisecond, so that frame 2 of 30 fps is at 0.067 while
# the caller asks for 0.0666. A frame counts as on screen this much before its stored time.
TOLERANCE_S = 1e-3

_SKIPPABLE = {"h264", "hevc"}  # decoders that let skip_frame change from packet to packet
_SEEK_GAP_S = 2.0  # below this distance reading on costs less than a seek
_CHUNK, _CHUNK_S = 64, 30.0  # wanted frames looked ahead at once, which bounds the packets held
_END_SLACK_S = 0.5  # frames missing at the end of a file before it counts as cut off


class PyAvFile:
    """One open video: `info`, `times()`, `at(seconds)`, `every()`; frames are uint8 [H, W, 3], upright.

    Frames have the coded size; stretching to square pixels is the caller's, to be the same for all readers.

    Args:
        source: a local path, the file's bytes, or a seekable binary file.
        name: what errors call it.
        limits: what the file may cost.
        lenient: pass over what does not decode; otherwise that is a VideoError.
        threads: decoder threads; one is right inside loader workers.

    Raises:
        VideoError: stage "open" or "probe".
    """

    def __init__(
        self, source: Source, name: str, limits: LimitsConfig, lenient: bool = False, threads: int = 1
    ) -> None:
        self.name, self.limits, self.lenient = name, limits, lenient
        self._source, self._threads = source, threads
        self._times: np.ndarray | None = None
        self._info: VideoInfo | None = None
        self._orientation: Orientation | None = None
        self._skip_unwanted = True
        self._requests = 0
        self._deadline = time.monotonic() + limits.max_decode_s
        self._open()
        try:
            self.start_s, self.duration_s = self._probe()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if isinstance(self._source, str):
            target: Any = "file:" + check_path(self._source, self.limits)
        else:
            target = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source
            size = target.seek(0, io.SEEK_END)
            target.seek(0)
            check_opening(self.name, target.read(512), size, self.limits)
            target.seek(0)
        options = {
            "protocol_whitelist": "file",
            "format_whitelist": ",".join(CONTAINERS),
            "max_pixels": str(self.limits.max_pixels),
            "max_streams": str(self.limits.max_streams),
            "threads": "1",
        }
        try:
            self._container = av.open(target, options=options, metadata_errors="replace")
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(self.name, "open", _reason(error)) from None
        try:
            self._stream = self._pick_stream()
        except VideoError:
            self._container.close()
            raise
        self._context = self._stream.codec_context
        self._context.thread_count = self._threads
        if self._threads != 1:
            self._context.thread_type = "AUTO"
        self._coded = (self._context.width, self._context.height)
        self._to_rgb = ToRgb(*self._coded)
        self._unit = float(self._stream.time_base)
        self._aspect = float(self._stream.sample_aspect_ratio or self._context.sample_aspect_ratio or 1)
        self._fresh = True  # at the first packet, with a clean decoder

    def _pick_stream(self) -> Any:
        streams = self._container.streams
        if len(streams) > self.limits.max_streams:
            raise VideoError(
                self.name, "open", f"{len(streams)} streams, limits.max_streams={self.limits.max_streams}"
            )
        # A cover picture inside an audio file is a video stream to FFmpeg and no video to anybody else.
        videos = [s for s in streams.video if not s.disposition & Disposition.attached_pic]
        if not videos:
            kinds = ", ".join(sorted({s.type for s in streams})) or "nothing that can be read"
            raise VideoError(self.name, "open", f"no video in the file, which holds {kinds}")
        best = streams.best("video")
        stream = best if best in videos else videos[0]
        if stream.codec_context is None:
            raise VideoError(self.name, "open", "this build of FFmpeg has no decoder for its codec")
        if not stream.time_base:
            raise VideoError(self.name, "open", "the stream states no unit of time")
        return stream

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._container.close()

    # ------------------------------------------------------------------------------------------ what is known

    @property
    def bit_depth(self) -> int:
        """Bits of one brightness sample."""
        return bits_of(self._context)

    def _probe(self) -> tuple[float, float]:
        if min(self._coded) <= 0:
            raise VideoError(
                self.name, "probe", "the picture's size is missing: nothing in it could be decoded"
            )
        self._check_pixels(*self._coded)
        self._check_pixels(*self.display)
        self._check_frames(self._stream.frames)
        start, end = self._extent()
        if end - start > self.limits.max_duration_s:
            reason = (
                f"{end - start:.0f} s are more than limits.max_duration_s={self.limits.max_duration_s:.0f}"
            )
            raise VideoError(self.name, "probe", reason)
        return start, max(0.0, end - start)

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

    @property
    def display(self) -> tuple[int, int]:
        """(width, height) with square pixels and upright; right once a frame was decoded."""
        return display_size(*self._coded, self._aspect, self._orientation or AS_CODED)

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self.limits.max_pixels:
            reason = f"{width}x{height} pixels are more than limits.max_pixels={self.limits.max_pixels}"
            raise VideoError(self.name, "probe", reason)

    def _check_frames(self, count: int) -> None:
        if count > self.limits.max_frames:
            reason = f"{count} frames are more than limits.max_frames={self.limits.max_frames}"
            raise VideoError(self.name, "probe", reason)

    def _extent(self) -> tuple[float, float]:
        """First frame's time and last frame's end."""
        stream = self._stream
        start = (stream.start_time or 0) * self._unit
        if stream.duration is not None and stream.duration > 0:
            return start, start + stream.duration * self._unit
        # The stream has no duration of its own (Matroska, FLV) and the container's may be its audio's: read the last
        # packets and see.
        total = self._container.duration
        if total:
            self._seek(total / 1e6)
        step = self._frame_step()
        end = start
        for packet in self._packets():
            end = max(
                end, packet.pts * self._unit + (packet.duration * self._unit if packet.duration else step)
            )
        stated = self._stated_end()
        if stated is not None and end < stated - _END_SLACK_S and not self.lenient:
            raise VideoError(self.name, "probe", f"cut off: it ends at {end:.3f} s but states {stated:.3f} s")
        return start, end if end > start else start + (total or 0) / 1e6

    def _stated_end(self) -> float | None:
        """What the container says of this stream alone; with other streams in it that may take a tag."""
        tag = self._stream.metadata.get("DURATION", "")  # Matroska, "00:00:02.040000000"
        if match := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", tag):
            hours, minutes, seconds = match.groups()
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        if len(self._container.streams) == 1 and self._container.duration:
            return self._container.duration / 1e6
        return None

    def _frame_step(self) -> float:
        rate = self._stream.guessed_rate or self._stream.average_rate
        return float(1 / rate) if rate else 1 / 25

    def _rate(self) -> float:
        rate = self._stream.average_rate
        if rate and 0 < rate <= 240:
            return float(rate)
        # FLV and some Matroska files state 1000 frames a second: count instead.
        times = self.times()
        return (len(times) - 1) / float(times[-1] - times[0]) if len(times) > 1 else 1 / self._frame_step()

    def times(self) -> np.ndarray:
        """Float64 times in seconds of all frames, ascending, read from the packets without decoding.

        Raises:
            VideoError: stage "probe" if the packets cannot be read or are too many.
        """
        if self._times is None and self._requests and isinstance(self._source, (str, bytes)):
            # Somebody may be half-way through this file's frames: count in a second one.
            other = PyAvFile(self._source, self.name, self.limits, self.lenient)
            try:
                self._times = other.times()
            finally:
                other.close()
        if self._times is None:
            self._begin()
            self._rewind()
            hidden = HIDDEN.get(self._context.name)
            found = []
            for packet in self._packets():
                if not packet.is_discard and not (hidden and hidden(bytes(packet))):
                    found.append(packet.pts)
                    if not len(found) % 4096:
                        self._check_frames(len(found))
            self._times = np.unique(np.asarray(found, dtype=np.int64)) * self._unit
        return self._times

    # ------------------------------------------------------------------------------------- packets and frames

    def _begin(self) -> int:
        """Starts a request: its clock, and its number, by which an older one notices that it was interrupted."""
        self._deadline = time.monotonic() + self.limits.max_decode_s
        self._requests += 1
        return self._requests

    def _check_turn(self, request: int) -> None:
        if request != self._requests:
            raise UserError(
                f"{self.name!r} was asked for other frames while it was being iterated, which moves the one place it "
                "reads from. Open it a second time for the second purpose."
            )

    def _packets(self) -> Iterator[Any]:
        """Packets of the video from here to the end, each with a time."""
        self._fresh = False
        step = max(1, round(self._frame_step() / self._unit))
        count = 0
        try:
            for packet in self._container.demux(self._stream):
                if not packet.size:
                    continue
                if packet.pts is None:  # raw streams and some AVI files have no times: count frames
                    packet.pts = count * step if packet.dts is None else packet.dts
                count += 1
                yield packet
        except (av.error.FFmpegError, ValueError) as error:
            if not self.lenient:
                raise VideoError(self.name, "decode", _reason(error)) from None

    def _rewind(self) -> None:
        if not self._fresh:
            self._seek(-1.0)
            self._fresh = True

    def _seek(self, seconds: float) -> None:
        """To the last key frame before `seconds`; formats without seeking are opened again, which rewinds."""
        self._fresh = False
        try:
            self._container.seek(round(seconds / self._unit), stream=self._stream, backward=True)
        except (av.error.FFmpegError, OverflowError):
            self._container.close()
            self._open()

    def _decoded(self, packets: Iterable[Any], wanted: set[int] | None = None) -> Iterator[tuple[int, Any]]:
        """(time, frame) in display order; with `wanted`, other non-reference frames are left out if possible."""
        context = self._context
        may_skip = wanted is not None and context.name in _SKIPPABLE and self._skip_unwanted
        skip_now = "DEFAULT"
        context.skip_frame = skip_now
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
                raise VideoError(self.name, "decode", _reason(error)) from None
            for frame in frames:
                if self._orientation is None:
                    self._orientation = read_orientation(frame)
                yield (frame.dts or 0) if frame.pts is None else frame.pts, frame

    def every(self, start_s: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """(seconds, frame) of all frames from the one on screen at `start_s` on, each decoded once, one in memory.

        Raises:
            VideoError: stage "decode"; when lenient, what cannot be decoded is passed over.
            UserError: something else was asked of this file in between.
        """
        request = self._begin()
        if start_s is None or start_s - self.start_s < _SEEK_GAP_S:
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

    def at(self, seconds: Sequence[float]) -> Iterator[tuple[float, np.ndarray]]:
        """(time, frame) on screen at each of the ascending `seconds`.

        Before the first frame that is the first frame, after the last one the last. A frame wanted several times in
        a row is the same array object.

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
                for moment, array in self._chunk(targets[first:index]):
                    yield moment, array
                    self._check_turn(request)
                first = index

    def _unit_of(self, seconds: float) -> int:
        # Half a step of the unit is added only where the tolerance is below it (one frame a second, say).
        return int(np.floor((seconds + TOLERANCE_S) / self._unit + 1e-6))

    def _chunk(self, targets: list[int]) -> Iterator[tuple[float, np.ndarray]]:
        done = 0
        while done < len(targets):
            todo = targets[done:]
            packets, ended = self._read_ahead(todo)
            feed, wanted = plan(packets, todo)
            try:
                for moment, array in self._emit(feed, wanted, todo, ended):
                    yield moment, array
                    done += 1
            except _SkippedTooMuchError:
                # The file marks as disposable what is not, or hides frames. Decode all of it, from the same place on.
                self._skip_unwanted = False

    def _read_ahead(self, targets: list[int]) -> tuple[list[Any], bool]:
        """Packets that decide what is on screen at `targets`, from a key frame on, and whether the file ended."""
        first, back = targets[0] * self._unit, 0.0
        near_start = first - self.start_s < _SEEK_GAP_S
        while True:
            if near_start:
                self._rewind()
            else:
                self._seek(first - back)
            packets, ended = [], True
            for packet in self._packets():
                packets.append(packet)
                if (packet.pts if packet.dts is None else packet.dts) > targets[-1]:
                    ended = False
                    break
            # Some containers seek by decoding time and land on a key frame that is shown after the wanted time.
            if near_start or any(p.pts <= targets[0] for p in packets):
                return packets, ended
            back = max(1.0, 2 * back)
            near_start = first - back <= self.start_s

    def _emit(
        self, feed: list[Any], wanted: list[int | None], targets: list[int], ended: bool
    ) -> Iterator[tuple[float, np.ndarray]]:
        exact = self._skip_unwanted and self._context.name in _SKIPPABLE
        held: Any = None
        held_pts, index, array = 0, 0, None
        for pts, frame in self._decoded(feed, {w for w in wanted if w is not None}):
            while index < len(targets) and held is not None and pts > targets[index]:
                if exact and held_pts != wanted[index]:
                    raise _SkippedTooMuchError
                array = self._rgb(held) if array is None else array
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
                and gap > _END_SLACK_S
                and target * self._unit < self.start_s + self.duration_s
            ):
                reason = f"it ends at {held_pts * self._unit:.3f} s but states {self.start_s + self.duration_s:.3f} s"
                raise VideoError(self.name, "decode", reason)
            array = self._rgb(held) if array is None else array
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

    def _rgb(self, frame: Any) -> np.ndarray:
        """Upright uint8 [H, W, 3] of the coded size."""
        self._check_pixels(frame.width, frame.height)
        try:
            array = self._to_rgb(frame)
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(self.name, "convert", _reason(error)) from None
        return upright(array, self._orientation or AS_CODED)


class _SkippedTooMuchError(Exception):
    pass


def _with_end(packets: Iterable[Any]) -> Iterator[Any]:
    yield from packets
    yield None


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.InvalidDataError):
        return "invalid data: the file is damaged, cut off, encrypted, or of a kind that is not opened"
    if isinstance(error, av.error.FFmpegError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__
