"""Manifests: which videos a run reads, from folders, class folders, list files of every format, and shards.

`read_items` is the only reader of lists: any list that trains an encoder can also be embedded and probed.
"""

from __future__ import annotations

import difflib
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jepa.data.list_files import (
    IMAGE_SUFFIXES,
    LIST_SUFFIXES,
    VIDEO_SUFFIXES,
    Row,
    has_media_suffix,
    read_rows,
)
from jepa.errors import UserError
from jepa.fields import path_key

SHARD_INDEX = "shards.jsonl"
LABELS = ("labels.csv",)

# Accepted spellings of each column, the first being ours. Public data sets call the same thing by many names.
COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("path", "file", "video", "filename", "video_path"),
    "label": ("label", "class", "label_name"),
    "group": ("group", "source_group", "sequence", "subject"),
    "split": ("split", "part"),
    "start_s": ("start_s", "start"),
    "end_s": ("end_s", "end", "stop_s"),
}
_SHARD_COLUMNS = ("shard", "offset", "size", "sha256")
_SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test")
_log = logging.getLogger(__name__)


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
    """One video or image, or one part of a video, with its columns from the list.

    Example:
        >>> Item("clips/a.mp4", label="kick", start_s=1.0, end_s=2.5).name
        'a.mp4'
    """

    path: str
    """the file, or its name inside a shard"""
    name: str = ""
    """the file as its list or folder calls it, for tables and reports"""
    label: str = ""
    """class name; empty where there is none"""
    group: str = ""
    """items of one group are never split between training and testing; empty where there is none"""
    split: str | None = None
    """train, val or test, where the list states it"""
    start_s: float | None = None
    """start of the part in seconds of the file's own clock; None for the beginning of the video"""
    end_s: float | None = None
    """end of the part; None for the end of the video"""
    span: Span | None = None
    """where the bytes are stored if `path` is a name inside a shard"""
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    """the rest of the list's columns that are not empty: tags, caption, kind and others"""

    def __post_init__(self) -> None:
        name = self.name or self.path.rpartition("/")[2]
        # Reports are UTF-8: bytes of a file name that are not become visible escapes. `path` keeps them.
        object.__setattr__(self, "name", os.fsencode(name).decode("utf-8", "backslashreplace"))


def read_items(
    root: str | os.PathLike[str],
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    lists: Sequence[str] = LABELS,
) -> list[Item]:
    """Lists the videos of a folder, a list file or a folder of shards, in a fixed order.

    A folder gives its `shards.jsonl` if there is one, else its `labels.csv`, else every video and image below it in
    sorted order. The label of such a file is the name of the first folder below `root`; if all of these are called
    train, val or test, they are the splits, and the next folders the labels. Linked folders are followed, each folder
    is read once, and names that begin with a dot are left out.

    A list is CSV (comma, tab or semicolon) with a header, JSON lines, Parquet, or lines `path label` without a header.
    Relative paths are resolved against the list's folder. Nothing is opened to see whether it decodes.

    Args:
        root: the folder or file.
        limit: only the first so many.
        columns: where columns have other names, ours to theirs: {"group": "sequence"}.
        lists: names of list files that are looked for in a folder; the first that exists is read.

    Raises:
        UserError: nothing there, nothing usable in it, or a column or value is wrong.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "labels.csv").write_text("path,label,caption\\na.mp4,kick,A kick.\\n")
        >>> item, = read_items(folder)
        >>> item.name, item.label, item.columns
        ('a.mp4', 'kick', {'caption': 'A kick.'})
    """
    where, columns = Path(root), columns or {}
    for name in columns:
        if name not in COLUMNS:
            raise UserError(f"columns names {name!r}, which is not one of {', '.join(COLUMNS)}.")
    if "://" in os.fspath(root):
        items = _read_remote(os.fspath(root).rstrip("/"), columns)
    elif not where.exists():
        raise UserError(
            f"{str(root)!r} does not exist. Give a folder of videos or a list of them (data.root=...)."
        )
    elif where.is_dir():
        found = next((name for name in (SHARD_INDEX, *lists) if (where / name).is_file()), None)
        items = _read_list(where / found, columns) if found else _read_folder(where)
    elif where.suffix.lower() in LIST_SUFFIXES:
        items = _read_list(where, columns)
    elif has_media_suffix(where.name):
        items = [Item(str(where), where.name)]
    else:
        raise UserError(
            f"{str(root)!r} is neither a folder nor a list. Lists end in {', '.join(sorted(LIST_SUFFIXES))}."
        )
    return items if limit is None else items[:limit]


def is_image(path: str) -> bool:
    """Whether the name is a still image's.

    Example:
        >>> is_image("a.JPG"), is_image("a.gif")
        (True, False)
    """
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def _read_folder(root: Path) -> list[Item]:
    found, others = [], 0
    for base, files in _folders(root):
        for name in files:
            if has_media_suffix(name):
                found.append(os.path.join(base, name))
            else:
                others += 1
    if not found:
        what = f"holds {others} files but no video or image by its ending" if others else "is empty"
        raise UserError(
            f"the folder {str(root)!r} {what}. Point data.root at a folder with videos "
            "(.mp4, .mkv, .webm, .mov, .avi ...) or at a list of them (.csv, .jsonl)."
        )
    if others:
        _log.info("%s: %d files are neither videos nor images by their ending and are left out", root, others)
    found.sort(key=os.fsencode)
    names = [Path(path).relative_to(root).parts for path in found]
    splits = all(len(parts) > 1 and parts[0].casefold() in _SPLIT_FOLDERS for parts in names)
    items = []
    for path, parts in zip(found, names, strict=True):
        split, folders = (_split_name(parts[0]), parts[1:-1]) if splits else (None, parts[:-1])
        items.append(Item(path, "/".join(parts), folders[0] if folders else "", split=split))
    return items


def _split_name(folder: str) -> str:
    """The split that a folder is named for: train, val or test."""
    return {"training": "train", "valid": "val", "validation": "val"}.get(
        folder.casefold(), folder.casefold()
    )


def _folders(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Folders below `root` with their files, links followed, each folder once, so that a cycle of links ends.

    Real folders come before linked ones: a link to a folder that is in the tree anyway does not take its files away.
    """
    seen: set[str] = set()
    linked = [str(root)]
    while linked:
        start = linked.pop(0)
        real, parent = os.path.realpath(start), os.path.realpath(Path(start).parent)
        if real in seen or (seen and Path(parent).is_relative_to(real)):
            _log.info(
                "%s is not followed: it leads to a folder that is read already, or to one above itself", start
            )
            continue
        for base, names, files in os.walk(start, onerror=_unreadable):
            if (real := os.path.realpath(base)) in seen:
                names.clear()
                continue
            seen.add(real)
            names[:] = sorted(name for name in names if not name.startswith("."))
            linked += [path for name in names if Path(path := os.path.join(base, name)).is_symlink()]
            yield base, [name for name in files if not name.startswith(".")]


def _unreadable(error: OSError) -> None:
    raise UserError(f"the folder {error.filename!r} cannot be listed: {error.strerror}.")


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
        replace(item, span=replace(item.span, shard=f"{root}/{Path(item.span.shard).name}"))
        for item in items
        if item.span is not None
    ]


def _read_list(file: Path, columns: Mapping[str, str]) -> list[Item]:
    known = (*COLUMNS["path"], *(name.casefold() for name in columns.values()))
    header, rows = read_rows(file, known)
    if not rows:
        raise UserError(f"the list {str(file)!r} names no video: it is empty, or has a header only.")
    names = {ours: _find_column(file, ours, header, columns) for ours in COLUMNS}
    taken = {name for name in names.values() if name is not None}
    rest = [name for name in header if name not in taken and name not in _SHARD_COLUMNS]
    reader = _ItemReader(file, names, rest)
    return [reader.item(row) for row in rows]


def _find_column(file: Path, ours: str, header: Sequence[str], columns: Mapping[str, str]) -> str | None:
    if ours in columns:
        if columns[ours] not in header:
            close = difflib.get_close_matches(columns[ours], header, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UserError(
                f"{str(file)!r} has no column {columns[ours]!r}; it has {', '.join(header)}.{hint}"
            )
        return columns[ours]
    folded = {name.casefold(): name for name in reversed(header)}
    theirs = next((folded[name] for name in COLUMNS[ours] if name in folded), None)
    if theirs is None and ours == "path":
        raise UserError(
            f"{str(file)!r} has no `path` column, so the videos cannot be found: its columns are {', '.join(header)}. "
            "Rename the column with the file names to `path`; for a list without a header, write `path label` lines."
        )
    return theirs


class _ItemReader:
    """Rows of one list as items."""

    def __init__(self, file: Path, names: Mapping[str, str | None], rest: Sequence[str]) -> None:
        self.file, self.names, self.rest = file, names, rest
        self._resolved: dict[str, str] = {}  # a list of segments names the same file many times
        self._nothing: dict[str, str] = {}  # one for all items without further columns

    def item(self, row: Row) -> Item:
        """The item of a row; messages name its line."""
        path = self._text(row, "path")
        if not path:
            raise UserError(f"{str(self.file)!r}, {row.where}: the path is empty.")
        start, end = self._seconds(row, "start_s"), self._seconds(row, "end_s")
        if start is not None and end is not None and end <= start:
            raise UserError(
                f"{str(self.file)!r}, {row.where}: the part ends at {end:g} s, before it starts at {start:g} s, "
                "or is empty."
            )
        span = self._span(row)
        if span is None and path not in self._resolved:
            self._resolved[path] = _resolve(self.file.parent, path)
        columns = {name: value for name in self.rest if (value := self._value(row, name))}
        return Item(
            path=path if span else self._resolved[path],
            name=path,
            label=self._text(row, "label"),
            group=self._text(row, "group"),
            split=self._text(row, "split") or None,
            start_s=start,
            end_s=end,
            span=span,
            columns=columns or self._nothing,
        )

    def _text(self, row: Row, ours: str) -> str:
        name = self.names[ours]
        return "" if name is None else self._value(row, name)

    def _value(self, row: Row, name: str) -> str:
        value = row.values.get(name)
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"{str(self.file)!r}, {row.where}: {name} is not a number (NaN); leave it empty.")
        if isinstance(value, (list, tuple)):  # JSON and Parquet have lists; text separates tags by ";"
            value = ";".join(map(str, value))
        text = "" if value is None else str(value).strip()
        if name != self.names["path"] and not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            raise UserError(
                f"{str(self.file)!r}, {row.where}: {name}={text!r} is not UTF-8. Save the list as UTF-8."
            )
        return text

    def _seconds(self, row: Row, ours: str) -> float | None:
        name = self.names[ours]
        if name is None:
            return None
        raw = row.values.get(name)
        text = "" if raw is None else str(raw).strip()
        if not text:
            return None
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not math.isfinite(seconds):
            raise UserError(f"{str(self.file)!r}, {row.where}: {name}={text!r} is not a time in seconds.")
        return seconds

    def _span(self, row: Row) -> Span | None:
        if not row.values.get("shard"):
            return None
        try:
            offset, size = int(row.values["offset"]), int(row.values["size"])
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{str(self.file)!r}, {row.where} names a shard without an integer `offset` and `size`. Make the "
                "shards again with `jepa shard`."
            ) from None
        return Span(str(self.file.parent / row.values["shard"]), offset, size)


def _resolve(folder: Path, path: str) -> str:
    """Against the list's folder; annotation files often leave the ending away, so a name without one is looked up."""
    full = folder / path
    if not has_media_suffix(full.name) and not full.exists():
        for suffix in sorted(VIDEO_SUFFIXES):
            if (longer := full.with_name(full.name + suffix)).exists():
                return str(longer)
    return str(full)
