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
        clips: `clips[i]` is a clip [T, C, H, W], uint8 or float in 0..1; or a tuple whose first entry is one; or a dict
            that holds one as "video". Clips are used as they are: neither cropped nor resized.
        seed: of the run.

    Raises:
        UserError: an entry is no clip, or differs in shape from the first.

    Example:
        >>> clips = ClipList([torch.rand(4, 3, 8, 8) for _ in range(3)], seed=0)
        >>> clips[5]["video"].shape, clips[5]["times"].shape
        (torch.Size([3, 4, 8, 8]), torch.Size([4]))
    """

    def __init__(self, clips: Any, seed: int) -> None:
        self.clips, self.seed = clips, seed
        self._shape: torch.Size | None = None

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, position = divmod(index, len(self.clips))
        number = permuted(position, len(self.clips), self.seed, epoch, ORDER)
        video = self._clip(number)
        times = torch.arange(len(video), dtype=torch.float64)
        return {
            "video": video.transpose(0, 1), "times": times, "index": index, "item": number, "clip": 0, "bad": []
        }  # fmt: skip

    def _clip(self, number: int) -> torch.Tensor:
        """A clip [T, C, H, W] in the range 0..255."""
        entry = self.clips[number]
        clip = entry["video"] if isinstance(entry, dict) else entry[0] if isinstance(entry, tuple) else entry
        known = isinstance(clip, torch.Tensor) and (clip.dtype == torch.uint8 or clip.is_floating_point())
        if not known or clip.ndim != 4:
            found = (
                f"{clip.dtype} {list(clip.shape)}" if isinstance(clip, torch.Tensor) else type(clip).__name__
            )
            raise UserError(
                f"Clip {number} of the dataset is {found}; a clip is a tensor [T, C, H, W], uint8 or float in 0..1."
            )
        if self._shape is None:
            self._shape = clip.shape
        if clip.shape != self._shape:
            raise UserError(
                f"Clip {number} of the dataset is {list(clip.shape)} and an earlier one {list(self._shape)}; clips of "
                "one batch need one shape. Cut and resize them first."
            )
        if clip.dtype == torch.uint8:
            return clip
        if clip.numel() and not (clip.min() >= 0 and clip.max() <= 1):
            raise UserError(
                f"Clip {number} of the dataset is float with values from {float(clip.min()):g} to "
                f"{float(clip.max()):g}; float clips must be between 0 and 1 and not normalised (data.mean, data.std)."
            )
        # `normalise` expects the range of bytes; float keeps values that are none.
        return clip.float() * 255.0


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
        >>> list(stream.sampler(steps=2))
        [[0, 1], [2, 3]]
    """
    if len(dataset) == 0:
        raise UserError("dataset is empty; give at least one clip.")
    # Reading every clip for a hash could take hours: a resumed run is told a changed length, not a changed clip.
    fingerprint = hashlib.sha256(f"clips in memory: {len(dataset)}".encode()).hexdigest()
    items = [Item(f"dataset[{number}]") for number in range(len(dataset))]
    return Stream(ClipList(dataset, seed), items, fingerprint, batch_size)
