"""`open_video`: random access to the frames of a video, over PyAV (FFmpeg), torchcodec and decord.

    with jepa.open_video("talk.mp4") as video:
        frames = video.frames_at([0.0, 0.5, 1.0])     # frames.data uint8 [3, C, H, W], frames.times float64 [3]

All three give the same frames for the same times: upright, with square pixels, in RGB by the file's own colour tags,
alpha ignored. A frame is on screen from its own time until the next frame's, whatever the frame rate does in between.

For any request, in any order, the frame is the one that a pass from the start would show at that time, or
the request is a VideoError. So is every exception of a decoder or a container, with the original one as its cause.
"""

from __future__ import annotations

import contextlib
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
from jepa.errors import UserError, VideoError

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
    def numbered(self, numbers: Sequence[int]) -> Iterator[tuple[float, np.ndarray]]: ...  # noqa: D102
    def every(self, start_s: float | None = None) -> Iterator[tuple[float, np.ndarray]]: ...  # noqa: D102
    @property
    def notices(self) -> tuple[str, ...]: ...  # noqa: D102
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
        return self.info.fps

    @property
    def info(self) -> VideoInfo:
        """Container, codec, displayed size and the rest of what is known."""
        with self._typed("probe"):
            return self._file.info

    @property
    def num_frames(self) -> int:
        """Number of frames, counted at the first use, since what files state is not reliable.

        Packets are counted where they prove it, and frames where they do not, or when reading leniently.
        """
        return len(self._times())

    @property
    def notices(self) -> tuple[str, ...]:
        """What a lenient reading passed over so far, one sentence each; empty for a sound video."""
        return self._file.notices

    def _times(self) -> np.ndarray:
        with self._typed("probe"):
            return self._file.times()

    def _typed(self, stage: str) -> contextlib.AbstractContextManager[None]:
        return typed_errors(self.path, stage)

    def __len__(self) -> int:
        return self.num_frames

    def frames_at(
        self,
        seconds: Sequence[float],
        each: Callable[[torch.Tensor], torch.Tensor] | None = None,
        cut: Cut | None = None,
    ) -> Frames:
        """The frames on screen at these times, in the order of the request; the same frame may come more than once.

        Times before the first frame give the first, times after the last give the last. A frame counts as on screen
        from 1 ms before its time, because containers round.

        Args:
            seconds: times, in any order.
            each: applied to every decoded frame, uint8 [C, H, W], as soon as it is there: a crop here keeps only one
                full-size frame in memory.
            cut: this random resized crop of every frame instead of the full frame, data uint8 [T, 3, S, S], made in the
                decoder's own planes: several times faster than `each` and a little different.

        Raises:
            VideoError: a frame could not be decoded.
            UserError: a time is not a finite number, there is none, or each and cut are both given.
        """
        targets = np.asarray(seconds, dtype=np.float64)
        if targets.ndim != 1 or not targets.size or not np.isfinite(targets).all():
            raise UserError("frames_at takes a non-empty list of finite times in seconds.")
        if each is not None and cut is not None:
            raise UserError("frames_at takes each or cut, not both.")
        order = np.argsort(targets, kind="stable")
        return self._gather(order.tolist(), self._file.at(targets[order].tolist(), cut), each, cut)

    def frames(self, indices: Sequence[int]) -> Frames:
        """The frames with these numbers, counted from 0 in display order; negative ones count from the end.

        Raises:
            UserError: an index is out of range, or there is none.
            VideoError: a frame could not be decoded.
        """
        count = len(self._times())
        for index in indices:
            if not -count <= index < count:
                raise UserError(f"frame {index} of {self.path!r} does not exist: it has {count} frames.")
        if not len(indices):
            raise UserError("frames takes a non-empty list of frame numbers.")
        numbers = np.asarray(indices, dtype=np.int64) % count
        order = np.argsort(numbers, kind="stable")
        return self._gather(order.tolist(), self._file.numbered(numbers[order].tolist()))

    def _gather(
        self,
        order: list[int],
        found: Iterator[tuple[float, np.ndarray]],
        each: Callable[[torch.Tensor], torch.Tensor] | None = None,
        cut: Cut | None = None,
    ) -> Frames:
        """Frames that come in ascending order, into the rows that `order` names."""
        times = torch.empty(len(order), dtype=torch.float64)
        data: torch.Tensor | None = None
        last: np.ndarray | None = None
        picture: torch.Tensor | None = None
        for row in order:
            with self._typed("decode"):
                time_s, array = next(found)
                fresh = array is not last or picture is None
                if fresh:
                    last, picture = array, self._finish(array) if cut is None else torch.from_numpy(array)
            assert picture is not None
            if fresh and each is not None:  # the caller's code: its errors are its own
                picture = each(picture)
            if data is None:
                # In memory as the pictures are: decoders write channels innermost, resizing leaves them outermost,
                # and turning one into the other costs as much as the resizing.
                shape = (len(order), *picture.shape)
                layout = torch.channels_last if picture.stride(0) == 1 else torch.contiguous_format
                data = torch.empty(shape, dtype=torch.uint8, memory_format=layout)
            data[row] = picture
            times[row] = time_s
        assert data is not None  # there is at least one request
        if cut is not None and cut.flip:
            data = data.flip(-1)
        return Frames(data, times)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, float]]:
        """Yields (frame uint8 [C, H, W], seconds) for every frame, each decoded once."""
        for time_s, frame in self._onward(None):
            yield frame, time_s

    def _onward(self, start_s: float | None) -> Iterator[tuple[float, torch.Tensor]]:
        source = self._file.every(start_s)
        while True:
            with self._typed("decode"):
                found = next(source, None)
                if found is None:
                    return
                frame = self._finish(found[1]).clone()
            yield found[0], frame

    def windows(
        self, num_frames: int, fps: float, stride_s: float, start_s: float | None = None
    ) -> Iterator[Frames]:
        """A sliding window over the entire video in which every frame is decoded once.

        Window k holds the frames on screen at `start + k * stride_s + i / fps` for i in 0..num_frames-1; the last
        window is the last one whose last time is within the video. Memory: one window.

        Args:
            num_frames: frames in a window.
            fps: their rate, which may be above the video's.
            stride_s: seconds between the starts of two windows.
            start_s: start of the first window; the video's start if None.
        """
        if num_frames < 1 or fps <= 0 or stride_s <= 0:
            raise UserError("windows needs num_frames of at least 1, and fps and stride_s above 0.")
        begin = self.start_s if start_s is None else start_s  # s
        span = (num_frames - 1) / fps
        held: deque[tuple[float, torch.Tensor]] = deque()  # frames from the next window's first time on
        number = 0

        def window() -> Frames:
            shown, pick = [], 0
            for i in range(num_frames):
                target = begin + number * stride_s + i / fps
                while pick + 1 < len(held) and held[pick + 1][0] <= target + TOLERANCE_S:
                    pick += 1
                shown.append(held[pick])
            return Frames(
                torch.stack([f for _, f in shown]), torch.tensor([t for t, _ in shown], dtype=torch.float64)
            )

        for time_s, frame in self._onward(start_s):
            while held and begin + number * stride_s + span + TOLERANCE_S < time_s:
                yield window()
                number += 1
                _forget(held, begin + number * stride_s)
            held.append((time_s, frame))
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
    path: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | np.ndarray | torch.Tensor,
    backend: str = "auto",
    *,
    fps: float | None = None,
    limits: LimitsConfig | None = None,
    lenient: bool = False,
    threads: int = 1,
) -> VideoReader:
    """Opens a video.

    Args:
        path: a local file, the bytes of one (bytes, bytearray, memoryview), a seekable binary file (from fsspec, say),
            or decoded frames in memory, uint8 [T, C, H, W] or [T, H, W, C]. Addresses are refused.
        backend: "pyav", "torchcodec", "decord", or "auto" for PyAV, which is always installed, has a current FFmpeg and
            reads all that the other two read.
        fps: frames per second of frames in memory.
        limits: what the file may cost, and whether it is decoded in a child process.
        lenient: pass over what does not decode and hold the frame before it; `VideoReader.notices` then says what was
            passed over. Only PyAV can.
        threads: decoder threads. One is right inside loader workers; 0 lets FFmpeg choose.

    Raises:
        VideoError: the file cannot be read; it names the file, the stage and the reason.
        UserError: an unknown backend, or one that is not installed.

    Example:
        >>> import jepa
        >>> with jepa.open_video("talk.mp4") as video:  # doctest: +SKIP
        ...     frames = video.frames_at([0.0, 0.5, 1.0])
        >>> frames.data.shape  # doctest: +SKIP
        torch.Size([3, 3, 720, 1280])
    """
    limits = limits or LimitsConfig()
    if isinstance(path, (np.ndarray, torch.Tensor)):
        from jepa.data.video.frames_in_memory import FramesInMemory

        name = f"<{len(path)} frames in memory>"
        return VideoReader(FramesInMemory(path, fps, name), name, "memory")
    if fps is not None:
        raise UserError("fps= is for frames in memory; a file states its own times.")
    if isinstance(path, (str, os.PathLike)):
        source: Any = os.fspath(path)
        name = source
    else:
        source = bytes(path) if isinstance(path, (bytearray, memoryview)) else path
        name = (
            f"<{len(source)} bytes>"
            if isinstance(source, bytes)
            else str(getattr(path, "name", "<open file>"))
        )
    if backend not in BACKENDS:
        raise UserError(f"backend={backend!r} is not one of {', '.join(BACKENDS)}.")
    if lenient and backend not in ("auto", "pyav"):
        raise UserError(f"backend={backend!r} cannot read leniently; use backend=pyav, or lenient=false.")
    if limits.isolate and backend not in ("auto", "pyav"):
        raise UserError(f"limits.isolate needs backend=pyav or auto; backend={backend!r} cannot be isolated.")
    with typed_errors(name, "open"):
        if backend in ("torchcodec", "decord"):
            from jepa.data.video.other_backends import DecordFile, TorchcodecFile

            kind = {"torchcodec": TorchcodecFile, "decord": DecordFile}[backend]
            return VideoReader(kind(source, name, limits, threads), name, backend)
        if limits.isolate:
            from jepa.data.video.subprocess import IsolatedFile

            return VideoReader(IsolatedFile(source, name, limits, lenient, threads), name, "pyav")
        return VideoReader(PyAvFile(source, name, limits, lenient, threads), name, "pyav")


@contextlib.contextmanager
def typed_errors(path: str, stage: str) -> Iterator[None]:
    """Turns every exception while a video is handled into its VideoError, chained to the original one."""
    try:
        yield
    except (VideoError, UserError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise VideoError(path, stage, reason) from error


def _forget(held: deque[tuple[float, torch.Tensor]], before: float) -> None:
    """Drops frames that no window from `before` on can show."""
    while len(held) > 1 and held[1][0] <= before + TOLERANCE_S:
        held.popleft()
