"""One process and many do the same run. The processes are real; they talk over gloo."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from jepa.errors import UserError
from jepa.pretrain import trainer
from jepa.pretrain.distributed import agree_on_start, init_distributed
from tests.pretrain.conftest import (
    PRINCIPAL,
    TINY,
    TWENTY,
    checkpoints,
    differences,
    journal,
    losses,
    saved_values,
    tensors,
)

SIGREG = (
    "objective.target_encoder=none",
    "objective.sigreg.weight=0.1",
    "objective.sigreg.slices=16",
    "train.micro_batch=null",
)


def torchrun(*arguments, restarts=0, **more):
    """Starts two processes that have one thread each."""
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        f"--max-restarts={restarts}", *map(str, arguments),
    ]  # fmt: skip
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=root, **more
    )


@pytest.fixture(scope="module")
def one(video_folder, tmp_path_factory):
    """Trains in this process, in a folder of the module."""
    folder = tmp_path_factory.mktemp("runs")

    def train(name, *keys):
        from jepa.config import COMMANDS, compose_config, config_class, to_dataclass

        keys = [f"data.root={video_folder}", f"out={folder / name}", *TINY, *TWENTY, *keys]
        cls = config_class(COMMANDS["pretrain"])
        return trainer.train(to_dataclass("pretrain", compose_config("pretrain", cls, keys)))

    train.folder = folder
    return train


@pytest.fixture(scope="module")
def two(one, video_folder):
    """The folder of all that two processes did; see ranks.py."""
    run = one("one")
    for strategy in ("ddp", "fsdp"):
        half = one.folder / f"one_then_{strategy}"
        shutil.copytree(run, half)
        shutil.rmtree(checkpoints(half)[-1])
    process = torchrun(Path(__file__).with_name("ranks.py"), video_folder, one.folder)
    _, report = process.communicate(timeout=280)
    assert process.returncode == 0, report
    (one.folder / "report.txt").write_text(report)
    return one.folder


def close(a, b):
    (steps_a, losses_a), (steps_b, losses_b) = (zip(*losses(run), strict=True) for run in (a, b))
    assert steps_a == steps_b
    assert losses_a == pytest.approx(losses_b, rel=1e-6, abs=1e-6)


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_do_the_run_of_one(two, strategy):
    assert len(losses(two / "one")) == 20
    close(two / "one", two / strategy)
    assert saved_values(two / strategy)["processes"] == 2
    assert saved_values(two / strategy)["bad_videos"] == saved_values(two / "one")["bad_videos"]
    # Each process wrote a part, and one of them the journal.
    parts = {path.name for path in checkpoints(two / strategy)[-1].iterdir()}
    assert {"__0_0.distcp", "__1_0.distcp", "state.json"} <= parts


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_with_micro_batches_of_one_size_not_a_bit_differs(two, one, strategy):
    """The same clips meet in a pass, so the same sums are taken in the same order."""
    alone = one(f"{strategy}_alone", "train.micro_batch=2", "train.steps=6")
    assert differences(alone, two / f"{strategy}_passes") == []
    assert losses(alone) == losses(two / f"{strategy}_passes")


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_principal_directions_are_those_of_all_processes(two, one, strategy):
    """What each process saw of the changes is brought together, so a run of one has the same directions to the bit."""
    alone = one(f"{strategy}_principal_alone", "train.micro_batch=2", "train.steps=6", *PRINCIPAL)
    assert tensors(alone)["principal.steps"] == 6
    assert differences(alone, two / f"{strategy}_principal") == []


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_goes_on_with_another_number_of_processes(two, one, strategy):
    close(two / "one", two / f"one_then_{strategy}")
    assert "resuming after step 10: vit_nano" in (two / "report.txt").read_text()
    shutil.copytree(two / strategy, two / f"{strategy}_then_one")
    shutil.rmtree(checkpoints(two / f"{strategy}_then_one")[-1])
    close(two / "one", one(f"{strategy}_then_one"))


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_nan_in_one_process_is_skipped_by_all_and_kept_by_each(two, strategy):
    run = two / f"{strategy}_nan"
    assert [loss is None for _, loss in losses(run)] == [False, False, True, False, False, False]
    state = tensors(run)
    assert all(value.isfinite().all() for value in state.values())
    assert state["optimizer.encoder.norm.weight.step"] == 5
    kept = [torch.load(path, weights_only=True) for path in sorted((run / "nonfinite").iterdir())]
    assert [content["index"][0].tolist() for content in kept] == [[8, 9], [10, 11]]


@pytest.mark.dist
def test_sharding_activation_checkpointing_and_micro_steps_work_together(two, one):
    alone = one("all_alone", "train.steps=6", "objective.target_layers=[0,-1]")
    close(alone, two / "fsdp_all")


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_statistics_of_the_global_batch_are_the_same(two, one, strategy):
    alone = one(f"{strategy}_sigreg_alone", "train.steps=6", *SIGREG)
    close(alone, two / f"{strategy}_sigreg")
    for a, b in zip(journal(alone), journal(two / f"{strategy}_sigreg"), strict=True):
        assert a["sigreg"] == pytest.approx(b["sigreg"], abs=1e-4)


@pytest.mark.dist
def test_gradients_flow_through_a_mean_over_processes(two):
    """Against one process that has all samples: loss is the mean over processes of what each made of the mean."""
    torch.manual_seed(0)
    layer, samples = torch.nn.Linear(3, 2), torch.randn(8, 3)
    mean = layer(samples).mean(0)
    (mean.square().sum() + 1.5 * mean.sum()).backward()
    parts = torch.load(two / "parts.pt", weights_only=True)
    for name, parameter in layer.named_parameters():
        assert torch.allclose(parts["average"][name], parameter.grad, atol=1e-6)
    assert parts["seen"] == [0, 1]
    assert parts["norm"] == pytest.approx(6.0)
    assert torch.allclose(parts["clipped"], torch.full((2, 2), 0.5))


def wait_for(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers(process):
    """Process numbers of what torchrun started, in order of rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {}
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
        rank = [row.removeprefix("RANK=") for row in environment if row.startswith("RANK=")]
        if rank:
            ranks[int(rank[0])] = int(child)
    return [ranks[rank] for rank in sorted(ranks)]


def command(videos, out, *keys):
    return [
        "-m",
        "jepa.cli",
        "pretrain",
        f"data.root={videos}",
        f"out={out}",
        *TINY,
        "train.timeout_s=60",
        *keys,
    ]


@pytest.mark.dist
@pytest.mark.slow
def test_a_rank_that_dies_brings_the_run_back(video_folder, tmp_path):
    keys = ("train.steps=80", "train.save_every=4", "train.strategy=fsdp")
    killed = torchrun(*command(video_folder, tmp_path / "killed", *keys), restarts=1)
    wait_for(lambda: len(checkpoints(tmp_path / "killed")) > 1, killed)
    os.kill(workers(killed)[1], signal.SIGKILL)
    _, report = killed.communicate(timeout=300)
    assert killed.returncode == 0, report
    assert "resuming after step" in report
    whole = torchrun(*command(video_folder, tmp_path / "whole", *keys))
    assert whole.wait(300) == 0
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


def test_a_new_start_does_not_take_up_what_an_earlier_one_left_behind():
    """torchrun's store outlives the processes: each start agrees on a name of its own, whoever comes first."""
    store, names = torch.distributed.HashStore(), []
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        with ThreadPoolExecutor(3) as pool:
            starts = []
            for rank in order:
                starts.append(pool.submit(agree_on_start, store, rank, 3, 20.0))
                time.sleep(0.1)
            answers = {start.result() for start in starts}
        assert len(answers) == 1
        names += answers
    assert len(set(names)) == 3
    with pytest.raises(RuntimeError, match=r"process 0 did not answer within 0\.1 s"):
        agree_on_start(store, 1, 3, 0.1)


@pytest.mark.dist
@pytest.mark.slow
def test_a_signal_to_one_process_saves_all_of_them(video_folder, tmp_path):
    """A scheduler may reach one process only; all leave after the same step, with code 143."""
    process = torchrun(*command(video_folder, tmp_path / "run", "train.steps=5000", "train.save_every=5"))
    wait_for(lambda: checkpoints(tmp_path / "run"), process)
    os.kill(workers(process)[1], signal.SIGTERM)
    _, report = process.communicate(timeout=300)
    assert re.search(r"exitcode\s*: 143", report), report
    assert f"saved after step {saved_values(tmp_path / 'run')['step']};" in report


def test_without_announcement_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with init_distributed("cpu", 1) as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with init_distributed("cpu", 1) as world:
        assert world.size == 1


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "4"}, "lacks RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "many"}, "'many' is not a number"),
        ({"WORLD_SIZE": "0"}, "'0' is not a number"),
        ({"TORCHELASTIC_RUN_ID": "x"}, "WORLD_SIZE is missing"),
        ({"SLURM_STEP_NUM_TASKS": "8"}, "srun started 8 tasks"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"},
            "no process group came about",
        ),
    ],
)
def test_announced_processes_that_cannot_meet_are_an_error(tiny, monkeypatch, variables, words):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        trainer.train(tiny("train.timeout_s=1"))


def test_devices_that_are_not_there_are_named(tiny):
    with pytest.raises(UserError, match="not a device"), init_distributed("abacus", 1):
        pass
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="PyTorch sees none"), init_distributed("cuda", 1):
            pass
