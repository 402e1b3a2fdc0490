"""ONNX export of encoders."""

from __future__ import annotations

import os

import torch

from jepa.files import atomic_path
from jepa.models.encoder import VideoEncoder


def save_onnx(
    path: str | os.PathLike[str], encoder: VideoEncoder, num_frames: int, height_px: int, width_px: int
) -> None:
    """Writes the encoder as an ONNX model with input `video` [B, C, T, H, W] and output `tokens` [B, N, D].

    The batch is free; frames and pixels are fixed by the export, since positions are computed from them once.
    Weights above 2 GiB go into a file beside, `PATH.data`, because ONNX cannot hold them.

    Args:
        path: the file to write.
        encoder: the encoder, on any device; exported in evaluation mode.
        num_frames: T.
        height_px: H.
        width_px: W.

    Raises:
        UserError: tubelet or patch do not divide the size.
        ImportError: onnx or onnxscript are not installed (`pip install 'jepa-video[export]'`).

    Example:
        >>> from jepa.models import create_model
        >>> save_onnx("encoder.onnx", create_model("vit_nano"), 16, 224, 224)  # doctest: +SKIP
    """
    weight = next(encoder.parameters())
    shape = (2, encoder.config.in_channels, num_frames, height_px, width_px)
    video = torch.zeros(shape, device=weight.device, dtype=weight.dtype)
    encoder.grid_of(video)
    training = encoder.training
    try:
        program = torch.onnx.export(
            encoder.eval(),
            (video,),
            input_names=["video"],
            output_names=["tokens"],
            dynamic_shapes={"video": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    finally:
        encoder.train(training)
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    with atomic_path(path) as partial:
        program.save(partial)
