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


def in_a_process(arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "jepa", *arguments], capture_output=True, text=True, check=False, **options
    )


def test_a_typo_is_refused_and_help_printed_without_importing_torch():
    program = (
        "import sys\nfrom jepa.cli import main\n"
        "codes = [main(['pretrain', 'optim.lrr=1']), main(['signals', '--help']), main(['probe', 'tsk=1'])]\n"
        "print(codes, sorted({'torch', 'numpy', 'pydantic', 'hydra'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[2, 0, 2] []"
    assert "Did you mean optim.lr?" in result.stderr
    assert "Did you mean task?" in result.stderr


def test_a_reader_that_stops_early_is_no_error():
    command = f"{sys.executable} -m jepa signals --help | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("usage: jepa signals [VIDEO] key=value")
    assert result.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_whose_keys_exist(capsys, name):
    example = COMMANDS[name].example.split()
    assert example[:2] == ["jepa", name]
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    assert f"example: {COMMANDS[name].example}" in out
    code, _, err = run(capsys, *example[1:], "--cfg", "job")
    assert code == 0, err


def test_modules_of_ones_own_are_imported_first(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_extras.py").write_text("print('imported')\n")
    keys = ["pretrain", "data.root=x", "out=y", "--cfg", "job"]
    code, out, _ = run(capsys, *keys, "modules=[my_extras]")
    assert code == 0
    assert out.startswith("imported\n")
    code, _, err = run(capsys, *keys, "modules=[my_extas]")
    assert code == 2
    assert "there is no module 'my_extas'" in err


def test_a_missing_part_is_named_before_any_work(capsys, monkeypatch):
    from jepa import cli

    monkeypatch.setattr(cli, "_is_installed", lambda module: module != "pymunk")
    code, out, err = run(capsys, "toyworld", "out=world")
    assert (code, out) == (2, "")
    assert "`jepa toyworld` needs pymunk, which is not installed (extra toyworld): pip install" in err
    assert run(capsys, "toyworld", "--help")[0] == 0


def test_quiet_and_verbose_choose_what_of_the_log_is_shown(capsys, monkeypatch):
    import logging

    import jepa.doctor

    def chatty(config):
        logging.getLogger("jepa.somewhere").info("a detail")
        logging.getLogger("jepa.somewhere").warning("a warning")

    monkeypatch.setattr(jepa.doctor, "run", chatty)
    assert run(capsys, "doctor")[2] == "jepa: a warning\n"
    assert run(capsys, "doctor", "-q")[2] == ""
    assert run(capsys, "doctor", "-v")[2] == "jepa: a detail\njepa: a warning\n"
    assert logging.getLogger("jepa").handlers == []


def test_the_module_runs_as_the_command_does():
    result = in_a_process(["--version"])
    assert result.stdout.startswith("jepa ")


def test_completion_offers_commands_keys_and_recipes(capsys):
    assert run(capsys, "--complete", "pret")[1] == "pretrain\n"
    assert run(capsys, "--complete", "pretrain", "optim.lr")[1] == "optim.lr=\n"
    assert "recipe=small\n" in run(capsys, "--complete", "pretrain", "recipe=")[1]
    assert run(capsys, "--complete", "pretrain", "data.root=vid")[1] == "\n"
    for shell in ("bash", "zsh", "fish"):
        assert "jepa --complete" in run(capsys, "--completion", shell)[1]
    assert run(capsys, "--completion", "tcsh")[0] == 2


def test_bash_completes(tmp_path):
    (tmp_path / "jepa").write_text(f'#!/bin/sh\nexec {sys.executable} -m jepa "$@"\n')
    (tmp_path / "jepa").chmod(0o755)
    program = (
        f'PATH={tmp_path}:$PATH; eval "$(jepa --completion bash)"\n'
        "COMP_LINE='jepa pretrain train.ste'; COMP_POINT=${#COMP_LINE}; _jepa 2>/dev/null; echo \"${COMPREPLY[@]}\"\n"
        "COMP_LINE='jepa toy'; COMP_POINT=${#COMP_LINE}; _jepa; echo \"${COMPREPLY[@]}\"\n"
    )
    result = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["train.steps=", "toyworld"]
