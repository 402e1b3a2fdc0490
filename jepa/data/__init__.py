"""Data loading: video readers, manifests, clip sampling, datasets, mixtures, shards and transforms.

Names are loaded on first use: a decoding child process needs PyAV and NumPy, not torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepa.lazy import attach

if TYPE_CHECKING:
    from jepa.data.bad_videos import BadVideo as BadVideo
    from jepa.data.bad_videos import BadVideoLog as BadVideoLog
    from jepa.data.bad_videos import TooManyBadVideosError as TooManyBadVideosError
    from jepa.data.check import ScanConfig as ScanConfig
    from jepa.data.dataset import ClipDataset as ClipDataset
    from jepa.data.dataset import EvalClipConfig as EvalClipConfig
    from jepa.data.dataset import StreamSampler as StreamSampler
    from jepa.data.dataset import TrainClipConfig as TrainClipConfig
    from jepa.data.dataset import collate as collate
    from jepa.data.dataset import open_item as open_item
    from jepa.data.in_memory import stream_of as stream_of
    from jepa.data.manifest import Item as Item
    from jepa.data.manifest import read_items as read_items
    from jepa.data.mixture import MixtureDataset as MixtureDataset
    from jepa.data.shards import ShardConfig as ShardConfig
    from jepa.data.stream import SourceConfig as SourceConfig
    from jepa.data.stream import Stream as Stream
    from jepa.data.stream import StreamConfig as StreamConfig
    from jepa.data.stream import open_stream as open_stream
    from jepa.data.transforms import normalise as normalise
    from jepa.data.video.limits import LimitsConfig as LimitsConfig
    from jepa.data.video.reader import Frames as Frames
    from jepa.data.video.reader import VideoReader as VideoReader
    from jepa.data.video.reader import open_video as open_video

attach(globals())
