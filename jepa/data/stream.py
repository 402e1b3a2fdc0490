"""Data stream of a run: clips of one data set, or of several mixed by weight, with their sampler.

stream = open_stream(config.data, seed=0, batch_size=64)
loader = DataLoader(stream.dataset, batch_sampler=stream.sampler(steps=1000, rank=r, size=n), collate_fn=collate)
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, fields, replace
from typing import Any

from jepa.data.dataset import ClipDataset, StreamSampler, TrainClipConfig
from jepa.data.manifest import Item, read_items
from jepa.data.mixture import MixtureDataset
from jepa.errors import UserError
from jepa.fields import path_key
from jepa.rng import derive_seed


@dataclass
class SourceConfig:
    """One data set of a mixture, and what it has of its own. Empty keys are those of the settings around it."""

    root: str = path_key("???")
    """folder of videos or images, a list of them, or shards"""
    weight: float = 1.0
    """its fraction of all clips is this over the sum of the weights"""
    num_frames: int | None = None
    """frames in a clip, if other; a step holds clips of one length"""
    fps: float | None = None
    """their rate, if other"""
    crop_px: int | None = None
    """side of a clip in pixels, if other; a step holds clips of one size"""
    hflip: float | None = None
    """probability of mirroring, if other"""
    clips_per_video: int | None = None
    """windows taken from one video per visit, if other"""


@dataclass
class StreamConfig(TrainClipConfig):
    """Which videos, and how a clip is cut from one."""

    root: str = path_key("")
    """folder of videos or images, a list of them (CSV, TSV, JSON lines, Parquet, or `path label` lines), or shards"""
    mix: list[SourceConfig] = field(default_factory=list)
    """several data sets instead of root: [{root:DIR,weight:3},{root:LIST,weight:1,num_frames:32}]"""


@dataclass(frozen=True)
class Stream:
    """Clips by index, and what a run needs to record of them."""

    dataset: Any
    items: list[Item]
    """all videos; those of a mixture one source after the other"""
    fingerprint: str
    """SHA-256 of which videos there are and in which order; moving the folder does not change it"""
    batch_size: int
    """clips per step, of all processes together"""

    def sampler(
        self, steps: int, start_step: int = 0, rank: int = 0, size: int = 1, micro_steps: int = 1
    ) -> StreamSampler:
        """The indices of this process's clips, one list per micro-step.

        A micro-step of all processes together is a run of consecutive samples, so the same clips meet in it for any
        number of processes.

        Args:
            steps: where to stop.
            start_step: first step, which is all the state there is.
            rank: of this process.
            size: number of processes.
            micro_steps: micro-batches that make up one step.

        Raises:
            UserError: the batch does not divide among the micro-steps or the processes.
        """
        if micro_steps < 1 or self.batch_size % micro_steps:
            raise UserError(
                f"the batch size {self.batch_size} cannot be divided into {micro_steps} micro-batches."
            )
        micro_batch = self.batch_size // micro_steps
        return StreamSampler(micro_batch, steps * micro_steps, start_step * micro_steps, rank, size)


def open_stream(config: StreamConfig, seed: int, batch_size: int) -> Stream:
    """Reads the lists of videos that the settings name; opens no video.

    Args:
        config: with either `root` or `mix`.
        seed: of the run.
        batch_size: clips per step, of all processes together.

    Raises:
        UserError: neither or both of root and mix, a source that holds no videos, or weights that cannot be met.

    Example:
        >>> import tempfile
        >>> from jepa.toyworld import ToyWorldConfig, write_world
        >>> world = tempfile.mkdtemp()
        >>> _ = write_world(ToyWorldConfig(out=world, videos=2))
        >>> stream = open_stream(StreamConfig(root=world, num_frames=4, crop_px=32), seed=0, batch_size=4)
        >>> list(stream.sampler(steps=1)), stream.dataset[0]["video"].shape
        ([[0, 1, 2, 3]], torch.Size([3, 4, 32, 32]))
    """
    if bool(config.root) == bool(config.mix):
        raise UserError(
            f"data.root and data.mix are {'both' if config.root else 'neither'} given. Name one data set with "
            "data.root=DIR, or several with data.mix=[{root:DIR,weight:2},{root:DIR,weight:1}]."
        )
    if config.root:
        items = read_items(config.root)
        digest = hashlib.sha256(_rows(items, config.root)).hexdigest()
        return Stream(ClipDataset(items, config, seed), items, digest, batch_size)
    sources, everything, digests = [], [], hashlib.sha256()
    for number, source in enumerate(config.mix):
        own = {
            f.name: getattr(source, f.name)
            for f in fields(source)
            if f.name not in ("root", "weight") and getattr(source, f.name) is not None
        }
        items = read_items(source.root)
        # A seed for each: the same sample number in two data sets must not mean the same crop.
        sources.append(ClipDataset(items, replace(config, **own), derive_seed(seed, number)))
        everything += items
        digests.update(hashlib.sha256(_rows(items, source.root)).digest())
    weights = [source.weight for source in config.mix]
    mixture = MixtureDataset(sources, weights, seed, batch_size)
    return Stream(mixture, everything, digests.hexdigest(), batch_size)


def _rows(items: list[Item], root: str) -> bytes:
    """One line per item. Names inside shards are relative already."""
    rows = (
        f"{item.path if item.span else os.path.relpath(item.path, root)}\t{item.start_s}\t{item.end_s}\n"
        for item in items
    )
    return "".join(rows).encode(errors="surrogateescape")
