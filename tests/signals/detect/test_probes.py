"""Saved probes as a detector: its metadata, and which probes it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa.errors import UserError
from jepa.models import EncoderConfig, Preprocessing, VideoEncoder, save_encoder
from jepa.probes import encoder_hash, load_probe
from jepa.probes.evaluation.domain import fit_domain
from jepa.probes.features.feature_set import FeatureSet
from jepa.probes.heads.stacked import StackedLinear
from jepa.probes.saved import save_probe
from jepa.signals.detect.probes import ProbeDetector
from jepa.signals.detect.registry import build_detector


def encoder(seed: int) -> VideoEncoder:
    """Dim 24, depth 1, 4 frames of 16 px in 2 x 2 x 2 tokens."""
    config = EncoderConfig(embed_dim=24, depth=1, num_heads=2, mlp_dim=48, patch_px=8, tubelet_frames=2)
    with torch.device("meta"):
        made = VideoEncoder(config)
    made.to_empty(device="cpu")
    made.init_weights(torch.Generator().manual_seed(seed))
    made.preprocessing = Preprocessing(num_frames=4, fps=8, resize_px=16, crop_px=16)
    return made.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export, and beside it a classifier of its tokens."""
    one = encoder(0)
    assert one.preprocessing is not None
    save_encoder(tmp_path / "export", one, one.preprocessing, {"name": "tiny"})
    card: dict[str, Any] = {
        "task": "classify",
        "classes": ["calm", "fall"],
        "head": "linear",
        "window": {"num_frames": 4, "fps": 8},
        "grid": [2, 2, 2],
        "max_tokens": 8,
        "encoder": {"sha256": encoder_hash(one), "name": "tiny"},
        "data": {"name": "toyworld", "videos": 100},
        "trained_on": {"name": "train", "videos": 70},
        "calibration": {"method": "temperature", "temperature": 2.0, "videos": 10, "set_sha256": "a" * 64},
    }
    save_probe(tmp_path / "probes/now/probe", card, dict(StackedLinear(1, 1, 72, 2).state_dict()))
    old = {key: value for key, value in card.items() if key != "trained_on"}
    save_probe(tmp_path / "old/probe", old, dict(StackedLinear(1, 1, 72, 2).state_dict()))
    return tmp_path


def test_the_metadata_states_how_many_videos_trained_a_probe_and_not_how_many_there_were(
    folder: Path,
) -> None:
    detector = ProbeDetector(folder / "probes", str(folder / "export"), "cpu")
    (head,) = detector.metadata.heads
    assert head.trained_on == "70 videos of toyworld" and head.id == "now"
    assert detector.calibrations[0].n_videos == 10
    assert detector.metadata.encoder is not None and detector.metadata.encoder.name == "tiny"
    scores = detector.score([torch.zeros(3, 3, 4, 16, 16)])
    assert scores.observed.shape == (3, 2) and scores.observed.sum(1) == pytest.approx([1, 1, 1])
    with pytest.raises(UserError, match="does not state which videos"):
        ProbeDetector(folder / "old", str(folder / "export"), "cpu")


def test_the_registry_makes_the_same_detector_again(folder: Path) -> None:
    first = ProbeDetector(folder / "probes", folder / "export", "cpu", id="left")
    again = build_detector(first.metadata.kind, {**first.source, **first.metadata.settings}, "cpu")
    assert again.metadata == first.metadata and again.metadata.heads[0].id == "left-now"


def test_a_probe_of_another_encoder_is_refused(folder: Path) -> None:
    other = encoder(1)
    assert other.preprocessing is not None
    save_encoder(folder / "other", other, other.preprocessing, {"name": "other"})
    with pytest.raises(UserError, match=r"trained on the encoder 'tiny'.*Its scores would mean nothing"):
        ProbeDetector(folder / "probes", str(folder / "other"), "cpu")
    with pytest.raises(UserError, match=r"there is none under .*encoder=DIR"):
        ProbeDetector(folder / "probes", None, "cpu")
    with pytest.raises(UserError, match="holds no probe"):
        ProbeDetector(folder / "export", str(folder / "export"), "cpu")


def test_windows_outside_the_domain_of_a_probe_are_not_assessed(folder: Path) -> None:
    """A probe that was trained on dim grain leaves bright windows out, and says why."""
    one = encoder(0)
    rng = torch.Generator().manual_seed(0)
    clips = 0.1 * torch.randn(200, 3, 4, 16, 16, generator=rng)
    probe = load_probe(folder / "probes/now/probe")
    with torch.inference_mode():
        vectors = FeatureSet.of("tokens", one(clips).half(), 2).pooled()
    groups = [str(i) for i in range(len(clips))]
    probe.add_domain(fit_domain(vectors, groups, np.arange(100), np.arange(100, 200)))
    probe.save(folder / "probes/now/probe")
    detector = ProbeDetector(folder / "probes", str(folder / "export"), "cpu")
    (head,) = detector.metadata.heads
    assert head.domain is not None and head.domain.promised and head.domain.groups == 100
    scores = detector.score([torch.cat([clips[:8], clips[:2] + 3])])
    outside = scores.distances["now"] > head.domain.threshold
    assert outside.tolist() == [False] * 8 + [True] * 2
    assert np.isnan(scores.observed).all(axis=1).tolist() == outside.tolist()
    assert "outside the domain of probe now" in scores.reasons["now"]
