"""Image-model baseline: any timm model applied frame by frame, pooled, read by the same heads as the encoder.

Its rows hold one token per frame, so a linear head sees mean, standard deviation and change over frames. A video
encoder that does not beat an image model has not shown that it uses motion.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jepa.models.image_backbone import ImageBackbone
from jepa.models.weights.fingerprint import state_hash
from jepa.probes.features.encode import extractor_key

FRAMES = 8


class ImageFrames:
    """Pooled image features of eight frames that are evenly spaced over a part of a video.

    Args:
        name: name of the baseline.
        backbone: the image model, with its preprocessing.
        device: where it runs.
    """

    def __init__(self, name: str, backbone: ImageBackbone, device: str = "cpu") -> None:
        self.name = name
        self.backbone = backbone.eval().requires_grad_(False).to(device)
        self.device = device
        preprocessing = backbone.preprocessing
        assert preprocessing is not None  # load_image_backbone states it
        self.key = extractor_key(
            image_model=state_hash(backbone.model),
            frames=FRAMES,
            resize=preprocessing.resize_px,
            crop=preprocessing.crop_px,
            mean=preprocessing.mean,
            std=preprocessing.std,
            form=2,
        )

    def times(self, start_s: float, end_s: float) -> np.ndarray:
        """The middles of eight equal parts."""
        edges = np.linspace(start_s, end_s, FRAMES + 1)
        return ((edges[:-1] + edges[1:]) / 2)[None]

    def prepare(self, frames: Tensor) -> Tensor:
        """Resized, cropped and normalised frames [3, T, H, W]."""
        return self.backbone.preprocess(frames)

    @torch.inference_mode()
    def features(self, batch: Tensor) -> Tensor:
        """One vector per frame, as tokens [B, T, F]: the mean over the spatial positions."""
        return self.backbone.features(batch.to(self.device), pool="grid").mean(dim=(2, 3))
