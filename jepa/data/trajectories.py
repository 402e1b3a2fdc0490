"""Trajectories: videos with states and actions at rates of their own, and the files that hold these.

A manifest is `trajectories.csv` with the columns `video` and `motion`. A motion file is `.npz`, `.h5` or `.parquet` and
holds `states` [R, S], `actions` [Q, A], and their times in seconds of the video's clock, `state_times` [R] and
`action_times` [Q]; without times, row k belongs to frame k of the video. Actions may be absent: those that
differences of states define need none.

`trajectory_layouts.py` reads manifests, and DROID's and LeRobot's data sets as they are.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jepa.errors import UserError, VideoError, require
from jepa.files import write_text

MANIFEST = "trajectories.csv"


@dataclass(frozen=True)
class Motion:
    """States and actions of one trajectory.

    Raises:
        UserError: arrays of the wrong rank, of different lengths, not finite, or times that do not rise.
    """

    states: np.ndarray
    """[R, S]"""
    actions: np.ndarray | None = None
    """[Q, A], or None where actions are differences of states"""
    state_times: np.ndarray | None = None
    """[R] seconds; None where row k belongs to frame k"""
    action_times: np.ndarray | None = None
    """[Q] seconds at which an action begins; None where row k belongs to frame k"""

    def __post_init__(self) -> None:
        for name, rows, times in (
            ("states", self.states, self.state_times),
            ("actions", self.actions, self.action_times),
        ):
            if rows is None:
                continue
            if rows.ndim != 2 or not len(rows) or not np.isfinite(rows).all():
                raise UserError(
                    f"{name} have to be finite numbers [rows, size], not {list(rows.shape)} with "
                    f"{int((~np.isfinite(rows)).sum())} that are not finite."
                )
            if times is not None and (times.shape != rows.shape[:1] or (np.diff(times) <= 0).any()):
                raise UserError(
                    f"{name} have {len(rows)} rows and {list(times.shape)} times, which have to rise strictly."
                )


@dataclass(frozen=True)
class Trajectory:
    """One video, or a part of one, and where its motion is."""

    video: str
    name: str
    read: Callable[[], Motion]
    """reads the states and actions; raises UserError or OSError where it cannot"""
    start_s: float = 0.0
    """where the trajectory begins, in seconds from the first frame"""
    end_s: float | None = None
    """where it ends; None for the end of the video"""

    def motion(self) -> Motion:
        """States and actions.

        Raises:
            VideoError: they cannot be read, in one sentence and with the trajectory's name.
        """
        try:
            return self.read()
        except (UserError, OSError, KeyError, ValueError) as error:
            raise VideoError(self.name, "open", f"its states and actions cannot be read: {error}") from error


def write_manifest(path: str | os.PathLike[str], rows: Iterable[tuple[str, str]]) -> None:
    """Writes (video, motion) pairs, relative to the manifest's folder, as `trajectories.csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "motion"])
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_motion(path: Path) -> Motion:
    """Reads a motion file, `.npz`, `.h5` / `.hdf5` or `.parquet`.

    Raises:
        UserError: another kind of file, or states are missing.
        OSError: it cannot be read.
    """
    suffix = path.suffix.lower()
    found: dict[str, np.ndarray]
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    elif suffix in (".h5", ".hdf5"):
        with require("h5py", "act").File(path, "r") as file:
            found = {name: np.asarray(file[name]) for name in file}
    elif suffix == ".parquet":
        table = require("pyarrow.parquet", "act").read_table(path)
        found = {name: stack_rows(table[name].to_pylist()) for name in table.column_names}
    else:
        raise UserError(f"{path} is no motion file; use .npz, .h5 or .parquet.")
    if "states" not in found:
        raise UserError(f"{path} has no `states`; it has {', '.join(sorted(found)) or 'nothing'}.")
    return Motion(*(found.get(name) for name in ("states", "actions", "state_times", "action_times")))  # type: ignore[arg-type]


def stack_rows(rows: list[object]) -> np.ndarray:
    """A column of numbers or lists of numbers as float64 [R] or [R, size]."""
    return np.asarray(rows, dtype=np.float64)
