"""`open_video`: one small reader over PyAV, torchcodec and decord.

    with jepa.open_video("talk.mp4") as video:
        frames = video.frames_at([0.0, 0.5, 1.0])     # frames.data uint8 [3, C, H, W], frames.times float64 [3]

All three give the same frames for the same times: upright, with square pixels, in RGB by the file's own colour tags,
alpha ignored. A frame is on screen from its own time until the next frame's, whatever the frame rate does in between.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import torch

from jepa.data.crops import Cut
from jepa.data.transforms import resize
from jepa.data.video.info import VideoInfo
from jepa.data.video.limits import LimitsConfig
from jepa.data.video.pyav import TOLERANCE_S, PyAvFile
from jepa.errors import UserError

BACKENDS = ("auto", "pyav", "torchcodec", "decord")


class Frames(NamedTuple):
    """Pictures and when they are shown: data uint8 [T, C, H, W], times float64 [T] in seconds."""

    data: torch.Tensor
    times: torch.Tensor


class VideoFile(Protocol):
    """What a backend provides; see `pyav.PyAvFile` for the meaning of each part."""

    start_s: float
    duration_s: float

    @property
    def info(self) -> VideoInfo: ...  # noqa: D102
    @property
    def display(self) -> tuple[int, int]: ...  # noqa: D102
    def times(self) -> np.ndarray: ...  # noqa: D102
    def at(  # noqa: D102
        self, seconds: Sequence[float], cut: Cut | None = None
    ) -> Iterator[tuple[float, np.ndarray]]: ...
    def every(self, start_s: float | None = None) -> Iterator[tuple[float, np.ndarray]]: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class VideoReader:
    """An open video. Use it as a context manager; it may serve any number of requests.

    Times are the file's own, in seconds: the first frame's is `start_s`, often but not always zero.
    """

    def __init__(self, file: VideoFile, name: str, backend: str) -> None:
        self._file, self.path, self.backend = file, name, backend

    @property
    def start_s(self) -> float:
        """Time of the first frame."""
        return self._file.start_s

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame's time to the last frame's end."""
        return self._file.duration_s

    @property
    def fps(self) -> float:
        """Average frames per second."""
        return self._file.info.fps

    @property
    def info(self) -> VideoInfo:
        """Container, codec, displayed size and the rest of what is known."""
        return self._file.info

    @property
    def num_frames(self) -> int:
        """Number of frames, counted from the packets at the first use, since what files state is not reliable."""
        return len(self._file.times())

    def __len__(self) -> int:
        return self.num_frames

    def frames_at(
        self,
        seconds: Sequence[float],
        each: Callable[[torch.Tensor], torch.Tensor] | None = None,
        cut: Cut | None = None,
    ) -> Frames:
        """The frames on screen at these times, in the order asked for; the same frame may come more than once.

        Times before the first frame give the first, times after the last give the last. A frame counts as on screen
        from 1 ms before its time, because containers round.

        Args:
            seconds: times, in any order.
            each: applied to every decoded frame, uint8 [C, H, W], as soon as it is there: a crop here keeps only one
                full-size frame in memory.
            cut: this random resized crop of every frame instead of the whole, data uint8 [T, 3, S, S], made in the
                decoder's own planes: several times faster than `each` and a little different.

        Raises:
            VideoError: a frame could not be decoded.
            UserError: a time is not a finite number, there is none, or each and cut are both given.
        """
        wanted = np.asarray(seconds, dtype=np.float64)
        if wanted.ndim != 1 or not wanted.size or not np.isfinite(wanted).all():
            raise UserError("frames_at takes a non-empty list of finite times in seconds.")
        if each is not None and cut is not None:
            raise UserError("frames_at takes each or cut, not both.")
        order = np.argsort(wanted, kind="stable")
        times = torch.empty(len(wanted), dtype=torch.float64)
        data: torch.Tensor | None = None
        last: np.ndarray | None = None
        picture: torch.Tensor | None = None
        found = self._file.at(wanted[order].tolist(), cut)
        for place, (moment, array) in zip(order.tolist(), found, strict=True):
            if array is not last or picture is None:
                last, picture = array, self._finish(array) if cut is None else torch.from_numpy(array)
                if each is not None:
                    picture = each(picture)
            if data is None:
                # In memory as the pictures are: decoders write channels innermost, resizing leaves them outermost,
                # and turning one into the other costs as much as the resizing.
                shape = (len(wanted), *picture.shape)
                order_of = torch.channels_last if picture.stride(0) == 1 else torch.contiguous_format
                data = torch.empty(shape, dtype=torch.uint8, memory_format=order_of)
            data[place] = picture
            times[place] = moment
        assert data is not None  # at() yields once per time
        if cut is not None and cut.flip:
            data = data.flip(-1)
        return Frames(data, times)

    def frames(self, indices: Sequence[int]) -> Frames:
        """The frames with these numbers, counted from 0 in display order; negative ones count from the end.

        Raises:
            UserError: an index is out of range.
            VideoError: a frame could not be decoded.
        """
        moments = self._file.times()
        for index in indices:
            if not -len(moments) <= index < len(moments):
                raise UserError(
                    f"frame {index} of {self.path!r} was asked for, but it has {len(moments)} frames."
                )
        return self.frames_at([float(moments[i]) for i in indices])

    def __iter__(self) -> Iterator[tuple[torch.Tensor, float]]:
        """Yields (frame uint8 [C, H, W], seconds) for every frame, each decoded once."""
        for moment, array in self._file.every():
            yield self._finish(array).clone(), moment

    def windows(
        self, num_frames: int, fps: float, stride_s: float, start_s: float | None = None
    ) -> Iterator[Frames]:
        """A sliding window over the whole video in which every frame is decoded once.

        Window k holds the frames on screen at `start + k * stride_s + i / fps` for i in 0..num_frames-1; windows go
        on while their last time lies within the video. Memory: one window.

        Args:
            num_frames: frames in a window.
            fps: their rate, which may be above the video's.
            stride_s: seconds between the starts of two windows.
            start_s: start of the first window; the video's start if None.
        """
        if num_frames < 1 or fps <= 0 or stride_s <= 0:
            raise UserError("windows needs num_frames of at least 1, and fps and stride_s above 0.")
        begin = self.start_s if start_s is None else start_s
        span = (num_frames - 1) / fps
        held: deque[tuple[float, torch.Tensor]] = deque()  # frames from the next window's first time on
        number = 0

        def window() -> Frames:
            wanted = [begin + number * stride_s + i / fps for i in range(num_frames)]
            shown, pick = [], 0
            for moment in wanted:
                while pick + 1 < len(held) and held[pick + 1][0] <= moment + TOLERANCE_S:
                    pick += 1
                shown.append(held[pick])
            return Frames(
                torch.stack([f for _, f in shown]), torch.tensor([t for t, _ in shown], dtype=torch.float64)
            )

        for moment, array in self._file.every(start_s):
            while held and begin + number * stride_s + span + TOLERANCE_S < moment:
                yield window()
                number += 1
                _forget(held, begin + number * stride_s)
            held.append((moment, self._finish(array).clone()))
            _forget(held, begin + number * stride_s)
        end = self.start_s + self.duration_s
        while held and begin + number * stride_s + span < end:
            yield window()
            number += 1

    def _finish(self, array: np.ndarray) -> torch.Tensor:
        frame = torch.from_numpy(array).permute(2, 0, 1)
        width, height = self._file.display
        if frame.shape[1:] != (height, width):  # pixels that are not square
            frame = resize(frame, (height, width))
        return frame

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_video(
    path: str | os.PathLike[str] | bytes | BinaryIO,
    backend: str = "auto",
    *,
    limits: LimitsConfig | None = None,
    lenient: bool = False,
    threads: int = 1,
) -> VideoReader:
    """Opens a video.

    Args:
        path: a local file, the bytes of one, or a seekable binary file (from fsspec, say). Addresses are refused.
        backend: "pyav", "torchcodec", "decord", or "auto" for PyAV, which is always installed, has a current FFmpeg and
            reads all that the other two read.
        limits: what the file may cost, and whether it is decoded in a child process.
        lenient: pass over what does not decode and hold the frame before it. Only PyAV can.
        threads: decoder threads. One is right inside loader workers; 0 lets FFmpeg choose.

    Raises:
        VideoError: the file cannot be read; it names the file, the stage and the reason.
        UserError: an unknown backend, or one that is not installed.
    """
    limits = limits or LimitsConfig()
    if isinstance(path, (str, os.PathLike)):
        source: Any = os.fspath(path)
        name = source
    else:
        source = path
        name = (
            f"<{len(path)} bytes>" if isinstance(path, bytes) else str(getattr(path, "name", "<open file>"))
        )
    if backend not in BACKENDS:
        raise UserError(f"backend={backend!r} is not one of {', '.join(BACKENDS)}.")
    if lenient and backend not in ("auto", "pyav"):
        raise UserError(f"backend={backend!r} cannot read leniently; use backend=pyav, or lenient=false.")
    if limits.isolate and backend not in ("auto", "pyav"):
        raise UserError(f"limits.isolate needs backend=pyav or auto; backend={backend!r} cannot be isolated.")
    if backend in ("auto", "pyav"):
        file: VideoFile
        if limits.isolate:
            from jepa.data.video.subprocess import IsolatedFile

            file = IsolatedFile(source, name, limits, lenient, threads)
        else:
            file = PyAvFile(source, name, limits, lenient, threads)
        return VideoReader(file, name, "pyav")
    from jepa.data.video.other_backends import DecordFile, TorchcodecFile

    kind = {"torchcodec": TorchcodecFile, "decord": DecordFile}[backend]
    return VideoReader(kind(source, name, limits, threads), name, backend)


def _forget(held: deque[tuple[float, torch.Tensor]], before: float) -> None:
    """Drops frames that no window from `before` on can show."""
    while len(held) > 1 and held[1][0] <= before + TOLERANCE_S:
        held.popleft()
