"""Several data sets in one stream, by weight."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from jepa.data.clips import MIX, shuffled
from jepa.data.dataset import ClipDataset
from jepa.errors import UserError

_BLOCK = 1000  # choices after which every weight is met exactly, to a thousandth


class Place(NamedTuple):
    """Where a sample of the mixture comes from: which data set, and which sample of that one's own stream."""

    source: int
    sample: int


class MixtureDataset(Dataset):
    """An endless, deterministic stream of samples from several data sets.

    Within every 1000 choices each data set comes up exactly `weight * 1000` times, in shuffled order, and each walks
    through its own stream without gaps: its epochs stay whole. All of it is arithmetic on (seed, index).

    Args:
        sources: the data sets. They may differ in everything, clip length included.
        weights: one per data set, of any sum.
        seed: of the run.
        run_length: consecutive samples that come from the same data set. Where clips differ in shape this has to be
            the global batch size, since one batch holds one shape.

    Raises:
        UserError: the weights do not fit, or a weight is too small to be met.
    """

    def __init__(
        self, sources: Sequence[ClipDataset], weights: Sequence[float], seed: int, run_length: int = 1
    ) -> None:
        if not sources or len(sources) != len(weights):
            raise UserError(f"{len(sources)} data sets and {len(weights)} weights: give one weight for each.")
        if min(weights) <= 0:
            raise UserError(f"weights={list(weights)} have to be above 0; leave out what is not wanted.")
        if run_length < 1:
            raise UserError(f"run_length={run_length} has to be at least 1.")
        shapes = {(s.config.num_frames, s.config.crop_px) for s in sources}
        if len(shapes) > 1 and run_length == 1:
            raise UserError(
                "clips of different shapes cannot share a batch: set run_length to the batch size."
            )
        self.sources, self.seed, self.run_length = list(sources), seed, run_length
        self._bounds = [0]
        total, reached = sum(weights), 0.0
        for weight in weights:
            reached += weight
            self._bounds.append(round(_BLOCK * reached / total))
        if any(a == b for a, b in itertools.pairwise(self._bounds)):
            raise UserError(f"weights={list(weights)}: the smallest is below a thousandth of the sum.")

    def __len__(self) -> int:
        """Samples of all sources once."""
        return sum(len(s) for s in self.sources)

    def place(self, index: int) -> Place:
        """Which sample of which data set sample `index` is."""
        choice, within = divmod(index, self.run_length)
        block, position = divmod(choice, _BLOCK)
        slot = shuffled(position, _BLOCK, self.seed, block, MIX)
        source = next(i for i, bound in enumerate(self._bounds[1:]) if slot < bound)
        share = self._bounds[source + 1] - self._bounds[source]
        own = block * share + slot - self._bounds[source]
        return Place(source, own * self.run_length + within)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several samples; `index` in them is the mixture's own, `source` says which data set."""
        samples = []
        for index in indices:
            source, own = self.place(index)
            samples.append({**self.sources[source][own], "index": index, "source": source})
        return samples
