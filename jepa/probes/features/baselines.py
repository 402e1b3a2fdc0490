"""Baselines beside an encoder: one frame, motion energy, and the same architecture randomly initialised.

The two pixel baselines are those of the data's own notes: a 32x32 grey middle frame, and 4x4 block means of the
differences between 16 frames. A probe on an encoder means little before it beats both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from jepa.probes.features.encode import extractor_key

if TYPE_CHECKING:
    from jepa.models import Encoder

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


def random_init_copy(encoder: Encoder, seed: int) -> Encoder:
    """The same architecture, randomly initialised: what the architecture alone can do.

    Args:
        encoder: the trained encoder; its configuration and preprocessing are taken over.
        seed: decides the weights.

    Example:
        >>> import jepa
        >>> random_init_copy(jepa.create_model("vit_nano"), seed=0).num_layers
        4
    """
    # Built without storage and filled from a generator of its own, the copy leaves torch's random state
    # alone.
    with torch.device("meta"):
        fresh = type(encoder)(encoder.config)
    fresh.to_empty(device="cpu")
    fresh.init_weights(torch.Generator().manual_seed(seed))
    fresh.preprocessing = encoder.preprocessing
    return fresh.eval().requires_grad_(False)


class OneFrame:
    """The middle frame, or the last one, as 32x32 grey values.

    Example:
        >>> OneFrame().times(1.0, 3.0).tolist()
        [[2.0]]
    """

    def __init__(self, last: bool = False) -> None:
        self.name, self.last = ("last frame" if last else "one frame"), last
        self.key = extractor_key(baseline=self.name, size=32, form=1)

    def times(self, start_s: float, end_s: float) -> np.ndarray:
        """The middle of the part, or its end."""
        return np.array([[max(start_s, end_s - 2e-3) if self.last else (start_s + end_s) / 2]])

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """Grey frames [T, 32, 32] in 0..1."""
        return _grey(frames, 32)

    def features(self, batch: torch.Tensor) -> torch.Tensor:
        """Pixels [B, 1024]."""
        return batch.flatten(1)


class Motion:
    """Means over 4x4 blocks of the absolute differences between 16 frames evenly spaced over the part.

    Example:
        >>> Motion().features(torch.zeros(2, 16, 32, 32)).shape
        torch.Size([2, 960])
    """

    name = "motion"

    def __init__(self) -> None:
        self.key = extractor_key(baseline="motion", frames=16, size=32, block=4, form=1)

    def times(self, start_s: float, end_s: float) -> np.ndarray:
        """Sixteen times, from the first to the last."""
        return np.linspace(start_s, max(start_s, end_s - 2e-3), 16)[None]

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """Grey frames [T, 32, 32] in 0..1."""
        return _grey(frames, 32)

    def features(self, batch: torch.Tensor) -> torch.Tensor:
        """Block means [B, 15 * 8 * 8]."""
        return functional.avg_pool2d(batch.diff(dim=1).abs(), 4).flatten(1)


def _grey(frames: torch.Tensor, size: int) -> torch.Tensor:
    grey = (frames.float() * torch.tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True) / 255
    return functional.interpolate(grey, size=(size, size), mode="area").squeeze(1)
