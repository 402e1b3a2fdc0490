"""Encoders in other frameworks: timm, torch.export, ONNX Runtime, torch.compile."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.models import EncoderConfig, Predictor, PredictorConfig, VideoEncoder, create_model
from jepa.models.adapters.onnx import save_onnx

LEVELS = EncoderConfig(
    48, 4, 2, 96, rope_reference_grid=16, image_tokenizer=True, modality_embedding=True, output_layers=(2, 4)
)
SINCOS = EncoderConfig(48, 2, 2, 96, position="sincos", sincos_grid=(2, 3, 4))


def clip(batch: int, frames: int = 4) -> Tensor:
    return torch.randn(batch, 3, frames, 48, 64, generator=torch.Generator().manual_seed(batch))


@torch.no_grad()
def test_torch_export_with_a_free_batch():
    encoder = create_model("vit_nano").eval()
    program = torch.export.export(
        encoder, (clip(2),), dynamic_shapes={"video": {0: torch.export.Dim("batch")}}
    )
    for batch in (1, 2, 5):
        assert torch.allclose(program.module()(clip(batch)), encoder(clip(batch)), atol=1e-5)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("config", [LEVELS, SINCOS], ids=["levels", "sincos"])
def test_onnx_with_a_free_batch_in_onnx_runtime(tmp_path, config, frames):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    encoder = VideoEncoder(config).eval()
    save_onnx(tmp_path / "encoder.onnx", encoder, frames, 48, 64)
    session = runtime.InferenceSession(str(tmp_path / "encoder.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        (tokens,) = session.run(["tokens"], {"video": clip(batch, frames).numpy()})
        expected = encoder(clip(batch, frames))
        assert tokens.shape == expected.shape
        assert (torch.from_numpy(tokens) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_onnx_of_a_size_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="40 x 64 pixels"):
        save_onnx(tmp_path / "encoder.onnx", VideoEncoder(SINCOS), 4, 40, 64)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@torch.no_grad()
def test_compiles_without_a_graph_break():
    """On the eager backend, which traces like every other and needs no C++ compiler."""
    encoder = VideoEncoder(LEVELS).eval()
    predictor = Predictor(PredictorConfig(48, 2, 96, 32, 2, 2, 64, context_head=True)).eval()
    keep = torch.tensor([[0, 7, 23], [4, 5, 12]])
    target = torch.tensor([[1, 2], [0, 1]])
    video = clip(2)
    grid = encoder.grid_of(video)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(video), encoder(video), atol=1e-5)
    seen = compiled(video, keep, multi_layer=True)
    assert torch.allclose(seen, encoder(video, keep, multi_layer=True), atol=1e-5)
    guessing = torch.compile(predictor, fullgraph=True, backend="eager")
    assert torch.allclose(guessing(seen, keep, target, grid), predictor(seen, keep, target, grid), atol=1e-5)
    with torch.enable_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        compiled(video, keep).float().sum().backward()
    assert encoder.patch_embed.proj.weight.grad is not None


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
    with pytest.raises(UserError, match="nobody has published weights"):
        timm.create_model("jepa_vit_nano", pretrained=True)
    with pytest.raises(UserError, match="global_pool='max'"):
        timm.create_model("jepa_vit_nano").reset_classifier(3, "max")
