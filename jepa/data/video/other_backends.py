"""Alternative video readers: torchcodec and decord behind the interface of `pyav.PyAvFile`.

Both open whatever their FFmpeg opens, playlists included, and neither states all that is needed. So PyAV opens
the file first: it applies the limits, refuses what has to be refused and gives pixel aspect, orientation and the exact
time of every frame. The other reader then only supplies pixels, by frame number.
"""

from __future__ import annotations

import io
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jepa.data.crops import Cut, Orientation, coded_box
from jepa.data.video.colour import Cutter
from jepa.data.video.info import AS_CODED, VideoInfo, upright
from jepa.data.video.limits import LimitsConfig
from jepa.data.video.pyav import TOLERANCE_S, PyAvFile, Source
from jepa.errors import UserError, VideoError

_BLOCK = 16  # frames fetched together when every frame is requested


class _GuardedFile(ABC):
    """What both have in common. Subclasses supply `_fetch`."""

    def __init__(self, source: Source, name: str, limits: LimitsConfig, threads: int) -> None:
        self.name = name
        self._guard = PyAvFile(source, name, limits, threads=threads)
        self.start_s, self.duration_s = self._guard.start_s, self._guard.duration_s
        self._cutter = Cutter()
        self._turn: Orientation | None = None
        self._times = self._guard.times()
        if not len(self._times):
            raise VideoError(name, "probe", "not one frame in the video")
        # These readers start at whatever the container calls a key frame.
        if not self._guard.closed():
            reason = "its packets do not prove that reading may start at every key frame; use backend=pyav"
            raise VideoError(name, "probe", reason)

    @property
    def info(self) -> VideoInfo:
        """See PyAvFile."""
        return self._guard.info

    @property
    def display(self) -> tuple[int, int]:
        """See PyAvFile."""
        return self.info.width, self.info.height

    def times(self) -> np.ndarray:
        """See PyAvFile."""
        return self._times

    def at(self, seconds: Sequence[float], cut: Cut | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """See PyAvFile."""
        numbers = np.searchsorted(self._times, np.asarray(seconds) + TOLERANCE_S, side="right") - 1
        numbers = np.maximum(numbers, 0)
        unique = np.unique(numbers)
        frames = dict(zip(unique.tolist(), self._upright(unique.tolist()), strict=True))
        if cut is not None:
            frames = {number: self._part(frame, cut) for number, frame in frames.items()}
        for number in numbers.tolist():
            yield float(self._times[number]), frames[number]

    def numbered(self, numbers: Sequence[int]) -> Iterator[tuple[float, np.ndarray]]:
        """See PyAvFile."""
        return self.at(self._times[list(numbers)].tolist())

    @property
    def notices(self) -> tuple[str, ...]:
        """None: these readers cannot read leniently."""
        return ()

    def every(self, start_s: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """See PyAvFile."""
        first = 0
        if start_s is not None:
            first = max(0, int(np.searchsorted(self._times, start_s + TOLERANCE_S, side="right")) - 1)
        for block in range(first, len(self._times), _BLOCK):
            numbers = list(range(block, min(block + _BLOCK, len(self._times))))
            for number, frame in zip(numbers, self._upright(numbers), strict=True):
                yield float(self._times[number]), frame

    def _part(self, frame: np.ndarray, cut: Cut) -> np.ndarray:
        width, height = self.display
        box = coded_box(cut.box(height, width), (width, height), (frame.shape[1], frame.shape[0]), AS_CODED)
        return self._cutter.from_rgb(frame, box, cut.size)

    def _upright(self, numbers: list[int]) -> Iterator[np.ndarray]:
        if self._turn is None:
            self._turn = self._missing_turn()
        for frame in self._fetch(numbers):
            yield upright(frame, self._turn)

    def _missing_turn(self) -> Orientation:
        """What this reader leaves undone of the file's orientation: which part that is differs, so look and compare."""
        if not any(self.info.orientation):
            return AS_CODED
        expected = next(self._guard.at([self.start_s]))[1].astype(np.int16)
        first = next(iter(self._fetch([0])))
        tried: dict[Orientation, float] = {}
        for transpose, horizontal, vertical in itertools.product((False, True), repeat=3):
            turn = (transpose, horizontal, vertical)
            turned = upright(first, turn)
            if turned.shape == expected.shape:
                tried[turn] = float(np.abs(turned - expected).mean())
        if not tried:
            raise VideoError(self.name, "convert", "this reader gives another size; use backend=pyav")
        return min(tried, key=lambda turn: (round(tried[turn]), turn))

    @abstractmethod
    def _fetch(self, numbers: list[int]) -> Iterator[np.ndarray]:
        """Frames with these numbers in the list of times, in order."""

    def close(self) -> None:
        """See PyAvFile."""
        self._guard.close()


def _refuse_byte_seeking(container: str, name: str, backend: str) -> None:
    """MPEG streams have no index: a seek goes to a byte and may land behind the key frame that is needed."""
    if container in ("mpegts", "mpeg"):
        raise VideoError(name, "open", f"{backend} gives wrong frames of MPEG streams; use backend=pyav")


class TorchcodecFile(_GuardedFile):
    """Pixels from torchcodec, which uses the system's FFmpeg; raises UserError where it is missing."""

    def __init__(self, source: Source, name: str, limits: LimitsConfig, threads: int) -> None:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError, OSError) as error:
            raise UserError(
                f"backend=torchcodec does not load here ({str(error).strip().splitlines()[0]}). Install it with "
                "`pip install torchcodec` and FFmpeg with your system's package manager, or use backend=pyav."
            ) from None
        super().__init__(source, name, limits, threads)
        _refuse_byte_seeking(self.info.container, name, "torchcodec")
        if not isinstance(source, (str, bytes)):
            source.seek(0)
            source = source.read()
        try:
            self._decoder = VideoDecoder(
                source, seek_mode="exact", num_ffmpeg_threads=threads, dimension_order="NHWC"
            )
        except (RuntimeError, ValueError) as error:
            raise VideoError(name, "open", _first_line(error)) from None

    def _fetch(self, numbers: list[int]) -> Iterator[np.ndarray]:
        requested = self._times[numbers]
        try:
            if len(self._decoder) == len(self._times):
                batch = self._decoder.get_frames_at(numbers)
            else:
                # Its numbers also count VP9 frames that are never shown. The hair is against rounding down.
                batch = self._decoder.get_frames_played_at((requested + 1e-5).tolist())
        except (RuntimeError, IndexError, ValueError) as error:
            raise VideoError(self.name, "decode", _first_line(error)) from None
        _check_times(self.name, "torchcodec", requested, batch.pts_seconds.numpy())
        yield from batch.data.numpy()


class DecordFile(_GuardedFile):
    """Pixels from decord, whose FFmpeg dates from 2021; raises UserError where it is missing."""

    def __init__(self, source: Source, name: str, limits: LimitsConfig, threads: int) -> None:
        try:
            import decord
        except (ImportError, OSError) as error:
            raise UserError(
                f"backend=decord does not load here ({str(error).strip()}). It has packages for x86-64 Linux and "
                "Windows only: `pip install decord`, or use backend=pyav."
            ) from None
        super().__init__(source, name, limits, threads)
        _refuse_byte_seeking(self.info.container, name, "decord")
        target: Any = source
        if not isinstance(source, str):
            if isinstance(source, bytes):
                target = io.BytesIO(source)
            else:
                source.seek(0)
        try:
            self._reader = decord.VideoReader(target, num_threads=threads)
        except (decord.DECORDError, RuntimeError, UnicodeError) as error:
            raise VideoError(name, "open", _first_line(error)) from None
        self._errors = (decord.DECORDError, RuntimeError, IndexError)
        times = self._reader.get_frame_timestamp(list(range(len(self._reader))))[:, 0]
        _check_times(name, "decord", self._times, times + self.start_s)
        if self._guard.bit_depth > 8:
            raise VideoError(
                name, "convert", "decord's old FFmpeg rounds 10-bit colour differently; use backend=pyav"
            )

    def _fetch(self, numbers: list[int]) -> Iterator[np.ndarray]:
        try:
            yield from self._reader.get_batch(numbers).asnumpy()
        except self._errors as error:
            raise VideoError(self.name, "decode", _first_line(error)) from None


def _check_times(name: str, package: str, requested: np.ndarray, got: np.ndarray) -> None:
    """Refuses to mistake one frame for another: the other reader has to see the same frames at the same times."""
    if len(requested) != len(got):
        reason = f"{package} finds {len(got)} frames where the file shows {len(requested)}; use backend=pyav"
        raise VideoError(name, "probe", reason)
    if np.abs(requested - got).max(initial=0.0) > 2 * TOLERANCE_S:
        raise VideoError(
            name, "probe", f"{package} shows frames at other times than the file; use backend=pyav"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
