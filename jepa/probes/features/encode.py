"""Feature extraction: a data set is encoded once, kept on disk, and read back at memory speed.

A frozen encoder gives the same tokens in every epoch, yet the published evaluation runs it again in each
(reference: facebookresearch/vjepa2, evals/video_classification_frozen). Here every video is decoded once for
all extractors that still lack it, and each extractor's rows go to shards (`jepa/probes/features/cache.py`).

The extractor key covers weights, preprocessing and the choice of frames; a row key covers the video's content and the
part of it. So a changed weight, crop or file is never read from an old row, an added video costs only itself, and a
killed run keeps its finished shards.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from jepa.data.bad_videos import BadVideo, BadVideoLog, as_video_error
from jepa.data.manifest import Item
from jepa.data.sampling import segment_bounds
from jepa.errors import UserError, VideoError
from jepa.probes.data.labels import fingerprint
from jepa.probes.features.cache import Features, Store
from jepa.progress import progress

_log = logging.getLogger(__name__)

_GROUP = 32  # samples of one video that are decoded and prepared together
Decoded = list[tuple[int, str, list[torch.Tensor]]]  # extractor number, row key, prepared clips


class Extractor(Protocol):
    """What turns frames into features: an encoder, an image model, a pixel baseline."""

    name: str
    """short name for tables"""
    key: str
    """hash of everything that its output depends on, apart from the video"""

    def times(self, start_s: float, end_s: float) -> np.ndarray:
        """Frame times of each clip in seconds, [clips, T], for a part of a video."""

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """One clip's frames uint8 [T, C, H, W] as the model's input, on the CPU."""

    def features(self, batch: torch.Tensor) -> torch.Tensor:
        """Features [B, ...] of a batch of prepared clips."""


@dataclass
class EncodeReport:
    """What an encoding pass did."""

    decoded: int = 0
    """videos opened and decoded"""
    cached: int = 0
    """samples that every extractor already had"""
    damaged: int = 0
    """cached rows whose checksum failed; they were encoded again"""
    bad: list[BadVideo] = field(default_factory=list)
    """samples left out"""
    int8_error: float | None = None
    """with int8, the largest error of a shard: root mean square, relative to that of its values"""


def extractor_key(**options: Any) -> str:
    """Hash of named JSON values, for `Extractor.key`."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:32]


def row_key(sample: Item, content: str) -> str:
    """Identity of a sample's pixels: the file's fingerprint and the part used."""
    return hashlib.sha256(f"{content}|{sample.start_s}|{sample.end_s}".encode()).hexdigest()[:32]


def encode(
    samples: Sequence[Item],
    extractors: Sequence[Extractor],
    cache: str | os.PathLike[str] | None,
    batch_size: int = 16,
    workers: int = 2,
    max_bad_fraction: float = 0.1,
    rank: int = 0,
    size: int = 1,
    int8: bool = False,
) -> tuple[list[Item], list[Features], EncodeReport]:
    """Gives every extractor's features of all readable samples, decoding only what the cache lacks.

    Args:
        samples: labelled videos or parts of videos.
        extractors: what to compute; one decode serves all of them.
        cache: folder of shards, created if absent; None keeps the features in memory only.
        batch_size: clips per forward pass.
        workers: threads that decode ahead.
        max_bad_fraction: largest tolerated fraction of unreadable samples.
        rank: this process's number when several encode one data set; it encodes every `size`-th video.
        size: number of such processes. With `size > 1` only the readable samples cached so far are
            returned.
        int8: store in int8; the report states what that cost.

    Returns:
        The samples that could be read, the features of each extractor for them, and a report.

    Raises:
        TooManyBadVideosError: more than `max_bad_fraction` of the samples could not be read.
    """
    content = {path: fingerprint(item) for path, item in {item.path: item for item in samples}.items()}
    keys = [row_key(sample, content[sample.path]) for sample in samples]
    form = "-int8" if int8 else ""
    stores = [
        Store(None if cache is None else Path(cache) / f"{extractor.key}{form}", int8)
        for extractor in extractors
    ]
    log = BadVideoLog(max_bad_fraction, grace=0, total=len(samples))
    report = EncodeReport(damaged=sum(store.damaged for store in stores))
    needed = [i for i, key in enumerate(keys) if any(key not in store.where for store in stores)]
    report.cached = len(samples) - len(needed)
    # Divided by position in the entire list, so that processes agree without talking to each other.
    mine = set(list(content)[rank::size])
    pending = _by_video(samples, keys, [i for i in needed if samples[i].path in mine])
    opened: set[str] = set()
    try:
        with progress("encoding", sum(len(group) for group in pending)) as advance:
            queues = [_Queue(e, s, batch_size) for e, s in zip(extractors, stores, strict=True)]
            for group, outcome in _decode_ahead(samples, keys, pending, extractors, stores, workers):
                opened.add(samples[group[0]].path)
                report.decoded = len(opened)
                if isinstance(outcome, VideoError):
                    bad = [BadVideo.of(outcome, i, samples[i].name) for i in group]
                    report.bad += bad
                    log.count(bad, len(group))
                else:
                    for number, key, clips in outcome:
                        queues[number].add(key, clips)
                advance(len(group))
            for queue in queues:
                queue.flush()
    finally:
        # However the pass ended, finished batches are kept: the next run resumes from there.
        for store in stores:
            store.write_shard()
    report.int8_error = max((store.error for store in stores), default=0.0) if int8 else None
    have = [i for i, key in enumerate(keys) if all(key in store.where for store in stores)]
    kept = [keys[i] for i in have]
    return [samples[i] for i in have], [store.features(kept) for store in stores], report


def _by_video(samples: Sequence[Item], keys: Sequence[str], needed: Sequence[int]) -> list[list[int]]:
    """Groups sample indices by file, so that a file is opened once for many samples; equal rows are kept once.

    A long video is read in several groups, because all prepared clips of a group are in memory at once.
    """
    groups: dict[str, list[int]] = {}
    seen = set()
    for i in needed:
        if keys[i] not in seen:
            seen.add(keys[i])
            groups.setdefault(samples[i].path, []).append(i)
    return [
        group[first : first + _GROUP] for group in groups.values() for first in range(0, len(group), _GROUP)
    ]


def _decode_ahead(
    samples: Sequence[Item],
    keys: Sequence[str],
    groups: Sequence[list[int]],
    extractors: Sequence[Extractor],
    stores: Sequence[Store],
    workers: int,
) -> Iterator[tuple[list[int], Decoded | VideoError]]:
    """Decodes files on threads, a few ahead of the model, and yields them in order."""

    def decode(group: list[int]) -> Decoded | VideoError:
        try:
            return _decode(samples, keys, group, extractors, stores)
        except UserError:
            raise  # a mistake in the request, not in the video
        except Exception as error:  # noqa: BLE001 - a broken file may provoke anything
            return as_video_error(samples[group[0]].path, error)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: list[tuple[list[int], Future[Decoded | VideoError]]] = []
        for group in groups:
            waiting.append((group, pool.submit(decode, group)))
            if len(waiting) > 2 * workers:
                done, future = waiting.pop(0)
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _decode(
    samples: Sequence[Item],
    keys: Sequence[str],
    group: Sequence[int],
    extractors: Sequence[Extractor],
    stores: Sequence[Store],
) -> Decoded:
    from jepa.data.dataset import open_item

    rows: Decoded = []
    with open_item(samples[group[0]]) as reader:
        for i in group:
            first, last = reader.start_s, reader.start_s + reader.duration_s
            part = samples[i].start_s, samples[i].end_s
            start, end = segment_bounds(samples[i].path, *part, first, last)
            requests = [
                (number, extractor.times(start, end))
                for number, extractor in enumerate(extractors)
                if keys[i] not in stores[number].where
            ]
            frame_times = np.unique(np.concatenate([times.ravel() for _, times in requests]))
            frames = reader.frames_at(frame_times.tolist()).data
            for number, times in requests:
                rows_of = np.searchsorted(frame_times, times)
                clips = [extractors[number].prepare(frames[torch.from_numpy(row)]) for row in rows_of]
                rows.append((number, keys[i], clips))
    return rows


class _Queue:
    """Collects prepared clips into batches for one extractor and hands finished rows to its store."""

    def __init__(self, extractor: Extractor, store: Store, batch_size: int) -> None:
        self.extractor, self.store, self.batch_size = extractor, store, batch_size
        self.rows: list[tuple[str, int]] = []
        self.clips: list[torch.Tensor] = []

    def add(self, key: str, clips: list[torch.Tensor]) -> None:
        self.rows.append((key, len(clips)))
        self.clips += clips
        if len(self.clips) >= self.batch_size:
            self.flush()

    def flush(self) -> None:
        if not self.clips:
            return
        batches = torch.stack(self.clips).split(self.batch_size)
        out = torch.cat([self.extractor.features(batch).float().cpu() for batch in batches])
        for (key, _), row in zip(self.rows, out.split([n for _, n in self.rows]), strict=True):
            stored = row.half()
            if not torch.isfinite(stored).all():
                raise UserError(
                    f"The features of {self.extractor.name!r} hold a value that is not finite in float16. "
                    "The encoder is broken or was saved from a diverged run; export an earlier checkpoint."
                )
            self.store.add(key, stored.numpy())
        self.rows, self.clips = [], []
