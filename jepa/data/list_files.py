"""List file formats: rows of CSV, TSV, semicolon and `path label` text, JSON lines and Parquet.

Every format gives the same: a header and numbered rows. What a column means is decided in `jepa/data/manifest.py`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jepa.errors import UserError

VIDEO_SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".flv", ".f4v", ".mpg", ".mpeg", ".m1v", ".m2v", ".vob",
    ".ts", ".m2ts", ".mts", ".3gp", ".3g2", ".ogv", ".wmv", ".asf", ".mxf", ".gif", ".ivf", ".h264", ".264", ".hevc",
    ".h265", ".265",
}  # fmt: skip
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
LIST_SUFFIXES = {".csv", ".tsv", ".txt", ".list", ".jsonl", ".ndjson", ".parquet"}

_MEDIA = "|".join(
    re.escape(suffix) for suffix in sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES, key=len, reverse=True)
)
_MEDIA_THEN = re.compile(rf"^(?P<path>.*(?:{_MEDIA}))(?:::|;|,|\s)\s*(?P<label>.*)$", re.IGNORECASE)
_QUOTED = re.compile(r"""^(?P<quote>["'])(?P<path>.+)(?P=quote)(?:(?:::|;|,|\s)\s*(?P<label>.*))?$""")


class Row(NamedTuple):
    """One line of a list."""

    where: str
    """what a message calls it: "line 7" or "row 7" """
    values: Mapping[str, Any]


def read_rows(file: Path, path_names: Sequence[str]) -> tuple[list[str], list[Row]]:
    """Reads a list file of any format.

    Args:
        file: its name decides the format.
        path_names: names that the path's column may have; they tell a header from a line of values.

    Returns:
        The column names, and one row per line. Columns without a name (pandas writes its index so) are left out.

    Raises:
        UserError: the text is not UTF-8, a line cannot be parsed, or a column name comes twice.
    """
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        header, rows = _parquet_rows(file)
    elif suffix in (".jsonl", ".ndjson"):
        header, rows = _json_rows(file, _text(file))
    else:
        header, rows = _text_rows(file, _text(file), path_names)
    unnamed = {name for name in header if not name or re.fullmatch(r"Unnamed: \d+|__index_level_\d+__", name)}
    if unnamed:
        header = [name for name in header if name not in unnamed]
        rows = [Row(row.where, {k: v for k, v in row.values.items() if k not in unnamed}) for row in rows]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{str(file)!r} has the column {twice[0]!r} twice. Rename or remove one of them.")
    return header, rows


def has_media_suffix(name: str) -> bool:
    """Whether a name ends like a video or an image.

    Example:
        >>> has_media_suffix("a/clip.MP4"), has_media_suffix("a/clip")
        (True, False)
    """
    return Path(name).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def _text(file: Path) -> str:
    """The text of a file. A file name in it may hold bytes that are not UTF-8, which come back as they were."""
    data = file.read_bytes()
    for mark, name in ((b"\xff\xfe\0\0", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")):
        if data.startswith(mark):
            raise UserError(
                f"{str(file)!r} is {name} text. Save it as UTF-8 (for example `iconv -f {name} -t UTF-8`)."
            )
    if b"\0" in data[:4096]:
        raise UserError(
            f"{str(file)!r} holds zero bytes: it is UTF-16 text without a mark, or no text at all. Save it as UTF-8."
        )
    return data.decode("utf-8-sig", errors="surrogateescape")


def _text_rows(file: Path, text: str, path_names: Sequence[str]) -> tuple[list[str], list[Row]]:
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    for delimiter in ("\t", ",", ";"):
        if delimiter == "," and file.suffix.lower() == ".tsv":
            continue
        cells = [cell.strip() for cell in _cells(file, first, delimiter)]
        if len(cells) > 1 and any(cell.casefold() in path_names for cell in cells):
            return _table_rows(file, text, delimiter)
    if has_path(first):
        return _plain_rows(file, lines)
    # A header that names no path column is reported with its columns, so it is split at whatever it holds.
    found = [mark for mark in "\t,;" if mark in first]
    return _table_rows(file, text, found[0] if found else ",")


def has_path(line: str) -> bool:
    """Whether a line is `path label` or a path, rather than a header.

    Example:
        >>> has_path("clips/a.mp4 3"), has_path('"my clip.mp4" 1'), has_path("a.mp4::0"), has_path("video,label")
        (True, True, True, False)
    """
    line = line.strip()
    if _MEDIA_THEN.match(line) or has_media_suffix(line):
        return True
    quoted = _QUOTED.match(line)
    path = quoted["path"] if quoted else line.rsplit(" ", 1)[0]
    if has_media_suffix(path):
        return True
    return "/" in path and not any(mark in line for mark in "\t,;")


def _cells(file: Path, line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error as error:
        raise UserError(f"{str(file)!r}: the header cannot be read ({error}).") from None


def _table_rows(file: Path, text: str, delimiter: str) -> tuple[list[str], list[Row]]:
    rows: list[Row] = []
    header: list[str] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not header:
                header = cells
                continue
            where = f"line {reader.line_num}"
            if len(cells) < len(header) or any(cells[len(header) :]):
                raise UserError(
                    f"{str(file)!r}, {where} has {len(cells)} fields and the header has {len(header)}. Correct that "
                    "line; a field that holds the separator needs double quotes around it."
                )
            rows.append(Row(where, dict(zip(header, cells, strict=False))))
    except csv.Error as error:
        raise UserError(f"{str(file)!r}, line {reader.line_num} cannot be read: {error}.") from None
    return header, rows


def _plain_rows(file: Path, lines: Sequence[str]) -> tuple[list[str], list[Row]]:
    """Lines without a header: a path, and a label after a space, tab, comma, semicolon or two colons."""
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        path, label = split_plain(line.strip())
        words = label.split()
        if any(mark in label for mark in "\t,;") or (len(words) > 1 and all(map(_is_number, words))):
            raise UserError(
                f"{str(file)!r}, line {number} has several fields after the path ({label!r}), and only one can be the "
                "label. Leave one, or write a header line that names the columns: path,label,..."
            )
        rows.append(Row(f"line {number}", {"path": path, "label": label}))
    return ["path", "label"], rows


def split_plain(line: str) -> tuple[str, str]:
    """Splits `path label`; a path may hold spaces and stand in quotes, and may come without a label.

    Example:
        >>> split_plain("my clips/a.mp4 3"), split_plain("'b c.mp4' 1"), split_plain("a.mp4;0"), split_plain("a.mp4")
        (('my clips/a.mp4', '3'), ('b c.mp4', '1'), ('a.mp4', '0'), ('a.mp4', ''))
    """
    quoted = _QUOTED.match(line)
    if quoted:
        return quoted["path"], (quoted["label"] or "").strip()
    if has_media_suffix(line):
        return line, ""
    media = _MEDIA_THEN.match(line)
    if media:
        return media["path"], media["label"].strip()
    # No known suffix: the last word is the label, as in lists of names without a suffix.
    for mark in ("::", "\t", ";", " "):
        path, found, label = line.rpartition(mark)
        if found:
            return path.strip(), label.strip()
    return line, ""


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _json_rows(file: Path, text: str) -> tuple[list[str], list[Row]]:
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{str(file)!r}, line {number} is not JSON: {error.msg}.") from None
        if not isinstance(row, dict):
            raise UserError(f"{str(file)!r}, line {number} is not a JSON object with a `path`.")
        rows.append(Row(f"line {number}", row))
    return list(dict.fromkeys(key for row in rows for key in row.values)), rows


def _parquet_rows(file: Path) -> tuple[list[str], list[Row]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(
            f"{str(file)!r} is Parquet, which needs pyarrow: run `pip install pyarrow`, or convert it to CSV."
        ) from None
    from pyarrow import ArrowException

    try:
        table = parquet.read_table(file)
    except (ArrowException, OSError) as error:
        raise UserError(f"{str(file)!r} cannot be read as Parquet: {error}.") from None
    rows = [Row(f"row {number}", row) for number, row in enumerate(table.to_pylist(), 1)]
    return list(table.column_names), rows
