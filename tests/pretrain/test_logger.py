"""Where the numbers of a run go: Weights & Biases is used when configured, and never asked for."""

import pytest
import torch

from jepa.errors import UserError
from jepa.pretrain import Trainer
from jepa.pretrain.logger import Logger, WandbConfig


@pytest.fixture
def no_account(monkeypatch, tmp_path):
    """A home folder without a login, so that wandb finds no key."""
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "NETRC"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_no_account_is_one_sentence_and_no_traceback(no_account):
    with pytest.raises(UserError, match=r"has no account here.*wandb login.*wandb\.mode=offline"):
        Logger(no_account, 10, 0, WandbConfig(project="p"), {})


@pytest.mark.parametrize(
    ("variable", "key"), [("disabled", None), (None, "disabled"), ("online", "disabled")]
)
def test_the_mode_comes_from_the_key_else_from_the_environment(no_account, monkeypatch, variable, key):
    """Disabled needs no account; with `online` the logger would refuse."""
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    with Logger(no_account, 10, 0, WandbConfig(project="p", mode=key), {}) as logger:
        logger.log(1, {"loss": 0.5}, clips_per_step=4)
    assert (no_account / "metrics.jsonl").read_text().count("\n") == 1


def test_without_a_project_nothing_is_started(no_account):
    with Logger(no_account, 10, 0, WandbConfig(), {}) as logger:
        logger.log(1, {"loss": float("nan")}, clips_per_step=4)
    assert '"loss": null' in (no_account / "metrics.jsonl").read_text()


def test_a_run_from_python_without_a_folder_prints_its_loss(tiny, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny("train.steps=2", "train.log_every=1")
    config.out, clips = "", [torch.zeros(4, 3, 32, 32, dtype=torch.uint8)] * 4
    Trainer(config, dataset=clips).fit()
    said = capsys.readouterr().err
    assert "starting: vit_nano" in said and "step 2  loss " in said
    assert list(tmp_path.glob("**/metrics.jsonl")) == []
