"""Opening a file through PyAV: what is refused, what is known without decoding, and its packets in order."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias

import av
import av.error
import numpy as np
from av.stream import Disposition

from jepa.data.video.colour import ToRgb, bits_of
from jepa.data.video.info import AS_CODED, Orientation, VideoInfo, display_size
from jepa.data.video.limits import CONTAINERS, LimitsConfig, check_opening, check_path
from jepa.data.video.packets import HIDDEN
from jepa.errors import UserError, VideoError

Source: TypeAlias = "str | bytes | BinaryIO"

END_SLACK_S = 0.5  # frames missing at the end of a file before it counts as cut off


class Container:
    """An open file: the part of `pyav.PyAvFile` that reads packets and decodes nothing.

    Args:
        source: a local path, the file's bytes, or a seekable binary file.
        name: what errors call it.
        limits: what the file may cost.
        lenient: pass over what cannot be read; otherwise that is a VideoError.
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
        # No times in the file: frames are counted in the order in which they come out, from the beginning each time.
        self._counted = False
        self._leading = False  # packets before the first key frame, or shown before it
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
            raise VideoError(self.name, "open", reason_of(error)) from None
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
        end = start
        for where in (total / 1e6, None) if total else (None,):
            if where is None:
                self._rewind()
            else:
                self._seek(where)
            end = max(end, self._last_end())
            if end > start and not self._counted:
                break  # FLV without an index ends up behind its last packet instead: then from the beginning
        if self._counted:
            return 0.0, end
        stated = self._stated_end()
        if stated is not None and end < stated - END_SLACK_S and not self.lenient:
            raise VideoError(self.name, "probe", f"cut off: it ends at {end:.3f} s but states {stated:.3f} s")
        return start, end if end > start else start + (total or 0) / 1e6

    def _last_end(self) -> float:
        """When the last of the packets from here on ends; 0 if there is none."""
        step, end = self._frame_step(), 0.0
        for packet in self._packets():
            lasts = packet.duration * self._unit if packet.duration and not self._counted else step
            end = max(end, packet.pts * self._unit + lasts)
        return end

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
            other = type(self)(self._source, self.name, self.limits, self.lenient)
            try:
                self._times = other.times()
            finally:
                other.close()
        if self._times is None:
            self._begin()
            self._rewind()
            hidden = HIDDEN.get(self._context.name)
            found, key = [], None
            for packet in self._packets():
                key = packet.pts if key is None and packet.is_keyframe else key
                self._leading |= key is None or packet.pts < key
                if not packet.is_discard and not (hidden and hidden(bytes(packet))):
                    found.append(packet.pts)
                    if not len(found) % 4096:
                        self._check_frames(len(found))
            self._times = np.unique(np.asarray(found, dtype=np.int64)) * self._unit
        return self._times

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
        fresh, self._fresh = self._fresh, False
        step = max(1, round(self._frame_step() / self._unit))
        count = 0
        try:
            for packet in self._container.demux(self._stream):
                if not packet.size:
                    continue
                if fresh and not count:  # raw streams
                    self._counted = packet.pts is None and packet.dts is None
                if self._counted or (packet.pts is None and packet.dts is None):
                    packet.pts = count * step
                elif packet.pts is None:  # some AVI files
                    packet.pts = packet.dts
                count += 1
                yield packet
        except (av.error.FFmpegError, ValueError) as error:
            if not self.lenient:
                raise VideoError(self.name, "decode", reason_of(error)) from None

    def _rewind(self) -> None:
        if self._fresh:
            return
        if self._counted:  # where nothing has a time, seeking finds nothing
            self._container.close()
            self._open()
        else:
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


def reason_of(error: Exception) -> str:
    """What went wrong, in words for a VideoError."""
    if isinstance(error, av.error.InvalidDataError):
        return "invalid data: the file is damaged, cut off, encrypted, or of a kind that is not opened"
    if isinstance(error, av.error.FFmpegError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__
