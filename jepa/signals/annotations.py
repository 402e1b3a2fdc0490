"""Annotations: what people or a simulator state about a video, drawn over the report and used nowhere else."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jepa.errors import UserError

_COLUMNS = ("path", "start_s", "end_s", "kind", "label")


@dataclass(frozen=True)
class Annotation:
    """One line of a list of annotations. Times in seconds from the video's first frame; `end_s` equals `start_s` for a
    point in time."""

    start_s: float
    end_s: float
    kind: str
    label: str


class Annotations:
    """The annotations of a list, by video.

    Args:
        by_path: annotations by the video's path with all links resolved.
    """

    def __init__(self, by_path: Mapping[str, Sequence[Annotation]]) -> None:
        self._by_path = by_path

    def of(self, video: str | os.PathLike[str]) -> list[Annotation]:
        """The annotations of one video, in the list's order."""
        return list(self._by_path.get(os.path.realpath(video), ()))


def read_annotations(path: str | os.PathLike[str]) -> Annotations:
    """Reads a CSV file with the columns path, start_s, end_s, kind and label.

    Relative paths are resolved against the file's folder. `end_s` may be empty: then it is a point in time.

    Raises:
        UserError: the file cannot be read, lacks a column, or a time is not a number; names the row.
    """
    file = Path(path)
    try:
        # surrogateescape: a file name that is not UTF-8 is a name all the same.
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
            rows = list(csv.DictReader(handle))
    except OSError as error:
        raise UserError(
            f"annotations={str(file)!r} cannot be read: {error.strerror}. Give a CSV file with the columns "
            f"{', '.join(_COLUMNS)}, or leave it out."
        ) from error
    found: dict[str, list[Annotation]] = {}
    for number, row in enumerate(rows, start=2):
        missing = [name for name in _COLUMNS if row.get(name) is None]
        if missing:
            raise UserError(
                f"annotations={str(file)!r}, row {number} has no {', '.join(missing)}. Add the column."
            )
        start = _seconds(file, number, row["start_s"])
        end = _seconds(file, number, row["end_s"]) if row["end_s"].strip() else start
        video = os.path.realpath(file.parent / row["path"])
        found.setdefault(video, []).append(Annotation(start, max(start, end), row["kind"], row["label"]))
    return Annotations(found)


def _seconds(file: Path, number: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"annotations={str(file)!r}, row {number}: {text!r} is not a time in seconds.")
    return value
