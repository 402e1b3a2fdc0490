"""The registered encoders as timm models: timm's verbs, features, groups and activation checkpointing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa.errors import UserError


def clip(batch: int, frames: int = 4) -> Tensor:
    return torch.randn(batch, 3, frames, 48, 64, generator=torch.Generator().manual_seed(batch))


@pytest.fixture(scope="module")
def timm():
    module = pytest.importorskip("timm")
    import jepa.models.adapters.timm_models  # noqa: F401 - registers the models

    return module


@torch.no_grad()
def test_timm_model_is_the_encoder(timm):
    model = timm.create_model("jepa_vit_nano", num_classes=5).eval()
    video, image = clip(2), clip(2)[:, :, 0]
    tokens = model.forward_features(video)
    assert torch.equal(tokens, model.encoder(video))
    assert torch.allclose(model(video), model.head(tokens.mean(1)))
    assert torch.equal(model.forward_features(image), model.encoder(image))
    assert torch.equal(model.forward_head(tokens, pre_logits=True), tokens.mean(1))
    model.reset_classifier(0)
    assert model(image).shape == (2, 128)
    assert set(timm.list_models("jepa_*")) >= {"jepa_vit_nano", "jepa_vjepa2_1_vit_gigantic_384"}
    assert "jepa_vjepa2_vit_large_256" in timm.list_models("jepa_*", pretrained=True)


@torch.no_grad()
def test_timm_feature_extraction(timm):
    model = timm.create_model("jepa_vit_nano", features_only=True, out_indices=(1, -1)).eval()
    assert model.feature_info.channels() == [128, 128]
    assert model.feature_info.reduction() == [16, 16]
    encoder, image, video = model.model.encoder, clip(2)[:, :, 0], clip(2)
    maps = model(image)
    assert [tuple(m.shape) for m in maps] == [(2, 128, 3, 4)] * 2
    assert [tuple(m.shape) for m in model(video)] == [(2, 128, 2, 3, 4)] * 2
    raw = encoder.block_outputs(image, [2, 4])
    assert torch.equal(maps[0][1, :, 2, 3], raw[2][1, 2 * 4 + 3])
    final, between = model.model.forward_intermediates(image, indices=[0, -1], norm=True, output_fmt="NLC")
    assert torch.equal(final, encoder(image))
    assert torch.equal(between[1], final)
    assert torch.equal(between[0], encoder.features(image, 1))


def test_timm_activation_checkpointing_gives_the_same_gradients(timm):
    model, video = timm.create_model("jepa_vit_nano").train(), clip(2)
    gradients = []
    for enable in (False, True, False):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(video).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.allclose(one, two, atol=1e-6) for one, two, _ in zip(*gradients, strict=True))
    assert "forward" not in vars(model.encoder.blocks[0])


def test_timm_data_config_and_groups(timm):
    model = timm.create_model("jepa_vjepa2_vit_large_256", depth=2, num_classes=3)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 256, 256)
    assert config["mean"] == (0.485, 0.456, 0.406)
    assert config["crop_pct"] == pytest.approx(256 / 292)
    from timm.optim import param_groups_layer_decay

    groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5)
    counted = sum(p.numel() for group in groups for p in group["params"])
    assert counted == sum(p.numel() for p in model.parameters())
    assert len({group["lr_scale"] for group in groups}) == 4


def test_timm_requests_that_do_not_fit_are_refused(timm):
    with pytest.raises(UserError, match="has no img_size"):
        timm.create_model("jepa_vit_nano", img_size=384)
    with pytest.raises(UserError, match="no weights were published"):
        timm.create_model("jepa_vit_nano", pretrained=True)
    with pytest.raises(UserError, match="global_pool='max'"):
        timm.create_model("jepa_vit_nano").reset_classifier(3, "max")
