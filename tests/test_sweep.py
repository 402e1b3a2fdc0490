"""Sweeps: every combination is a checked job with a folder of its own, whatever launches it."""

import pytest

from jepa.cli import main


@pytest.fixture
def videos(video_folder, tmp_path):
    folder = tmp_path / "videos, two"
    folder.mkdir()
    for name in ("00.mp4", "01.mp4"):
        (folder / name).symlink_to(video_folder / name)
    return folder


def sweep(videos, tmp_path, *more):
    return main(["doctor", "-m", f"data.root={videos}", "workers=1", f"out={tmp_path / 'scan.jsonl'}", *more])


def written(tmp_path):
    return sorted(path.name for path in tmp_path.glob("*.jsonl"))


def test_every_combination_runs_with_an_out_of_its_own(videos, tmp_path, capsys):
    assert sweep(videos, tmp_path, "full=true,false", "limits.max_decode_s=30,60") == 0
    assert written(tmp_path) == sorted(
        f"scan-full={full},limits.max_decode_s={seconds}.jsonl"
        for full in ("true", "false")
        for seconds in (30, 60)
    )
    assert "4 of 4 jobs done" in capsys.readouterr().err


@pytest.mark.slow
def test_joblib_runs_the_jobs_side_by_side(videos, tmp_path):
    pytest.importorskip("joblib")
    assert sweep(videos, tmp_path, "full=true,false", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2") == 0
    assert len(written(tmp_path)) == 2


@pytest.mark.slow
def test_submitit_runs_the_jobs_on_this_machine(videos, tmp_path):
    pytest.importorskip("submitit")
    keys = ["hydra/launcher=submitit_local", f"hydra.launcher.submitit_folder={tmp_path}/logs"]
    assert sweep(videos, tmp_path, "full=true,false", *keys, "hydra.launcher.timeout_min=5") == 0
    assert len(written(tmp_path)) == 2


def test_a_sweep_over_files_is_written_as_a_choice(videos, tmp_path, capsys):
    keys = ["out=o", "data.root=choice(a,b)", "--cfg", "job"]
    assert main(["pretrain", "-m", *keys, "train.seed=range(0,2)"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "out=o/data.root=b,train.seed=1" in lines[-1]


def test_a_job_that_fails_leaves_the_others_and_is_named(videos, tmp_path, capsys):
    assert (
        main(
            ["doctor", "-m", "workers=1", f"out={tmp_path}/s.jsonl", f"data.root=choice('{videos}',/no/such)"]
        )
        == 2
    )
    err = capsys.readouterr().err
    assert "1 of 2 jobs done" in err
    assert "failed: data.root=/no/such" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.lr=1,2"], "Did you mean optim.lr"),
        (["optim.lr=1,high"], "optim.lr"),
        (["optim.lr=1,1"], "sweep each value once"),
        (["model.name=glob(*)"], "list the values"),
        (["hydra/launcher=ray"], "submitit_slurm"),
        (["hydra.sweep.dir=x"], "not supported"),
        (["optim.lr=1,2", "hydra.launcher.n_jobs=2"], "no options"),
    ],
)
def test_mistakes_are_refused_before_the_first_job(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "-m", "data.root=v", "out=o", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
