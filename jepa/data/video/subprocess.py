"""Decoding in a child process: a crash, a hang or a memory bomb in a native decoder becomes a VideoError.

The child imports NumPy and PyAV only, may not write files, and has a limit on its address space. The parent waits with
a clock in its hand. What comes back is framed JSON and raw pixels, never pickle: a child that a hostile file has taken
over can send wrong pictures, and nothing that is executed. One child serves many files; after a failure it is replaced.

Messages, both ways: 4 bytes length, JSON; then as many raw bytes as its "bytes" states.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from jepa.data.crops import Cut
from jepa.data.video.audio_track import AudioBlock, AudioInfo, AudioReader, AudioSpec
from jepa.data.video.info import VideoInfo
from jepa.data.video.limits import LimitsConfig
from jepa.data.video.pyav import PyAvFile, Source
from jepa.errors import UserError, VideoError

_GRACE_S = 2.0  # beyond the child's own clock, before it counts as hung
_START_S = 60.0  # importing PyAV from a cold network disk


class _Asking:
    """One file in a child process, and questions about it."""

    def _open(
        self, source: Source, name: str, limits: LimitsConfig, request: dict[str, Any]
    ) -> dict[str, Any]:
        """Has a child open the file."""
        self.name, self.limits = name, limits
        self._child: _Child | None = _borrow(limits)
        payload = b""
        if not isinstance(source, str):
            payload = source if isinstance(source, bytes) else _read_all(source)
        opening = {
            "path": source if isinstance(source, str) else None, "name": name,
            "limits": asdict(replace(limits, isolate=False)),
        }  # fmt: skip
        try:
            return self._ask({**request, **opening}, payload)[0]
        except VideoError:
            self.close()
            raise

    def _ask(self, request: dict[str, Any], payload: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """One question, one answer.

        Raises:
            VideoError: the child's, or one that says how the child ended.
        """
        if self._child is None:
            raise UserError(f"the video {self.name!r} was closed before this request.")
        stage = "open" if request["do"] in ("open", "audio") else "decode"
        try:
            answer, data = self._child.ask(request, payload, self.limits)
        except _ChildError as error:
            self._child.kill()
            self._child = None
            raise VideoError(self.name, stage, str(error)) from None
        if "error" in answer:
            raise VideoError(self.name, str(answer["stage"]), str(answer["error"]))
        return answer, data

    def close(self) -> None:
        """Gives the child back for the next file."""
        if self._child is not None:
            _give_back(self._child)
            self._child = None


class IsolatedFile(_Asking):
    """The same methods as `pyav.PyAvFile`, carried out in a child process."""

    def __init__(self, source: Source, name: str, limits: LimitsConfig, lenient: bool, threads: int) -> None:
        self._turn = 0
        request = {"do": "open", "lenient": lenient, "threads": threads}
        reply = self._open(source, name, limits, request)
        self.start_s, self.duration_s = float(reply["start_s"]), float(reply["duration_s"])

    @property
    def info(self) -> VideoInfo:
        """See PyAvFile."""
        reply = self._ask({"do": "info"})[0]["info"]
        return VideoInfo(**{**reply, "orientation": tuple(reply["orientation"])})

    @property
    def display(self) -> tuple[int, int]:
        """See PyAvFile."""
        width, height = self._ask({"do": "display"})[0]["display"]
        return int(width), int(height)

    def times(self) -> np.ndarray:
        """See PyAvFile."""
        return np.frombuffer(self._ask({"do": "times"})[1], dtype=np.float64)

    def at(self, seconds: Sequence[float], cut: Cut | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """See PyAvFile."""
        part = None if cut is None else asdict(cut)
        return self._frames({"do": "at", "seconds": list(seconds), "cut": part}, planes=cut is not None)

    def numbered(self, numbers: Sequence[int]) -> Iterator[tuple[float, np.ndarray]]:
        """See PyAvFile."""
        return self._frames({"do": "numbered", "numbers": list(numbers)})

    def every(self, start_s: float | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """See PyAvFile."""
        return self._frames({"do": "every", "start_s": start_s})

    @property
    def notices(self) -> tuple[str, ...]:
        """See PyAvFile."""
        return tuple(map(str, self._ask({"do": "notices"})[0]["notices"]))

    def _frames(self, request: dict[str, Any], planes: bool = False) -> Iterator[tuple[float, np.ndarray]]:
        self._turn += 1
        turn = self._turn
        self._ask(request)
        last: np.ndarray | None = None
        while True:
            if turn != self._turn:
                raise UserError(f"other frames of {self.name!r} were requested while it was being iterated.")
            answer, data = self._ask({"do": "next"})
            if "end" in answer:
                return
            if not answer["same"] or last is None:
                height, width = int(answer["height"]), int(answer["width"])
                if height * width > self.limits.max_pixels or len(data) != height * width * 3:
                    raise VideoError(
                        self.name, "decode", "the decoding process sent a frame of the wrong size"
                    )
                last = np.frombuffer(bytearray(data), np.uint8)
                last = last.reshape((3, height, width) if planes else (height, width, 3))
            yield float(answer["time"]), last


class IsolatedAudio(_Asking):
    """The same as `audio_track.AudioReader`, carried out in a child process."""

    def __init__(
        self,
        source: Source,
        name: str,
        limits: LimitsConfig,
        specs: tuple[AudioSpec, ...],
        start_s: float | None,
    ) -> None:
        self._specs = specs
        request = {"do": "audio", "specs": specs, "start_s": start_s}
        reply = self._open(source, name, limits, request)
        self.start_s = float(reply["start_s"])
        self.info = None if reply["info"] is None else AudioInfo(*reply["info"])
        self.notices = list(map(str, reply["notices"]))

    def __iter__(self) -> Iterator[AudioBlock]:
        """See AudioReader."""
        while True:
            answer, data = self._ask({"do": "block"})
            if "end" in answer:
                return
            self.notices = list(map(str, answer["notices"]))
            samples = np.frombuffer(bytearray(data), np.float32).reshape(int(answer["channels"]), -1)
            spec = self._specs[int(answer["spec"])]
            yield AudioBlock(float(answer["start_s"]), samples, spec, str(answer["layout"]), answer["kind"])

    def __enter__(self) -> IsolatedAudio:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _ChildError(Exception):
    """How a child failed; the message is for the VideoError."""


class _Child:
    def __init__(self, max_memory: int) -> None:
        self.max_memory = max_memory
        root = str(Path(__file__).resolve().parents[3])
        paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jepa.data.video.subprocess", str(max_memory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._started = False

    def ask(
        self, request: dict[str, Any], payload: bytes, limits: LimitsConfig
    ) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + limits.max_decode_s + _GRACE_S + (0 if self._started else _START_S)
        assert self.process.stdin is not None
        try:
            _write(self.process.stdin, request, payload)
        except (BrokenPipeError, ValueError):
            raise _ChildError(self._obituary()) from None
        length = struct.unpack("<I", self._read(4, deadline, limits))[0]
        answer = json.loads(self._read(length, deadline, limits))
        data = self._read(int(answer.get("bytes", 0)), deadline, limits)
        self._started = True
        return answer, data

    def _read(self, count: int, deadline: float, limits: LimitsConfig) -> bytes:
        if count > max(3 * limits.max_pixels, 8 * limits.max_frames):
            raise _ChildError("the decoding process sent more than its limits allow")
        assert self.process.stdout is not None
        handle, blocks = self.process.stdout.fileno(), bytearray()
        while len(blocks) < count:
            ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise _ChildError(
                    f"took longer than limits.max_decode_s={limits.max_decode_s:g} s and was ended"
                )
            block = os.read(handle, min(1 << 20, count - len(blocks)))
            if not block:
                raise _ChildError(self._obituary())
            blocks += block
        return bytes(blocks)

    def _obituary(self) -> str:
        code = self.process.wait(timeout=10)
        if code < 0:
            return f"the decoder crashed (signal {-code}); only the child process died"
        return f"the decoding process ended with code {code}, probably out of memory (limit {self.max_memory} bytes)"

    def kill(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # what was still to be written no longer matters
                    pipe.close()
        self.process.wait()


# Children that wait for a file, per process: a forked loader worker must not talk to its parent's.
_idle: dict[int, list[_Child]] = {}
_KEEP = 4


def _borrow(limits: LimitsConfig) -> _Child:
    waiting = _idle.setdefault(os.getpid(), [])
    with contextlib.suppress(IndexError):
        while True:  # pop is one step, so threads cannot take the same child
            child = waiting.pop()
            if child.max_memory == limits.max_memory_bytes and child.process.poll() is None:
                return child
            child.kill()
    return _Child(limits.max_memory_bytes)


def _give_back(child: _Child) -> None:
    waiting = _idle.setdefault(os.getpid(), [])
    waiting.append(child)
    while len(waiting) > _KEEP:
        waiting.pop(0).kill()


def _read_all(file: Any) -> bytes:
    file.seek(0)
    return file.read()


def _write(pipe: IO[bytes], message: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    text = json.dumps({**message, "bytes": len(payload)}).encode()
    pipe.write(struct.pack("<I", len(text)) + text)
    pipe.write(payload)
    pipe.flush()


class _Server:
    """The child's side."""

    def __init__(self) -> None:
        self.file: PyAvFile | None = None
        self.frames: Iterator[tuple[float, np.ndarray]] = iter(())
        self.last: np.ndarray | None = None
        self.planes = False
        self.sound: AudioReader | None = None
        self.blocks: Iterator[AudioBlock] = iter(())

    def answer(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes | memoryview]:
        what = request["do"]
        if what == "open":
            if self.file is not None:
                self.file.close()
            self.file, self.last = None, None
            source = payload if request["path"] is None else request["path"]
            self.file = PyAvFile(
                source,
                request["name"],
                LimitsConfig(**request["limits"]),
                request["lenient"],
                request["threads"],
            )
            return {"start_s": self.file.start_s, "duration_s": self.file.duration_s}, b""
        if what in ("audio", "block"):
            return self.hear(request, payload)
        assert self.file is not None
        if what == "info":
            return {"info": asdict(self.file.info)}, b""
        if what == "display":
            return {"display": self.file.display}, b""
        if what == "times":
            return {}, self.file.times().tobytes()
        if what == "notices":
            return {"notices": self.file.notices}, b""
        if what in ("at", "numbered", "every"):
            self.last = None
            self.planes = what == "at" and request["cut"] is not None
            if what == "every":
                self.frames = self.file.every(request["start_s"])
            elif what == "numbered":
                self.frames = self.file.numbered(request["numbers"])
            else:
                cut = Cut(**request["cut"]) if self.planes else None
                self.frames = self.file.at(request["seconds"], cut)
            return {}, b""
        found = next(self.frames, None)
        if found is None:
            return {"end": True}, b""
        time_s, frame = found
        same, self.last = frame is self.last, frame
        height, width = frame.shape[1:] if self.planes else frame.shape[:2]
        pixels = b"" if same else np.ascontiguousarray(frame).tobytes()
        return {"time": time_s, "same": same, "height": height, "width": width}, pixels

    def hear(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes | memoryview]:
        """What is about sound."""
        if request["do"] == "audio":
            if self.sound is not None:
                self.sound.close()
            self.sound = None
            source = payload if request["path"] is None else request["path"]
            specs = tuple(AudioSpec(*spec) for spec in request["specs"])
            limits = LimitsConfig(**request["limits"])
            self.sound = reader = AudioReader(source, request["name"], limits, specs, request["start_s"])
            self.blocks = iter(reader)
            return {"start_s": reader.start_s, "info": reader.info, "notices": reader.notices}, b""
        assert self.sound is not None
        block = next(self.blocks, None)
        if block is None:
            return {"end": True}, b""
        answer = {
            "start_s": block.start_s, "layout": block.layout, "kind": block.kind, "notices": self.sound.notices,
            "channels": block.samples.shape[0], "spec": self.sound.specs.index(block.spec),
        }  # fmt: skip
        return answer, np.ascontiguousarray(block.samples, np.float32).tobytes()


def _serve() -> None:
    import resource

    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    server, requests, answers = _Server(), sys.stdin.buffer, sys.stdout.buffer
    while len(head := requests.read(4)) == 4:
        request = json.loads(requests.read(struct.unpack("<I", head)[0]))
        payload = requests.read(request["bytes"])
        try:
            answer, data = server.answer(request, payload)
        except VideoError as error:
            answer, data = {"error": error.reason, "stage": error.stage}, b""
        except MemoryError:
            answer, data = {"error": "needs more memory than limits.max_memory_bytes", "stage": "decode"}, b""
        except Exception as error:  # noqa: BLE001 - whatever a file provokes is its own failure, not the child's end
            answer, data = {"error": f"{type(error).__name__}: {error}", "stage": "decode"}, b""
        _write(answers, answer, data)


if __name__ == "__main__":
    _serve()
