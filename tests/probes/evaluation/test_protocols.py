"""Fewer labels, the beginning of a clip, worse video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from jepa.errors import UserError, VideoError
from jepa.models import load_encoder
from jepa.probes import ProbeConfig, load_probe, run
from jepa.probes.config import FeatureSettings, HeadSettings, ProbeData
from jepa.probes.evaluation.protocols import thin
from jepa.probes.features.baselines import OneFrame
from jepa.probes.features.encoder_tokens import EncoderTokens
from jepa.probes.features.perturbations import Perturbed, compressed, downscaled, noisy

from ..conftest import tiny_encoder


@pytest.fixture(scope="module")
def done(
    squares: Path, export: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("protocols")
    config = ProbeConfig(
        encoder=str(export),
        out=str(out),
        data=ProbeData(root=str(squares), group_column="scene", folds=3),
        features=FeatureSettings(cache=str(export / "cache")),
        heads=HeadSettings(kinds=["linear"], steps=30, lrs=[0.03], weight_decays=[0.1]),
        baselines=["motion", "one_frame"],
        protocols=["label_efficiency", "early", "robustness"],
        seeds=[0],
    )
    return out, run(config)


def test_every_protocol_asks_every_feature_set(done: tuple[Path, dict[str, Any]]) -> None:
    _, results = done
    protocols, names = results["protocols"], {"encoder", "motion", "one frame"}
    assert {entry["features"] for entry in protocols["label_efficiency"]} == names
    assert {entry["features"] for entry in protocols["early"]} == names
    assert len(protocols["robustness"]) == 3 * 4
    for entry in protocols["early"]:
        assert [p["at"] for p in entry["points"]] == [i / 10 for i in range(1, 11)]
    whole = {row["features"]: row["accuracy"] for row in results["rows"]}
    for name in ("early", "robustness", "label_efficiency"):
        for entry in protocols[name]:
            full = entry["points"][0 if name == "robustness" else -1]
            assert full["accuracy"] == pytest.approx(
                whole[entry["features"]]
            )  # the clean clip is the main table's


def test_motion_needs_several_frames_and_a_held_frame_rate_removes_it(
    done: tuple[Path, dict[str, Any]],
) -> None:
    protocols = done[1]["protocols"]
    early = next(e for e in protocols["early"] if e["features"] == "motion")["points"]
    assert early[0]["accuracy"] < early[-1]["accuracy"] - 0.15
    (held,) = (
        e["points"]
        for e in protocols["robustness"]
        if (e["features"], e["perturbation"]) == ("motion", "frame rate")
    )
    assert held[2]["at"] == 2.0 and held[2]["accuracy"] < held[0]["accuracy"] - 0.3
    labels = next(e for e in protocols["label_efficiency"] if e["features"] == "motion")["points"]
    assert (
        labels[0]["labels"] == 6
        and labels[-1]["labels"] == 24
        and labels[0]["accuracy"] < labels[-1]["accuracy"]
    )


def test_a_video_that_only_a_perturbation_cannot_read_is_named(
    squares: Path, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ProbeConfig(
        encoder=str(export),
        out=str(tmp_path),
        data=ProbeData(root=str(squares), group_column="scene", folds=2),
        heads=HeadSettings(kinds=["ridge"]),
        baselines=[],
        protocols=["early"],
    )
    whole = Perturbed.times

    def broken(self: Perturbed, start_s: float, end_s: float) -> np.ndarray:
        monkeypatch.setattr(Perturbed, "times", whole)  # the first video only
        raise VideoError("00.mp4", "decode", "cut short")

    monkeypatch.setattr(Perturbed, "times", broken)
    with pytest.raises(UserError, match=r"could be read for the main table.*cannot decode: cut short"):
        run(config)


def test_a_saved_published_head_reads_live_tokens(squares: Path, export: Path, tmp_path: Path) -> None:
    config = ProbeConfig(
        encoder=str(export),
        out=str(tmp_path),
        data=ProbeData(root=str(squares), group_column="scene", folds=2),
        features=FeatureSettings(cache=str(export / "cache")),
        heads=HeadSettings(kinds=["vjepa2_attentive"], steps=4, batch_size=8),
        baselines=[],
        seeds=[0],
    )
    row = run(config)["rows"][-1]
    assert row["head"] == "vjepa2_attentive" and {tuple(c) for c in row["chosen"]} == {("lr", "weight_decay")}
    encoder = load_encoder(export)
    probe = load_probe(tmp_path / "probe", encoder)
    assert probe.metadata["head"] == "vjepa2_attentive"
    p = probe.predict(encoder(torch.rand(2, 3, 8, 32, 32))).probability
    torch.testing.assert_close(p.sum(-1), torch.ones(2))


def test_protocols_of_another_task_are_refused() -> None:
    config = ProbeConfig(task="describe", encoder="e", out="o", protocols=["early"])
    with pytest.raises(UserError, match="protocols: 'early' is unknown to task=describe"):
        run(config)


def test_fewer_labels_are_contained_in_more_and_hold_every_class() -> None:
    targets = torch.tensor([0] * 50 + [1] * 30 + [2] * 3)
    part = np.arange(1, 83)
    sizes, before = [], set()
    for fraction in (0.01, 0.1, 0.5, 1.0):
        chosen = thin(part, targets, fraction, 0)
        assert set(targets[chosen].tolist()) == {0, 1, 2} and before <= set(chosen)
        before = set(chosen)
        sizes.append(len(chosen))
    assert sizes == [3, 9, 41, 82]
    assert not np.array_equal(thin(part, targets, 0.5, 0), thin(part, targets, 0.5, 1))


def test_early_clips_reads_no_frame_after_its_fraction() -> None:
    base = EncoderTokens("e", tiny_encoder())
    for fraction in (0.1, 0.5):
        assert Perturbed(base, "early", fraction).times(2.0, 12.0).max() <= 2.0 + 10 * fraction
    assert Perturbed(base, "early", 0.1).key != Perturbed(base, "early", 0.5).key != base.key


def test_a_lower_frame_rate_holds_frames() -> None:
    base = EncoderTokens("e", tiny_encoder())
    times = Perturbed(base, "frame rate", 2.0).times(1.0, 3.0)
    assert len(np.unique(times)) == 2 and set(np.unique(times)) <= {1.0, 1.5, 2.0, 2.5}
    assert (times <= base.times(1.0, 3.0) + 1e-9).all()


def test_degradations_on_known_frames() -> None:
    frames = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
    frames[..., ::2] = 200  # stripes of one pixel
    assert downscaled(frames, 16).float().std() < 5 < frames.float().std()
    assert torch.equal(downscaled(frames, 64), frames)
    grey = torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)
    assert noisy(grey, 15.0).float().std().item() == pytest.approx(15, rel=0.02)
    assert torch.equal(noisy(grey, 15.0), noisy(grey, 15.0))
    assert Perturbed(OneFrame(), "noise", 15.0).prepare(grey[:1]).std() > 0


def test_compression_is_a_codec_that_predicts_frames_from_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    texture = torch.randint(0, 255, (1, 3, 50, 90), dtype=torch.uint8, generator=generator)
    texture = downscaled(texture, 25)
    clip = torch.cat([texture.roll(3 * t, -1) for t in range(6)])[
        ..., :47, :75
    ]  # odd sides, a panning camera
    errors = []
    for factor in (10.0, 35.0, 45.0):
        seen = compressed(clip, factor)
        assert seen.shape == clip.shape and seen.dtype == torch.uint8
        errors.append((seen.float() - clip).abs().mean().item())
    assert errors[0] < errors[1] < errors[2] and errors[2] > 3
    assert torch.equal(compressed(clip, 45.0), compressed(clip, 45.0))
    # Each frame by itself would come out the same whatever stands before it.
    assert not torch.equal(compressed(clip, 45.0)[3], compressed(clip[3:4], 45.0)[0])


def test_a_build_without_the_codec_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: Any, **__: Any) -> None:
        raise av.codec.codec.UnknownCodecError("libx264")

    monkeypatch.setattr("av.container.OutputContainer.add_stream", lacks, raising=False)
    with pytest.raises(UserError, match="libx264, which this build of PyAV lacks"):
        compressed(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), 35.0)
