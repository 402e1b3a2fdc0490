"""Pictures: masks on a clip, PCA of its features, loss curves.

Every function draws from plain tensors and numbers, saves one PNG and returns its path.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from jepa.files import atomic_path
from jepa.masking import Mask
from jepa.models import TokenGrid

_INK, _MUTED = "#1f2430", "#8a8f9c"
_COLOURS = ("#3b6fd4", "#d9822b", "#3f9c6b", "#a84fb0")


def draw_masks(
    frames: torch.Tensor, masks: dict[str, Mask], grid: TokenGrid, path: str | Path, title: str = ""
) -> Path:
    """One row of frames, then one row per mask with the target tokens greyed out.

    Args:
        frames: uint8 [T, C, H, W], the clip; one frame per time step is shown.
        masks: a name -> the pair of index tensors of one clip, [1, K] and [1, M].
        grid: the token grid of the clip.
        path: PNG to write.
        title: line above the picture.

    Example:
        >>> import tempfile
        >>> from jepa.masking import MaskConfig, sample_masks
        >>> grid, frames = TokenGrid(2, 2, 2), torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
        >>> masks = {"tokens": sample_masks(MaskConfig("tokens", 0.5), grid, seed=0, indices=[0])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_masks(frames, masks, grid, Path(folder) / "masks.png").name
        'masks.png'
    """
    steps = frames[:: max(1, len(frames) // grid.t)][: grid.t].permute(0, 2, 3, 1).numpy()
    rows = [("the clip", steps)]
    height, width = frames.shape[-2:]
    for name, mask in masks.items():
        is_context = torch.zeros(grid.size)
        is_context[mask.context[0]] = 1
        visible = (
            F.interpolate(is_context.view(1, grid.t, grid.h, grid.w), (height, width))[0]
            .unsqueeze(-1)
            .numpy()
        )
        rows.append((name, (steps * visible + 205 * (1 - visible)).astype(np.uint8)))
    return _image_rows(rows, path, title)


def draw_features(
    frames: torch.Tensor,
    features: dict[str, torch.Tensor],
    grid: TokenGrid,
    path: str | Path,
    title: str = "",
) -> Path:
    """One row of frames, then one row per encoder: PCA of its tokens, the first three components as red, green, blue.

    Args:
        frames: uint8 [T, C, H, W], the clip.
        features: a name -> tokens [N, D] of that clip.
        grid: the token grid.
        path: PNG to write.
        title: line above the picture.

    Example:
        >>> import tempfile
        >>> frames, tokens = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.randn(8, 16)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_features(frames, {"random": tokens}, TokenGrid(2, 2, 2), Path(folder) / "features.png").name
        'features.png'
    """
    steps = frames[:: max(1, len(frames) // grid.t)][: grid.t].permute(0, 2, 3, 1).numpy()
    rows = [("the clip", steps)]
    for name, tokens in features.items():
        colours = principal_colours(tokens).view(grid.t, grid.h, grid.w, 3)
        scale = frames.shape[-2] // grid.h
        large = colours.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        rows.append((name, large.numpy()))
    return _image_rows(rows, path, title)


def principal_colours(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens [N, D] -> colours [N, 3] in 0..1: the three leading principal components, each by its own range.

    Example:
        >>> list(principal_colours(torch.randn(10, 16)).shape)
        [10, 3]
    """
    centred = tokens.float() - tokens.float().mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    # The sign of a singular vector is arbitrary; the same features shall get the same colours.
    leading = directions[:3]
    leading = leading * leading.gather(1, leading.abs().argmax(1, keepdim=True)).sign()
    projected = centred @ leading.T
    low, high = projected.quantile(0.01, 0), projected.quantile(0.99, 0)
    return ((projected - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)


def draw_losses(runs: dict[str, Path], path: str | Path, title: str = "") -> Path:
    """The loss of each run over its steps; each run has its own axis, since losses of different targets do not compare.

    Args:
        runs: a name -> run folder with `metrics.jsonl`.
        path: PNG to write.
        title: line above the picture.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}')
        ...     draw_losses({"run": Path(folder)}, Path(folder) / "loss.png").name
        'loss.png'
    """
    figure = Figure(figsize=(4.2 * len(runs), 3.0), layout="constrained")
    for at, (name, folder) in enumerate(runs.items()):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        axis = figure.add_subplot(1, len(runs), at + 1)
        axis.plot([r["step"] for r in rows], [r["loss"] for r in rows], color=_COLOURS[at], linewidth=1.6)
        axis.set_title(name, fontsize=10, color=_INK)
        axis.set_xlabel("step", color=_INK)
        axis.set_ylabel("loss", color=_INK)
        axis.set_yscale("log")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11, color=_INK)
    return _save(figure, path)


def _image_rows(rows: Sequence[tuple[str, np.ndarray]], path: str | Path, title: str) -> Path:
    count = max(len(images) for _, images in rows)
    figure = Figure(figsize=(1.35 * count + 1.2, 1.42 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for (name, images), line in zip(rows, axes, strict=True):
        for axis in line:
            axis.set_axis_off()
        for image, axis in zip(images, line, strict=True):
            axis.imshow(image, interpolation="nearest")
        line[0].text(
            -0.08, 0.5, name, transform=line[0].transAxes, ha="right", va="center", color=_INK, fontsize=9
        )
    figure.suptitle(title, fontsize=11, color=_INK)
    return _save(figure, path)


def _save(figure: Figure, path: str | Path) -> Path:
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=130, format="png")
    return Path(path)
