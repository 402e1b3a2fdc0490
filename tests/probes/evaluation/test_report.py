"""The page: nothing from the network, nothing unescaped, and the metrics of results.json on it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa.data.manifest import Item
from jepa.probes.evaluation.metrics import classification_report
from jepa.probes.evaluation.report import write_report
from jepa.probes.tasks.classify import most_wrong

EVIL = "<script>alert(1)</script>&\"'"


@pytest.fixture
def results() -> dict[str, Any]:
    probability = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
    metrics = classification_report(probability, np.array([0, 1, 1, 0]), ["a", "a", "b", EVIL])
    rows = [
        {"features": name, "head": head, "interval": [0.3, 0.7], "std_seeds": 0.01, "ece": 0.1, **metrics}
        for name, head in (("majority", "-"), (EVIL, "ridge"), ("encoder", "linear"))
    ]
    points = [{"at": at, "accuracy": at, "interval": [at - 0.1, at]} for at in (0.5, 1.0)]
    lines = [
        {"features": name, "head": "x", "unit": "fraction", "points": points} for name in (EVIL, "encoder")
    ]
    wrong = {
        "name": EVIL,
        "start_s": None,
        "group": EVIL,
        "label": EVIL,
        "predicted": "left",
        "probability": 0.9,
    }
    return {
        "schema": "jepa.probe.results/2",
        "created": "2026-01-01",
        "classes": [EVIL, "left"],
        "data": {"name": EVIL, "groups": 3, "sha256": "0" * 64, "labels_sha256": "1" * 64},
        "encoder": {"name": EVIL, "sha256": "2" * 64},
        "folds": [{"name": EVIL, "test": 4, "missing_classes": [EVIL]}],
        "rows": rows,
        "comparison": {
            "head": "linear",
            "against": {EVIL: {"difference": -0.1, "interval": [-0.2, -0.05], "head": "ridge", "accuracy": 0.5}},
        },
        "protocols": {"early": lines, "robustness": [{**line, "perturbation": EVIL} for line in lines]},
        "wrong": [{**wrong, "label_probability": 0.1}],
        "abstention": [{"level": 0.9, "coverage": 0.88, "mean_size": 1.5, "answered": 0.0, "accuracy_answered": None}],
        "excluded": [{"name": EVIL, "stage": "open", "reason": EVIL}],
    }  # fmt: skip


def test_page_is_escaped_loads_nothing_and_runs_one_script(results: dict[str, Any], tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", results, [Item(str(tmp_path / "gone.mp4"), EVIL, EVIL, EVIL)])
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    stamp = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{stamp}'" in page and "default-src 'none'" in page
    assert not re.search(r"(?:src|href|url\()\s*=?[\"']?(?:https?:|//)", page)
    assert "no frame could be read" in page  # the clip vanished since, and the page says so
    assert page.count("<polyline") == 4 and "0.500" in page


def test_page_shows_a_frame_of_a_wrong_clip(results: dict[str, Any], squares: Path, tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", results, [Item(str(squares / "clips/00.mp4"), EVIL, EVIL, EVIL)])
    assert (tmp_path / "r.html").read_text(encoding="utf-8").count("data:image/jpeg;base64,/9j/") == 1


def test_most_wrong_clips_come_first_and_right_ones_never() -> None:
    samples = [Item("x", f"{i}.mp4", "l", "g") for i in range(4)]
    p = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8]]).numpy()
    wrong = most_wrong(p, np.array([1, 1, 1, 0]), samples, ["a", "b"])
    assert [w["name"] for w in wrong] == ["1.mp4", "3.mp4", "0.mp4"]
    assert wrong[0]["label"] == "b" and wrong[0]["predicted"] == "a"
