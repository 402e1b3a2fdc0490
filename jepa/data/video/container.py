"""Opening a file through PyAV (FFmpeg): what is refused, what is known without decoding, and its packets in order."""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import av
import av.error
from av.stream import Disposition

from jepa.data.crops import Orientation
from jepa.data.video.colour import ToRgb, bits_of
from jepa.data.video.index import Coding
from jepa.data.video.info import AS_CODED, VideoInfo, display_size
from jepa.data.video.limits import CONTAINERS, LimitsConfig, check_opening, check_path
from jepa.data.video.packets import REORDERED, nal_length_of
from jepa.errors import UserError, VideoError

# Tags that are no UTF-8 are no reason to refuse a video. PyAV 19 escapes what it cannot decode, and takes no keyword
# for it.
_UNDECODABLE: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)

Source: TypeAlias = "str | bytes | BinaryIO"

END_SLACK_S = 0.5  # frames missing at the end of a file before it counts as cut off
RESTARTS = ("mpegts", "mpeg", "flv")  # containers whose clock starts again where two files were joined


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
        self._info: VideoInfo | None = None
        self._orientation: Orientation | None = None
        self._size = 0
        self._requests = 0
        self._cut_off: VideoError | None = None  # why reading ended early, when lenient
        self._damaged: set[int] = set()  # times of packets that were passed over
        self._start_clock()
        self._open()
        try:
            self.start_s, self.duration_s = self._probe()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._container, self._size = open_container(self._source, self.name, self.limits)
        try:
            self._stream = self._pick_stream()
        except VideoError:
            self._container.close()
            raise
        self._context = context = self._stream.codec_context
        context.thread_count = self._threads
        if self._threads != 1:
            context.thread_type = "AUTO"
        self._format = self._container.format.name
        self._coded = (context.width, context.height)
        self._to_rgb = ToRgb(*self._coded)
        self._unit = float(self._stream.time_base)
        self._aspect = float(self._stream.sample_aspect_ratio or context.sample_aspect_ratio or 1)
        self._coding = Coding(
            context.name,
            self._format,
            nal_length_of(context.name, context.extradata),
            context.codec.intra_only,
        )
        self._at_start = self._clean = True  # before the first packet; nothing in the decoder

    def _pick_stream(self) -> Any:
        streams = self._container.streams
        # A cover picture inside an audio file is a video stream to FFmpeg and not a video here.
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
        """(time of the first frame, seconds to the end of the last one)."""
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
        """First frame's time and last frame's end, of a file too long to be read for it."""
        stream = self._stream
        start = (stream.start_time or 0) * self._unit
        if stream.duration is not None and stream.duration > 0:
            return start, start + stream.duration * self._unit
        # The stream has no duration of its own (Matroska, FLV) and the container's may be its audio's: read the last
        # packets and see.
        total = self._container.duration
        end = start
        if total:
            self._seek(total / 1e6)
            end = max(end, self._last_end())
        if end <= start:  # FLV without an index ends up behind its last packet instead
            self._rewind()
            end = max(end, self._last_end())
        self._check_stated(end)
        return start, end if end > start else start + (total or 0) / 1e6

    def _check_stated(self, end: float) -> None:
        stated = self._stated_end()
        if stated is not None and end < stated - END_SLACK_S and not self.lenient:
            raise VideoError(self.name, "probe", f"cut off: it ends at {end:.3f} s but states {stated:.3f} s")

    def _last_end(self) -> float:
        """When the last of the packets from here on ends; 0 if there is none."""
        step, end = self._frame_step(), 0.0
        for packet in self._read():
            if packet.pts is not None:
                lasts = packet.duration * self._unit if packet.duration else step
                end = max(end, packet.pts * self._unit + lasts)
        return end

    def _stated_end(self) -> float | None:
        """What the container states of this stream alone; with other streams in it that may take a tag."""
        tag = self._stream.metadata.get("DURATION", "")  # Matroska, "00:00:02.040000000"
        if match := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", tag):
            hours, minutes, seconds = match.groups()
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        if len(self._container.streams) == 1 and self._container.duration and not self._stream.duration:
            start = (self._container.start_time or 0) / 1e6
            return start + self._container.duration / 1e6
        return None

    def _frame_step(self) -> float:
        rate = self._stream.guessed_rate or self._stream.average_rate
        return float(1 / rate) if rate else 1 / 25

    @property
    def _step(self) -> int:
        """One frame at the stated rate, in the stream's unit."""
        return max(1, round(self._frame_step() / self._unit))

    def _begin(self) -> int:
        """Starts a request: its clock, and its number, by which an older one notices that it was interrupted."""
        self._start_clock()
        self._requests += 1
        return self._requests

    def _start_clock(self) -> None:
        self._deadline = time.monotonic() + self.limits.max_decode_s

    def _check_turn(self, request: int) -> None:
        if request != self._requests:
            raise UserError(
                f"other frames of {self.name!r} were requested while it was being iterated; it has one read position. "
                "Open it a second time for the second purpose."
            )

    def _check_deadline(self) -> None:
        if time.monotonic() > self._deadline:
            reason = f"took longer than limits.max_decode_s={self.limits.max_decode_s:g} s"
            raise VideoError(self.name, "decode", reason)

    def _read(self) -> Iterator[Any]:
        """Packets of the video from the read position to the end; empty ones are left out."""
        self._at_start = False
        ordered = self._context.name not in REORDERED
        try:
            for packet in self._container.demux(self._stream):
                if not packet.size:
                    continue
                if packet.pts is None and ordered:
                    packet.pts = packet.dts
                yield packet
        except (av.error.FFmpegError, ValueError) as error:
            failure = VideoError(self.name, "decode", reason_of(error))
            if not self.lenient:
                raise failure from error
            self._cut_off = failure

    def _from_start(self) -> Iterator[Any]:
        """All packets of the video, with one clock that never starts again: two files joined become one."""
        self._rewind()
        if self._format not in RESTARTS:
            yield from self._read()
            return
        offset, last = 0, None
        for packet in self._read():
            at = packet.pts if packet.dts is None else packet.dts
            if at is not None:
                if last is not None and at + offset < last:
                    offset = last + (packet.duration or self._step) - at
                last = at + offset
                if offset:
                    packet.pts = None if packet.pts is None else packet.pts + offset
                    packet.dts = None if packet.dts is None else packet.dts + offset
            yield packet

    def _rewind(self) -> None:
        """To the first packet, with an empty decoder. Opening again is the one way that works in every container."""
        if not self._at_start:
            self._container.close()
            self._open()

    def _seek(self, seconds: float) -> None:
        """To a packet that the container thinks of as a key frame before `seconds`; nothing relies on it."""
        self._at_start = False
        try:
            self._container.seek(round(seconds / self._unit), stream=self._stream, backward=True)
        except (av.error.FFmpegError, OverflowError):
            self._at_start = False
            self._rewind()
        self._clean = True


def open_container(source: Source, name: str, limits: LimitsConfig) -> tuple[Any, int]:
    """An opened container and the source's size in bytes: local data only, with every playlist and protocol off.

    Raises:
        VideoError: stage "open".
    """
    if isinstance(source, str):
        target: Any = "file:" + check_path(source, limits)
        size = Path(source).stat().st_size
    else:
        target = io.BytesIO(source) if isinstance(source, bytes) else source
        size = target.seek(0, io.SEEK_END)
        target.seek(0)
        check_opening(name, target.read(512), size, limits)
        target.seek(0)
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(CONTAINERS),
        "max_pixels": str(limits.max_pixels),
        "max_streams": str(limits.max_streams),
        "threads": "1",
    }
    try:
        container = av.open(target, options=options, **_UNDECODABLE)
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(name, "open", _unreadable(source, error)) from error
    if len(container.streams) > limits.max_streams:
        count = len(container.streams)
        container.close()
        raise VideoError(name, "open", f"{count} streams, limits.max_streams={limits.max_streams}")
    return container, size


def _unreadable(source: Source, error: Exception) -> str:
    with open(source, "rb") if isinstance(source, str) else contextlib.nullcontext() as file:
        head = file.read(12) if file is not None else source[:12] if isinstance(source, bytes) else b""
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "it is a WebP picture; FFmpeg reads no animated one, so convert it to MP4 or GIF"
    return reason_of(error)


def reason_of(error: Exception) -> str:
    """What went wrong, in words for a VideoError."""
    if isinstance(error, av.error.InvalidDataError):
        return "invalid data: the file is damaged, cut off, encrypted, or of a kind that is not opened"
    if isinstance(error, av.error.FFmpegError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__
