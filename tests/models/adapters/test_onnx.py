"""Encoders as torch.export programs and ONNX files: the same numbers, at any batch size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.models import EncoderConfig, VideoEncoder, create_model
from jepa.models.adapters.onnx import save_onnx

MULTI_LAYER = EncoderConfig(
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
@pytest.mark.parametrize("config", [MULTI_LAYER, SINCOS], ids=["multi-layer", "sincos"])
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
