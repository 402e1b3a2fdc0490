"""A feature set: the features of n samples, in the forms that heads read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.probes.features.cache import Features, join
from jepa.probes.features.pooling import pool_changes, pool_stats


@dataclass
class FeatureSet:
    """Features ready for heads: n samples, each with `clips` windows."""

    name: str
    """what made them"""
    features: Features
    """rows [n, clips, N, D] for tokens or [n, clips, F] for vectors"""
    time_slots: int = 0
    """time steps of the token grid, times the number of layers; 0 for vectors"""
    standardise: bool = True
    """features differ in unit; false for pixels, which have one in common"""
    _vectors: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(cls, name: str, values: Tensor | np.ndarray, time_slots: int = 1) -> FeatureSet:
        """Features in memory: vectors [n, F] or tokens [n, N, D], one window per sample.

        Args:
            name: for tables.
            values: finite numbers; kept in float32.
            time_slots: time steps of the tokens' grid.

        Raises:
            UserError: another number of axes, or a value that is not finite.

        Example:
            >>> FeatureSet.of("mine", np.ones((5, 8, 3)), time_slots=2).read("vectors").shape
            torch.Size([5, 9])
        """
        array = torch.as_tensor(values).detach().cpu().float().numpy()
        if array.ndim not in (2, 3) or not len(array):
            raise UserError(
                f"Features must be vectors [n, D] or tokens [n, N, D], and these have shape {list(array.shape)}."
            )
        if not np.isfinite(array).all():
            raise UserError("The features hold a value that is not finite. Remove those samples first.")
        if array.ndim == 3 and array.shape[1] % time_slots:
            raise UserError(
                f"time_slots={time_slots} does not divide the {array.shape[1]} tokens of a sample."
            )
        return cls(name, Features.of(array[:, None]), time_slots if array.ndim == 3 else 0)

    @property
    def clips(self) -> int:
        """Windows of a sample."""
        return self.features.shape[1]

    def read(self, form: str) -> Tensor:
        """All windows [n * clips, ...] in the form that a head reads: vectors, changes, means or tokens.

        Vectors are pixels as they are, and of tokens the mean, standard deviation and temporal change (`pool_stats`);
        changes are the mean, mean change and largest change (`pool_changes`).

        Raises:
            UserError: tokens are requested, and the set holds vectors.
        """
        if form == "tokens":
            if not self.time_slots:
                raise UserError(
                    f"The features {self.name!r} are vectors; a head that reads tokens needs [n, N, D]. "
                    "Use the heads linear, ridge or knn."
                )
            return self.features.rows().flatten(0, 1)
        if form == "changes" and self.time_slots:
            return self._pooled(pool_changes)
        return self.pooled_means() if form == "means" else self.pooled()

    def pooled_means(self) -> Tensor:
        """Means over tokens [n * clips, D], or pixels as they are."""
        vectors = self.pooled()
        return vectors[:, : vectors.shape[1] // 3] if self.time_slots else vectors

    def pooled(self) -> Tensor:
        """One vector per window [n * clips, F], in float32."""
        if self._vectors is None:
            self._vectors = self._pooled(pool_stats)
        return self._vectors

    def _pooled(self, pool: Callable[[Tensor, int], Tensor]) -> Tensor:
        indices, parts = np.arange(len(self.features)), []
        for start in range(0, len(indices), 64):
            rows = self.features.rows(indices[start : start + 64]).flatten(0, 1)
            parts.append(pool(rows, self.time_slots) if self.time_slots else rows.float())
        return torch.cat(parts)

    def part(self, start: int, stop: int) -> FeatureSet:
        """The samples from `start` to `stop`."""
        rows = Features(
            self.features.shards, self.features.shard_of[start:stop], self.features.row_of[start:stop]
        )
        return FeatureSet(self.name, rows, self.time_slots, self.standardise)

    def first_tokens(self, name: str, count: int, time_slots: int) -> FeatureSet:
        """A set of the first `count` tokens of every window, which cover `time_slots`."""
        shards = [shard[:, :, :count] for shard in self.features.shards]
        return FeatureSet(name, Features(shards, self.features.shard_of, self.features.row_of), time_slots)

    def extended(self, others: Sequence[FeatureSet]) -> FeatureSet:
        """This set with the samples of others behind its own."""
        rows = join([self.features, *(other.features for other in others)])
        return FeatureSet(self.name, rows, self.time_slots, self.standardise)
