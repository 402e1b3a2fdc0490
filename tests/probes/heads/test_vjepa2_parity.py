"""Stacked heads beside the published attentive classifier, on random weights in the published file layout.

JEPA_VJEPA2_REPO=...   a copy of facebookresearch/vjepa2
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa.models import load_classifiers
from jepa.probes.heads.vjepa2_attentive import StackedClassifiers

pytestmark = pytest.mark.parity


@pytest.fixture
def published() -> Iterator[Any]:
    path = os.environ.get("JEPA_VJEPA2_REPO")
    if not path:
        pytest.skip("JEPA_VJEPA2_REPO is not set")
    sys.path.insert(0, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield importlib.import_module("src.models.attentive_pooler").AttentiveClassifier
    finally:
        sys.path.remove(path)
        for name in [name for name in sys.modules if name.split(".")[0] == "src"]:
            del sys.modules[name]


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 4])
def test_heads_of_a_published_sweep_give_the_same_scores_at_once(
    published: Any, tmp_path: Path, depth: int
) -> None:
    theirs = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        one = published(embed_dim=128, num_heads=16, depth=depth, num_classes=7).eval()
        for parameter in one.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        theirs.append(one)
    states = [{f"module.{name}": value for name, value in one.state_dict().items()} for one in theirs]
    path = tmp_path / "probe.pt"
    torch.save(
        {"classifiers": states, "opt": [], "scaler": None, "epoch": 20, "batch_size": 4, "world_size": 1},
        path,
    )
    stacked = StackedClassifiers.of(load_classifiers(path))
    tokens = torch.randn(5, 33, 128, generator=torch.Generator().manual_seed(9)) * 2
    scores = stacked(tokens[None])[0]
    for ours, one in zip(scores, theirs, strict=True):
        expected = one(tokens)
        difference = float((ours - expected).abs().max() / expected.abs().max())
        print(f"published stacked, depth {depth}: {difference:.1e}")
        assert difference <= 1e-5
