"""Random versions of training clips, encoded live."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jepa.errors import UserError
from jepa.probes import ProbeConfig, load_probe, run
from jepa.probes.config import FeatureSettings, HeadSettings, ProbeData
from jepa.probes.data.labels import read_labelled
from jepa.probes.data.splits import Fold
from jepa.probes.evaluation.augment import augmented
from jepa.probes.evaluation.calibration import softmax_calibrator
from jepa.probes.evaluation.problem import Problem
from jepa.probes.features.baselines import Motion, OneFrame
from jepa.probes.features.build import encode_samples
from jepa.probes.features.perturbations import augmented_frames
from jepa.probes.heads.base import class_targets


def test_a_version_is_one_crop_and_one_light_for_all_frames_of_a_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    still = torch.randint(0, 255, (1, 3, 40, 60), dtype=torch.uint8, generator=generator).repeat(5, 1, 1, 1)
    versions = [augmented_frames(still, number) for number in range(20)]
    assert all(seen.dtype == torch.uint8 and (seen == seen[:1]).all() for seen in versions)
    assert torch.equal(versions[3], augmented_frames(still, 3))
    sizes = {tuple(seen.shape[-2:]) for seen in versions}
    assert len(sizes) > 5 and all(28 <= h <= 40 and 42 <= w <= 60 for h, w in sizes)
    means = torch.tensor([float(seen.float().mean()) for seen in versions])
    assert means.std() > 5 and not torch.equal(versions[0], versions[1])


def config(root: Path, export: Path, out: Path, count: int) -> ProbeConfig:
    return ProbeConfig(
        encoder=str(export),
        out=str(out),
        data=ProbeData(root=str(root), group_column="scene", folds=2),
        features=FeatureSettings(augment=count),
        heads=HeadSettings(kinds=["linear"], steps=20, lrs=[0.03], weight_decays=[0.1]),
        baselines=["motion"],
        seeds=[0],
    )


def test_versions_join_training_parts_only_and_never_reach_the_disk(
    squares: Path, export: Path, tmp_path: Path
) -> None:
    settings = config(squares, export, tmp_path, 2)
    listed, extractors = read_labelled(squares)[:6], [OneFrame(), Motion()]
    encoded = encode_samples(settings, listed, extractors)
    stored = sorted(tmp_path.rglob("shard-*"))
    folds = [Fold("0", np.array([0, 1]), np.array([2, 3]), np.array([4, 5]))]
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    classes = class_targets(targets, 3, softmax_calibrator("temperature"))
    problem = Problem("classes", encoded.samples, classes, folds, encoded.sets)
    wide = augmented(settings, problem, extractors, encoded.report)
    (fold,) = wide.folds
    assert sorted(tmp_path.rglob("shard-*")) == stored and encoded.report.decoded == 12  # six clean, six live
    assert fold.train.tolist() == [0, 1, 6, 7, 12, 13]
    assert fold.val.tolist() == [2, 3] and fold.test.tolist() == [4, 5]
    assert wide.targets.values[fold.train].tolist() == [0, 1] * 3
    for clean, more in zip(encoded.sets, wide.sets, strict=True):
        rows = more.features.rows()
        assert len(rows) == 18 and torch.equal(rows[:6], clean.features.rows())
        assert not torch.equal(rows[6:12], rows[:6]) and not torch.equal(rows[6:12], rows[12:])


def test_a_probe_learns_from_versions_and_is_tested_on_the_clips(
    squares: Path, export: Path, tmp_path: Path
) -> None:
    results = run(config(squares, export, tmp_path, 1))
    assert results["decoded_videos"] == 2 * 36
    assert all(sum(map(sum, row["confusion"])) == 36 for row in results["rows"])
    probe = load_probe(tmp_path / "probe")
    parts = [probe.metadata[part]["videos"] for part in ("trained_on", "calibration", "tested_on")]
    assert sum(parts) == 36
    again = run(config(squares, export, tmp_path, 1))
    assert again["decoded_videos"] == 36  # only what is made live
    assert [r["accuracy"] for r in again["rows"]] == [r["accuracy"] for r in results["rows"]]
    without = run(config(squares, export, tmp_path, 0))
    chances = [
        next(r for r in x["rows"] if r["features"] == "encoder")["log_loss"] for x in (results, without)
    ]
    assert chances[0] != chances[1]


def test_versions_are_refused_where_they_have_no_effect() -> None:
    settings = ProbeConfig(task="describe", encoder="e", out="o", features=FeatureSettings(augment=1))
    with pytest.raises(UserError, match=r"features\.augment has no effect on task=describe"):
        run(settings)
    settings = ProbeConfig(encoder="e", out="o", features=FeatureSettings(augment=-1))
    with pytest.raises(UserError, match=r"features\.augment=-1 must be at least 0"):
        settings.check()
