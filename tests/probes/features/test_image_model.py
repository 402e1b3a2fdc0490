"""The image-model baseline: one pooled vector per frame; and an image backbone as the encoder of a probe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from jepa.models import ImageBackbone, Preprocessing
from jepa.models.image_backbone import ImageBackboneConfig
from jepa.probes.data.labels import read_labelled
from jepa.probes.features.baselines import random_init_copy
from jepa.probes.features.encode import encode
from jepa.probes.features.encoder_tokens import EncoderTokens
from jepa.probes.features.image_model import ImageFrames


class Brightness(nn.Module):
    """Mean of each colour channel over 8 x 8 pixels; carries what a backbone reads of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(3))  # batch norms hold a number without axes
        self.num_features = 3

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(x, 8)


@pytest.fixture
def brightness() -> ImageBackbone:
    backbone = ImageBackbone(ImageBackboneConfig("brightness", 3), Brightness())
    backbone.preprocessing = Preprocessing(8, 2.0, 32, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return backbone


def test_one_token_per_frame(squares: Path, tmp_path: Path, brightness: ImageBackbone) -> None:
    extractor = ImageFrames("brightness", brightness)
    _, (features,), _ = encode(read_labelled(squares)[:3], [extractor], tmp_path)
    assert features.shape == (3, 1, 8, 3)
    # A bright 8 x 8 square of 220 on 30, and one row of noise: about 0.17 everywhere.
    assert features.rows().float().sub(0.17).abs().max() < 0.03


def test_an_image_backbone_is_an_encoder_for_probes(
    squares: Path, tmp_path: Path, brightness: ImageBackbone
) -> None:
    extractor = EncoderTokens("brightness", brightness, max_tokens=32)
    assert extractor.grid() == (8, 2, 2)
    _, (features,), _ = encode(read_labelled(squares)[:3], [extractor], tmp_path)
    assert features.shape == (3, 1, 32, 3)


def test_the_random_init_copy_of_an_image_backbone_is_another_one() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_resnet", num_classes=0)
    backbone = ImageBackbone(ImageBackboneConfig("test_resnet", model.num_features), model).eval()
    backbone.preprocessing = Preprocessing(8, 2.0, 64, 64)
    one, other, image = (
        random_init_copy(backbone, 5),
        random_init_copy(backbone, 5),
        torch.randn(1, 3, 64, 64),
    )
    assert torch.equal(one(image), other(image))
    assert not torch.equal(one(image), backbone(image))
