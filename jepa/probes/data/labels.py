"""Labelled videos and segments as a probe sees them: a path, a label, and the group it must not be split
from.

Clips cut from one source look alike. If some of them are in the training part and some in the test part, a
probe is praised for recognising the source. So every sample belongs to a group, and groups are what gets
split.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jepa.errors import UserError

PATH_COLUMNS = ("path", "file", "video", "filename")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")


@dataclass(frozen=True)
class Sample:
    """One labelled video, or one labelled part of it."""

    path: Path
    """the video file"""
    name: str
    """the file as its list calls it; what reports show"""
    label: str
    """class name, or an empty string where a task brings its own labels"""
    group: str
    """samples of one group are never split between training and testing"""
    split: str | None = None
    """train, val or test, where the list says so"""
    start_s: float | None = None
    """start of the part in seconds; None for the beginning of the video"""
    end_s: float | None = None
    """end of the part in seconds; None for the end of the video"""


def read_rows(root: str | os.PathLike[str], file: str = "labels.csv") -> tuple[Path, list[dict[str, str]]]:
    """Reads a table with a header line.

    Args:
        root: the CSV file, or a folder that holds it.
        file: the table's name inside a folder.

    Returns:
        The folder that relative paths start from, and one dict per line.

    Raises:
        UserError: there is no such table, or it is empty, or a line has more fields than the header.
    """
    path = Path(root)
    if path.is_dir():
        path = path / file
    if not path.is_file():
        raise UserError(
            f"There is no table {str(path)!r}. A probe needs labels: a CSV file with a header line, one line "
            f"per video, with a column for the file ({', '.join(PATH_COLUMNS)}) and one for the label. Point "
            "data.root at it."
        )
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            rows = list(csv.DictReader(handle, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{str(path)!r} cannot be read as a CSV file: {error}. Save it as UTF-8 CSV."
        ) from error
    if not rows:
        raise UserError(f"{str(path)!r} holds no line below its header. Add one line per labelled video.")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(
                f"Line {number} of {str(path)!r} has not as many fields as the header. Correct that line."
            )
    return path.parent, rows


def column(rows: Sequence[dict[str, str]], name: str | None, choices: Sequence[str], what: str) -> str:
    """Finds the column to use: the one named, or the first of the usual names that exists.

    Raises:
        UserError: no such column.
    """
    present = list(rows[0])
    if name is not None:
        if name in present:
            return name
        close = difflib.get_close_matches(name, present, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(
            f"The table has no column {name!r} for the {what}; it has {', '.join(present)}.{hint}"
        )
    for choice in choices:
        if choice in present:
            return choice
    raise UserError(
        f"The table has no column for the {what}: looked for {', '.join(choices)}, found "
        f"{', '.join(present)}. Name it in the config (data.{what}_column=...)."
    )


def find_video(folder: Path, name: str) -> Path:
    """Resolves a file name from a table: as it is, or with a video suffix added.

    Raises:
        UserError: the file is absent.
    """
    path = folder / name
    if path.is_file():
        return path
    for suffix in VIDEO_SUFFIXES:
        candidate = path.with_name(path.name + suffix)
        if candidate.is_file():
            return candidate
    raise UserError(
        f"The table names {name!r}, but {str(path)!r} does not exist. Paths are relative to the table's "
        "folder; correct the line or put the file there."
    )


def seconds(row: dict[str, str], name: str) -> float | None:
    """One time of a row in seconds; None where the column is absent or empty.

    Raises:
        UserError: the field is not a number.
    """
    text = row.get(name, "")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{name}={text!r} is not a time in seconds. Correct the line of {row!r}.") from None


def read_samples(
    root: str | os.PathLike[str],
    label_column: str | None = None,
    group_column: str | None = None,
    path_column: str | None = None,
) -> list[Sample]:
    """Reads labelled videos from a table, or from a folder with one folder of videos per class.

    Without a group column named `group`, or another one given, every video is its own group.

    Raises:
        UserError: a column, a file or a label is missing.
    """
    if Path(root).is_dir() and not (Path(root) / "labels.csv").is_file():
        return _read_class_folders(Path(root))
    folder, rows = read_rows(root)
    path_name = column(rows, path_column, PATH_COLUMNS, "path")
    label_name = column(rows, label_column, ("label",), "label")
    if group_column is not None:
        column(rows, group_column, (), "group")
    elif "group" in rows[0]:
        group_column = "group"
    samples = []
    for number, row in enumerate(rows, start=2):
        label = row[label_name].strip()
        if not label:
            raise UserError(
                f"Line {number} of the table has an empty {label_name!r}. Give it a label or remove the line."
            )
        samples.append(
            Sample(
                path=find_video(folder, row[path_name]),
                name=row[path_name],
                label=label,
                group=(row[group_column] if group_column else "") or row[path_name],
                split=row.get("split") or None,
                start_s=seconds(row, "start_s"),
                end_s=seconds(row, "end_s"),
            )
        )
    return samples


def _read_class_folders(root: Path) -> list[Sample]:
    files = sorted(file for file in root.glob("*/*") if file.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise UserError(
            f"{str(root)!r} holds neither labels.csv nor folders of videos named after classes. Write a "
            "labels.csv with the columns path,label[,group,split], or sort the videos into one folder per "
            "class."
        )
    names = [str(file.relative_to(root)) for file in files]
    return [
        Sample(path=file, name=name, label=file.parent.name, group=name)
        for file, name in zip(files, names, strict=True)
    ]


def class_names(samples: Sequence[Sample], expected: Sequence[str] | None = None) -> list[str]:
    """The classes in sorted order, after looking for slips of the pen.

    Args:
        samples: labelled samples.
        expected: the only names allowed; None to take what is there.

    Raises:
        UserError: a label outside `expected`; a label seen once that is nearly the same as a frequent one; a
            single class.
    """
    counts = Counter(sample.label for sample in samples)
    if expected:
        for sample in samples:
            if sample.label not in expected:
                close = difflib.get_close_matches(sample.label, expected, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise UserError(
                    f"{sample.name!r} has the label {sample.label!r}, which is not one of "
                    f"{', '.join(expected)}.{hint}"
                )
    for label, count in counts.items():
        frequent = [other for other, n in counts.items() if n >= 3 and other != label]
        close = difflib.get_close_matches(label, frequent, n=1, cutoff=0.75)
        if count == 1 and close and not expected:
            where = next(sample.name for sample in samples if sample.label == label)
            raise UserError(
                f"The label {label!r} of {where!r} occurs once and looks like {close[0]!r}, which occurs "
                f"{counts[close[0]]} times. Correct it, or list all class names in data.classes if it is "
                "meant."
            )
    if len(counts) < 2:
        raise UserError(
            f"All samples have the label {next(iter(counts))!r}; a probe needs at least two classes."
        )
    return sorted(counts)


def fingerprint(path: str | os.PathLike[str], block: int = 1 << 16) -> str:
    """Hash of a file's size and of its first, middle and last 64 KiB.

    Tells files apart at the price of three reads, so that a large data set can be keyed by content on every
    start.
    """
    size = Path(path).stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as handle:
        for offset in sorted({0, max(0, size // 2 - block // 2), max(0, size - block)}):
            handle.seek(offset)
            digest.update(handle.read(block))
    return digest.hexdigest()[:32]
