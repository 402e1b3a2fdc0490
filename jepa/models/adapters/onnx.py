"""ONNX export of encoders, for ONNX Runtime and what else reads ONNX; batch, frames and pixels stay free."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from jepa.errors import UserError, require
from jepa.files import atomic_path, write_json
from jepa.models.cards import write_card
from jepa.models.encoder import VideoEncoder

MODEL_FILE = "encoder.onnx"
# Largest difference between ONNX Runtime and torch, relative to the largest value.
TOLERANCE = 1e-4


def export_onnx(folder: str | os.PathLike[str], encoder: VideoEncoder) -> float:
    """Writes a folder with `encoder.onnx`, `config.json` and README.md, and checks it in ONNX Runtime.

    The check compares tokens at the size of the encoder's preprocessing and at another one. README.md and `config.json`
    state the preprocessing, which the model does not contain.

    Args:
        folder: where the files go.
        encoder: with preprocessing.

    Returns:
        The largest difference from torch, relative to the largest value.

    Raises:
        UserError: the encoder states no preprocessing, or onnxscript or onnxruntime are not installed.
        RuntimeError: ONNX Runtime gives other numbers.
    """
    stated = encoder.preprocessing
    if stated is None:
        raise UserError("this encoder carries no preprocessing; set encoder.preprocessing before the export.")
    require("onnxruntime", "export")
    path, config = Path(folder) / MODEL_FILE, encoder.config
    frames, side = stated.num_frames, stated.crop_px
    save_onnx(path, encoder, frames, side, side)
    other = (2, config.in_channels, frames + config.tubelet_frames, side + config.patch_px, side)
    difference = max(
        compare_onnx(path, encoder, torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        for shape in ((1, config.in_channels, frames, side, side), other)
    )
    if difference > TOLERANCE:
        path.unlink()
        raise RuntimeError(
            f"ONNX Runtime differs from torch by {difference:.1e} of the largest value; not kept."
        )
    write_json(
        Path(folder) / "config.json",
        {
            "encoder": asdict(config),
            "preprocessing": asdict(stated),
            "metadata": encoder.metadata,
            "onnx": {
                "input": "video [B, C, T, H, W]",
                "output": "tokens [B, N, D]",
                "difference": difference,
            },
        },
    )
    write_card(Path(folder), encoder, stated, encoder.metadata, "onnx")
    return difference


def save_onnx(
    path: str | os.PathLike[str],
    encoder: VideoEncoder,
    num_frames: int,
    height_px: int,
    width_px: int,
    free_size: bool = True,
) -> None:
    """Writes the encoder as an ONNX model with input `video` [B, C, T, H, W] and output `tokens` [B, N, D].

    The batch is free. So are frames and pixels, as multiples of tubelet and patch and at least two of each, unless
    `free_size` is false; then the positions are constants and the file runs at the given size only.
    Weights above 2 GiB go into a file beside, `PATH.data`, because ONNX cannot hold them.

    Args:
        path: the file to write.
        encoder: the encoder, on any device; exported in evaluation mode.
        num_frames: T.
        height_px: H.
        width_px: W.
        free_size: whether T, H and W may differ from these.

    Raises:
        UserError: tubelet or patch do not divide the size, a single frame or row of patches is to be free, or
            onnxscript is not installed.

    Example:
        >>> from jepa.models import create_model
        >>> save_onnx("encoder.onnx", create_model("vit_nano"), 16, 224, 224)  # doctest: +SKIP
    """
    require("onnxscript", "export")
    weight, config = next(encoder.parameters()), encoder.config
    shape = (2, config.in_channels, num_frames, height_px, width_px)
    video = torch.zeros(shape, device=weight.device, dtype=weight.dtype)
    grid = encoder.grid_of(video)
    if free_size and min(grid) < 2:
        raise UserError(
            f"{num_frames} frames of {height_px} x {width_px} pixels are {tuple(grid)} tokens; a free size needs two "
            "or more along each axis. Give a larger example, or free_size=False for this size alone."
        )
    if free_size and config.sincos_grid == tuple(grid):
        # At the trained size nothing is interpolated, and the program would be for that size alone.
        video = torch.cat([video, video[:, :, : config.tubelet_frames]], dim=2)
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if free_size:
        # Products: the exported model need not handle what tubelet or patch do not divide.
        axes[2] = config.tubelet_frames * torch.export.Dim("time_steps", min=2)
        axes[3] = config.patch_px * torch.export.Dim("rows", min=2)
        axes[4] = config.patch_px * torch.export.Dim("columns", min=2)
    training = encoder.training
    try:
        program = torch.onnx.export(
            encoder.eval(),
            (video,),
            input_names=["video"],
            output_names=["tokens"],
            dynamic_shapes={"video": axes},
            dynamo=True,
            verbose=False,
        )
    finally:
        encoder.train(training)
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    if encoder.preprocessing is not None:
        program.model.metadata_props["preprocessing"] = json.dumps(asdict(encoder.preprocessing))
    with atomic_path(path) as partial:
        program.save(partial)


@torch.no_grad()
def compare_onnx(path: str | os.PathLike[str], encoder: VideoEncoder, video: torch.Tensor) -> float:
    """Largest difference of an ONNX file's tokens from the encoder's, relative to the largest value.

    Args:
        path: a file of `save_onnx`.
        encoder: what it was made from, on the CPU.
        video: [B, C, T, H, W], float32.
    """
    runtime = require("onnxruntime", "export")
    session = runtime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    (tokens,) = session.run(["tokens"], {"video": video.numpy()})
    training = encoder.training
    expected = encoder.eval()(video)
    encoder.train(training)
    return float((torch.from_numpy(tokens) - expected).abs().max() / expected.abs().max())
