import subprocess
import sys

import pytest
import yaml

from jepa.cli import main
from jepa.config import COMMANDS, config_class, describe_keys


def run(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretrian"], ["pretrian", "Did you mean 'pretrain'"]),
        (["pretrain", "data.rooot=x", "out=y"], ["data.rooot", "Did you mean data.root"]),
        (["pretrain", "out=y"], ["data.root=DIR"]),
        (["pretrain", "data.root=x", "out=y", "data.crop_px=wide"], ["data.crop_px", "'wide'"]),
        (["pretrain", "data.root=x", "out=y", "train.steps=1.5"], ["train.steps", "1.5"]),
        (["pretrain", "data.root=x", "out=y", "recipe=none_such"], ["none_such", "recipes are"]),
        (["pretrain", "data.root=x", "out=y", "masks.0.kind=tubes"], ["tubes", "blocks"]),
        (["pretrain", "data.root=/no/such/folder", "out=y"], ["/no/such/folder", "does not exist"]),
        (["pretrain", "out"], ["'out'", "key=value"]),
        (["pretrain", "data.root=x", "out=y", "train.precision=fp16"], ["train.precision", "'fp16'"]),
        (["pretrain", "data.root=x", "out=y", "train.save_every=0"], ["train.save_every=0"]),
        (["pretrain", "data.root=x", "out=y", "masks=[]"], ["masks is empty"]),
        (["pretrain", "--cfg", "hydra"], ["--cfg job"]),
        (["export", "run=/no/such/run", "out=y"], ["/no/such/run", "no checkpoint"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) and "=" in value[-1] else None,
)
def test_mistakes_end_with_2_and_one_paragraph(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("jepa: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_shows_no_traceback_in_a_real_process():
    result = subprocess.run(
        [sys.executable, "-m", "jepa.cli", "pretrain", "data.rooot=x"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_the_resulting_configuration_can_be_printed(capsys):
    code, out, _ = run(capsys, "pretrain", "data.root=videos", "out=runs/a", "train.steps=7", "--cfg", "job")
    assert code == 0
    assert "steps: 7" in out
    assert "root: videos" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_key_of_every_command_is_explained(capsys, name):
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    for key, _, meaning in describe_keys(config_class(COMMANDS[name])):
        assert key in out
        assert len(meaning) >= 10, f"{name} {key} has no doc line"


def test_a_key_named_like_a_folder_of_configs_is_still_a_key(capsys):
    keys = ["video=a.mp4", "probes=p", "policy=configs/policy/toy-brand.yaml", "out=o"]
    code, out, err = run(capsys, "signals", *keys, "--cfg", "job")
    assert code == 0, err
    assert "policy: configs/policy/toy-brand.yaml" in out


def test_the_demo_recipe_is_found_and_applied(capsys):
    code, out, _ = run(
        capsys, "pretrain", "recipe=demo", "data.root=x", "out=o", "train.steps=3", "--cfg", "job"
    )
    assert code == 0
    assert "kind: temporal" in out
    assert "steps: 3" in out


def test_several_runs_may_be_named_one_by_one(capsys):
    code, out, _ = run(capsys, "report", "run=a", "out=page.html", "run=b", "--cfg", "job")
    assert code == 0
    assert yaml.safe_load(out)["run"] == ["a", "b"]


def test_the_overview_names_every_command(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    for name in COMMANDS:
        assert name in out


def test_a_command_that_takes_one_file_refuses_a_second_one(capsys):
    """A shell turns *.mp4 into many words, of which the last would win in silence."""
    code, out, err = run(capsys, "signals", "a.mp4", "b.mp4", "--cfg", "job")
    assert code == 2 and not out
    assert "takes one video, and 'b.mp4' is a second one" in err


def test_signals_needs_a_video_and_nothing_else(capsys):
    code, out, _ = run(capsys, "signals", "my ${clip}, (1).mp4", "--cfg", "job")
    assert code == 0
    assert "video: my \\${clip}, (1).mp4" in out and "policy: general" in out and "- installed" in out
