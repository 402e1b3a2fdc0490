"""An audio track through PyAV (FFmpeg): which one, its packets on the clock of the pictures, and its samples.

Blocks follow each other without a hole. Where the file holds no sound for a time (a late start, a jump in its
timestamps), there is a block of zeros with `kind` "gap", as a player is silent there; where packets did not decode, one
with "damaged".
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import av
import av.error
import numpy as np
from av.stream import Disposition

from jepa.data.video.container import END_SLACK_S, RESTARTS, Source, open_container, reason_of
from jepa.data.video.limits import LimitsConfig
from jepa.errors import VideoError

_JUMP_S = 0.05  # timestamps off by less are rounding; by more, something is missing
_GAP_BLOCK_S = 1.0  # longest block of zeros, which bounds memory
_DAMAGED_IN_A_ROW = 50  # packets; about a second of AAC. Beyond it there is no sound to speak of
_MOST_CHANNELS = 8
_HELD_PACKETS = 2000  # of the sound, while the pictures of the second of two joined files are waited for

Kind = Literal["sound", "gap", "damaged"]


class AudioSpec(NamedTuple):
    """The samples that a reader of sound gets: how many a second, and whether channels are mixed into one.

    Channels are mixed as FFmpeg does (ITU-R BS.775). With `mono=False` they are those that the track
    states, up to eight; more are mixed into one.
    """

    sample_rate: int = 16_000
    mono: bool = True


class AudioInfo(NamedTuple):
    """What is known of the track that is read."""

    track: int
    """which of the file's audio tracks, from 0"""
    tracks: int
    """how many there are"""
    codec: str
    sample_rate: int
    """samples a second in the file"""
    channels: int
    language: str | None


class AudioBlock(NamedTuple):
    """Samples float32 [C, N] from `start_s` on; `spec` says which of the requested kinds of samples."""

    start_s: float
    samples: np.ndarray
    spec: AudioSpec
    layout: str
    """FFmpeg's name of the channels, such as "mono" or "5.1(side)" """
    kind: Kind

    @property
    def end_s(self) -> float:
        """When the block ends."""
        return self.start_s + self.samples.shape[1] / self.spec.sample_rate


class AudioReader:
    """An open sound track; iterate over it once. `info` is None, and nothing comes, where the file has no track.

    Args:
        source: a local path, the file's bytes, or a seekable binary file.
        name: what errors call it.
        limits: what the file may cost.
        specs: one or more kinds of samples, made side by side from one decoding.
        start_s: where the first block starts; None is the video's own start.

    Raises:
        VideoError: stage "open", as for a video, or when no decoder knows the track.
    """

    def __init__(
        self,
        source: Source,
        name: str,
        limits: LimitsConfig,
        specs: tuple[AudioSpec, ...] = (AudioSpec(),),
        start_s: float | None = None,
    ) -> None:
        self.name, self.limits, self.specs = name, limits, specs
        self._container, _ = open_container(source, name, limits)
        self._choice: list[str] = []
        try:
            self._stream = self._pick()
            self.info = self._describe()
            self._video = next(
                (s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic),
                None,
            )
        except BaseException:
            self.close()
            raise
        if start_s is None:
            video = self._video
            start_s = 0.0 if video is None else float((video.start_time or 0) * video.time_base)
        self.start_s = start_s
        # Interleaved samples ("flt"), because PyAV reads beyond the memory of planar ones of many channels.
        stated = "mono"
        if self._stream is not None and 0 < self._stream.codec_context.channels <= _MOST_CHANNELS:
            stated = self._stream.codec_context.layout.name
        self._outputs = [_Output(spec, start_s, "mono" if spec.mono else stated) for spec in specs]
        self._damaged_now = 0
        self._damaged = 0
        self._overlap_s = 0.0
        self._start_clock()

    def _pick(self) -> Any | None:
        streams = list(self._container.streams.audio)
        if not streams:
            return None
        stream = next((s for s in streams if s.disposition & Disposition.default), streams[0])
        if stream.codec_context is None:
            raise VideoError(
                self.name, "open", "this build of FFmpeg has no decoder for the codec of its sound"
            )
        if len(streams) > 1:
            number = streams.index(stream) + 1
            language = f" ({stream.language})" if stream.language else ""
            self._choice.append(f"Of {len(streams)} audio tracks, track {number}{language} was read.")
        return stream

    def _describe(self) -> AudioInfo | None:
        stream = self._stream
        if stream is None:
            return None
        context, streams = stream.codec_context, list(self._container.streams.audio)
        return AudioInfo(
            streams.index(stream), len(streams), context.name, context.sample_rate or 0, context.channels or 0,
            stream.language,
        )  # fmt: skip

    @property
    def notices(self) -> list[str]:
        """What a reader needs to know about the track, as far as it was read, one sentence each."""
        found = list(self._choice)
        if self._damaged:
            found.append(f"{self._damaged} packets of the sound do not decode and were passed over.")
        if self._overlap_s > _JUMP_S:
            found.append(f"{self._overlap_s:.1f} s of the sound were left out, because their times go back.")
        return found

    def __iter__(self) -> Iterator[AudioBlock]:
        """Yields blocks in order of time; those of several specs alternate.

        Raises:
            VideoError: stage "decode": the file cannot be read on, too much in a row does not decode, or the track
                ends before its stated end.
        """
        if self._stream is None:
            return
        end_s, slack_s = self.start_s, 1e-3  # the first frame goes exactly where it belongs
        for start_s, frame in self._frames():
            if start_s > end_s + slack_s:
                yield from self._fill(start_s)
                end_s = start_s
            lasts_s, skip_s = frame.samples / frame.sample_rate, 0.0
            if start_s < end_s - slack_s:  # before the first picture, or heard already
                skip_s = end_s - start_s
                self._overlap_s += min(lasts_s, end_s - max(start_s, self.start_s))
                if skip_s >= lasts_s:
                    continue
            self._damaged_now, slack_s = 0, _JUMP_S
            end_s += lasts_s - skip_s
            for output in self._outputs:
                yield from self._typed(output.push(frame, skip_s))
            self._start_clock()
        for output in self._outputs:
            yield from self._typed(output.flush())
        if self._damaged_now:
            reason = f"the last {self._damaged_now} packets of its sound do not decode"
            raise VideoError(self.name, "decode", reason)
        self._check_end(end_s)

    def _typed(self, blocks: Iterator[AudioBlock]) -> Iterator[AudioBlock]:
        """The same blocks; what FFmpeg's resampler refuses (odd channel layouts) is a VideoError."""
        try:
            yield from blocks
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(self.name, "decode", f"its sound: {reason_of(error)}") from error

    def _fill(self, until_s: float) -> Iterator[AudioBlock]:
        """Zeros up to a time."""
        if until_s - self.start_s > self.limits.max_duration_s:
            raise VideoError(
                self.name, "decode", f"its sound jumps to {until_s:.0f} s, beyond limits.max_duration_s"
            )
        kind: Kind = "damaged" if self._damaged_now else "gap"
        for output in self._outputs:
            yield from self._typed(output.flush())
        at_s = min(output.end_s for output in self._outputs)
        while at_s < until_s:
            at_s = min(until_s, at_s + _GAP_BLOCK_S)
            for output in self._outputs:
                yield from output.zeros(at_s, kind)

    def _frames(self) -> Iterator[tuple[float, Any]]:
        """(seconds, decoded frame) in order of storage."""
        assert self._stream is not None
        context, unit = self._stream.codec_context, float(self._stream.time_base)
        following_s: float | None = None
        for packet, offset_s in self._packets():
            self._check_deadline()
            try:
                frames = context.decode(packet)
            except (av.error.FFmpegError, ValueError) as error:
                self._damage(reason_of(error), error)
                continue
            for frame in frames:
                if not frame.samples or not frame.sample_rate:
                    continue
                if frame.is_corrupt:
                    self._damage("marked as damaged", None)
                    following_s = None
                    continue
                if frame.pts is not None:
                    start_s = frame.pts * unit + offset_s
                else:
                    start_s = self.start_s if following_s is None else following_s
                following_s = start_s + frame.samples / frame.sample_rate
                yield start_s, frame

    def _damage(self, reason: str, error: Exception | None) -> None:
        self._damaged_now += 1
        self._damaged += 1
        if self._damaged_now > _DAMAGED_IN_A_ROW:
            raise VideoError(
                self.name,
                "decode",
                f"{self._damaged_now} packets of its sound in a row do not decode: {reason}",
            ) from error

    def _packets(self) -> Iterator[tuple[Any, float]]:
        """(packet of the sound, seconds to add to its times), and at last (None, 0) for the decoder's rest."""
        try:
            if self._container.format.name in RESTARTS and self._video is not None:
                yield from self._joined()
            else:
                for packet in self._container.demux(self._stream):
                    if packet.size:
                        yield packet, 0.0
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(self.name, "decode", f"its sound: {reason_of(error)}") from error
        yield None, 0.0

    def _joined(self) -> Iterator[tuple[Any, float]]:
        """The same where two files may have been joined: the sound moves by what the video reader adds to its pictures.

        A packet of sound behind the joint may be stored before the first picture behind it, and waits for that.
        """
        assert self._video is not None
        pictures, sound = _Joints(self._video), _Joints(self._stream)
        waiting: deque[tuple[Any, int]] = deque()
        for packet in self._container.demux(self._video, self._stream):
            if not packet.size:
                continue
            if packet.stream is self._video:
                pictures.pass_by(packet)
            else:
                waiting.append((packet, sound.pass_by(packet)))
            while waiting and (waiting[0][1] < len(pictures.offsets_s) or len(waiting) > _HELD_PACKETS):
                held, part = waiting.popleft()
                offsets = pictures if part < len(pictures.offsets_s) else sound
                yield held, offsets.offsets_s[part]
        for held, part in waiting:
            yield held, sound.offsets_s[part]

    def _check_end(self, end_s: float) -> None:
        stream = self._stream
        if stream is None or not stream.duration or self._container.format.name in RESTARTS:
            return
        stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        if end_s < stated - END_SLACK_S:
            reason = f"its sound is cut off: it ends at {end_s:.3f} s but states {stated:.3f} s"
            raise VideoError(self.name, "decode", reason)

    def _start_clock(self) -> None:
        self._deadline = time.monotonic() + self.limits.max_decode_s

    def _check_deadline(self) -> None:
        if time.monotonic() > self._deadline:
            reason = f"its sound took longer than limits.max_decode_s={self.limits.max_decode_s:g} s"
            raise VideoError(self.name, "decode", reason)

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._container.close()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Joints:
    """Where the clock of one stream starts again, and how much has to be added from there on.

    The rule is that of `Container._from_start`.
    """

    def __init__(self, stream: Any) -> None:
        self._unit = float(stream.time_base)
        rate = stream.average_rate if stream.type == "video" else None
        self._step = max(1, round((1 / float(rate) if rate else 1 / 25) / self._unit))
        self._slack = 0 if stream.type == "video" else round(1.0 / self._unit)
        self._offset, self._last = 0, None
        self.offsets_s = [0.0]

    def pass_by(self, packet: Any) -> int:
        """Takes the next packet and returns which part it belongs to."""
        at = packet.pts if packet.dts is None else packet.dts
        if at is not None:
            if self._last is not None and at + self._offset < self._last - self._slack:
                self._offset = self._last + (packet.duration or self._step) - at
                self.offsets_s.append(self._offset * self._unit)
            self._last = at + self._offset
        return len(self.offsets_s) - 1


class _Output:
    """Makes one kind of samples out of decoded frames, and counts them, so that its clock cannot drift."""

    def __init__(self, spec: AudioSpec, start_s: float, layout: str) -> None:
        self.spec, self._start_s, self._layout = spec, start_s, layout
        self._count = 0
        self._resampler: Any = None
        self._source: tuple[Any, ...] = ()
        self._skip = 0

    @property
    def end_s(self) -> float:
        """When the samples made so far end."""
        return self._start_s + self._count / self.spec.sample_rate

    def push(self, frame: Any, skip_s: float) -> Iterator[AudioBlock]:
        """Takes a frame that follows without a hole once its first `skip_s` seconds are left out."""
        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        if source != self._source or skip_s:
            yield from self.flush()
            self._skip = round(skip_s * self.spec.sample_rate)
            self._resampler = av.AudioResampler(format="flt", layout=self._layout, rate=self.spec.sample_rate)
            self._source = source
        frame.pts = None  # the clock is kept here; FFmpeg would fill holes of its own
        yield from self._blocks(self._resampler.resample(frame))

    def flush(self) -> Iterator[AudioBlock]:
        """The samples that the resampler still holds."""
        if self._resampler is not None:
            yield from self._blocks(self._resampler.resample(None))
        self._resampler, self._source = None, ()

    def zeros(self, until_s: float, kind: Kind) -> Iterator[AudioBlock]:
        """Zeros up to a time."""
        count = round((until_s - self.end_s) * self.spec.sample_rate)
        if count > 0:
            channels = len(av.AudioLayout(self._layout).channels)
            yield self._block(np.zeros((channels, count), np.float32), kind)

    def _blocks(self, frames: list[Any]) -> Iterator[AudioBlock]:
        for frame in frames:
            drop = min(self._skip, frame.samples)
            self._skip -= drop
            if frame.samples > drop:
                # A NaN or an infinity in float audio would poison every later sum.
                samples = frame.to_ndarray().reshape(frame.samples, -1).T[:, drop:]
                samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
                yield self._block(np.clip(samples, -8.0, 8.0), "sound")

    def _block(self, samples: np.ndarray, kind: Kind) -> AudioBlock:
        start_s = self.end_s
        self._count += samples.shape[1]
        return AudioBlock(start_s, samples, self.spec, self._layout, kind)
