"""Image backbones: a timm model on every frame, behind the interface of a video encoder."""

from __future__ import annotations

import pytest
import torch

from jepa.errors import UserError
from jepa.models import ImageBackbone, TokenGrid
from jepa.models.image_backbone import ImageBackboneConfig

timm = pytest.importorskip("timm")


def backbone(name: str) -> ImageBackbone:
    torch.manual_seed(0)
    return ImageBackbone(ImageBackboneConfig(name, timm.create_model(name).num_features)).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_resnet", "test_convnext"])
def test_tokens_are_frames_by_spatial_positions(name):
    encoder = backbone(name)
    video = torch.randn(2, 3, 4, 160, 160)
    grid = encoder.grid_of(video)
    tokens = encoder(video)
    assert grid.t == 4 and grid.h == grid.w > 1
    assert tokens.shape == (2, grid.size, encoder.embed_dim)
    alone = encoder(video[1:, :, 2])  # the third frame of the second clip, as an image
    assert torch.allclose(tokens.unflatten(1, tuple(grid))[1, 2].flatten(0, 1), alone[0], atol=1e-4)


@torch.no_grad()
def test_pooled_features_are_the_models_own():
    encoder = backbone("test_efficientnet")
    video = torch.randn(2, 3, 3, 96, 160)
    assert encoder.grid_of(video)[1:] == (3, 5)
    per_frame = encoder.features(video, pool="grid").mean(dim=(2, 3))
    assert torch.allclose(per_frame[:, 1], encoder.model(video[:, :, 1]), atol=1e-5)
    assert torch.allclose(encoder.features(video, pool="mean"), per_frame.mean(1), atol=1e-5)
    assert torch.equal(encoder.features(video, layers=[-1])[0], encoder(video))
    keep = torch.tensor([[0, 7], [44, 3]])
    assert torch.equal(encoder(video, keep=keep)[1, 0], encoder(video)[1, 44])


def test_a_frame_that_windows_share_is_encoded_once():
    encoder = backbone("test_efficientnet")
    frames = torch.randn(6, 3, 64, 64)
    windows = torch.stack([frames[i : i + 4] for i in range(3)]).transpose(1, 2)
    seen = []
    encoder.model.forward_features = lambda x, f=encoder.model.forward_features: seen.append(len(x)) or f(x)
    with torch.no_grad():
        encoder.grid_of(windows)
        seen.clear()
        together = encoder(windows)
        assert seen == [6]  # not twelve
        for window, tokens in zip(windows, together, strict=True):
            assert torch.allclose(encoder(window[None])[0], tokens, atol=1e-5)


def test_the_grid_needs_no_pixels():
    encoder = backbone("test_efficientnet")
    assert encoder.grid_of(torch.empty(1, 3, 8, 160, 160, device="meta")) == TokenGrid(8, 5, 5)
    assert not encoder.training


def test_random_weights_come_from_the_generator_alone():
    encoder, video = backbone("test_vit"), torch.randn(1, 3, 2, 160, 160)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with torch.device("meta"):
        fresh = ImageBackbone(encoder.config).eval()
    fresh.to_empty(device="cpu")
    fresh.init_weights(torch.Generator().manual_seed(3))
    assert torch.equal(torch.rand(3), expected)
    again = ImageBackbone(encoder.config).eval()
    again.init_weights(torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(fresh(video), again(video))
        assert not torch.equal(fresh(video), encoder(video))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda e: e.features(torch.zeros(1, 3, 2, 160, 160), layers=[0]), "last layer only"),
        (lambda e: e.features(torch.zeros(1, 3, 2, 160, 160), layers=2), "do not exist"),
        (lambda e: e(torch.zeros(1, 3, 2, 100, 100)), "does not take frames of 100 x 100 pixels"),
        (lambda e: e(torch.zeros(1, 1, 2, 160, 160)), r"expected a video \[B, 3, T, H, W\]"),
        (lambda e: e(torch.zeros(1, 3, 2, 160, 160, dtype=torch.uint8)), "normalised floating-point"),
    ],
)
def test_what_an_image_model_cannot_do_is_refused(ask, message):
    with pytest.raises(UserError, match=message):
        ask(backbone("test_vit"))


def test_models_without_a_grid_are_refused():
    encoder = ImageBackbone(ImageBackboneConfig("levit_128s", 384))
    with pytest.raises(UserError, match="which is no grid of 384 channels"):
        encoder.grid_of(torch.zeros(1, 3, 2, 224, 224))
