from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from jepa.data import collate
from jepa.data.trajectories import MANIFEST, Motion, write_manifest
from jepa.data.trajectory_layouts import read_trajectories
from jepa.data.trajectory_windows import TrajectoryDataset, WindowConfig, align, open_trajectories
from jepa.errors import UserError, VideoError
from jepa.poses import pose_differences
from jepa.toyworld.mp4 import write_mp4


def video(path, frames: int, fps: int = 8) -> None:
    """Frame k is grey of brightness 40 + 5 k, so that a frame tells its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = (np.full((32, 32, 3), 40 + 5 * k, np.uint8) for k in range(frames))
    write_mp4(path, pictures, Fraction(fps), 1)


def numbers(clip: torch.Tensor) -> list[int]:
    """The frame numbers of a clip [C, T, H, W]."""
    return [round((float(frame.float().mean()) - 40) / 5) for frame in clip.unbind(1)]


def motion(rows: int, hz: float = 8.0) -> dict[str, np.ndarray]:
    times = np.arange(rows) / hz
    states = np.stack([times, -times], axis=1)
    actions = np.arange(rows - 1, dtype=np.float64)[:, None]
    return {"states": states, "actions": actions, "state_times": times, "action_times": times[:-1]}


def write_motion(path, arrays) -> None:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values
    else:
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        rows = len(arrays["states"])  # a table has columns of one length: the last action is of no use
        columns = {
            name: list(values if len(values) == rows else np.concatenate([values, values[-1:] + 1]))
            for name, values in arrays.items()
        }
        pq.write_table(pa.table({k: [np.asarray(v).tolist() for v in c] for k, c in columns.items()}), path)


def dataset(root, **fields) -> TrajectoryDataset:
    config = WindowConfig(**{"num_frames": 4, "fps": 4.0, "crop_px": 32, **fields})
    return TrajectoryDataset(read_trajectories(root), config, seed=0)


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".parquet"])
def test_states_and_actions_go_with_their_frames(tmp_path, suffix) -> None:
    video(tmp_path / "a.mp4", 20)
    write_motion(tmp_path / f"a{suffix}", motion(20))
    write_manifest(tmp_path / MANIFEST, [("a.mp4", f"a{suffix}")])
    windows = dataset(tmp_path)
    for index in range(4):
        sample = windows[index]
        shown = numbers(sample["video"])
        assert np.diff(shown).tolist() == [2, 2, 2]  # 8 frames per second, read at 4
        assert torch.allclose(sample["states"][:, 0], torch.tensor(shown) / 8.0)
        assert sample["actions"].tolist() == [[k, k + 1] for k in shown[:-1]]


def test_states_at_a_rate_of_their_own_are_matched_by_time(tmp_path) -> None:
    fast = motion(100, hz=50.0)
    states, _ = align(Motion(**fast), np.arange(5) / 4, 4.0, 8.0, "state_difference")
    assert torch.allclose(states[:, 0], torch.arange(5) / 4, atol=0.011)
    poses = np.random.default_rng(0).normal(size=(20, 7)) * 0.3
    states, actions = align(Motion(poses), np.arange(4) / 4, 4.0, 8.0, "pose_difference")
    assert torch.allclose(actions, pose_differences(torch.from_numpy(poses[:8:2])).float(), atol=1e-6)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"state_times": np.arange(20) / 80}, "lie between a frame and its nearest state"),
        ({"actions": None}, "no recorded actions"),
        ({"action_times": np.arange(19) / 3}, "cannot be joined"),
    ],
)
def test_motion_that_does_not_fit_the_frames_is_refused(fields, message) -> None:
    arrays = Motion(**{**motion(20), **fields})
    with pytest.raises(UserError, match=message):
        align(arrays, np.arange(8) / 4, 4.0, 8.0, "recorded")


def test_arrays_that_are_no_motion_are_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        Motion(np.full((3, 2), np.nan))
    with pytest.raises(UserError, match="rise strictly"):
        Motion(np.zeros((3, 2)), state_times=np.zeros(3))


def test_bad_trajectories_are_replaced_and_reported(tmp_path) -> None:
    for name, rows in (("a", 20), ("short", 3), ("c", 20)):
        video(tmp_path / f"{name}.mp4", rows)
        write_motion(tmp_path / f"{name}.npz", motion(rows))
    rows = [("a.mp4", "a.npz"), ("short.mp4", "short.npz"), ("c.mp4", "absent.npz")]
    write_manifest(tmp_path / MANIFEST, rows)
    windows = dataset(tmp_path)
    samples = []
    for index in range(12):
        try:
            samples.append(windows[index])
        except VideoError as error:
            assert "replacements failed" in str(error)
    assert samples and all(sample["item"] == 0 for sample in samples)
    reasons = " ".join(event.reason for sample in samples for event in sample["bad"])
    assert "a window needs 4" in reasons and "cannot be read" in reasons


def test_samples_are_functions_of_seed_and_index(tmp_path) -> None:
    for name in ("a", "b"):
        video(tmp_path / f"{name}.mp4", 20)
        write_motion(tmp_path / f"{name}.npz", motion(20))
    write_manifest(tmp_path / MANIFEST, [(f"{name}.mp4", f"{name}.npz") for name in ("a", "b")])
    one, other = dataset(tmp_path), dataset(tmp_path, cache_mib=0)
    _ = [other[index] for index in (5, 1, 3)]
    for index in (0, 3, 7):
        assert torch.equal(one[index]["video"], other[index]["video"])
        assert torch.equal(one[index]["states"], other[index]["states"])
    batch = collate([one[0], one[1]])
    assert batch["actions"].shape == (2, 3, 2) and batch["states"].shape == (2, 4, 2)
    stream = open_trajectories(str(tmp_path), one.config, seed=0, batch_size=2)
    assert len(stream.items) == 2


def test_droid_as_it_is(tmp_path) -> None:
    h5py = pytest.importorskip("h5py")
    folder = tmp_path / "success" / "day" / "one"
    video(folder / "recordings" / "MP4" / "123.mp4", 20)
    (folder / "metadata_x.json").write_text(
        json.dumps({"left_mp4_path": "success/day/recordings/MP4/123.mp4"})
    )
    poses = np.random.default_rng(0).normal(size=(20, 6)) * 0.2
    opening = np.linspace(0, 1, 20)
    with h5py.File(folder / "trajectory.h5", "w") as file:
        file["observation/robot_state/cartesian_position"] = poses
        file["observation/robot_state/gripper_position"] = opening
    (tmp_path / "list.csv").write_text(f"{folder}\n")
    full = torch.from_numpy(np.concatenate([poses, opening[:, None]], axis=1))
    for root in (tmp_path, tmp_path / "list.csv"):
        sample = dataset(root, actions="pose_difference")[0]
        shown = numbers(sample["video"])
        assert torch.allclose(sample["states"], full[shown].float())
        assert torch.allclose(sample["actions"], pose_differences(full[shown]).float(), atol=1e-6)
    with pytest.raises(UserError, match="left_mp4_path"):
        read_trajectories(tmp_path, camera="right_mp4_path")


def lerobot_info(version: str, **fields) -> dict:
    features = {"observation.images.top": {"dtype": "video"}, "action": {"dtype": "float32"}}
    return {
        "codebase_version": version,
        "total_episodes": 2,
        "chunks_size": 1000,
        "features": features,
        **fields,
    }


def write_rows(path, episodes, fps: int = 8) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [(episode, k) for episode in episodes for k in range(20)]
    pq.write_table(
        pa.table(
            {
                "observation.state": [[float(k), float(e)] for e, k in rows],
                "action": [[k + 100.0 * e] for e, k in rows],
                "timestamp": [k / fps for _, k in rows],
                "episode_index": [e for e, _ in rows],
            }
        ),
        path,
    )


def test_lerobot_with_a_file_per_episode(tmp_path) -> None:
    info = lerobot_info(
        "v2.1",
        data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        video_path="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    )
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text(json.dumps(info))
    for episode in range(2):
        write_rows(tmp_path / f"data/chunk-000/episode_{episode:06d}.parquet", [episode])
        video(tmp_path / f"videos/chunk-000/observation.images.top/episode_{episode:06d}.mp4", 20)
    windows = dataset(tmp_path)
    assert len(windows) == 2
    for index in range(4):
        sample = windows[index]
        shown, episode = numbers(sample["video"]), sample["item"]
        assert sample["states"][:, 0].tolist() == shown
        assert sample["actions"].tolist() == [[k + 100 * episode, k + 1 + 100 * episode] for k in shown[:-1]]


def test_lerobot_with_many_episodes_in_a_file(tmp_path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    info = lerobot_info(
        "v3.0",
        data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        video_path="videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    )
    (tmp_path / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (tmp_path / "meta" / "info.json").write_text(json.dumps(info))
    write_rows(tmp_path / "data/chunk-000/file-000.parquet", [0, 1])
    view = "videos/observation.images.top"
    video(tmp_path / f"{view}/chunk-000/file-000.mp4", 40)
    place = {"data/chunk_index": [0, 0], "data/file_index": [0, 0]}
    place |= {f"{view}/chunk_index": [0, 0], f"{view}/file_index": [0, 0]}
    times = {f"{view}/from_timestamp": [0.0, 2.5], f"{view}/to_timestamp": [2.5, 5.0]}
    table = pa.table({"episode_index": [0, 1], **place, **times})
    pq.write_table(table, tmp_path / "meta/episodes/chunk-000/file-000.parquet")
    windows = dataset(tmp_path)
    for index in range(4):
        sample = windows[index]
        episode = sample["item"]
        shown = [k - 20 * episode for k in numbers(sample["video"])]
        assert sample["states"].tolist() == [[k, episode] for k in shown]


def test_a_folder_of_something_else_says_what_is_expected(tmp_path) -> None:
    with pytest.raises(UserError, match=r"trajectories\.csv"):
        read_trajectories(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_trajectories(tmp_path / "absent")
