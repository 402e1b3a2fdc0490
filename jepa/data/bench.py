"""Decoding benchmark (`jepa bench what=decode`): clips per second, memory per worker, milliseconds per reader."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from jepa.data.dataset import ClipDataset, StreamSampler, TrainClipConfig, collate
from jepa.data.manifest import Item, read_items
from jepa.errors import UserError
from jepa.fields import path_key
from jepa.files import write_text


@dataclass
class DecodeBenchConfig:
    """What is read, and how."""

    data: str = path_key("???")
    """folder of videos, or a list of them"""
    num_frames: int = 16
    """frames in a clip"""
    fps: int = 4
    """their rate"""
    crop_px: int = 256
    """side of a clip in pixels"""
    workers: int = 1
    """loader processes"""
    batch_size: int = 8
    """clips per batch"""
    clips: int = 200
    """clips per repetition"""
    repeats: int = 3
    """repetitions; the order of the loaders alternates between them"""
    out: str = path_key("")
    """a Markdown file for the result, or none"""


@dataclass(frozen=True)
class LoaderRow:
    """One loader: clips per second in each repetition, and the most memory one worker grew by."""

    name: str
    clips_per_s: list[float]
    worker_mb: float


class Metered(Dataset):
    """Passes samples through and adds how much memory this worker has come to need since it began."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.base: float | None = None

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Any, float]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Any, float]]:
        if self.base is None:
            self.base = _memory_mb("VmRSS")
        if hasattr(self.inner, "__getitems__"):
            samples = self.inner.__getitems__(indices)
        else:
            samples = [self.inner[i] for i in indices]
        grown = _memory_mb("VmHWM") - self.base
        return [(sample, grown) for sample in samples]


class SplitMemory:
    """Collates samples as their own loader does, and keeps the largest memory figure."""

    def __init__(self, inner: Callable[[list[Any]], Any]) -> None:
        self.inner = inner

    def __call__(self, pairs: list[tuple[Any, float]]) -> tuple[Any, float]:
        """(batch of the inner collate function, MB)."""
        return self.inner([s for s, _ in pairs]), max(m for _, m in pairs)


Loader: TypeAlias = Callable[[int], DataLoader]
"""Makes a loader of `clips` clips from a seed; its batches are (batch, MB): see `Metered` and `SplitMemory`."""


def measure(
    config: DecodeBenchConfig,
    others: Mapping[str, Callable[[list[Item], DecodeBenchConfig], Loader]] | None = None,
) -> dict[str, Any]:
    """Measures, prints two tables, writes them to `out` if one is named, and returns the measurements.

    Args:
        config: what is read, and how.
        others: further loaders by name, each made from the items; they take turns with ours.

    Raises:
        UserError: there are no videos, or too few clips to time.
    """
    if config.clips < 2 * config.batch_size:
        raise UserError(
            f"clips={config.clips} with batch_size={config.batch_size}: the first batch of a repetition is not timed. "
            f"Ask for at least {2 * config.batch_size} clips."
        )
    items = read_items(config.data)
    loaders = [("jepa", _ours(items, config))]
    loaders += [(name, make(items, config)) for name, make in (others or {}).items()]
    rows = _time_loaders(loaders, config)
    Console().print(_loader_table(rows, config))
    readers = _time_readers(items, config)
    Console().print(_reader_table(readers, config))
    if config.out:
        write_text(config.out, _markdown(rows, readers, config, len(items)))
    return {"files": len(items), "loaders": [asdict(row) for row in rows], "reader_ms": readers}


def _ours(items: list[Item], config: DecodeBenchConfig) -> Loader:
    clip = TrainClipConfig(num_frames=config.num_frames, fps=float(config.fps), crop_px=config.crop_px)

    def make(seed: int) -> DataLoader:
        return DataLoader(
            Metered(ClipDataset(items, clip, seed)),
            batch_sampler=StreamSampler(config.batch_size, config.clips // config.batch_size),
            num_workers=config.workers,
            collate_fn=SplitMemory(collate),
        )

    return make


def _time_loaders(loaders: list[tuple[str, Loader]], config: DecodeBenchConfig) -> list[LoaderRow]:
    speed: dict[str, list[float]] = {name: [] for name, _ in loaders}
    memory: dict[str, float] = {name: 0.0 for name, _ in loaders}
    for repeat in range(config.repeats):
        for name, make in loaders if repeat % 2 == 0 else loaders[::-1]:
            batches = iter(make(repeat))
            next(batches)  # starting workers is not what is measured
            begin, count = time.perf_counter(), 0
            for _, grown in batches:
                count += config.batch_size
                memory[name] = max(memory[name], grown)
            speed[name].append(count / (time.perf_counter() - begin))
    return [LoaderRow(name, speed[name], memory[name]) for name, _ in loaders]


def _time_readers(items: list[Item], config: DecodeBenchConfig) -> dict[str, list[float]]:
    """Milliseconds to open a file and get one clip's frames at full size, for each reader and file."""
    from jepa.data.video.reader import open_video

    def times_of(item: Item) -> list[float]:
        with open_video(item.path) as video:
            room = max(0.0, video.duration_s - config.num_frames / config.fps)
            start = video.start_s + room / 2
            return [
                min(start + k / config.fps, video.start_s + video.duration_s - 0.01)
                for k in range(config.num_frames)
            ]

    def ours(backend: str) -> Callable[[str, list[float]], object]:
        def read(path: str, times: list[float]) -> object:
            with open_video(path, backend=backend) as video:
                return video.frames_at(times).data

        return read

    readers: dict[str, Callable[[str, list[float]], object]] = {
        "jepa, pyav": ours("pyav"), "plain PyAV": _plain_pyav, "plain decord": _plain_decord,
        "plain torchcodec": _plain_torchcodec, "jepa, torchcodec": ours("torchcodec"), "jepa, decord": ours("decord"),
    }  # fmt: skip
    chosen = items[:: max(1, len(items) // 20)]
    found: dict[str, list[float]] = {}
    for name, read in readers.items():
        try:
            read(chosen[0].path, times_of(chosen[0]))
        except (ImportError, UserError, RuntimeError):
            continue  # that reader is not installed
        found[name] = []
        for item in chosen:
            times = times_of(item)
            best = min(_clock(lambda: read(item.path, times)) for _ in range(3))  # noqa: B023
            found[name].append(1000 * best)
    return found


def _clock(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def _plain_pyav(path: str, times: list[float]) -> object:
    import av

    remaining, frames, last = iter(sorted(times)), [], None
    target: float | None = next(remaining)
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int(times[0] / float(stream.time_base or 1)), stream=stream)
        for frame in container.decode(stream):
            while target is not None and frame.time > target and last is not None:
                frames.append(last.to_ndarray(format="rgb24"))
                target = next(remaining, None)
            if target is None:
                break
            last = frame
    return frames


def _plain_decord(path: str, times: list[float]) -> object:
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    fps, count = reader.get_avg_fps(), len(reader)
    return reader.get_batch([min(count - 1, int(t * fps)) for t in times]).asnumpy()


def _plain_torchcodec(path: str, times: list[float]) -> object:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="approximate")
    begin, end = decoder.metadata.begin_stream_seconds, decoder.metadata.end_stream_seconds
    return decoder.get_frames_played_at([min(max(t, begin or 0.0), (end or t + 1) - 1e-3) for t in times])


def _memory_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


def _loader_lines(rows: list[LoaderRow]) -> Iterator[tuple[str, ...]]:
    ours = median(rows[0].clips_per_s)
    for row in rows:
        speed = median(row.clips_per_s)
        yield (
            row.name, f"{speed:.1f}", f"{pstdev(row.clips_per_s):.1f}", f"{row.worker_mb:.0f}", f"{ours / speed:.2f}x",
        )  # fmt: skip


_LOADER_HEAD = ("loader", "clips/s, median", "+-", "MB grown per worker", "jepa is")
_READER_HEAD = ("reader, one thread", "ms per clip, median", "mean")


def _loader_table(rows: list[LoaderRow], config: DecodeBenchConfig) -> Table:
    table = Table(*_LOADER_HEAD, title=f"{config.num_frames} frames at {config.fps} fps, {config.crop_px} px, "
                  f"{config.workers} worker(s), {config.repeats} x {config.clips} clips")  # fmt: skip
    for line in _loader_lines(rows):
        table.add_row(*line)
    return table


def _reader_lines(readers: dict[str, list[float]]) -> Iterator[tuple[str, ...]]:
    for name, values in readers.items():
        yield name, f"{median(values):.1f}", f"{mean(values):.1f}"


def _reader_table(readers: dict[str, list[float]], config: DecodeBenchConfig) -> Table:
    table = Table(*_READER_HEAD, title="opening a file and reading one clip at full size, best of 3 per file")
    for line in _reader_lines(readers):
        table.add_row(*line)
    return table


def _markdown(
    rows: list[LoaderRow], readers: dict[str, list[float]], config: DecodeBenchConfig, files: int
) -> str:
    versions = []
    for package in ("torch", "torchvision", "av", "torchcodec", "decord"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")

    def lines(head: tuple[str, ...], body: Iterator[tuple[str, ...]]) -> str:
        return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *body))

    setup = (
        f"{files} files, {config.num_frames} frames at {config.fps} fps, {config.crop_px} px, "
        f"{config.workers} worker(s), batches of {config.batch_size}, {config.repeats} repetitions of {config.clips} "
        f"clips.\n{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}, "
        f"{', '.join(versions)}.\n"
    )
    tables = (lines(_LOADER_HEAD, _loader_lines(rows)), lines(_READER_HEAD, _reader_lines(readers)))
    return "\n".join((setup, tables[0], "", tables[1], ""))
