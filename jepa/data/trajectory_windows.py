"""Windows of trajectories as training samples: frames at a fixed rate, with the states and actions that go with them.

A trajectory is resampled onto times k / fps from its beginning; a window is a run of these. Which trajectory and which
window are functions of (seed, sample index), as for clips.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa.data.bad_videos import BadVideo, as_video_error
from jepa.data.manifest import Item
from jepa.data.sampling import ORDER, REPLACE, WINDOW
from jepa.data.stream import Stream
from jepa.data.trajectories import Motion, Trajectory
from jepa.data.trajectory_layouts import read_trajectories
from jepa.data.transforms import center_crop
from jepa.data.video.reader import open_video
from jepa.errors import UserError, VideoError
from jepa.poses import POSE_DIM, pose_differences
from jepa.rng import permuted, uniforms

ACTIONS = ("recorded", "state_difference", "pose_difference")
_REPLACEMENTS = 3


@dataclass(frozen=True)
class WindowConfig:
    """How trajectories are resampled and cut."""

    num_frames: int = 8
    """frames in a window; there is one action fewer"""
    fps: float = 4.0
    """their rate"""
    crop_px: int = 256
    """side of the square that a frame has in the end, in pixels"""
    actions: str = "recorded"
    """recorded: those of a frame's interval, joined; state_difference, pose_difference: from frame to frame"""
    cache_mib: int = 512
    """decoded frames kept in memory, in MiB of this process; 0 reads the video for every window"""

    def __post_init__(self) -> None:
        if self.actions not in ACTIONS:
            raise UserError(
                f"actions={self.actions!r} is unknown; choose one of {', '.join(ACTIONS)} (objective.actions)."
            )
        if self.num_frames < 2:
            raise UserError(
                f"num_frames={self.num_frames}: a window of a trajectory needs at least 2 frames."
            )


@dataclass
class Aligned:
    """A resampled trajectory: frames uint8 [T, C, H, W], states float32 [T, S], actions float32 [T - 1, A]."""

    frames: Tensor
    states: Tensor
    actions: Tensor
    tokens: Tensor | None = None
    """[T, N, D] of a frozen encoder, where the dataset has one"""


def align(
    motion: Motion, times: np.ndarray, fps: float, source_fps: float, actions: str
) -> tuple[Tensor, Tensor]:
    """States at the times of frames, and actions between them.

    A state is the recorded one that is nearest in time. Recorded actions are those that begin from a frame until before
    the next; several are joined to one long action, so that none is lost.

    Args:
        motion: states and actions at their own rates.
        times: [T] seconds of the frames, counted as the motion's times are.
        fps: rate of `times`.
        source_fps: of the video, for motion whose rows are frames.
        actions: see `WindowConfig`.

    Returns:
        states [T, S] and actions [T - 1, A], float32.

    Raises:
        UserError: the motion does not cover the times, there are no actions, or their rate is below the frames'.

    Example:
        >>> motion = Motion(np.arange(8.0)[:, None], np.arange(8.0)[:, None], np.arange(8) / 8, np.arange(8) / 8)
        >>> states, actions = align(motion, np.arange(4) / 4, fps=4, source_fps=8, actions="recorded")
        >>> states.flatten().tolist(), actions[0].tolist()
        ([0.0, 2.0, 4.0, 6.0], [0.0, 1.0])
    """
    own = np.arange(len(motion.states)) / source_fps if motion.state_times is None else motion.state_times
    nearest = _nearest(own, times)
    gap = float(np.abs(own[nearest] - times).max())
    if gap > 0.75 / fps:
        raise UserError(
            f"the states cover {own[0]:.2f} to {own[-1]:.2f} s and the video has frames up to {times[-1]:.2f} s: "
            f"{gap:.2f} s lie between a frame and its nearest state, more than at {fps:g} frames per second is allowed."
        )
    states = torch.from_numpy(motion.states[nearest].astype(np.float32))
    if actions == "state_difference":
        return states, states[1:] - states[:-1]
    if actions == "pose_difference":
        if states.shape[1] != POSE_DIM:
            raise UserError(
                f"actions=pose_difference needs states of {POSE_DIM} numbers, not {states.shape[1]}."
            )
        return states, pose_differences(torch.from_numpy(motion.states[nearest])).float()
    if motion.actions is None:
        raise UserError(
            "there are no recorded actions; use objective.actions=pose_difference or state_difference."
        )
    begins = (
        np.arange(len(motion.actions)) / source_fps if motion.action_times is None else motion.action_times
    )
    rate = float(1.0 / np.median(np.diff(begins))) if len(begins) > 1 else fps
    joined = round(rate / fps)
    if joined < 1 or abs(rate / fps - joined) > 0.05:
        raise UserError(
            f"actions at {rate:.3g} per second cannot be joined to frames at {fps:g}: choose data.fps so that it "
            "divides their rate."
        )
    first = _nearest(begins, times[:-1])
    rows = first[:, None] + np.arange(joined)
    if rows.max() >= len(begins):
        raise UserError(f"the actions end at {begins[-1]:.2f} s and the frames at {times[-1]:.2f} s.")
    return states, torch.from_numpy(motion.actions[rows].reshape(len(first), -1).astype(np.float32))


def _nearest(sorted_times: np.ndarray, times: np.ndarray) -> np.ndarray:
    after = np.clip(np.searchsorted(sorted_times, times), 1, max(len(sorted_times) - 1, 1))
    if len(sorted_times) == 1:
        return np.zeros(len(times), np.int64)
    return after - (times - sorted_times[after - 1] <= sorted_times[after] - times)


class TrajectoryDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Windows by their number in the run.

    A sample has `video` uint8 [C, T, H, W], `states` [T, S], `actions` [T - 1, A], `times` [T], and with `encode` also
    `tokens` [T, N, D]. A trajectory that cannot be read, is not aligned or is too short is reported in `bad` and
    replaced by another, which (seed, index) alone decides.

    Args:
        trajectories: see `read_trajectories`.
        config: how they are cut.
        seed: of the run.

    Attributes:
        encode: frames uint8 [T, C, H, W] -> tokens [T, N, D] of a frozen encoder; each trajectory is encoded once and
            as a complete batch, so that its tokens do not depend on who asks first.
    """

    def __init__(self, trajectories: Sequence[Trajectory], config: WindowConfig, seed: int) -> None:
        if not trajectories:
            raise UserError("there is no trajectory to read: the list is empty.")
        self.trajectories, self.config, self.seed = trajectories, config, seed
        self.encode: Callable[[Tensor], Tensor] | None = None
        self._kept: OrderedDict[int, Aligned] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.trajectories)

    def __getitem__(self, index: int) -> dict[str, Any]:
        size, count = len(self.trajectories), self.config.num_frames
        epoch, position = divmod(index, size)
        number, bad = permuted(position, size, self.seed, epoch, ORDER), []
        for attempt in range(1 + _REPLACEMENTS):
            if attempt:
                number = int(uniforms(self.seed, index, REPLACE, attempt)[-1] * size)
            try:
                aligned = self.aligned(number)
                break
            except Exception as error:  # noqa: BLE001 - a broken file may provoke anything
                failure = as_video_error(self.trajectories[number].video, error)
                bad.append(BadVideo.of(failure, index, self.trajectories[number].name))
        else:
            raise VideoError(
                failure.path, failure.stage, f"{failure.reason}; {_REPLACEMENTS} replacements failed as well"
            )
        room = len(aligned.frames) - count
        start = int(uniforms(self.seed, index, WINDOW, 1)[0] * (room + 1))
        window = slice(start, start + count)
        sample = {
            "video": aligned.frames[window].transpose(0, 1),
            "states": aligned.states[window],
            "actions": aligned.actions[start : start + count - 1],
            "times": torch.arange(start, start + count, dtype=torch.float64) / self.config.fps,
            "index": index, "item": number, "clip": 0, "bad": bad,
        }  # fmt: skip
        if aligned.tokens is not None:
            sample["tokens"] = aligned.tokens[window]
        return sample

    def aligned(self, number: int) -> Aligned:
        """One trajectory, resampled; from memory if it is there.

        Raises:
            VideoError: it cannot be read, is not aligned, or is shorter than a window.
        """
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        found = self._read(self.trajectories[number])
        if self.encode is not None:
            found.tokens = self.encode(found.frames)
        size = sum(
            t.nbytes for t in (found.frames, found.states, found.actions, found.tokens) if t is not None
        )
        self._kept[number] = found
        self._bytes += size
        while self._bytes > self.config.cache_mib * 2**20 and self._kept:
            _, old = self._kept.popitem(last=False)
            self._bytes -= sum(
                t.nbytes for t in (old.frames, old.states, old.actions, old.tokens) if t is not None
            )
        return found

    def _read(self, trajectory: Trajectory) -> Aligned:
        config, motion = self.config, trajectory.motion()
        with open_video(trajectory.video) as reader:
            end = reader.duration_s if trajectory.end_s is None else trajectory.end_s
            count = int((end - trajectory.start_s) * config.fps + 1e-6)
            if count < config.num_frames:
                raise VideoError(
                    trajectory.name, "open", f"it has {count} frames at {config.fps:g} per second, and a window needs "
                    f"{config.num_frames}",
                )  # fmt: skip
            times = np.arange(count) / config.fps
            frames = reader.frames_at(
                (times + trajectory.start_s + reader.start_s).tolist(),
                each=lambda frame: center_crop(frame, config.crop_px, config.crop_px),
            )
            source_fps = reader.fps
        try:
            states, actions = align(motion, times, config.fps, source_fps, config.actions)
        except UserError as error:
            raise VideoError(trajectory.name, "convert", str(error)) from error
        return Aligned(frames.data, states, actions)


def open_trajectories(
    root: str, config: WindowConfig, seed: int, batch_size: int, camera: str = ""
) -> Stream:
    """The trajectories of a data set as a `Stream`, for the trainer.

    Raises:
        UserError: there are none.
    """
    found = read_trajectories(root, camera)
    rows = "".join(f"{t.name}\t{t.start_s}\t{t.end_s}\n" for t in found)
    digest = hashlib.sha256(rows.encode(errors="surrogateescape")).hexdigest()
    items = [Item(t.video, t.name) for t in found]
    return Stream(TrajectoryDataset(found, config, seed), items, digest, batch_size)
