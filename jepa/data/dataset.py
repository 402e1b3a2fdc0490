"""Clips as a map-style dataset (`torch.utils.data.Dataset`) over an endless, deterministic stream of samples.

`ds[i]` depends on (items, config, seed, i) and on nothing else: not on the worker, the rank, what was read before or
where a run was resumed. So the loader's only state is the number of the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler, default_collate

from jepa.data import sampling as clips
from jepa.data.bad_videos import BadVideo, as_video_error
from jepa.data.crops import Cut
from jepa.data.images import ImageFile, read_image
from jepa.data.manifest import Item, is_image
from jepa.data.sampling import ORDER, REPLACE, SHORT_POLICIES, segment_bounds
from jepa.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    center_crop,
    crop_resize,
)
from jepa.data.video.limits import LimitsConfig
from jepa.data.video.reader import BACKENDS, VideoReader, open_video
from jepa.errors import UserError, VideoError
from jepa.rng import permuted, uniforms

_LARGEST_CROP_PX = 4096
_REPLACEMENTS = 10  # samples tried instead of an unreadable one before giving up


@dataclass
class ClipConfig:
    """How a clip is cut from a video: what training and evaluation have in common."""

    num_frames: int = 16
    """frames in a clip"""
    fps: float = 4.0
    """their rate; above the video's own rate frames repeat"""
    crop_px: int = 256
    """side of the square that a clip has in the end, in pixels"""
    clips_per_video: int = 1
    """windows taken from one video per visit; consecutive samples of a batch use one open file"""
    short: str = "hold"
    """videos shorter than the clip: hold the last frame, loop, or stretch (closer in time)"""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """per channel, subtracted when a clip becomes float"""
    std: tuple[float, float, float] = IMAGENET_STD
    """per channel, divided by when a clip becomes float"""
    backend: str = "auto"
    """reader: auto, pyav, torchcodec or decord"""
    lenient: bool = False
    """pass over frames that do not decode instead of counting the video as bad"""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """what one file may cost"""

    def __post_init__(self) -> None:
        self.mean, self.std = tuple(self.mean), tuple(self.std)  # type: ignore[assignment]
        for name in ("num_frames", "crop_px", "clips_per_video"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name}={value!r} has to be an integer of at least 1.")
        if self.crop_px > _LARGEST_CROP_PX:
            raise UserError(
                f"crop_px={self.crop_px} is the side of the clip in pixels and above {_LARGEST_CROP_PX}; "
                "usual values are 128, 224, 256 and 384."
            )
        if not self.fps > 0:
            raise UserError(f"fps={self.fps!r} has to be above 0.")
        if any(s <= 0 for s in self.std):
            raise UserError(f"std={list(self.std)} has to be above 0 in every channel.")
        self._check_choice("short", SHORT_POLICIES)
        self._check_choice("backend", BACKENDS)

    def _check_choice(self, name: str, allowed: Sequence[str]) -> None:
        if getattr(self, name) not in allowed:
            raise UserError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}.")


@dataclass
class TrainClipConfig(ClipConfig):
    """How a training clip is cut: a random window, crop and flip, in shuffled order.

    Example:
        >>> TrainClipConfig(num_frames=8, crop_px=128, hflip=0.0).scale
        (0.3, 1.0)
    """

    scale: tuple[float, float] = (0.3, 1.0)
    """smallest and largest fraction of the frame's area that the random crop takes"""
    ratio: tuple[float, float] = (0.75, 1.35)
    """narrowest and widest random crop, width over height"""
    hflip: float = 0.5
    """probability of mirroring left to right; 0 where left and right mean something"""
    jitter: float = 0.0
    """each frame's time moves by up to half of this, in steps of 1 / fps"""
    resize: str = "fast"
    """fast cuts and resizes in the decoder's planes; exact makes RGB of the entire frame first, as evaluation does"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.scale, self.ratio = tuple(self.scale), tuple(self.ratio)  # type: ignore[assignment]
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(
                f"scale={list(self.scale)} has to hold two fractions between 0 and 1, the smaller one first."
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(
                f"ratio={list(self.ratio)} has to hold two widths over heights, the smaller one first."
            )
        if not (0 <= self.hflip <= 1 and 0 <= self.jitter <= 1):
            raise UserError(f"hflip={self.hflip!r} and jitter={self.jitter!r} must be between 0 and 1.")
        self._check_choice("resize", ("fast", "exact"))


@dataclass
class EvalClipConfig(ClipConfig):
    """How an evaluation clip is cut: fixed windows and the centre crop, in the items' order.

    Example:
        >>> EvalClipConfig(crop_px=224, resize_px=256, clips_per_video=4).fps
        4.0
    """

    resize_px: int | None = None
    """short side before the centre crop, in pixels; None is crop_px"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize_px is not None and not self.crop_px <= self.resize_px <= 2 * _LARGEST_CROP_PX:
            raise UserError(
                f"resize_px={self.resize_px} is the short side before the centre crop, so it has to be at least "
                f"crop_px={self.crop_px}."
            )


class ClipDataset(Dataset):
    """Clips from items.

    `ds[index]` for any index >= 0 is a dict: video uint8 [C, T, H, W], index, times float64 [T] in seconds, item
    (position in `items`), clip (number within the video), bad (list of BadVideo).

    With a `TrainClipConfig` and k = clips_per_video, `epoch, position = divmod(index // k, len(items))`, and each
    epoch is another permutation. An unreadable video is replaced by another item, which (seed, index) alone decides,
    and reported in `bad`. With an `EvalClipConfig` it is item `index // k`, and a video that cannot be read gives
    `video=None`, since another one would carry a wrong label; `collate` leaves it out and keeps the report.

    Args:
        items: what to read.
        config: how, for training or for evaluation.
        seed: of the run.

    Raises:
        UserError: there are no items, or the config is for neither.

    Example:
        >>> import tempfile
        >>> from jepa.toyworld import ToyWorldConfig, write_world
        >>> from jepa.data import read_items
        >>> world = tempfile.mkdtemp()
        >>> _ = write_world(ToyWorldConfig(out=world, videos=2))
        >>> clips = ClipDataset(read_items(world), TrainClipConfig(num_frames=4, crop_px=32), seed=0)
        >>> clips[7]["video"].shape
        torch.Size([3, 4, 32, 32])
    """

    def __init__(self, items: Sequence[Item], config: TrainClipConfig | EvalClipConfig, seed: int) -> None:
        if not items:
            raise UserError("there is no video to read: the list of items is empty.")
        if not isinstance(config, (TrainClipConfig, EvalClipConfig)):
            raise UserError("ClipDataset takes a TrainClipConfig or an EvalClipConfig.")
        self.items, self.config, self.seed = items, config, seed

    def __len__(self) -> int:
        """Samples of one pass over the items."""
        return len(self.items) * self.config.clips_per_video

    def item_of(self, index: int, attempt: int = 0) -> int:
        """Which item sample `index` shows; `attempt` counts the unreadable ones before."""
        visit, size = index // self.config.clips_per_video, len(self.items)
        if isinstance(self.config, EvalClipConfig):
            return visit % size
        if attempt:
            return int(uniforms(self.seed, visit, REPLACE, attempt)[-1] * size)
        epoch, position = divmod(visit, size)
        return permuted(position, size, self.seed, epoch, ORDER)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several samples; neighbours from the same visit of a video use one open file."""
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
        evaluation = isinstance(self.config, EvalClipConfig)
        views: list[tuple[Any, Any]] = [(None, None)] * len(indices)
        for attempt in range(1 if evaluation else 1 + _REPLACEMENTS):
            number = self.item_of(indices[0], attempt)
            try:
                views = self._read(self.items[number], indices)
                break
            except UserError:
                raise  # a mistake in the settings, not in the video
            except Exception as error:  # noqa: BLE001 - a broken file may provoke anything
                failure = as_video_error(self.items[number].path, error)
                bad.append(BadVideo.of(failure, indices[0], self.items[number].name))
        else:
            if not evaluation:
                reason = f"{failure.reason}; {_REPLACEMENTS} replacements failed as well"
                raise VideoError(failure.path, failure.stage, reason)
        return [
            {
                "video": video, "times": times, "index": index, "item": number,
                "clip": index % self.config.clips_per_video, "bad": bad if index == indices[0] else [],
            }
            for index, (video, times) in zip(indices, views, strict=True)
        ]  # fmt: skip

    def _read(self, item: Item, indices: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        config = self.config
        if is_image(item.path):
            picture = read_image(item, config.limits)
            times = torch.arange(config.num_frames, dtype=torch.float64) / config.fps
            return [
                (self._view(i)(picture).unsqueeze(1).expand(-1, config.num_frames, -1, -1), times)
                for i in indices
            ]
        with open_item(item, config.backend, config.limits, config.lenient) as reader:
            return [self._clip(reader, item, index) for index in indices]

    def _clip(self, reader: VideoReader, item: Item, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        config, k = self.config, self.config.clips_per_video
        first, last = reader.start_s, reader.start_s + reader.duration_s
        start, stop = segment_bounds(reader.path, item.start_s, item.end_s, first, last)
        if isinstance(config, EvalClipConfig):
            position, jitter = clips.centre_position(index % k, k), None
        else:
            position = clips.window_position(self.seed, index, index % k, k)
            jitter = clips.frame_jitter(self.seed, index, config.num_frames, config.jitter)
        times = clips.clip_times(start, stop, config.num_frames, config.fps, position, config.short, jitter)
        if isinstance(config, TrainClipConfig) and config.resize == "fast":
            frames = reader.frames_at(times, cut=self._cut(config, index))
        else:
            frames = reader.frames_at(times, each=self._view(index))
        return frames.data.permute(1, 0, 2, 3), frames.times

    def _view(self, index: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """The crop of this sample, the same for all its frames."""
        config = self.config

        def evaluation(frame: torch.Tensor) -> torch.Tensor:
            assert isinstance(config, EvalClipConfig)
            return center_crop(frame, config.resize_px or config.crop_px, config.crop_px)

        def training(frame: torch.Tensor) -> torch.Tensor:
            assert isinstance(config, TrainClipConfig)
            cut = self._cut(config, index)
            return crop_resize(frame, cut.box(frame.shape[-2], frame.shape[-1]), cut.size, cut.flip)

        return evaluation if isinstance(config, EvalClipConfig) else training

    def _cut(self, config: TrainClipConfig, index: int) -> Cut:
        return Cut(config.scale, config.ratio, config.hflip, self.seed, index, config.crop_px)


def open_item(
    item: Item, backend: str = "auto", limits: LimitsConfig | None = None, lenient: bool = False
) -> VideoReader:
    """Opens an item, from its file or from inside its shard; an image is a video of one frame.

    Args:
        item: of any list.
        backend: see `open_video`.
        limits: what the file may cost.
        lenient: pass over what does not decode.

    Raises:
        VideoError: it cannot be read.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> file = tempfile.mkdtemp() + "/red.png"
        >>> Image.new("RGB", (20, 10), "red").save(file)
        >>> with open_item(Item(file)) as video:
        ...     video.num_frames, video.frames_at([0.0]).data.shape
        (1, torch.Size([1, 3, 10, 20]))
    """
    if is_image(item.path):
        return VideoReader(ImageFile(item, limits or LimitsConfig()), item.path, "pillow")
    source: Any = item.path
    if item.span is not None:
        from jepa.data.shards import open_span

        source = open_span(item)
    return open_video(source, backend, limits=limits, lenient=lenient)


EXTRA_KEYS = ("actions", "states", "tokens")
"""What a sample may hold beside the video: actions [T - 1, A], states [T, S], features [T, N, D] of its frames."""


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stacks samples: video uint8 [B, C, T, H, W], times float64 [B, T], and int64 [B] index, item, clip and source.

    `bad` is a list of BadVideo. `source` numbers the data sets of a mixture and is 0 elsewhere. Samples without a video
    (evaluation, unreadable) are left out.

    Example:
        >>> sample = {"video": torch.zeros(3, 2, 8, 8, dtype=torch.uint8), "times": torch.arange(2.0),
        ...           "index": 0, "item": 0, "clip": 0, "bad": []}
        >>> collate([sample, sample])["video"].shape
        torch.Size([2, 3, 2, 8, 8])
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
        for name in kept[0].keys() & set(EXTRA_KEYS):
            batch[name] = default_collate([s[name] for s in kept])
    else:
        batch["times"] = torch.empty(0, 0, dtype=torch.float64)
        batch["video"] = torch.empty(0, 3, 0, 0, 0, dtype=torch.uint8)
    return batch


class StreamSampler(Sampler[list[int]]):
    """Batches of consecutive stream indices; `Stream.sampler` makes one.

    Step s of all `size` processes together takes the indices from s * batch_size on.

    Args:
        batch_size: of all processes together.
        steps: where to stop.
        start_step: first step, which is all the state there is.
        rank: of this process.
        size: number of processes.

    Raises:
        UserError: the batch does not divide among the processes.

    Example:
        >>> list(StreamSampler(batch_size=4, steps=2, rank=1, size=2))
        [[2, 3], [6, 7]]
    """

    def __init__(
        self, batch_size: int, steps: int, start_step: int = 0, rank: int = 0, size: int = 1
    ) -> None:
        if batch_size < 1 or batch_size % size:
            raise UserError(
                f"the global batch size {batch_size} cannot be divided evenly among {size} processes; "
                f"use a multiple of {size}."
            )
        self.batch_size, self.steps, self.start_step = batch_size, steps, start_step
        self.rank, self.size = rank, size

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step)

    def __iter__(self) -> Iterator[list[int]]:
        own = self.batch_size // self.size
        for step in range(self.start_step, self.steps):
            first = step * self.batch_size + self.rank * own
            yield list(range(first, first + own))
