"""An in-memory clip dataset: every video is decoded once, at low resolution, and a run reads its windows from there.

Reading takes about as long as a step of these small encoders and is the same for every recipe, so it would only
obscure the comparison. Which video, window, crop and flip a sample shows is decided as in `jepa pretrain`.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import jepa
from jepa.data import ClipDataset, EvalClipConfig, Item, TrainClipConfig
from jepa.data import sampling as clips
from jepa.data.transforms import resize
from jepa.errors import VideoError
from jepa.files import atomic_path, write_json


@dataclass(frozen=True)
class Stored:
    """Where the frames of one video are stored in the flat array."""

    offset: int
    frames: int
    height: int
    width: int


class FrameStore:
    """All videos of some folders at a fixed frame rate and short side, uint8, mapped from one file.

    Args:
        folder: where the file is kept; made on first use.
        roots: folders of videos.
        short_px: short side of the frames kept.
        fps: frames kept per second; a clip's frame is the last kept one before its time.
    """

    def __init__(self, folder: Path, roots: list[Path], short_px: int, fps: float) -> None:
        self.fps = fps
        about = {"roots": [str(r) for r in roots], "short_px": short_px, "fps": fps}
        index, flat = folder / "index.json", folder / "frames.bin"
        if not index.exists() or json.loads(index.read_text())["about"] != about:
            write_json(index, {"about": about, "videos": _decode(flat, roots, short_px, fps)})
        listed = json.loads(index.read_text())["videos"]
        self.videos = {path: Stored(*entry) for path, entry in listed.items()}
        self.flat = np.memmap(flat, np.uint8, "r")

    def items(self) -> list[Item]:
        """Every video, uncut."""
        return [Item(path) for path in self.videos]

    def frames(self, path: str, seconds: list[float]) -> torch.Tensor:
        """uint8 [T, C, H, W]: the frames on screen at these times."""
        video = self.videos[path]
        size = 3 * video.height * video.width
        stored = self.flat[video.offset : video.offset + video.frames * size]
        stored = stored.reshape(video.frames, 3, video.height, video.width)
        numbers = np.clip(np.floor(np.asarray(seconds) * self.fps + 1e-3).astype(int), 0, video.frames - 1)
        return torch.from_numpy(stored[numbers])


def _decode(flat: Path, roots: list[Path], short_px: int, fps: float) -> dict[str, tuple[int, ...]]:
    videos: dict[str, tuple[int, ...]] = {}
    offset = 0
    with atomic_path(flat) as partial, open(partial, "wb") as out:
        for path in sorted(p for root in roots for p in root.rglob("*.mp4")):
            try:
                with jepa.open_video(path) as video:
                    times = video.start_s + np.arange(max(1, int(video.duration_s * fps))) / fps
                    frames = video.frames_at(times.tolist(), each=lambda f: _shrink(f, short_px)).data
            except VideoError as error:
                print(f"left out: {error}")
                continue
            out.write(frames.contiguous().numpy().tobytes())
            count, _, height, width = frames.shape
            videos[str(path)] = (offset, count, height, width)
            offset += frames.numel()
    return videos


def _shrink(frame: torch.Tensor, short_px: int) -> torch.Tensor:
    height, width = frame.shape[-2:]
    scale = short_px / min(height, width)
    return resize(frame, (max(short_px, round(height * scale)), max(short_px, round(width * scale))))


class StoredClips(ClipDataset):
    """`ClipDataset` whose frames come from a `FrameStore`."""

    def __init__(
        self, store: FrameStore, items: list[Item], config: TrainClipConfig | EvalClipConfig, seed: int
    ) -> None:
        super().__init__(items, config, seed)
        self.store = store

    def _read(self, item: Item, indices: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        video = self.store.videos[item.path]
        start = item.start_s or 0.0
        stop = min(item.end_s or np.inf, video.frames / self.store.fps)
        config, k, views = self.config, self.config.clips_per_video, []
        for index in indices:
            if isinstance(config, EvalClipConfig):
                position, jitter = clips.centre_position(index % k, k), None
            else:
                position = clips.window_position(self.seed, index, index % k, k)
                jitter = clips.frame_jitter(self.seed, index, config.num_frames, config.jitter)
            times = clips.clip_times(
                start, stop, config.num_frames, config.fps, position, config.short, jitter
            )
            frames = self._view(index)(self.store.frames(item.path, times))
            views.append((frames.permute(1, 0, 2, 3), torch.tensor(times, dtype=torch.float64)))
        return views


def read_labels(world: Path, column: str, ends_s: float | None, length_s: float) -> list[Item]:
    """Items of a toy world that have a value in a column, with it as their label.

    Args:
        world: folder with labels.csv.
        column: the task.
        ends_s: None for entire videos; else a clip ends this long before the event.
        length_s: length of a clip.
    """
    items = []
    with open(world / "labels.csv", newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            if not row.get(column):
                continue
            start = end = None
            if ends_s is not None:
                end = float(row["event_s"]) - ends_s
                start = max(0.0, end - length_s)
                if end < 0.5:
                    continue
            items.append(
                Item(
                    str(world / row["path"]), row["path"], row[column], row["group"], row["split"], start, end
                )
            )
    return items
