from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import jepa.data
from jepa.errors import UserError
from jepa.models import load_encoder
from jepa.probes import ProbeConfig, load_probe, run
from jepa.probes.config import FeatureSettings, HeadSettings, ProbeData
from jepa.probes.tasks.base import get_task

from ..conftest import tiny_encoder


def config(squares: Path, export: Path, out: Path, **data: Any) -> ProbeConfig:
    return ProbeConfig(
        encoder=str(export),
        out=str(out),
        data=ProbeData(root=str(squares), **{"group_column": "scene", "folds": 3, **data}),
        features=FeatureSettings(cache=str(export / "cache")),
        heads=HeadSettings(steps=60, lrs=[0.03], weight_decays=[0.01, 1.0]),
    )


@pytest.fixture(scope="module")
def done(
    squares: Path, export: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("probe")
    return out, run(config(squares, export, out))


def row(results: dict[str, Any], features: str, head: str) -> dict[str, Any]:
    return next(r for r in results["rows"] if (r["features"], r["head"]) == (features, head))


def test_table_has_every_baseline_and_motion_solves_a_motion_task(done: tuple[Path, dict[str, Any]]) -> None:
    _, results = done
    assert {r["features"] for r in results["rows"]} == {
        "majority", "one frame", "motion", "random init", "encoder",
    }  # fmt: skip
    assert {r["head"] for r in results["rows"] if r["features"] == "encoder"} == {
        "linear", "attentive", "ridge", "knn",
    }  # fmt: skip
    assert row(results, "majority", "-")["accuracy"] <= 0.4
    assert row(results, "motion", "ridge")["accuracy"] > 0.7
    assert row(results, "one frame", "ridge")["accuracy"] < row(results, "motion", "ridge")["accuracy"]
    for r in results["rows"]:
        low, high = r["interval"]
        assert low <= r["accuracy"] <= high
        assert sum(map(sum, r["confusion"])) == 36


def test_results_file_is_the_returned_value(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))


def test_the_same_config_gives_the_same_metrics(
    done: tuple[Path, dict[str, Any]], squares: Path, export: Path, tmp_path: Path
) -> None:
    again = run(config(squares, export, tmp_path))
    assert again["decoded_videos"] == 0
    assert [r["accuracy"] for r in again["rows"]] == [r["accuracy"] for r in done[1]["rows"]]


def test_saved_probe_gives_calibrated_scores_for_live_video(
    done: tuple[Path, dict[str, Any]], squares: Path, export: Path
) -> None:
    encoder = load_encoder(export)
    probe = load_probe(done[0] / "probe", encoder)
    assert probe.task == "classify" and probe.classes == ("left", "rest", "right")
    assert probe.metadata["encoder"]["name"] == "tiny" and probe.metadata["data"]["videos"] == 36
    assert probe.metadata["calibration"]["videos"] > 0 and len(probe.weights_sha256) == 64
    right = 0
    for number in range(36):
        with jepa.data.open_video(squares / f"clips/{number:02d}.mp4") as reader:
            times = [i / probe.window.fps for i in range(probe.window.num_frames)]
            video = encoder.preprocess(reader.frames_at(times).data)[None]
        p = probe.predict(encoder(video)).probability
        torch.testing.assert_close(p.sum(-1), torch.ones(1))
        right += probe.classes[int(p.argmax())] == ("left", "right", "rest")[number % 3]
    assert right > 20  # trained on most of these: live tokens reach the head the way cached ones did


def test_another_encoder_or_window_is_refused(done: tuple[Path, dict[str, Any]]) -> None:
    folder = done[0] / "probe"
    with pytest.raises(UserError, match="trained on the encoder 'tiny'"):
        load_probe(folder, tiny_encoder(seed=1))
    with pytest.raises(UserError, match="windows of 64 tokens"):
        load_probe(folder).predict(torch.zeros(1, 32, 24))


def test_absent_or_damaged_probe(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no probe"):
        load_probe(tmp_path)
    shutil.copytree(done[0] / "probe", tmp_path / "p")
    weights = tmp_path / "p" / "probe.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(UserError, match="damaged"):
        load_probe(tmp_path / "p")


def with_labels(squares: Path, folder: Path, rows: list[tuple[str, ...]]) -> Path:
    shutil.copytree(squares / "clips", folder / "clips")
    with open(folder / "labels.csv", "w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    return folder


def test_shuffled_labels_give_chance(squares: Path, export: Path, tmp_path: Path) -> None:
    with open(squares / "labels.csv") as handle:
        head, *rows = [tuple(r) for r in csv.reader(handle)]
    accuracies = []
    for seed in range(3):
        labels = [r[1] for r in rows]
        random.Random(seed).shuffle(labels)
        shuffled = [(r[0], label, r[2]) for r, label in zip(rows, labels, strict=True)]
        root = with_labels(squares, tmp_path / str(seed), [head, *shuffled])
        settings = config(root, export, tmp_path / f"out{seed}")
        settings.heads.kinds = ["linear", "ridge"]
        accuracies += [r["accuracy"] for r in run(settings)["rows"]]
    assert sum(accuracies) / len(accuracies) < 0.45


def test_a_class_that_a_fold_cannot_learn_is_named(
    squares: Path, export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(squares / "labels.csv") as handle:
        head, *rows = [tuple(r) for r in csv.reader(handle)]
    rows = [(n, "spin" if g == "g0" and label == "rest" else label, g) for n, label, g in rows]
    root = with_labels(squares, tmp_path / "d", [head, *rows])
    settings = config(root, export, tmp_path / "out", folds=0)
    settings.heads.kinds = ["linear"]
    results = run(settings)
    assert [f["missing_classes"] for f in results["folds"] if f["missing_classes"]] == [["spin"]]
    assert "no training sample of spin" in capsys.readouterr().out
    confusion = row(results, "encoder", "linear")["confusion"]
    assert confusion[results["classes"].index("spin")][results["classes"].index("spin")] == 0


def test_the_same_video_under_two_names_is_a_leak(squares: Path, export: Path, tmp_path: Path) -> None:
    with open(squares / "labels.csv") as handle:
        head, *rows = [tuple(r) for r in csv.reader(handle)]
    root = with_labels(squares, tmp_path / "d", [head, *rows])
    shutil.copy(root / "clips/00.mp4", root / "clips/30.mp4")
    with pytest.raises(UserError, match="copied video"):
        run(config(root, export, tmp_path / "out", folds=0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"task": "clasify"}, "clasify"),
        ({"baselines": ["motions"]}, "motions"),
        ({"encoder": "/nowhere"}, "/nowhere"),
        ({"seeds": []}, "seeds"),
    ],
)
def test_mistakes_in_the_config(
    squares: Path, export: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    settings = config(squares, export, tmp_path)
    for key, value in change.items():
        setattr(settings, key, value)
    with pytest.raises(UserError, match=says):
        run(settings)


def test_a_split_column_that_leaks_a_group_is_caught(squares: Path, export: Path, tmp_path: Path) -> None:
    with open(squares / "labels.csv") as handle:
        head, *rows = [tuple(r) for r in csv.reader(handle)]
    split = [(*row, "test" if i % 6 == 5 else "train") for i, row in enumerate(rows)]  # within every scene
    root = with_labels(squares, tmp_path / "d", [(*head, "split"), *split])
    with pytest.raises(UserError, match=r"The split leaks: 6 group\(s\)"):
        run(config(root, export, tmp_path / "out", folds=None))


def test_a_label_with_a_typo_stops_the_run_before_anything_is_decoded(
    squares: Path, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(squares / "labels.csv") as handle:
        head, *rows = [tuple(r) for r in csv.reader(handle)]
    rows[4] = (rows[4][0], "rigth", rows[4][2])
    root = with_labels(squares, tmp_path / "d", [head, *rows])
    monkeypatch.setattr(jepa.data, "open_video", lambda *_: pytest.fail("a video was opened"))
    with pytest.raises(UserError, match=r"'rigth' of 'clips/04\.mp4' occurs once and looks like 'right'"):
        run(config(root, export, tmp_path / "out"))


def test_an_unreadable_video_is_left_out_counted_and_named(
    squares: Path, export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(squares / "labels.csv") as handle:
        root = with_labels(squares, tmp_path / "d", [tuple(r) for r in csv.reader(handle)])
    (root / "clips/07.mp4").write_bytes(b"no video")
    settings = config(root, export, tmp_path / "out")
    settings.heads.kinds, settings.baselines = ["ridge"], []
    results = run(settings)
    assert [bad["name"] for bad in results["excluded"]] == ["clips/07.mp4"]
    assert sum(fold["test"] for fold in results["folds"]) == 35 == results["data"]["videos"]
    assert "left out 1 unreadable video(s), first clips/07.mp4" in capsys.readouterr().out
    assert "clips/07.mp4" in (tmp_path / "out/report.html").read_text()


def test_isotonic_probe_conformal_sets_and_int8_features(squares: Path, export: Path, tmp_path: Path) -> None:
    settings = config(squares, export, tmp_path)
    settings.heads.kinds, settings.baselines = ["linear"], []
    settings.calibration, settings.conformal, settings.features.int8 = "isotonic", [0.8], True
    results = run(settings)
    assert 0 < results["int8_error"] < 0.01
    (entry,) = results["abstention"]
    assert entry["level"] == 0.8 and 0.4 < entry["coverage"] <= 1
    encoder = load_encoder(export)
    probe = load_probe(tmp_path / "probe", encoder)
    card = probe.metadata["calibration"]
    assert card["method"] == "isotonic"
    tested = probe.metadata["tested_on"]["videos"]
    assert 0 < card["videos"] < probe.metadata["trained_on"]["videos"] == 36 - card["videos"] - tested
    assert card["set_sha256"] != probe.metadata["trained_on"]["sha256"]
    p = probe.predict(encoder(torch.rand(2, 3, 8, 32, 32))).probability
    torch.testing.assert_close(p.sum(-1), torch.ones(2))


def test_heads_on_other_layers_are_tested_but_not_saved(
    squares: Path, export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(squares, export, tmp_path)
    settings.heads.kinds, settings.baselines, settings.features.layers = ["linear"], [], [0]
    assert row(run(settings), "encoder", "linear")["accuracy"] > 0.4
    assert "No probe is saved" in capsys.readouterr().out
    assert not (tmp_path / "probe").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"conformal": [0.8]}, "conformal has no effect"),
        ({"features": FeatureSettings(layers=[0])}, r"features\.layers has no effect"),
        ({"features": FeatureSettings(clips=2)}, r"features\.clips has no effect"),
        ({"image_model": "efficientnet_lite0"}, "image_model has no effect"),
        ({"calibration": "isotonic"}, "calibration has no effect"),
    ],
)
def test_settings_of_one_task_are_refused_by_the_others(change: dict[str, Any], says: str) -> None:
    settings = ProbeConfig(task="anticipate", encoder="e", out="o", **change)
    with pytest.raises(UserError, match=says):
        get_task("anticipate")(settings).check()


def test_a_class_to_detect_has_its_own_table_with_the_head_that_each_fold_chooses(
    squares: Path, export: Path, tmp_path: Path
) -> None:
    settings = config(squares, export, tmp_path)
    settings.data.positive, settings.data.folds, settings.seeds = "left", 3, [0]
    settings.heads.kinds, settings.baselines = ["ridge", "change_ridge"], ["motion"]
    results = run(settings)
    assert results["detection"]["positive"] == "left"
    rows = {(r["features"], r["head"]): r for r in results["detection"]["rows"]}
    assert set(rows) == {
        ("majority", "-"), ("motion", "ridge"), ("encoder", "ridge"), ("encoder", "change_ridge"),
        ("encoder", "best in validation"),
    }  # fmt: skip
    for r in rows.values():
        assert r["prevalence"] == pytest.approx(1 / 3)
        low, high = r["auc_interval"]
        assert 0 <= low <= r["auc"] <= high <= 1
    assert rows["motion", "ridge"]["auc"] > rows["majority", "-"]["auc"]
    assert load_probe(tmp_path / "probe").metadata["head"] in ("ridge", "change_ridge")
    settings.data.positive = "up"
    with pytest.raises(UserError, match=r"data.positive='up' is not a label .* left, rest, right"):
        run(settings)
