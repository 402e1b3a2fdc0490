"""Feature cache: shards of rows on disk or in memory, with a checksum per row, in float16 or int8.

    <cache>/<extractor key>/shard-<hash>.npy     rows [R, clips, ...]
    <cache>/<extractor key>/shard-<hash>.json    the row keys, a checksum of each row, and what int8 cost

In int8 every vector (the last axis) has a scale of its own, the largest of its values over 127, kept as two further
bytes behind it: half the disk and memory. The error that this made is measured when rows are written.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepa.files import atomic_path, write_json

SHARD_BYTES = 64 << 20


def to_int8(rows: np.ndarray) -> np.ndarray:
    """Float16 vectors [..., F] as int8 [..., F + 2]: values over the vector's scale, then the scale's two bytes.

    Example:
        >>> to_int8(np.ones((3, 4), np.float16)).shape
        (3, 6)
    """
    wide = rows.astype(np.float32)
    scale = (np.abs(wide).max(-1, keepdims=True) / 127).astype(np.float16)
    # Rounded up where half precision would let the largest value pass 127.
    scale = np.where(
        scale.astype(np.float32) * 127 < np.abs(wide).max(-1, keepdims=True), _next(scale), scale
    )
    values = np.rint(wide / np.maximum(scale.astype(np.float32), 1e-8)).clip(-127, 127).astype(np.int8)
    return np.concatenate([values, np.ascontiguousarray(scale).view(np.int8)], axis=-1)


def from_int8(packed: np.ndarray) -> np.ndarray:
    """Float16 vectors [..., F] from what `to_int8` made.

    Example:
        >>> from_int8(to_int8(np.ones((1, 2), np.float16))).tolist()
        [[1.0009765625, 1.0009765625]]
    """
    scale = np.ascontiguousarray(packed[..., -2:]).view(np.float16).astype(np.float32)
    return (packed[..., :-2] * scale).astype(np.float16)


def _next(scale: np.ndarray) -> np.ndarray:
    return np.nextafter(scale, np.float16(np.inf), dtype=np.float16)


@dataclass
class Features:
    """The rows of one extractor for a list of samples, in their order."""

    shards: list[np.ndarray]
    """arrays [R, clips, ...], memory-mapped where they are on disk"""
    shard_of: np.ndarray
    """shard number of each sample"""
    row_of: np.ndarray
    """row in that shard of each sample"""

    @classmethod
    def of(cls, rows: np.ndarray) -> Features:
        """Rows [n, clips, ...] that are in memory already.

        Example:
            >>> Features.of(np.zeros((3, 1, 4), np.float32)).shape
            (3, 1, 4)
        """
        return cls([rows], np.zeros(len(rows), int), np.arange(len(rows)))

    def __len__(self) -> int:
        return len(self.shard_of)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all rows together: [samples, clips, ...]."""
        shape = self.shards[0].shape[1:]
        return (len(self), *shape[:-1], shape[-1] - 2 * (self.shards[0].dtype == np.int8))

    def rows(self, indices: Sequence[int] | np.ndarray | None = None) -> torch.Tensor:
        """Rows [n, clips, ...], float16 from a cache or int8, in the order of `indices`."""
        chosen = np.arange(len(self)) if indices is None else np.asarray(indices)
        dtype = np.float16 if self.shards[0].dtype == np.int8 else self.shards[0].dtype
        out = np.empty((len(chosen), *self.shape[1:]), dtype)
        for shard in np.unique(self.shard_of[chosen]):
            here = self.shard_of[chosen] == shard
            rows = self.shards[shard][self.row_of[chosen[here]]]
            out[here] = from_int8(rows) if rows.dtype == np.int8 else rows
        return torch.from_numpy(out)


def join(parts: Sequence[Features]) -> Features:
    """Features of several lists of samples, one list after the other.

    Example:
        >>> rows = Features.of(np.zeros((2, 1, 4), np.float16))
        >>> len(join([rows, rows]))
        4
    """
    shards: list[np.ndarray] = []
    shard_of = []
    for part in parts:
        shard_of.append(part.shard_of + len(shards))
        shards += part.shards
    return Features(shards, np.concatenate(shard_of), np.concatenate([part.row_of for part in parts]))


class Store:
    """Shards of one extractor.

    Args:
        folder: their folder; None keeps rows in memory.
        int8: write new rows in int8 instead of float16.

    Example:
        >>> store = Store(None)
        >>> store.add("a", np.zeros((1, 4), np.float16))
        >>> store.write_shard()
        >>> store.features(["a", "a"]).shape
        (2, 1, 4)
    """

    def __init__(self, folder: Path | None, int8: bool = False) -> None:
        self.folder, self.int8 = folder, int8
        self.where: dict[str, tuple[int, int]] = {}
        self.arrays: list[np.ndarray] = []
        self.fresh: dict[str, np.ndarray] = {}
        self.damaged, self.error = 0, 0.0
        for index in sorted(folder.glob("shard-*.json")) if folder is not None else ():
            self._open(index)

    def _open(self, index: Path) -> None:
        entries = json.loads(index.read_text(encoding="utf-8"))
        try:
            array = np.load(index.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            self.damaged += len(entries["keys"])
            return
        self.arrays.append(array)
        self.error = max(self.error, entries.get("int8_error", 0.0))
        for row, (key, checksum) in enumerate(zip(entries["keys"], entries["crc32"], strict=True)):
            if row < len(array) and zlib.crc32(array[row].tobytes()) == checksum:
                self.where[key] = (len(self.arrays) - 1, row)
            else:
                self.damaged += 1

    def add(self, key: str, row: np.ndarray) -> None:
        """Takes one row [clips, ...] of float16; writes a shard when enough have come."""
        self.fresh[key] = row
        if len(self.fresh) * row.nbytes >= SHARD_BYTES:
            self.write_shard()

    def write_shard(self) -> None:
        """Writes what has come since the last shard."""
        if not self.fresh:
            return
        keys, rows = list(self.fresh), np.stack(list(self.fresh.values()))
        self.fresh = {}
        entries: dict[str, Any] = {"keys": keys}
        if self.int8:
            packed = to_int8(rows)
            wide = rows.astype(np.float64)
            difference = np.square(from_int8(packed) - wide).sum() / max(np.square(wide).sum(), 1e-30)
            rows, entries["int8_error"] = packed, float(np.sqrt(difference))
        if self.folder is None:
            self.error = max(self.error, entries.get("int8_error", 0.0))
            self.arrays.append(rows)
            self.where |= {key: (len(self.arrays) - 1, row) for row, key in enumerate(keys)}
            return
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        index = self.folder / f"shard-{name}.json"
        with atomic_path(index.with_suffix(".npy")) as partial, open(partial, "wb") as handle:
            np.save(handle, rows)
        # The index comes last: a shard without one does not exist for readers.
        write_json(index, {**entries, "crc32": [zlib.crc32(row.tobytes()) for row in rows]})
        self._open(index)

    def features(self, keys: Sequence[str]) -> Features:
        """The rows of some keys, in their order."""
        found = np.array([self.where[key] for key in keys]).reshape(-1, 2)
        return Features(self.arrays, found[:, 0], found[:, 1])
