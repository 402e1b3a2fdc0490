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


@torch.no_grad()
@pytest.mark.parametrize("pool", ["avg", "max", "avgmax"])
def test_timm_pooling_sizes_and_channels(timm, pool):
    model = timm.create_model("jepa_vit_nano", num_classes=5, global_pool=pool, in_chans=1, img_size=(96, 64))
    image = torch.randn(2, 1, 96, 64)
    tokens = model.eval().forward_features(image)
    expected = {"avg": tokens.mean(1), "max": tokens.amax(1)}
    expected["avgmax"] = (expected["avg"] + expected["max"]) / 2
    assert torch.allclose(model(image), model.head(expected[pool]))
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (1, 96, 64)
    assert config["mean"] == pytest.approx([0.449])
    model.reset_classifier(0, "")
    assert torch.equal(model(image), tokens)


def test_timm_stochastic_depth_and_dropout_act_in_training_only(timm):
    plain = timm.create_model("jepa_vit_nano")
    model = timm.create_model("jepa_vit_nano", drop_path_rate=0.9, drop_rate=0.5)
    model.load_state_dict(plain.state_dict())
    video = clip(4)
    with torch.no_grad():
        assert torch.equal(model.eval()(video), plain.eval()(video))
        torch.manual_seed(0)
        tokens = model.train().forward_features(video)
        assert not torch.equal(tokens, plain(video))
        assert torch.equal(
            model.encoder.block_outputs(video, [1])[1], plain.encoder.block_outputs(video, [1])[1]
        )


@torch.no_grad()
def test_timm_intermediate_layers_as_in_a_timm_vit(timm):
    model = timm.create_model("jepa_vit_nano").eval()
    image, encoder = clip(2)[:, :, 0], model.encoder
    last, before = encoder.block_outputs(image, [3, 4])[4], encoder.block_outputs(image, [3])[3]
    tokens = model.get_intermediate_layers(image, n=2)
    assert torch.equal(tokens[0], before)
    assert torch.equal(tokens[1], last)
    maps = model.get_intermediate_layers(image, n=[3], reshape=True, norm=True)
    assert torch.equal(maps[0].flatten(2).transpose(1, 2), encoder(image))
    named = model.forward_intermediates(image, [1], output_dict=True, stop_early=True)
    assert torch.equal(named["image_features"], encoder.features(image, 2))
    assert list(named) == ["image_features", "image_intermediates"]
    assert model.prune_intermediate_layers([0, 1]) == [0, 1]
    assert len(encoder.blocks) == 2


@torch.no_grad()
def test_timm_saves_for_the_hub_and_loads_again(timm, tmp_path):
    pytest.importorskip("huggingface_hub")
    from timm.models import save_for_hf

    model = timm.create_model("jepa_vit_nano", num_classes=5, global_pool="max", patch_size=8, img_size=32)
    video = torch.randn(1, 3, 4, 32, 32)
    save_for_hf(model.eval(), tmp_path, safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(loaded(video), model(video))
    grey = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=1, num_classes=2).eval()
    # The sum of the channels' weights: a grey video gives what it gives as three equal channels.
    assert torch.allclose(
        grey.forward_features(video[:, :1]),
        loaded.forward_features(video[:, :1].expand(-1, 3, -1, -1, -1)),
        atol=1e-5,
    )


@torch.no_grad()
def test_timm_checkpoint_path_takes_its_own_files_and_exports(timm, tmp_path):
    from jepa.models import create_model, save_encoder

    encoder, video = create_model("vit_nano").eval(), clip(1)
    save_encoder(tmp_path, encoder)
    path = tmp_path / "encoder.safetensors"
    model = timm.create_model("jepa_vit_nano", checkpoint_path=str(path)).eval()
    assert torch.equal(model.forward_features(video), encoder(video))
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    again = timm.create_model("jepa_vit_nano", checkpoint_path=str(tmp_path / "timm.pth")).eval()
    assert torch.equal(again(video), model(video))
    overlay = {"file": str(path)}
    given = timm.create_model("jepa_vit_nano", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert torch.equal(given(video), model(video))


def test_timm_requests_that_do_not_fit_are_refused(timm):
    with pytest.raises(UserError, match="patches of 16"):
        timm.create_model("jepa_vit_nano", img_size=100)
    with pytest.raises(UserError, match="has no img_sise"):
        timm.create_model("jepa_vit_nano", img_sise=384)
    with pytest.raises(UserError, match="no weights were published"):
        timm.create_model("jepa_vit_nano", pretrained=True)
    with pytest.raises(UserError, match="global_pool='token'"):
        timm.create_model("jepa_vit_nano").reset_classifier(3, "token")
