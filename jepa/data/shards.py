"""Tar shards: a million small files as a few hundred large ones that are still read at random.

A shard is a plain tar. `shards.jsonl` beside the shards has one line per item, in the order of the source: where its
bytes are, their SHA-256, and all columns of the manifest. So item 123456 is one range read, and the samples of a run
are the same from shards as from the folder they were made of. Sources and shards may also be behind fsspec.

`jepa shard data.root=DIR out=DIR` makes them. Killed at any moment and started again, it resumes after the last
complete shard; `verify=true` checks every byte against its sum.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from jepa.data.manifest import SHARD_INDEX, Item, RootConfig, read_items
from jepa.errors import UserError, VideoError
from jepa.fields import path_key
from jepa.files import atomic_path, sha256_file, write_json, write_text
from jepa.progress import progress

_PLAN = "shards.json"


@dataclass
class ShardConfig:
    """What to pack, and where."""

    data: RootConfig = field(default_factory=RootConfig)
    out: str = path_key("???")
    """folder for the shards; started again on the same folder, the command resumes where it stopped"""
    shard_bytes: int = 1 << 30
    """a shard is closed when it holds this many bytes"""
    verify: bool = False
    """read every shard again and compare each file with its SHA-256"""


class RangeFile(io.RawIOBase):
    """A range of bytes of a seekable binary file, as a file of its own; closes the other one with itself."""

    def __init__(self, file: BinaryIO, offset: int, size: int, name: str) -> None:
        self._file, self._offset, self.size, self.name, self._at = file, offset, size, name, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As for any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """As for any file."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As for any file; never past the range."""
        count = min(len(buffer), max(0, self.size - self._at))
        if not count:
            return 0
        self._file.seek(self._offset + self._at)
        block = self._file.read(count)
        buffer[: len(block)] = block
        self._at += len(block)
        return len(block)

    def close(self) -> None:
        """Closes both."""
        if not self.closed:
            self._file.close()
        super().close()


def open_span(item: Item) -> RangeFile:
    """The item's bytes inside its shard, as a file.

    Raises:
        VideoError: the shard cannot be opened or is too short.
    """
    assert item.span is not None
    span = item.span
    try:
        file = _open(span.shard)
        if file.seek(0, io.SEEK_END) < span.offset + span.size:
            file.close()
            raise VideoError(item.path, "open", f"its shard {span.shard!r} is cut off")
    except OSError as error:
        raise VideoError(item.path, "open", f"its shard {span.shard!r} cannot be read: {error}") from None
    return RangeFile(file, span.offset, span.size, item.path)


def _open(path: str) -> BinaryIO:
    if "://" not in path:
        # Unbuffered: the video reader asks for blocks of its own size.
        return open(path, "rb", buffering=0)
    try:
        import fsspec
    except ImportError:
        raise UserError(f"{path!r} is an address, which needs fsspec: run `pip install fsspec`.") from None
    return fsspec.open(path, "rb").open()


def run(config: ShardConfig) -> Path:
    """Packs, or resumes packing, and returns the folder.

    Raises:
        UserError: there is nothing to pack, or `out` holds shards of something else.
        VideoError: a file vanished, or a checksum is wrong.
    """
    out = Path(config.out)
    items = read_items(config.data.root)
    if any(item.span for item in items):
        raise UserError(
            f"{config.data.root!r} already holds shards; give the folder or list that they were made of."
        )
    if config.shard_bytes < 1:
        raise UserError(f"shard_bytes={config.shard_bytes} has to be at least 1.")
    files = list(dict.fromkeys(item.path for item in items))
    _claim(out, config, files)
    packed = _finished(out)
    done = {row["path"] for row in packed}
    todo = [path for path in files if path not in done]
    names = dict(zip(files, _names(files), strict=True))
    number = len({row["shard"] for row in packed})
    with progress("files", len(todo)) as advance:
        while todo:
            rows = _pack(out / f"shard-{number:05d}.tar", todo, names, config.shard_bytes)
            # The part of the index is written after the shard it describes: a shard without one is made again.
            write_text(out / f"shard-{number:05d}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            packed += rows
            todo = todo[len(rows) :]
            number += 1
            advance(len(rows))
    by_path = {row["path"]: row for row in packed}
    with atomic_path(out / SHARD_INDEX) as partial, partial.open("w", encoding="utf-8") as index:
        for item in items:
            known = asdict(item) | asdict(item).pop("columns")
            values = {
                k: v for k, v in known.items() if v not in (None, "") and k not in ("path", "name", "columns")
            }
            row = by_path[item.path]
            where = {k: row[k] for k in ("shard", "offset", "size", "sha256")}
            index.write(json.dumps({"path": row["name"], **values, **where}) + "\n")
    if config.verify:
        verify(out)
    return out


def verify(folder: str | os.PathLike[str]) -> int:
    """Compares every file in the shards of `folder` with its checksum; returns how many there are.

    Raises:
        VideoError: names the first file whose bytes are not what was packed.
    """
    with (Path(folder) / SHARD_INDEX).open(encoding="utf-8") as handle:
        sums = {(r["shard"], r["offset"]): r for r in map(json.loads, handle)}
    for item in {(i.span.shard, i.span.offset): i for i in read_items(folder) if i.span}.values():
        assert item.span is not None
        row = sums[Path(item.span.shard).name, item.span.offset]
        with open_span(item) as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != row["sha256"]:
            raise VideoError(
                item.path, "open", f"its bytes in {item.span.shard!r} are not those that were packed"
            )
    return len(sums)


def _claim(out: Path, config: ShardConfig, files: list[str]) -> None:
    """Refuses to mix two data sets, or two sizes, in one folder."""
    identity = {
        "files": len(files),
        "sha256": hashlib.sha256("\n".join(files).encode("utf-8", "surrogateescape")).hexdigest(),
        "shard_bytes": config.shard_bytes,
    }
    plan = out / _PLAN
    if not plan.exists():
        if out.exists() and any(out.iterdir()):
            raise UserError(f"out={config.out!r} holds other files. Give a new or empty folder.")
        write_json(plan, identity)
    elif json.loads(plan.read_text(encoding="utf-8")) != identity:
        raise UserError(
            f"out={config.out!r} holds shards of other files or of another size. Give a new folder, or remove it."
        )


def _finished(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for part in sorted(out.glob("shard-*.jsonl")):
        rows += [json.loads(line) for line in part.read_text(encoding="utf-8").splitlines()]
    return rows


def _pack(shard: Path, paths: list[str], names: dict[str, str], limit: int) -> list[dict[str, Any]]:
    """Writes the next files into one tar until it is full; the rows say where each one is stored."""
    rows: list[dict[str, Any]] = []
    with atomic_path(shard) as partial, tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
        total = 0
        for path in paths:
            try:
                size, digest = os.stat(path).st_size, sha256_file(path)  # noqa: PTH116
                entry = tarfile.TarInfo(names[path])
                entry.size = size
                with open(path, "rb") as source:
                    tar.addfile(entry, source)
            except OSError as error:
                raise VideoError(path, "open", f"cannot be packed: {error}") from None
            # The bytes end where the tar stands now, less the padding to full blocks of 512.
            offset = tar.offset - (size + 511) // 512 * 512
            rows.append(
                {
                    "path": path,
                    "name": names[path],
                    "shard": shard.name,
                    "offset": offset,
                    "size": size,
                    "sha256": digest,
                }
            )
            total += size
            if total >= limit:
                break
    return rows


def _names(paths: list[str]) -> Iterator[str]:
    """Names inside the shards: the paths below their common folder."""
    with contextlib.suppress(ValueError):  # mixed absolute and relative paths have no common folder
        common = os.path.commonpath([os.path.dirname(p) for p in paths])
        for path in paths:
            yield os.path.relpath(path, common)
        return
    for number, path in enumerate(paths):
        yield f"{number:08d}-{os.path.basename(path)}"  # noqa: PTH119
