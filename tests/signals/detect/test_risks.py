"""Risks: labels that a policy groups or marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jepa.signals.detect.detector import DetectorSet
from jepa.signals.detect.risks import risks_of
from jepa.signals.policy import read_policy


def heads_of(detector: Any) -> tuple[Any, Any]:
    now, ahead = detector.metadata.heads
    return now, ahead


def test_groups_add_disjoint_classes_and_take_the_likeliest_tag(detector: Any, policy_file: Path) -> None:
    policy_file.write_text(
        policy_file.read_text().replace("rules:", "groups: {vivid: [red, bright]}\nrules:")
    )
    policy = read_policy(policy_file)
    risks = risks_of(policy, DetectorSet([detector]))
    assert [signal.label for signal in risks.signals] == ["vivid"]
    observed = np.array([[0.25, 0.5], [0.1, 0.0]])
    assert risks.probabilities(observed).tolist() == [[0.75], [0.1]]
    now, ahead = heads_of(detector)
    tags = type(detector)(now.model_copy(update={"task": "describe"}), ahead)
    assert risks_of(policy, DetectorSet([tags])).probabilities(observed).tolist() == [[0.5], [0.1]]
    assert [head.groups for head in risks.detectors[0].heads] == [{"vivid": ["red", "bright"]}, {}]


def test_a_group_confirms_a_forecast_of_its_name(
    detector: Any, document_of: Any, policy_file: Path, video: Path, tmp_path: Path
) -> None:
    """One head forecasts "danger", the other observes "red": the policy joins them."""
    policy_file.write_text(
        policy_file.read_text()
        .replace("red: {iab: I4GWl6, risk: true}", "danger: {iab: I4GWl6}")
        .replace("category: red", "category: danger")
        .replace("rules:", "groups: {danger: [red]}\nrules:")
    )
    now, ahead = heads_of(detector)
    danger = ahead.model_copy(update={"labels": ["danger"], "base_rates": {}})
    document = document_of(video, tmp_path / "out", [type(detector)(now, danger)])
    assert [item.resolution.status for item in document.anticipated] == ["confirmed", "refuted", "expired"]
    assert document.run.heads[0].groups == {"danger": ["red"]}
    assert {item.base_rate for item in document.anticipated} == {None}
