"""Heads by name, and one that is added from outside the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import jepa
from jepa.errors import UserError
from jepa.probes import Head, ProbeConfig, load_probe, register_head, run
from jepa.probes.config import FeatureSettings, HeadSettings, ProbeData
from jepa.probes.heads import base
from jepa.probes.heads.base import FitData, Job, get_head, list_heads


@dataclass(frozen=True)
class Shrinkage:
    """Setting of the nearest-centroid head."""

    amount: float


@dataclass(frozen=True)
class Centroids:
    """Fitted centroids [G, C, F]."""

    centres: Tensor

    def logits(self, inputs: Tensor) -> Tensor:
        return -torch.cdist(inputs.float().expand(len(self.centres), -1, -1), self.centres)[None]

    def take(self, heads: Sequence[int], seeds: Sequence[int] | None = None) -> Centroids:
        return Centroids(self.centres[list(heads)])

    def state(self) -> dict[str, Tensor]:
        return {"centres": self.centres}


class CentroidHead(Head):
    """Nearest class centroid, pulled towards the mean of all: a head that jepa knows nothing of."""

    name, reads, classes_only, seeded = "centroid", "vectors", True, False

    def grid(self, settings: HeadSettings) -> list[Any]:
        return [Shrinkage(0.0), Shrinkage(0.5)]

    def fit(
        self, data: FitData, jobs: Sequence[Job], settings: HeadSettings, seeds: Sequence[int]
    ) -> Centroids:
        centres = []
        for samples, setting in jobs:
            windows = data.windows(samples)
            x, y = data.inputs[windows].float(), data.window_targets[windows]
            own = torch.stack([x[y == c].mean(0) for c in range(data.targets.outputs)])
            centres.append(torch.lerp(own, x.mean(0), setting.amount))
        return Centroids(torch.stack(centres))

    def from_state(self, state: dict[str, Tensor]) -> Centroids:
        return Centroids(state["centres"])


@pytest.fixture(autouse=True)
def forgotten_afterwards() -> Iterator[None]:
    yield
    base._HEADS.pop("centroid", None)


def test_a_head_from_outside_is_fitted_compared_saved_and_loaded(
    squares: Path, export: Path, tmp_path: Path
) -> None:
    register_head(CentroidHead)
    assert "centroid" in list_heads()
    config = ProbeConfig(
        encoder=str(export),
        out=str(tmp_path),
        data=ProbeData(root=str(squares), group_column="scene", folds=2),
        features=FeatureSettings(cache=str(export / "cache")),
        heads=HeadSettings(kinds=["centroid"]),
        baselines=["motion"],
    )
    results = run(config)
    (row,) = (row for row in results["rows"] if row["head"] == "centroid")
    assert row["accuracy"] > 0.3 and {"amount"} == set(row["chosen"][0])
    probe = load_probe(tmp_path / "probe")
    assert probe.metadata["head"] == "centroid"
    assert probe.predict(torch.rand(2, 64, 24)).probability.shape == (2, 3)


def test_a_head_from_outside_serves_arrays_too() -> None:
    register_head(CentroidHead)
    x = np.random.default_rng(0).normal(size=(60, 4)) + 3 * np.eye(3, 4)[np.arange(60) % 3]
    results, _ = jepa.probes.fit(x, [str(i % 3) for i in range(60)], heads=["centroid"])
    assert results.accuracy > 0.8


def test_a_name_is_taken_once_and_an_unknown_one_is_refused() -> None:
    class Linear(CentroidHead):
        name = "linear"

    with pytest.raises(UserError, match="a head 'linear' already"):
        register_head(Linear)
    with pytest.raises(UserError, match="no head 'forest'; there are linear, attentive"):
        get_head("forest")
