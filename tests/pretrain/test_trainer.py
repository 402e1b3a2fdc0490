import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from jepa.errors import UserError
from jepa.pretrain import trainer
from jepa.pretrain.checkpoint import load_checkpoint, newest_checkpoint
from jepa.pretrain.export import ExportConfig
from jepa.pretrain.export import run as export
from tests.pretrain.conftest import TINY


def final_state(run):
    return newest_checkpoint(Path(run))[0]


def differences(a, b, where=""):
    """Paths of the leaves in which two checkpoints differ by even one bit."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [where]
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return [d for key in a for d in differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, (list, tuple)):
        return [
            d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}.{i}")
        ]
    return [] if a == b else [where]


def losses(run):
    rows = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def test_training_changes_the_encoder_and_the_target_follows_slowly(tiny):
    config = tiny("train.steps=4", "optim.ema=[0.9,0.9]")
    before = trainer.build_learner(config).encoder.state_dict()
    run = trainer.run(config)
    state = final_state(run)
    name = "blocks.0.attn.qkv.weight"
    moved = (state["learner"][f"encoder.{name}"] - before[name]).norm()
    followed = (state["target"][name] - before[name]).norm()
    assert 0 < followed < moved
    assert (run / "config.yaml").exists()
    assert [step for step, _ in losses(run)] == [2, 4]


def test_the_loss_falls_when_one_batch_is_seen_again_and_again(tiny, video_folder, tmp_path):
    (tmp_path / "list.txt").write_text(f"{video_folder / '00.mp4'} 0\n")
    run = trainer.run(
        tiny(
            f"data.root={tmp_path / 'list.txt'}", "train.steps=60", "optim.lr=0.002", "data.scale=[1,1]",
            "data.hflip=0", "objective.predict=pixels", "optim.warmup_steps=5", "train.log_every=10",
        )
    )  # fmt: skip
    first, last = losses(run)[0][1], losses(run)[-1][1]
    assert last < 0.8 * first


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_continued_from_a_checkpoint_ends_bit_identical(tiny, workers):
    whole = trainer.run(tiny(f"data.workers={workers}", out="whole"))
    half = tiny(f"data.workers={workers}", "train.save_every=3", out="parts")
    trainer.run(half)
    # What a kill after step 3 would have left behind.
    for later in sorted((Path(half.out) / "checkpoints").glob("*.pt"))[1:]:
        later.unlink()
    left = sorted((Path(half.out) / "checkpoints").glob("*.pt"))
    assert load_checkpoint(left[-1])["step"] < 8
    trainer.run(half)
    a, b = final_state(whole), final_state(half.out)
    for key in ("step", "learner", "target", "optimizer", "bad_videos"):
        assert differences(a[key], b[key]) == []
    assert losses(whole) == losses(half.out)


def test_workers_do_not_change_the_result(tiny):
    a = final_state(trainer.run(tiny("train.steps=3", out="a")))
    b = final_state(trainer.run(tiny("train.steps=3", "data.workers=2", out="b")))
    assert differences(a["learner"], b["learner"]) == []


def command_line(folder, out, *overrides):
    return [
        sys.executable,
        "-m",
        "jepa.cli",
        "pretrain",
        f"data.root={folder}",
        f"out={out}",
        *TINY,
        *overrides,
    ]


def start(folder, out, *overrides):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command_line(folder, out, *overrides),
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(folder, pattern, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not list(Path(folder).glob(pattern)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_kill_9_loses_at_most_the_steps_since_the_last_checkpoint(video_folder, tmp_path, workers):
    keys = ("train.steps=30", "train.save_every=4", f"data.workers={workers}")
    whole = start(video_folder, tmp_path / "whole", *keys)
    assert whole.wait(120) == 0
    killed = tmp_path / "killed"
    for after in ("step_00000004.pt", "step_00000012.pt", "step_00000020.pt"):
        process = start(video_folder, killed, *keys)
        wait_for(killed, f"checkpoints/{after}", process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = start(video_folder, killed, *keys)
    assert last.wait(120) == 0
    assert "going on after step" in last.stderr.read()
    a, b = final_state(tmp_path / "whole"), final_state(killed)
    for key in ("step", "learner", "target", "optimizer"):
        assert differences(a[key], b[key]) == []
    assert losses(tmp_path / "whole") == losses(killed)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_whole_process_group_saves_and_exits_with_its_code(
    video_folder, tmp_path, number, code
):
    keys = ("train.steps=5000", "train.save_every=5", "data.workers=2")
    process = start(video_folder, tmp_path / "run", *keys)
    wait_for(tmp_path / "run", "checkpoints/*.pt", process)
    os.killpg(process.pid, number)  # as a scheduler or a terminal does
    assert process.wait(60) == code
    report = process.stderr.read()
    step = final_state(tmp_path / "run")["step"]
    assert f"saved after step {step};" in report


def test_a_non_finite_step_touches_no_weight(tiny, monkeypatch):
    config = tiny("train.steps=6", "train.log_every=1")
    real, calls = trainer.make_targets, []

    def poisoned(*args):
        calls.append(1)
        targets = real(*args)
        return targets * float("nan") if len(calls) in (3, 4) else targets

    monkeypatch.setattr(trainer, "make_targets", poisoned)
    run = trainer.run(config)
    state = final_state(run)
    assert all(p.isfinite().all() for p in state["learner"].values())
    assert all(p.isfinite().all() for p in state["target"].values())
    assert state["optimizer"]["state"][0]["step"] == 4
    assert [loss is None for _, loss in losses(run)] == [False, False, True, True, False, False]


def test_a_loss_that_stays_non_finite_stops_the_run_with_its_weights_whole(tiny, monkeypatch):
    monkeypatch.setattr(trainer, "make_targets", lambda c, e, v: torch.full((4, 32, 128), float("inf")))
    config = tiny("train.steps=50", "train.max_skipped=3", "train.save_every=1")
    with pytest.raises(RuntimeError, match="not finite in 4 steps in a row"):
        trainer.run(config)
    saved = final_state(config.out)["learner"]
    assert differences(dict(trainer.build_learner(config).state_dict()), dict(saved)) == []


def test_another_seed_or_another_list_is_another_run(tiny, video_folder, tmp_path):
    trainer.run(tiny("train.steps=3"))
    with pytest.raises(UserError, match=r"train\.seed: 0 -> 1"):
        trainer.run(tiny("train.steps=3", "train.seed=1"))
    (tmp_path / "list.txt").write_text(f"{video_folder / '00.mp4'} 0\n")
    with pytest.raises(UserError, match="another list of videos"):
        trainer.run(tiny("train.steps=3", f"data.root={tmp_path / 'list.txt'}"))


def test_more_steps_go_on_from_the_end(tiny):
    trainer.run(tiny("train.steps=3"))
    assert final_state(trainer.run(tiny("train.steps=5")))["step"] == 5


def test_a_broken_newest_checkpoint_is_passed_over_and_named(tiny, capsys):
    run = trainer.run(tiny())
    newest = sorted((run / "checkpoints").glob("*.pt"))[-1]
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    expected = final_state(trainer.run(tiny(out="other")))
    trainer.run(tiny())
    assert newest.name in capsys.readouterr().err
    assert differences(expected["learner"], final_state(run)["learner"]) == []


def test_unreadable_videos_are_replaced_counted_and_named(tiny, video_folder, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in sorted(video_folder.glob("*.mp4"))[:6]:
        (mixed / path.name).symlink_to(path)
    (mixed / "broken.mp4").write_bytes(b"not a video")
    keys = (f"data.root={mixed}", "train.steps=8", "data.max_bad_share=0.5")
    run = trainer.run(tiny(*keys))
    assert final_state(run)["bad_videos"]["bad"] >= 3
    assert capsys.readouterr().err.count("broken.mp4") == 1
    strict = tiny(*keys, "data.max_bad_share=0.01", "train.steps=30", out="strict")
    with pytest.raises(RuntimeError, match="max_bad_share"):
        trainer.run(strict)


def test_the_clip_must_divide_into_tokens(tiny):
    with pytest.raises(UserError, match=r"data\.crop_px=30 .* Use data\.crop_px=32"):
        trainer.run(tiny("data.crop_px=30"))
    with pytest.raises(UserError, match=r"data\.num_frames=5"):
        trainer.run(tiny("data.num_frames=5"))


def test_many_processes_are_refused_rather_than_repeated(tiny, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="one process"):
        trainer.run(tiny())


def test_building_a_model_leaves_the_callers_random_state_alone(tiny):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer.build_learner(tiny())
    assert torch.equal(torch.rand(3), expected)


def test_an_export_loads_and_gives_the_targets_features(tiny, tmp_path):
    import jepa

    config = tiny("train.steps=3", "optim.ema=[0.5,0.5]")
    run = trainer.run(config)
    clip = torch.randn(1, 3, 4, 32, 32)
    state = final_state(run)
    for weights in ("target", "context"):
        folder = export(ExportConfig(str(run), str(tmp_path / weights), weights=weights))
        encoder = jepa.load_encoder(folder)
        assert encoder.preprocessing.num_frames == 4
        assert encoder.preprocessing.crop_px == 32
        assert encoder.about["steps"] == 3
        learner = trainer.build_learner(config)
        learner.load_state_dict(state["learner"])
        if weights == "target":
            learner.encoder.load_state_dict(state["target"])
        assert torch.equal(encoder(clip), learner.encoder(clip))


def test_an_export_for_transformers_gives_the_same_features(tiny, tmp_path):
    transformers = pytest.importorskip("transformers")
    import jepa
    import jepa.models.hf_auto  # registers the model class

    run = trainer.run(tiny("train.steps=2"))
    native = jepa.load_encoder(export(ExportConfig(str(run), str(tmp_path / "native"))))
    folder = export(ExportConfig(str(run), str(tmp_path / "hf"), format="hf"))
    theirs = transformers.AutoModel.from_pretrained(folder)
    clip = torch.randn(1, 3, 4, 32, 32)
    outputs = theirs(clip.transpose(1, 2))
    assert torch.allclose(outputs.last_hidden_state, native(clip), atol=1e-6)


def test_nothing_to_export_is_said(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        export(ExportConfig(str(tmp_path), str(tmp_path / "out")))
