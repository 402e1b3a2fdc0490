"""Whatever pretrains is encoded: files, parts of files, shards and images give the features of the same pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import jepa
from jepa.data.manifest import RootConfig
from jepa.data.shards import ShardConfig
from jepa.data.shards import run as make_shards
from jepa.probes.data.labels import read_labelled
from jepa.probes.features.baselines import OneFrame
from jepa.probes.features.encode import encode


def test_shards_are_encoded_like_the_folder_they_were_made_of(squares: Path, tmp_path: Path) -> None:
    make_shards(ShardConfig(RootConfig(str(squares)), str(tmp_path / "shards")))
    plain, packed = read_labelled(squares)[:4], read_labelled(tmp_path / "shards")[:4]
    _, (first,), _ = encode(plain, [OneFrame()], tmp_path / "cache")
    _, (second,), report = encode(packed, [OneFrame()], tmp_path / "cache")
    # The rows are keyed by content, so what was encoded from the folder is found again.
    assert report.decoded == 0 and torch.equal(first.rows(), second.rows())
    _, (third,), report = encode(packed, [OneFrame()], None)
    assert report.decoded == 4 and torch.equal(first.rows(), third.rows())


def test_images_are_embedded_among_videos(squares: Path, export: Path, tmp_path: Path) -> None:
    for name, value in (("a/dark.png", 20), ("b/light.jpg", 230)):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (40, 32), (value, value, value)).save(tmp_path / name)
    assert [item.label for item in read_labelled(tmp_path)] == ["a", "b"]
    features = jepa.embed(export, tmp_path)
    assert features.shape == (2, 24) and np.isfinite(features).all() and not np.allclose(*features)
