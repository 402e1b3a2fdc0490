"""Clips from Python as a data set: a list of tensors, or any map-style dataset, in the trainer's order."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from jepa.data.manifest import Item
from jepa.data.sampling import ORDER
from jepa.data.stream import Stream
from jepa.errors import UserError
from jepa.rng import permuted


class ClipList(torch.utils.data.Dataset[dict[str, Any]]):
    """Samples by their number in the run; each epoch visits every clip once, in an order that the seed decides.

    Args:
        clips: `clips[i]` is a clip uint8 [T, C, H, W], or a dict that holds one as "video". Clips are used as they are:
            neither cropped nor resized.
        seed: of the run.
    """

    def __init__(self, clips: Any, seed: int) -> None:
        self.clips, self.seed = clips, seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, position = divmod(index, len(self.clips))
        number = permuted(position, len(self.clips), self.seed, epoch, ORDER)
        clip = self.clips[number]
        video = clip["video"] if isinstance(clip, dict) else clip
        if not isinstance(video, torch.Tensor) or video.dtype != torch.uint8 or video.ndim != 4:
            found = (
                f"{video.dtype} {list(video.shape)}"
                if isinstance(video, torch.Tensor)
                else type(video).__name__
            )
            raise UserError(
                f"Clip {number} of the dataset is {found}; a clip is a uint8 tensor [T, C, H, W]."
            )
        times = torch.arange(len(video), dtype=torch.float64)
        return {
            "video": video.transpose(0, 1), "times": times, "index": index, "item": number, "clip": 0, "bad": []
        }  # fmt: skip


def stream_of(dataset: Any, seed: int, batch_size: int) -> Stream:
    """What `open_stream` gives, for clips that are in memory.

    Args:
        dataset: see `ClipList`; `len(dataset)` counts the clips.
        seed: of the run.
        batch_size: clips per step, of all processes together.

    Raises:
        UserError: the dataset is empty.

    Example:
        >>> stream = stream_of([torch.zeros(4, 3, 8, 8, dtype=torch.uint8)] * 3, seed=0, batch_size=2)
        >>> stream.dataset[5]["video"].shape
        torch.Size([3, 4, 8, 8])
    """
    if len(dataset) == 0:
        raise UserError("dataset is empty; give at least one clip.")
    # Reading every clip for a hash could take hours: a resumed run is told a changed length, not a changed clip.
    fingerprint = hashlib.sha256(f"clips in memory: {len(dataset)}".encode()).hexdigest()
    items = [Item(f"dataset[{number}]") for number in range(len(dataset))]
    return Stream(ClipList(dataset, seed), items, fingerprint, batch_size)
