"""Encoders as torch.export programs and ONNX files: the same numbers, at any batch and size."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.models import EncoderConfig, Preprocessing, VideoEncoder, create_model
from jepa.models.adapters.onnx import compare_onnx, export_onnx, save_onnx

MULTI_LAYER = EncoderConfig(
    48, 4, 2, 96, rope_reference_grid=16, image_tokenizer=True, modality_embedding=True, output_layers=(2, 4)
)
TILED = EncoderConfig(48, 2, 2, 96, position="tiled")
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


@pytest.mark.slow
@pytest.mark.parametrize("config", [MULTI_LAYER, SINCOS, TILED], ids=["multi-layer", "sincos", "tiled"])
def test_onnx_with_free_batch_and_size_in_onnx_runtime(tmp_path, config):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    encoder, path = VideoEncoder(config).eval(), tmp_path / "encoder.onnx"
    save_onnx(path, encoder, 4, 48, 64)
    for shape in ((1, 3, 4, 48, 64), (3, 3, 8, 64, 32), (2, 3, 6, 96, 128)):
        video = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        assert compare_onnx(path, encoder, video) <= 1e-5


@pytest.mark.slow
def test_onnx_of_one_frame_has_a_fixed_size(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    encoder, path = VideoEncoder(MULTI_LAYER).eval(), tmp_path / "encoder.onnx"
    with pytest.raises(UserError, match="free_size=False"):
        save_onnx(path, encoder, 1, 48, 64)
    save_onnx(path, encoder, 1, 48, 64, free_size=False)
    for batch in (1, 3):
        assert compare_onnx(path, encoder, clip(batch, frames=1)) <= 1e-5


@pytest.mark.slow
def test_onnx_folder_states_its_preprocessing(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    encoder = VideoEncoder(SINCOS)
    with pytest.raises(UserError, match="no preprocessing"):
        export_onnx(tmp_path, encoder)
    encoder.preprocessing = Preprocessing(4, 4.0, 64, 48)
    assert 0 < export_onnx(tmp_path, encoder) <= 1e-5
    assert encoder.training
    stated = json.loads((tmp_path / "config.json").read_text())["preprocessing"]
    (kept,) = (
        p.value for p in onnx.load(tmp_path / "encoder.onnx").metadata_props if p.key == "preprocessing"
    )
    assert json.loads(kept) == stated
    assert stated["crop_px"] == 48
    assert "onnxruntime.InferenceSession" in (tmp_path / "README.md").read_text()


def test_onnx_of_a_size_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="40 x 64 pixels"):
        save_onnx(tmp_path / "encoder.onnx", VideoEncoder(SINCOS), 4, 40, 64)
    assert not list(tmp_path.iterdir())
