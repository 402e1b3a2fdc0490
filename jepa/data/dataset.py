"""Clips as a map-style dataset over an endless, deterministic stream of samples.

`ds[i]` depends on (items, config, seed, i) and on nothing else: not on the worker, the rank, what was read before or
where a run was resumed. So the loader's whole state is the number of the next step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler, default_collate

from jepa.data import sampling as clips
from jepa.data.crops import Cut
from jepa.data.manifest import Item, is_image
from jepa.data.sampling import ORDER, REPLACE, SHORT_POLICIES
from jepa.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    center_crop,
    crop_resize,
)
from jepa.data.video.limits import LimitsConfig
from jepa.data.video.reader import BACKENDS, VideoReader, open_video
from jepa.errors import UserError, VideoError
from jepa.files import write_text
from jepa.rng import permuted, uniforms

_LARGEST_CROP_PX = 4096
_REPLACEMENTS = 10  # samples tried in place of an unreadable one before giving up


@dataclass
class ClipConfig:
    """How a clip is cut from a video."""

    num_frames: int = 16
    """frames in a clip"""
    fps: float = 4.0
    """their rate; above the video's own rate frames repeat"""
    crop_px: int = 256
    """side of the square that a clip has in the end, in pixels"""
    mode: str = "train"
    """train: random window, crop and flip, in shuffled order; eval: fixed windows, centre crop, in the items' order"""
    scale: tuple[float, float] = (0.3, 1.0)
    """train: smallest and largest share of the picture that the random crop takes"""
    ratio: tuple[float, float] = (0.75, 1.35)
    """train: narrowest and widest random crop, width over height"""
    hflip: float = 0.5
    """train: probability of mirroring left to right; 0 where left and right mean something"""
    jitter: float = 0.0
    """train: each frame's time moves by up to half of this, in steps of 1 / fps"""
    resize_px: int | None = None
    """eval: short side before the centre crop, in pixels; None is crop_px"""
    clips_per_video: int = 1
    """windows taken from one video per visit; consecutive samples of a batch share one open file"""
    short: str = "hold"
    """videos shorter than the clip: hold the last frame, loop, or stretch (closer in time)"""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """per channel, subtracted when a clip becomes float"""
    std: tuple[float, float, float] = IMAGENET_STD
    """per channel, divided by when a clip becomes float"""
    resize: str = "fast"
    """train: fast cuts and resizes in the decoder's planes; exact makes RGB of the whole frame first, as eval does"""
    backend: str = "auto"
    """reader: auto, pyav, torchcodec or decord"""
    lenient: bool = False
    """pass over frames that do not decode instead of counting the video as bad"""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """what one file may cost"""

    def __post_init__(self) -> None:
        self.scale, self.ratio = tuple(self.scale), tuple(self.ratio)  # type: ignore[assignment]
        self.mean, self.std = tuple(self.mean), tuple(self.std)  # type: ignore[assignment]
        for name in ("num_frames", "crop_px", "clips_per_video"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name}={value!r} has to be a whole number of at least 1.")
        if self.crop_px > _LARGEST_CROP_PX:
            raise UserError(
                f"crop_px={self.crop_px} is the side of the clip in pixels and above {_LARGEST_CROP_PX}; "
                "usual values are 128, 224, 256 and 384."
            )
        if self.resize_px is not None and not self.crop_px <= self.resize_px <= 2 * _LARGEST_CROP_PX:
            raise UserError(
                f"resize_px={self.resize_px} is the short side before the centre crop, so it has to be at least "
                f"crop_px={self.crop_px}."
            )
        if not self.fps > 0:
            raise UserError(f"fps={self.fps!r} has to be above 0.")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(
                f"scale={list(self.scale)} has to hold two shares in 0..1, the smaller one first."
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(
                f"ratio={list(self.ratio)} has to hold two widths over heights, the smaller one first."
            )
        if not (0 <= self.hflip <= 1 and 0 <= self.jitter <= 1):
            raise UserError(f"hflip={self.hflip!r} and jitter={self.jitter!r} have to lie in 0..1.")
        if any(s <= 0 for s in self.std):
            raise UserError(f"std={list(self.std)} has to be above 0 in every channel.")
        for name, allowed in (
            ("mode", ("train", "eval")),
            ("resize", ("fast", "exact")),
            ("short", SHORT_POLICIES),
            ("backend", BACKENDS),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}.")


@dataclass(frozen=True)
class BadVideo:
    """One video that could not be read when a sample asked for it."""

    path: str
    stage: str
    reason: str
    index: int

    def __str__(self) -> str:
        return f"cannot {self.stage} video {self.path!r}: {self.reason}"


class ClipDataset(Dataset):
    """Clips from items.

    `ds[index]` for any index >= 0 is a dict: video uint8 [C, T, H, W], index, times
    float64 [T] in seconds, item (place in `items`), clip (number within the video), bad (list of BadVideo).

    Training: with k = clips_per_video, `epoch, position = divmod(index // k, len(items))`, and each epoch is another
    permutation. An unreadable video is replaced by another item, which (seed, index) alone decides, and reported in
    `bad`. Evaluation: item `index // k`, and a video that cannot be read gives `video=None`, since another one would
    carry a wrong label; `collate` leaves it out of the batch and keeps the report.

    Args:
        items: what to read.
        config: how.
        seed: of the run.

    Raises:
        UserError: there are no items.
    """

    def __init__(self, items: Sequence[Item], config: ClipConfig, seed: int) -> None:
        if not items:
            raise UserError("there is no video to read: the list of items is empty.")
        self.items, self.config, self.seed = items, config, seed

    def __len__(self) -> int:
        """Samples of one pass over the items."""
        return len(self.items) * self.config.clips_per_video

    def item_of(self, index: int, attempt: int = 0) -> int:
        """Which item sample `index` shows; `attempt` counts the unreadable ones before."""
        visit, size = index // self.config.clips_per_video, len(self.items)
        if self.config.mode == "eval":
            return visit % size
        if attempt:
            return int(uniforms(self.seed, visit, REPLACE, attempt)[-1] * size)
        epoch, position = divmod(visit, size)
        return permuted(position, size, self.seed, epoch, ORDER)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several samples; neighbours from the same visit of a video share one open file."""
        samples: list[dict[str, Any]] = []
        first = 0
        for last in range(1, len(indices) + 1):
            k = self.config.clips_per_video
            if last == len(indices) or indices[last] // k != indices[first] // k:
                samples += self._visit(indices[first:last])
                first = last
        return samples

    def _visit(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        bad: list[BadVideo] = []
        attempts = 1 if self.config.mode == "eval" else 1 + _REPLACEMENTS
        for attempt in range(attempts):
            number = self.item_of(indices[0], attempt)
            try:
                views = self._read(self.items[number], indices)
            except VideoError as error:
                bad.append(BadVideo(error.path, error.stage, error.reason, indices[0]))
                continue
            return [
                {
                    "video": video, "times": times, "index": index, "item": number,
                    "clip": index % self.config.clips_per_video, "bad": bad if index == indices[0] else [],
                }
                for index, (video, times) in zip(indices, views, strict=True)
            ]  # fmt: skip
        if self.config.mode == "eval":
            return [
                {
                    "video": None, "times": None, "index": index, "item": number,
                    "clip": index % self.config.clips_per_video, "bad": bad if index == indices[0] else [],
                }
                for index in indices
            ]  # fmt: skip
        raise VideoError(
            bad[-1].path, bad[-1].stage, f"{bad[-1].reason}; {attempts - 1} replacements failed as well"
        )

    def _read(self, item: Item, indices: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        config = self.config
        if is_image(item.path):
            from jepa.data.images import read_image

            picture = read_image(item, config.limits)
            times = torch.arange(config.num_frames, dtype=torch.float64) / config.fps
            return [
                (self._view(i)(picture).unsqueeze(1).expand(-1, config.num_frames, -1, -1), times)
                for i in indices
            ]
        with open_item(item, config) as reader:
            return [self._clip(reader, item, index) for index in indices]

    def _clip(self, reader: VideoReader, item: Item, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        config, k = self.config, self.config.clips_per_video
        end = reader.start_s + reader.duration_s
        start = reader.start_s if item.start_s is None else max(item.start_s, reader.start_s)
        stop = end if item.end_s is None else min(item.end_s, end)
        if stop <= start and (item.start_s is not None or item.end_s is not None):
            raise VideoError(
                reader.path,
                "seek",
                f"the part from {start:g} s lies outside the video, which ends at {end:g} s",
            )
        if config.mode == "eval":
            place, jitter = clips.centre_place(index % k, k), None
        else:
            place = clips.window_place(self.seed, index, index % k, k)
            jitter = clips.frame_jitter(self.seed, index, config.num_frames, config.jitter)
        times = clips.clip_times(start, stop, config.num_frames, config.fps, place, config.short, jitter)
        if config.mode == "train" and config.resize == "fast":
            frames = reader.frames_at(times, cut=self._cut(index))
        else:
            frames = reader.frames_at(times, each=self._view(index))
        return frames.data.permute(1, 0, 2, 3), frames.times

    def _view(self, index: int) -> Any:
        """The crop of this sample, the same for all its frames."""
        config = self.config

        def evaluation(frame: torch.Tensor) -> torch.Tensor:
            return center_crop(frame, config.resize_px or config.crop_px, config.crop_px)

        def training(frame: torch.Tensor) -> torch.Tensor:
            cut = self._cut(index)
            return crop_resize(frame, cut.box(frame.shape[-2], frame.shape[-1]), cut.size, cut.flip)

        return evaluation if config.mode == "eval" else training

    def _cut(self, index: int) -> Cut:
        config = self.config
        return Cut(config.scale, config.ratio, config.hflip, self.seed, index, config.crop_px)


def open_item(item: Item, config: ClipConfig) -> VideoReader:
    """Opens an item's video, from its file or from inside its shard."""
    source: Any = item.path
    if item.span is not None:
        from jepa.data.shards import open_span

        source = open_span(item)
    return open_video(source, config.backend, limits=config.limits, lenient=config.lenient)


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stacks samples: video uint8 [B, C, T, H, W], times float64 [B, T], and int64 [B] index, item, clip and source.

    `bad` is a list of BadVideo. `source` numbers the data sets of a mixture and is 0 elsewhere. Samples without a video
    (evaluation, unreadable) are left out.
    """
    kept = [s for s in samples if s["video"] is not None]
    batch: dict[str, Any] = {"bad": [event for s in samples for event in s["bad"]]}
    for name in ("index", "item", "clip"):
        batch[name] = torch.tensor([s[name] for s in kept], dtype=torch.int64)
    batch["source"] = torch.tensor([s.get("source", 0) for s in kept], dtype=torch.int64)
    if kept:
        batch["times"] = torch.stack([s["times"] for s in kept])
        # In a loader worker this writes straight into the memory that the training process will read.
        batch["video"] = default_collate([s["video"] for s in kept])
    else:
        batch["times"] = torch.empty(0, 0, dtype=torch.float64)
        batch["video"] = torch.empty(0, 3, 0, 0, 0, dtype=torch.uint8)
    return batch


class StreamSampler(Sampler[list[int]]):
    """Batches of consecutive stream indices: step s of `world` ranks together takes s * batch_size and on.

    Args:
        batch_size: of all ranks together.
        steps: where to stop.
        start_step: first step, which is all the state there is.
        rank: of this process.
        world: number of processes.

    Raises:
        UserError: the batch does not divide among the processes.
    """

    def __init__(
        self, batch_size: int, steps: int, start_step: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        if batch_size < 1 or batch_size % world:
            raise UserError(
                f"the global batch size {batch_size} cannot be divided evenly among {world} processes; "
                f"use a multiple of {world}."
            )
        self.batch_size, self.steps, self.start_step, self.rank, self.world = (
            batch_size,
            steps,
            start_step,
            rank,
            world,
        )

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step)

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world
        for step in range(self.start_step, self.steps):
            first = step * self.batch_size + self.rank * share
            yield list(range(first, first + share))


class TooManyBadVideosError(RuntimeError):
    """The share of unreadable videos passed its limit."""


class BadVideoLog:
    """Counts unreadable videos, names each once, and stops the run when they are too many.

    Args:
        max_bad_share: of all samples, above which `count` raises.
        quarantine: a JSON-lines file that lists each bad video once, or None.
        grace: unreadable videos that are tolerated whatever their share, so that an early one does not stop a run.
    """

    def __init__(self, max_bad_share: float, quarantine: Path | None = None, grace: int = 5) -> None:
        if not 0 <= max_bad_share <= 1:
            raise UserError(f"max_bad_fraction={max_bad_share!r} has to lie in 0..1.")
        self.max_bad_share, self.quarantine, self.grace = max_bad_share, quarantine, grace
        self.bad, self.samples = 0, 0
        self._known: dict[str, dict[str, Any]] = {}

    @property
    def share(self) -> float:
        """Unreadable videos over samples so far."""
        return self.bad / self.samples if self.samples else 0.0

    def count(self, events: Iterable[BadVideo], samples: int) -> list[BadVideo]:
        """Takes note of one batch; returns the videos that were not bad before.

        Raises:
            TooManyBadVideosError: the share is above its limit.
        """
        fresh = []
        self.samples += samples
        for event in events:
            self.bad += 1
            if event.path not in self._known:
                self._known[event.path] = asdict(event)
                fresh.append(event)
        if fresh and self.quarantine is not None:
            write_text(self.quarantine, "".join(json.dumps(row) + "\n" for row in self._known.values()))
        if self.bad > self.grace and self.share > self.max_bad_share:
            named = "; ".join(str(BadVideo(**row)) for row in list(self._known.values())[:3])
            raise TooManyBadVideosError(
                f"{self.bad} of {self.samples} samples met an unreadable video, above max_bad_fraction="
                f"{self.max_bad_share:g}. {len(self._known)} files are affected, among them: {named}. Repair or remove "
                "them (`jepa doctor data.root=...` lists all), or raise data.max_bad_fraction."
            )
        return fresh

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"bad": self.bad, "samples": self.samples, "known": list(self._known.values())}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Takes over a saved state."""
        self.bad, self.samples = saved["bad"], saved["samples"]
        self._known = {row["path"]: dict(row) for row in saved["known"]}
