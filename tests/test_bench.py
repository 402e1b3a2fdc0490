"""`jepa bench` measures what it says, on the real code paths."""

from __future__ import annotations

import json
import time

import pytest

from jepa.bench import BenchConfig, _StepTimer, make_videos, run
from jepa.cli import main
from jepa.data.manifest import RootConfig
from jepa.data.shards import ShardConfig
from jepa.data.shards import run as make_shards
from jepa.errors import UserError

TINY = [
    "model.name=vit_nano", "model.patch_px=16", "data.num_frames=2", "data.crop_px=32", "data.workers=0",
    "train.batch_size=2", "model.predictor_depth=1", "model.predictor_dim=32", "model.predictor_heads=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    make_videos(folder, 3, seconds=1, size=(96, 64))
    return folder


def written(path):
    result = json.loads(path.read_text())
    assert result["machine"]["cores"] >= 1 and "torch" in result["machine"]["versions"]
    return result["result"]


@pytest.mark.parametrize("micro_steps", [1, 2])
def test_training_is_timed_step_by_step(videos, tmp_path, capsys, micro_steps):
    out = tmp_path / "train.json"
    settings = [*TINY, f"train.micro_batch={2 // micro_steps}"]
    run(BenchConfig("train", RootConfig(str(videos)), str(out), repeats=1, steps=4, settings=settings))
    (row,) = written(out)["repetitions"]
    assert row["clips_per_s"] == pytest.approx(2 * row["steps_per_s"]) and 0 < row["waiting_fraction"] < 1
    assert written(out)["pretrain"]["train"]["steps"] == 3 + 4
    assert "waiting for data" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["train.json"]  # no run folder


def test_waiting_for_data_and_working_are_separate():
    def slow(seconds):
        for number in range(8):
            time.sleep(seconds)
            yield number

    def fraction(load_s, work_s):
        timer = _StepTimer()
        for _ in timer.watch(slow(load_s)):
            time.sleep(work_s)
        return timer.summary(0, 8)[1]

    assert fraction(0.02, 0.001) > 0.75
    assert fraction(0, 0.02) < 0.25


def test_decoding_and_probing(videos, tmp_path):
    out = tmp_path / "x.json"
    run(
        BenchConfig(
            "decode", RootConfig(str(videos)), str(out), repeats=1, workers=0, clips=4, batch_size=2, num_frames=2,
            crop_px=16, markdown=str(tmp_path / "x.md"),
        )
    )  # fmt: skip
    assert written(out)["loaders"][0]["clips_per_s"][0] > 0 and (tmp_path / "x.md").exists()
    run(
        BenchConfig(
            "probe", RootConfig(str(videos)), str(out), repeats=1, model="vit_nano", heads=3, batch_size=2, device="cpu"
        )
    )  # fmt: skip
    found = written(out)
    assert found["videos"] == 3 and all(
        found[k][0] > 0 for k in ("videos_per_s", "model_clips_per_s", "heads_per_s")
    )


def test_probing_reads_shards_too(videos, tmp_path):
    shards = make_shards(ShardConfig(data=RootConfig(str(videos)), out=str(tmp_path / "shards")))
    out = tmp_path / "x.json"
    settings = dict(repeats=1, model="vit_nano", heads=1, batch_size=2, device="cpu")
    run(BenchConfig("probe", RootConfig(str(shards)), str(out), **settings))
    assert written(out)["videos"] == 3


def test_signals_report_what_the_pipeline_timed(tmp_path, monkeypatch):
    from jepa.signals import command as pipeline

    def process(config):
        assert config.video == "v" and config.probes == "p" and config.encoder is None
        return {
            "real_time_factor": 0.5, "stage_fractions": {"decode": 0.6, "encode": 0.4}, "video_s": 10.0, "wall_s": 5.0,
            "counts": {"done": 1},
        }  # fmt: skip

    monkeypatch.setattr(pipeline, "run", process)
    out = tmp_path / "s.json"
    run(BenchConfig("signals", RootConfig("v"), str(out), repeats=2, probes="p", policy="c"))
    assert [row["real_time_factor"] for row in written(out)["repetitions"]] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"what": "all"}, "not one of train"), ({"what": "signals"}, "needs data"), ({"steps": 0}, "steps=0")],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        BenchConfig(**changes)


def test_every_key_is_documented():
    from jepa.config import describe_keys

    assert all(meaning for _, _, meaning in describe_keys(BenchConfig))


def test_the_recipe_is_the_one_of_the_run_that_is_timed(capsys):
    assert main(["bench", "what=train", "recipe=small", "--cfg", "job"]) == 0
    assert "recipe: small" in capsys.readouterr().out
