from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from jepa.errors import UserError
from jepa.probes.data.labels import read_samples
from jepa.probes.features.encode import encode
from jepa.probes.features.image_model import ImageFrames, load_by_order, load_image_model


def test_weights_go_by_order_and_shape() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {f"other.{i}": torch.full_like(v, i) for i, v in enumerate(model.state_dict().values())}
    load_by_order(model, state, "m")
    assert [float(v.mean()) for v in model.state_dict().values()] == [0, 1, 2, 3]
    with pytest.raises(UserError, match="do not fit"):
        load_by_order(nn.Linear(2, 2), state, "m")


def test_unknown_model_is_named() -> None:
    with pytest.raises(UserError, match="'efficientnet_lite00' is not a timm model"):
        load_image_model("efficientnet_lite00")


class Brightness(nn.Module):
    """Mean of each colour channel; carries what timm reads of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(3))  # batch norms hold a number without axes
        zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self.pretrained_cfg = {"input_size": (3, 32, 32), "crop_pct": 1.0, "mean": zero, "std": one}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def test_one_token_per_frame(squares: Path, tmp_path: Path) -> None:
    extractor = ImageFrames("brightness", Brightness())
    _, (features,), _ = encode(read_samples(squares)[:3], [extractor], tmp_path)
    assert features.shape == (3, 1, 8, 3)
    # A bright 8 x 8 square of 220 on 30, and one row of noise: about 0.17 everywhere.
    assert features.rows().float().sub(0.17).abs().max() < 0.03
