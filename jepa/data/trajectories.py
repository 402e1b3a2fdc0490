"""Trajectories: videos with states and actions at rates of their own, from a manifest or as DROID and LeRobot have them.

A manifest is `trajectories.csv` with the columns `video` and `motion`. A motion file is `.npz`, `.h5` or `.parquet` and
holds `states` [R, S], `actions` [Q, A], and their times in seconds of the video's clock, `state_times` [R] and
`action_times` [Q]; without times, row k belongs to frame k of the video. Actions may be absent: those that
differences of states define need none.

The layouts of DROID (arXiv 2403.12945) and LeRobot (github.com/huggingface/lerobot, v2.1 and v3.0) are read in
`trajectory_layouts.py`.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
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


def read_trajectories(root: str | os.PathLike[str], camera: str = "") -> list[Trajectory]:
    """Lists the trajectories of a data set; opens no video.

    Args:
        root: a folder with `trajectories.csv`, or that file; a LeRobot data set (`meta/info.json`); a DROID trajectory
            (`trajectory.h5`), a folder of them, or a list of such folders, one per line, as V-JEPA 2-AC reads it.
        camera: which view, where there are several: LeRobot's feature (`observation.images.top`), DROID's key of the
            metadata (`left_mp4_path`); empty takes the first, or DROID's left one.

    Raises:
        UserError: there is nothing of these, or a column is missing.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_manifest(folder / MANIFEST, [("a.mp4", "a.npz")])
        >>> read_trajectories(folder)[0].name
        'a.mp4'
    """
    from jepa.data import trajectory_layouts as layouts

    where = Path(root)
    if not where.exists():
        raise UserError(f"{str(root)!r} does not exist. Give a folder of trajectories (data.root=...).")
    if (where / MANIFEST).is_file() or where.name == MANIFEST:
        found = _read_manifest(where / MANIFEST if where.is_dir() else where)
    elif (where / "meta" / "info.json").is_file():
        found = layouts.lerobot(where, camera)
    else:
        found = layouts.droid(where, camera or "left_mp4_path")
    if not found:
        raise UserError(
            f"{str(root)!r} holds no trajectories: expected {MANIFEST}, a LeRobot data set (meta/info.json), or folders "
            "with trajectory.h5 as DROID has them."
        )
    return found


def write_manifest(path: str | os.PathLike[str], rows: Iterable[tuple[str, str]]) -> None:
    """Writes (video, motion) pairs, relative to the manifest's folder, as `trajectories.csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "motion"])
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _read_manifest(path: Path) -> list[Trajectory]:
    with open(path, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    if rows and not {"video", "motion"} <= rows[0].keys():
        raise UserError(f"{path} needs the columns video and motion; it has {', '.join(map(str, rows[0]))}.")
    return [
        Trajectory(
            str(path.parent / row["video"]), row["video"], partial(read_motion, path.parent / row["motion"])
        )
        for row in rows
    ]


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
