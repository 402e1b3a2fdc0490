"""Data loading: video readers, manifests, clip sampling, datasets, mixtures, shards and transforms.

Names are loaded on first use: a decoding child process needs PyAV and NumPy, not torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "BadVideo": "jepa.data.bad_videos",
    "BadVideoLog": "jepa.data.bad_videos",
    "TooManyBadVideosError": "jepa.data.bad_videos",
    "TrainClipConfig": "jepa.data.dataset",
    "EvalClipConfig": "jepa.data.dataset",
    "ClipDataset": "jepa.data.dataset",
    "collate": "jepa.data.dataset",
    "open_item": "jepa.data.dataset",
    "StreamSampler": "jepa.data.dataset",
    "Frames": "jepa.data.video.reader",
    "VideoReader": "jepa.data.video.reader",
    "open_video": "jepa.data.video.reader",
    "LimitsConfig": "jepa.data.video.limits",
    "Item": "jepa.data.manifest",
    "read_items": "jepa.data.manifest",
    "normalise": "jepa.data.transforms",
    "MixtureDataset": "jepa.data.mixture",
    "SourceConfig": "jepa.data.stream",
    "StreamConfig": "jepa.data.stream",
    "Stream": "jepa.data.stream",
    "open_stream": "jepa.data.stream",
    "stream_of": "jepa.data.in_memory",
    "ShardConfig": "jepa.data.shards",
    "ScanConfig": "jepa.data.check",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jepa.data' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
