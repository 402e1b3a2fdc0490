"""Probes from Python: embed a folder, fit on arrays, evaluate, save and load; no config, no file unless requested."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import jepa
from jepa.data import TooManyBadVideosError
from jepa.errors import UserError
from jepa.models import load_encoder
from jepa.probes.config import HeadSettings

LABELS = ["a", "b", "c"] * 30
RNG = np.random.Generator(np.random.Philox(key=[1, 2]))
VECTORS = RNG.normal(size=(90, 8)) + 2.5 * np.eye(3, 8)[np.arange(90) % 3]
TOKENS = RNG.normal(size=(90, 6, 8)) + 2.5 * np.eye(3, 8)[np.arange(90) % 3][:, None]
GROUPS = [i // 9 for i in range(90)]
QUICK = HeadSettings(steps=40, lrs=[0.05], weight_decays=[0.1])


def test_a_notebook_cell_embeds_a_folder_and_fits_a_probe(squares: Path, export: Path) -> None:
    encoder = jepa.load_encoder(export)
    features = jepa.embed(encoder, squares / "clips", kind="stats")
    labels = [("left", "right", "rest")[i % 3] for i in range(36)]
    results, probe = jepa.probes.fit(features, labels, groups=[i // 6 for i in range(36)], heads=["ridge"])
    assert features.shape == (36, 72) and features.dtype == np.float32
    assert results.accuracy > 0.4 and set(probe.classes) == set(labels)


@pytest.mark.parametrize("head", ["linear", "ridge", "knn"])
def test_vectors_are_enough_for_heads_that_read_vectors(head: str, tmp_path: Path) -> None:
    results, probe = jepa.probes.fit(VECTORS, LABELS, GROUPS, heads=[head], settings=QUICK)
    assert results.accuracy > 0.8 and results.rows[0]["features"] == "majority"
    assert "encoder" in str(results) and list(tmp_path.iterdir()) == []
    again = jepa.load_probe(probe.save(tmp_path / "probe"))
    x = torch.from_numpy(VECTORS)
    torch.testing.assert_close(again.predict(x).probability, probe.predict(x).probability)
    saved = json.loads(results.save(tmp_path / "results.json").read_text())
    assert saved["schema"] == "jepa.probe.results/2" and saved["rows"][1]["head"] == head


def test_tokens_are_read_by_attentive_heads_and_baselines_stand_beside() -> None:
    results, probe = jepa.probes.fit(
        TOKENS,
        LABELS,
        GROUPS,
        heads=("attentive", "linear"),
        settings=QUICK,
        baselines={"noise": RNG.normal(size=(90, 4))},
    )
    assert {row["features"] for row in results.rows} == {"majority", "noise", "encoder"}
    assert results.comparison["against"]["noise"]["interval"][0] > 0
    assert probe.predict(torch.from_numpy(TOKENS[:4])).probability.shape == (4, 3)


def test_the_figure_of_an_array_probe_is_that_of_its_weights() -> None:
    splits = ["train"] * 54 + ["val"] * 18 + ["test"] * 18
    _, probe = jepa.probes.fit(TOKENS, LABELS, splits=splits, heads=["attentive"], settings=QUICK)
    tested = jepa.probes.evaluate(probe, TOKENS[72:], LABELS[72:])
    assert probe.metadata["results"]["test"] == tested.accuracy
    assert tested.comparison["against"]["majority"]["accuracy"] == pytest.approx(1 / 3)


def test_mistakes_with_arrays_are_named() -> None:
    with pytest.raises(UserError, match="90 rows of features and 3 labels"):
        jepa.probes.fit(VECTORS, ["a", "b", "c"])
    with pytest.raises(UserError, match="needs at least two classes"):
        jepa.probes.fit(VECTORS, ["a"] * 90)
    with pytest.raises(UserError, match=r"a head that reads tokens needs \[n, N, D\]"):
        jepa.probes.fit(VECTORS, LABELS, heads=["attentive"])
    with pytest.raises(UserError, match="no head 'forest'"):
        jepa.probes.fit(VECTORS, LABELS, heads=["forest"])
    with pytest.raises(UserError, match="not finite"):
        jepa.probes.fit(np.full((90, 8), np.nan), LABELS)
    _, probe = jepa.probes.fit(VECTORS, LABELS, heads=["ridge"])
    with pytest.raises(UserError, match=r"arrays of shape \[8\] per sample"):
        probe.predict(torch.zeros(2, 7))
    with pytest.raises(UserError, match="does not know 'd'"):
        jepa.probes.evaluate(probe, VECTORS[:1], ["d"])
    with pytest.raises(UserError, match="fitted on arrays"):
        _ = probe.window


def test_a_probe_fitted_on_arrays_is_not_checked_against_an_encoder(export: Path, tmp_path: Path) -> None:
    _, probe = jepa.probes.fit(VECTORS, LABELS, heads=["ridge"])
    with pytest.raises(UserError, match="does not say which encoder"):
        jepa.load_probe(probe.save(tmp_path / "p"), load_encoder(export))


def test_large_values_are_not_rounded_to_half_precision() -> None:
    results, _ = jepa.probes.fit(VECTORS * 1e6, LABELS, GROUPS, heads=["ridge"])
    assert results.accuracy > 0.8


def test_embed_keeps_the_order_of_a_list_and_marks_unreadable_videos(
    squares: Path, export: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    videos = [squares / "clips/03.mp4", broken, squares / "clips/01.mp4"]
    with pytest.raises(TooManyBadVideosError, match="1 of 3 samples"):
        jepa.embed(export, videos)
    features = jepa.embed(export, videos, max_bad_fraction=0.5)
    assert np.isnan(features[1]).all() and np.isfinite(features[[0, 2]]).all()
    folder = jepa.embed(export, squares / "clips")
    np.testing.assert_allclose(features[[0, 2]], folder[[3, 1]], rtol=1e-3, atol=1e-3)
    assert jepa.embed(export, videos[:1], kind="tokens", clips=2, max_tokens=16).shape == (1, 2, 16, 24)
    with pytest.raises(UserError, match="no setting 'clip'"):
        jepa.embed(export, videos, clip=2)
    with pytest.raises(UserError, match="does not exist"):
        jepa.embed(export, [tmp_path / "gone.mp4"])


def test_a_probe_is_fitted_where_gradients_are_switched_off():
    """As in a notebook whose first cell says so."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    features = rng.normal(size=(60, 4)) + 3 * labels[:, None]
    with torch.no_grad():
        results, _ = jepa.probes.fit(features, labels, groups=np.arange(60), heads=["linear"])
    assert results.accuracy > 0.9
