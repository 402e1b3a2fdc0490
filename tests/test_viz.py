"""Pictures: files that open, and colours that depend on the features alone."""

from __future__ import annotations

import json

import pytest
import torch

from jepa.masking import MaskConfig, sample_masks
from jepa.models import TokenGrid

pytest.importorskip("matplotlib")
from jepa.viz import draw_features, draw_losses, draw_masks, principal_colours

GRID = TokenGrid(2, 3, 4)
FRAMES = torch.randint(0, 256, (4, 3, 24, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_every_picture_is_a_png(tmp_path):
    masks = {kind: sample_masks(MaskConfig(kind, 0.5), GRID, 0, [0]) for kind in ("temporal", "tokens")}
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps({"step": s, "loss": 1 / s}) for s in (1, 2)))
    for path in (
        draw_masks(FRAMES, masks, GRID, tmp_path / "masks.png", "masks"),
        draw_features(FRAMES, {"random": torch.randn(GRID.size, 8)}, GRID, tmp_path / "features.png"),
        draw_losses({"run": tmp_path}, tmp_path / "losses.png"),
    ):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.partial*"))


def test_colours_do_not_depend_on_the_sign_or_the_order_of_channels():
    tokens = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 9.0)
    colours = principal_colours(tokens)
    assert colours.shape == (50, 3)
    assert colours.min() >= 0 and colours.max() <= 1
    assert torch.allclose(principal_colours(tokens.flip(1) + 3), colours, atol=1e-4)
