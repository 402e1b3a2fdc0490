"""Saved probes: those of older versions, and metrics that are those of the weights beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa.errors import UserError
from jepa.models import load_encoder
from jepa.probes import ProbeConfig, load_probe, run
from jepa.probes.config import AnticipateSettings, DescribeSettings, FeatureSettings, HeadSettings, ProbeData
from jepa.probes.evaluation.problem import Problem
from jepa.probes.features.build import encode_samples
from jepa.probes.saved import read_probe, save_probe
from jepa.probes.tasks.anticipate.tables import hazard_metrics
from jepa.probes.tasks.base import get_task
from jepa.probes.tasks.describe.task import tag_metrics

LEGACY = Path(__file__).parent / "legacy"


@pytest.mark.parametrize("name", ["linear", "attentive", "published", "anticipate", "describe"])
def test_a_probe_saved_by_the_first_version_predicts_the_same_values(name: str) -> None:
    expected = json.loads((LEGACY / "predictions.json").read_text())
    probe = load_probe(LEGACY / name)
    prediction = probe.predict(torch.tensor(expected["tokens"]))
    known = {field: value for field, value in prediction._asdict().items() if value is not None}
    assert known.keys() == expected[name].keys()  # it had no domain check, so it says nothing about that
    for field, value in known.items():
        torch.testing.assert_close(value, torch.tensor(expected[name][field]), rtol=1e-6, atol=1e-7)


def test_the_figure_of_a_first_version_probe_is_not_taken_for_that_of_its_weights() -> None:
    metadata, _, _ = read_probe(LEGACY / "linear")
    assert metadata["results"]["test"] is None
    assert metadata["results"]["cross_validation"]["test"] == 0.8


def test_an_unknown_schema_or_task_is_refused(tmp_path: Path) -> None:
    card = {"task": "sing", "classes": ["a"], "encoder": None, "data": {}, "calibration": {}}
    save_probe(tmp_path / "new", card | {"schema": "jepa.probe/9"}, {"x": torch.zeros(1)})
    with pytest.raises(UserError, match=r"states schema 'jepa\.probe/9'.*Train the probe again"):
        load_probe(tmp_path / "new")
    save_probe(tmp_path / "other", card, {"x": torch.zeros(1)})
    with pytest.raises(UserError, match="task='sing' is unknown"):
        load_probe(tmp_path / "other")


def probe_and_test_part(
    config: ProbeConfig,
) -> tuple[dict[str, Any], Any, list[tuple[Problem, torch.Tensor, np.ndarray]], Any]:
    """Runs a probe; its metadata as saved, the probe read back, and the first fold's test tokens of each problem."""
    run(config)
    probe: Any = load_probe(Path(config.out) / "probe", encoder := load_encoder(config.encoder))
    task = get_task(config.task)(config)
    encoded = encode_samples(config, task.read(encoder), task.extractors(encoder))
    parts = []
    for problem in task.problems(encoded):
        own = next(data for data in problem.sets if data.name == "encoder")
        test = problem.folds[0].test
        parts.append((problem, own.features.rows(test)[:, 0], test))
    return probe.metadata, probe, parts, task


def settings(root: Path, export: Path, out: Path, folds: int | None, **more: Any) -> ProbeConfig:
    return ProbeConfig(
        encoder=str(export),
        out=str(out),
        data=ProbeData(root=str(root), folds=folds),
        features=FeatureSettings(cache=str(export / "cache")),
        heads=HeadSettings(kinds=["linear"], steps=20, lrs=[0.02, 0.002], weight_decays=[0.1]),
        baselines=[],
        seeds=[3],
        **more,
    )


@pytest.mark.parametrize("calibration", ["temperature", "isotonic"])
def test_the_accuracy_on_a_card_is_that_of_the_weights_beside_it(
    squares: Path, export: Path, tmp_path: Path, calibration: str
) -> None:
    config = settings(squares, export, tmp_path, 3, calibration=calibration)
    config.data.group_column, config.heads.kinds = "scene", ["linear", "attentive"]
    metadata, probe, ((problem, tokens, test),), _ = probe_and_test_part(config)
    right = probe.predict(tokens).probability.argmax(-1) == problem.targets.values[test]
    assert metadata["results"]["test"] == pytest.approx(float(right.double().mean()))
    assert metadata["tested_on"]["samples"] == len(test)
    # What the whole procedure reached, with refitted heads of every fold and seed, is another figure beside it.
    assert metadata["results"]["cross_validation"]["folds"] == 3


def test_the_hazard_metrics_in_the_metadata_are_those_of_the_weights_beside_it(
    flashes: Path, export: Path, tmp_path: Path
) -> None:
    horizons = [0.5, 1.0, 2.0]
    ahead = AnticipateSettings(tau_s=0.5, hazards=["flash"], horizons_s=horizons, stride_s=0.25)
    config = settings(flashes, export, tmp_path, 3, task="anticipate", anticipate=ahead)
    metadata, probe, parts, task = probe_and_test_part(config)
    (following, tokens, test), (current, now_tokens, _), (_, hazard_tokens, hazard_test) = parts
    right = probe.predict(tokens).next_action.argmax(-1) == following.targets.values[test]
    assert metadata["results"]["next_action"]["test"] == pytest.approx(float(right.double().mean()))
    p = probe.predict(hazard_tokens).hazard.numpy()
    event, observed = (torch.from_numpy(getattr(task.hazard_windows, n)) for n in ("event", "observed"))
    entries = hazard_metrics(p, event[hazard_test], observed[hazard_test], p, horizons)
    assert metadata["results"]["hazard"]["brier"] == pytest.approx(np.mean([e["brier"] for e in entries]))
    now: Any = load_probe(tmp_path / "current_action")
    right = now.predict(now_tokens).probability.argmax(-1) == current.targets.values[hazard_test]
    assert now.metadata["results"]["test"] == pytest.approx(float(right.double().mean()))


def test_the_tag_and_search_metrics_in_the_metadata_are_those_of_the_weights_beside_it(
    squares: Path, export: Path, tmp_path: Path
) -> None:
    words = DescribeSettings(text_encoder="trained")
    config = settings(squares, export, tmp_path, 3, task="describe", describe=words)
    config.data.group_column = "scene"
    metadata, probe, ((tagging, tokens, test), _), task = probe_and_test_part(config)
    prediction, on = probe.predict(tokens), tagging.targets.values
    own = tag_metrics([(prediction.tags.numpy(), on[test], on.mean(0))])
    assert metadata["results"]["test"] == pytest.approx(own["map"])
    found = task.search(prediction.embedding.numpy(), test)
    assert metadata["results"]["search"]["mrr"] == pytest.approx(found["mrr"])


def test_with_a_split_column_the_saved_head_is_tested_on_the_test_part(
    squares: Path, export: Path, tmp_path: Path
) -> None:
    rows = (squares / "labels.csv").read_text().splitlines()
    root = tmp_path / "split"
    root.mkdir()
    (root / "clips").symlink_to(squares / "clips")
    parts = ["train"] * 20 + ["val"] * 6 + ["test"] * 10
    lines = [f"{row},{part}" for row, part in zip(rows[1:], parts, strict=True)]
    (root / "labels.csv").write_text("\n".join([rows[0] + ",split", *lines]))
    config = settings(root, export, tmp_path / "out", None)
    metadata, probe, ((problem, tokens, test),), _ = probe_and_test_part(config)
    counts = [metadata[part]["videos"] for part in ("trained_on", "calibration", "tested_on")]
    assert counts == [20, 6, 10]
    right = probe.predict(tokens).probability.argmax(-1) == problem.targets.values[test]
    assert metadata["results"]["test"] == pytest.approx(float(right.double().mean()))
