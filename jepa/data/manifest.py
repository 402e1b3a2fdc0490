"""Which videos a run reads: folders, CSV, JSON lines, Parquet, the field's `path label` lines, and shards."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jepa.errors import UserError
from jepa.fields import path_key

VIDEO_SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".3gp", ".ogv",
    ".wmv", ".asf", ".mxf", ".gif", ".ivf",
}  # fmt: skip
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
LIST_SUFFIXES = {".csv", ".tsv", ".txt", ".list", ".jsonl", ".ndjson", ".parquet"}
SHARD_INDEX = "shards.jsonl"

# Accepted spellings of each column, the first being ours. Public sets call the same thing by many names.
COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("path", "file", "video", "filename", "video_path"),
    "label": ("label", "class", "label_name"),
    "group": ("group", "source_group", "sequence", "subject"),
    "split": ("split", "part"),
    "start_s": ("start_s", "start"),
    "end_s": ("end_s", "end", "stop_s"),
}


@dataclass(frozen=True)
class Span:
    """A file inside a tar shard: a range of bytes, so that it can be read at random."""

    shard: str
    offset: int
    size: int


@dataclass
class RootConfig:
    """Which data set a command reads."""

    root: str = path_key("???")
    """folder of videos, a list of them, or shards"""


@dataclass(frozen=True)
class Item:
    """One video, or one part of it, with what is known about it. Times in seconds of the file's own clock."""

    path: str
    label: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    group: str | None = None
    split: str | None = None
    span: Span | None = None
    """Where the bytes lie if `path` is a name inside a shard."""


def read_items(
    root: str | os.PathLike[str], limit: int | None = None, columns: Mapping[str, str] | None = None
) -> list[Item]:
    """Lists the videos of a folder, a list file or a folder of shards, in a fixed order.

    A folder gives its `shards.jsonl` if there is one, else its `labels.csv`, else every video and image below it in
    sorted order. A list is CSV or TSV with a header, JSON lines, Parquet, or lines `path label`; relative paths are
    resolved against the list's folder. Nothing is opened to see whether it decodes.

    Args:
        root: the folder or file.
        limit: only the first so many.
        columns: where the wanted columns have other names, ours to theirs: {"group": "sequence"}.

    Raises:
        UserError: nothing there, nothing usable in it, or a column or value is wrong.
    """
    where = Path(root)
    for name in columns or {}:
        if name not in COLUMNS:
            raise UserError(f"columns names {name!r}, which is not one of {', '.join(COLUMNS)}.")
    if "://" in os.fspath(root):
        items = _read_remote(os.fspath(root).rstrip("/"), columns or {})
        return items if limit is None else items[:limit]
    if not where.exists():
        raise UserError(
            f"{str(root)!r} does not exist. Give a folder of videos or a list of them (data.root=...)."
        )
    if where.is_dir():
        items = _read_folder(where, columns or {})
    elif where.suffix.lower() in LIST_SUFFIXES:
        items = _read_list(where, columns or {})
    elif where.suffix.lower() in VIDEO_SUFFIXES:
        items = [Item(str(where))]
    else:
        raise UserError(
            f"{str(root)!r} is neither a folder nor a list. Lists end in {', '.join(sorted(LIST_SUFFIXES))}."
        )
    return items if limit is None else items[:limit]


def is_image(path: str) -> bool:
    """Whether the name is a still picture's."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def _read_folder(folder: Path, columns: Mapping[str, str]) -> list[Item]:
    if (folder / SHARD_INDEX).is_file():
        return _read_list(folder / SHARD_INDEX, columns)
    if (folder / "labels.csv").is_file():
        return _read_list(folder / "labels.csv", columns)
    found, others = [], 0
    for base, names, files in os.walk(folder):
        names[:] = sorted(n for n in names if not n.startswith("."))
        for name in files:
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
                found.append(os.path.join(base, name))
            else:
                others += 1
    if not found:
        what = f"holds {others} files but no video or image by its ending" if others else "is empty"
        raise UserError(
            f"the folder {str(folder)!r} {what}. Point data.root at a folder with videos "
            "(.mp4, .mkv, .webm, .mov, .avi ...) or at a list of them (.csv, .jsonl)."
        )
    return [Item(path) for path in sorted(found, key=os.fsencode)]


def _read_remote(root: str, columns: Mapping[str, str]) -> list[Item]:
    """Shards behind fsspec. Only shards: single videos at an address are never opened."""
    try:
        import fsspec
    except ImportError:
        raise UserError(f"{root!r} is an address, which needs fsspec: run `pip install fsspec`.") from None
    try:
        with fsspec.open(f"{root}/{SHARD_INDEX}", "rb") as handle:
            text = handle.read()
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"{root!r} has no {SHARD_INDEX} that can be read ({error}). At an address only shards are read: make them "
            "with `jepa shard data.root=DIR out=DIR` and copy them there."
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / SHARD_INDEX
        local.write_bytes(text)
        items = _read_list(local, columns)
    return [
        replace(i, span=replace(i.span, shard=f"{root}/{Path(i.span.shard).name}"))
        for i in items
        if i.span is not None
    ]


def _read_list(file: Path, columns: Mapping[str, str]) -> list[Item]:
    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            rows, header = _parquet_rows(file)
        elif suffix in (".jsonl", ".ndjson"):
            rows, header = _json_rows(file)
        else:
            rows, header = _text_rows(file)
    except UnicodeDecodeError as error:
        raise UserError(f"{str(file)!r} is not UTF-8 text ({error.reason} at byte {error.start}).") from None
    if not rows:
        raise UserError(f"the list {str(file)!r} names no video: it is empty, or has a header only.")
    names = {ours: _find_column(file, ours, header, columns) for ours in COLUMNS}
    folder = file.parent
    known: dict[str, str] = {}
    return [_item(file, folder, number, row, names, known) for number, row in rows]


def _find_column(file: Path, ours: str, header: Sequence[str], columns: Mapping[str, str]) -> str | None:
    if ours in columns:
        if columns[ours] not in header:
            raise UserError(f"{str(file)!r} has no column {columns[ours]!r}; it has {', '.join(header)}.")
        return columns[ours]
    theirs = next((name for name in COLUMNS[ours] if name in header), None)
    if theirs is None and ours == "path":
        raise UserError(
            f"{str(file)!r} has no `path` column, so the videos cannot be found: its columns are {', '.join(header)}. "
            "Rename the column with the file names to `path`; for a list without a header, write `path label` lines."
        )
    return theirs


def _item(
    file: Path,
    folder: Path,
    number: int,
    row: Mapping[str, Any],
    names: Mapping[str, str | None],
    known: dict[str, str],
) -> Item:
    def text(name: str) -> str | None:
        value = row.get(names[name] or "")
        return None if value is None or value == "" else str(value)

    def seconds(name: str) -> float | None:
        value = text(name)
        if value is None:
            return None
        try:
            number_s = float(value)
        except ValueError:
            number_s = math.nan
        if not math.isfinite(number_s):
            raise UserError(f"{str(file)!r}, row {number}: {names[name]}={value!r} is not a time in seconds.")
        return number_s

    path, start, end = text("path"), seconds("start_s"), seconds("end_s")
    if path is None:
        raise UserError(f"{str(file)!r}, row {number}: the path is empty.")
    if start is not None and end is not None and end <= start:
        raise UserError(
            f"{str(file)!r}, row {number}: the part ends at {end:g} s, before it starts at {start:g} s."
        )
    span = None
    if row.get("shard"):
        span = Span(str(folder / row["shard"]), int(row["offset"]), int(row["size"]))
    elif path not in known:
        known[path] = _resolve(folder, path)
    return Item(
        path=path if span else known[path], label=text("label"), start_s=start, end_s=end, group=text("group"),
        split=text("split"), span=span,
    )  # fmt: skip


def _resolve(folder: Path, path: str) -> str:
    """Against the list's folder; annotation files often leave the ending away, so a name without one is looked up."""
    full = folder / path
    if full.suffix.lower() not in VIDEO_SUFFIXES | IMAGE_SUFFIXES and not full.exists():
        for suffix in sorted(VIDEO_SUFFIXES):
            if (longer := full.with_name(full.name + suffix)).exists():
                return str(longer)
    return str(full)


def _text_rows(file: Path) -> tuple[list[tuple[int, Mapping[str, Any]]], list[str]]:
    # surrogateescape: a file name that is not UTF-8 is a name all the same, and comes back as it was.
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = "\t" if file.suffix.lower() == ".tsv" or ("\t" in first and "," not in first) else ","
    if delimiter in first or not _is_plain(first):
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="")
        header = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = header
        return [
            (reader.line_num, {k: v.strip() for k, v in row.items() if isinstance(v, str)}) for row in reader
        ], header
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            path, label = _split_plain(line.strip())
            rows.append((number, {"path": path, "label": label}))
    return rows, ["path", "label"]


def _is_plain(line: str) -> bool:
    """Whether a first line without a delimiter is `path label` or a path, rather than a header of one column."""
    path, _ = _split_plain(line.strip())
    return Path(path).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES or "/" in path


def _split_plain(line: str) -> tuple[str, str | None]:
    """`path label`: the last word is the label, so that paths may hold spaces; a path alone has none."""
    if Path(line).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES or " " not in line:
        return line, None
    path, label = line.rsplit(" ", 1)
    return path.rstrip(), label


def _json_rows(file: Path) -> tuple[list[tuple[int, Mapping[str, Any]]], list[str]]:
    rows: list[tuple[int, Mapping[str, Any]]] = []
    with file.open(encoding="utf-8-sig") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{str(file)!r}, line {number} is not JSON: {error.msg}.") from None
            if not isinstance(row, dict):
                raise UserError(f"{str(file)!r}, line {number} is not a JSON object with a `path`.")
            rows.append((number, row))
    return rows, list(dict.fromkeys(key for _, row in rows for key in row))


def _parquet_rows(file: Path) -> tuple[list[tuple[int, Mapping[str, Any]]], list[str]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(
            f"{str(file)!r} is Parquet, which needs pyarrow: run `pip install pyarrow`, or convert it to CSV."
        ) from None
    table = parquet.read_table(file)
    return list(enumerate(table.to_pylist())), list(table.column_names)
