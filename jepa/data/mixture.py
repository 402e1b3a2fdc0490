"""Mixture of data sets: several in one stream, by weight, with clips of one shape per step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from jepa.data.dataset import ClipDataset
from jepa.data.sampling import GROUP, MIX
from jepa.errors import UserError
from jepa.rng import permuted

_BLOCK = 1000  # choices after which every weight is met exactly, to a thousandth


class Origin(NamedTuple):
    """Origin of a sample of the mixture: which data set, and which sample of that one's own stream."""

    source: int
    sample: int


class _Schedule:
    """Which source has turn n, by weight: shuffled within blocks; each source counts its own turns without gaps."""

    def __init__(self, weights: Sequence[float], seed: int, purpose: int) -> None:
        self.seed, self.purpose = seed, purpose
        bounds = np.round(_BLOCK * np.cumsum(weights) / np.sum(weights)).astype(np.int64)
        self.counts = np.diff(bounds, prepend=0)
        if not self.counts.all():
            raise UserError(f"weights={list(weights)}: the smallest is below a thousandth of the sum.")
        self._holder = np.repeat(np.arange(len(weights)), self.counts)
        self._known: tuple[int, np.ndarray, np.ndarray] | None = None  # the block that was needed last

    def __call__(self, turn: int) -> tuple[int, int]:
        """(source, which of its own turns)."""
        block, position = divmod(turn, _BLOCK)
        if self._known is None or self._known[0] != block:
            order = [permuted(p, _BLOCK, self.seed, block, self.purpose) for p in range(_BLOCK)]
            who = self._holder[order]
            own = np.empty(_BLOCK, np.int64)
            for one, count in enumerate(self.counts):
                own[who == one] = np.arange(count)
            self._known = (block, who, own)
        _, who, own = self._known
        one = int(who[position])
        return one, block * int(self.counts[one]) + int(own[position])


class MixtureDataset(Dataset):
    """An endless, deterministic stream of samples from several data sets.

    Data sets whose clips have one shape (frames, side) are in the same batches. Where there are several shapes, each
    step holds one of them, and which one is a function of (seed, step). Both choices keep the weights: within every
    1000 steps, and within every 1000 clips of a shape, each is as frequent as its weight requires, to a thousandth.
    Each data set goes through its own stream in order and without gaps, so its epochs stay complete.

    Args:
        sources: the data sets.
        weights: relative numbers of clips that come from each, of any sum.
        seed: of the run.
        batch_size: clips per step, of all processes together. Sample `index` belongs to step `index // batch_size`.

    Raises:
        UserError: the weights do not fit, or one is too small to be met.

    Example:
        >>> from jepa.data.dataset import TrainClipConfig
        >>> from jepa.data.manifest import Item
        >>> sources = [ClipDataset([Item("a.mp4")], TrainClipConfig(), seed) for seed in (0, 1)]
        >>> mixture = MixtureDataset(sources, [3, 1], seed=0, batch_size=4)
        >>> [mixture.origin(index).source for index in range(8)].count(0) >= 4
        True
    """

    def __init__(
        self, sources: Sequence[ClipDataset], weights: Sequence[float], seed: int, batch_size: int
    ) -> None:
        if not sources or len(sources) != len(weights):
            raise UserError(f"{len(sources)} data sets and {len(weights)} weights: give one weight for each.")
        if not all(0 < weight < float("inf") for weight in weights):
            raise UserError(
                f"weights={list(weights)} have to be finite and above 0; leave out a data set that has no weight."
            )
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} has to be at least 1.")
        self.sources, self.batch_size = list(sources), batch_size
        by_shape: dict[tuple[int, int], list[int]] = {}
        for number, source in enumerate(sources):
            by_shape.setdefault((source.config.num_frames, source.config.crop_px), []).append(number)
        self._groups = list(by_shape.values())
        sums = [sum(weights[n] for n in group) for group in self._groups]
        self._step_turns = _Schedule(sums, seed, GROUP)
        self._turns = [_Schedule([weights[n] for n in group], seed, MIX) for group in self._groups]

    def __len__(self) -> int:
        """Samples of all sources once."""
        return sum(len(s) for s in self.sources)

    def origin(self, index: int) -> Origin:
        """Which sample of which data set sample `index` is."""
        step, within = divmod(index, self.batch_size)
        group, own_step = self._step_turns(step)
        one, own = self._turns[group](own_step * self.batch_size + within)
        return Origin(self._groups[group][one], own)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several samples; `index` in them is the mixture's own, `source` says which data set."""
        origins = [self.origin(index) for index in indices]
        samples: dict[int, dict[str, Any]] = {}
        order = sorted(range(len(indices)), key=lambda n: (origins[n], n))
        # Each data set's part at once, so that clips from one visit of a video use one open file.
        for number, part in itertools.groupby(order, key=lambda n: origins[n].source):
            positions = list(part)
            found = self.sources[number].__getitems__([origins[n].sample for n in positions])
            for n, sample in zip(positions, found, strict=True):
                bad = [replace(event, index=indices[n]) for event in sample["bad"]]
                samples[n] = {**sample, "index": indices[n], "source": number, "bad": bad}
        return [samples[n] for n in range(len(indices))]
