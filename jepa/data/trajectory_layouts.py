"""Layouts of trajectory data sets: a manifest, DROID (arXiv 2403.12945), and LeRobot v2 and v3, each read as it is."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jepa.data.trajectories import MANIFEST, Motion, Trajectory, read_motion, stack_rows
from jepa.errors import UserError, require


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
        >>> from jepa.data.trajectories import write_manifest
        >>> write_manifest(folder / MANIFEST, [("a.mp4", "a.npz")])
        >>> read_trajectories(folder)[0].name
        'a.mp4'
    """
    where = Path(root)
    if not where.exists():
        raise UserError(f"{str(root)!r} does not exist. Give a folder of trajectories (data.root=...).")
    if (where / MANIFEST).is_file() or where.name == MANIFEST:
        found = _read_manifest(where / MANIFEST if where.is_dir() else where)
    elif (where / "meta" / "info.json").is_file():
        found = lerobot(where, camera)
    else:
        found = droid(where, camera or "left_mp4_path")
    if not found:
        raise UserError(
            f"{str(root)!r} holds no trajectories: expected {MANIFEST}, a LeRobot data set (meta/info.json), or "
            "folders with trajectory.h5 as DROID has them."
        )
    return found


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


def droid(root: Path, view: str) -> list[Trajectory]:
    """DROID: folders with `trajectory.h5`, `metadata_*.json` and `recordings/MP4/`, as V-JEPA 2-AC reads them.

    A state is the gripper's Cartesian position (6) and its opening (1); row k belongs to frame k of the video. Actions
    are not read: V-JEPA 2-AC takes differences of poses.

    Args:
        root: such a folder, a folder that holds them at any depth, or a text file with one folder per line.
        view: key of the metadata that names the video, such as left_mp4_path.
    """
    return [_droid_trajectory(folder, view) for folder in _droid_folders(root)]


def _droid_folders(root: Path) -> Iterator[Path]:
    if root.is_dir():
        yield from sorted(path.parent for path in root.rglob("trajectory.h5"))
        return
    for line in root.read_text(encoding="utf-8").splitlines():
        if text := line.strip():
            folder = Path(text) if Path(text).is_absolute() else root.parent / text
            if (folder / "trajectory.h5").is_file() or (folder := Path(text.split(" ")[0])).is_dir():
                yield folder


def _droid_trajectory(folder: Path, view: str) -> Trajectory:
    documents = sorted(folder.glob("metadata_*.json")) or sorted(folder.glob("*.json"))
    if not documents:
        raise UserError(f"{folder} has no metadata_*.json, which names the video of each camera.")
    metadata = json.loads(documents[0].read_text(encoding="utf-8"))
    if view not in metadata:
        views = sorted(key for key in metadata if key.endswith("_mp4_path"))
        raise UserError(
            f"{documents[0]} has no {view!r}; the views are {', '.join(views)} (objective.camera)."
        )
    # The metadata hold the path that a file had where it was recorded.
    name = str(metadata[view]).rpartition("recordings/MP4/")[2]
    video = folder / "recordings" / "MP4" / name
    return Trajectory(str(video), f"{folder.name}/{name}", partial(_droid_motion, folder / "trajectory.h5"))


def _droid_motion(path: Path) -> Motion:
    with require("h5py", "act").File(path, "r") as file:
        state = file["observation"]["robot_state"]
        pose = np.asarray(state["cartesian_position"], np.float64)
        opening = np.asarray(state["gripper_position"], np.float64)
    return Motion(np.concatenate([pose, opening[:, None]], axis=1))


def lerobot(root: Path, camera: str) -> list[Trajectory]:
    """LeRobot, v2.0 and v2.1 (a file per episode) and v3.0 (many episodes per file).

    States are `observation.state`, actions `action`, times `timestamp`, counted from the beginning of an episode.

    Args:
        root: the data set's folder.
        camera: its feature, such as observation.images.top; empty takes the first.
    """
    info = json.loads((root / "meta" / "info.json").read_text(encoding="utf-8"))
    views = [name for name, feature in info["features"].items() if feature.get("dtype") == "video"]
    if not views or (camera and camera not in views):
        raise UserError(
            f"{root} has no video {camera!r}; its videos are {', '.join(views) or 'none'} (objective.camera)."
        )
    read = _lerobot_v3 if str(info.get("codebase_version", "v2")).startswith("v3") else _lerobot_v2
    return read(root, info, camera or views[0])


def _lerobot_v2(root: Path, info: dict[str, Any], view: str) -> list[Trajectory]:
    found = []
    for episode in range(int(info["total_episodes"])):
        place = {
            "episode_chunk": episode // int(info["chunks_size"]), "episode_index": episode, "video_key": view
        }  # fmt: skip
        video, data = (str(info[key]).format(**place) for key in ("video_path", "data_path"))
        read = partial(_lerobot_motion, root / data, episode)
        found.append(Trajectory(str(root / video), video, read))
    return found


def _lerobot_v3(root: Path, info: dict[str, Any], view: str) -> list[Trajectory]:
    parquet = require("pyarrow.parquet", "act")
    found = []
    for path in sorted((root / "meta" / "episodes").rglob("*.parquet")):
        for row in parquet.read_table(path).to_pylist():
            episode, prefix = int(row["episode_index"]), f"videos/{view}/"
            video = str(info["video_path"]).format(
                video_key=view, chunk_index=row[f"{prefix}chunk_index"], file_index=row[f"{prefix}file_index"]
            )
            data = str(info["data_path"]).format(
                chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
            )
            read = partial(_lerobot_motion, root / data, episode)
            start, end = float(row[f"{prefix}from_timestamp"]), float(row[f"{prefix}to_timestamp"])
            found.append(Trajectory(str(root / video), f"{video}#{episode}", read, start, end))
    return found


def _lerobot_motion(path: Path, episode: int) -> Motion:
    columns = ["observation.state", "action", "timestamp", "episode_index"]
    table = require("pyarrow.parquet", "act").read_table(path, columns=columns)
    rows = stack_rows(table["episode_index"].to_pylist()) == episode
    if not rows.any():
        raise UserError(f"{path} has no rows of episode {episode}.")
    states, actions, times = (stack_rows(table[name].to_pylist())[rows] for name in columns[:3])
    return Motion(states, actions, times, times)
