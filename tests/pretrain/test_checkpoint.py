"""Checkpoints: written whole or not at all, refused when damaged or when they would run code."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jepa.errors import UserError
from jepa.pretrain import checkpoint
from jepa.pretrain.checkpoint import (
    CheckpointWriter,
    checkpoint_path,
    load_tensors,
    newest_checkpoint,
    read_tensors,
)
from jepa.pretrain.distributed import DistContext
from tests.pretrain.conftest import checkpoints

ALONE = DistContext(torch.device("cpu"))


def save(run, step, tensors=None, keep=2):
    with CheckpointWriter(run, keep, ALONE) as saver:
        saver.save(step, tensors or {"weights": torch.randn(5000)}, {"skipped": 0})
    return checkpoint_path(run, step)


def test_a_path_as_python_3_13_pickles_it_is_read_and_others_of_its_module_are_not():
    # Protocol 0 names the class in plain text, module and name on a line each.
    path = b"cpathlib._local\nPosixPath\n(S'a'\ntR."
    assert checkpoint._IndexUnpickler(io.BytesIO(path)).load() == Path("a")
    with pytest.raises(UserError, match=r"pathlib\.os"):
        checkpoint._IndexUnpickler(io.BytesIO(b"cpathlib._local\nos\n.")).load()


def test_what_is_saved_is_read_back(tmp_path):
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.tensor(2.5),
        "c": torch.arange(3),
        "d": torch.ones(2).bfloat16(),
    }
    path = save(tmp_path, 7, tensors)
    found, saved_values, problems = newest_checkpoint(tmp_path)
    assert (found, saved_values["step"], saved_values["skipped"], problems) == (path, 7, 0, [])
    back = read_tensors(path)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert read_tensors(path, "a").keys() == {""}


def test_a_save_holds_the_state_at_the_call(tmp_path):
    """It is written behind the next steps, which change the weights in place."""
    weights = torch.zeros(2_000_000)
    with CheckpointWriter(tmp_path, 2, ALONE) as saver:
        saver.save(1, {"weights": weights}, {})
        weights += 1
    assert read_tensors(checkpoint_path(tmp_path, 1))["weights"].sum() == 0


def test_only_the_newest_stay_and_a_damaged_later_one_does_not_count(tmp_path):
    for step in (1, 2, 10):
        save(tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000002", "step_00000010"]
    (checkpoints(tmp_path)[-1] / ".metadata").write_bytes(b"")
    save(tmp_path, 3, keep=1)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000003", "step_00000010"]
    assert newest_checkpoint(tmp_path)[1]["step"] == 3
    save(tmp_path, 10)
    assert newest_checkpoint(tmp_path)[1]["step"] == 10


def test_what_a_kill_leaves_behind_is_no_checkpoint_and_goes_away(tmp_path):
    save(tmp_path, 1)
    leftover = tmp_path / "checkpoints" / ".step_00000002.partial"
    leftover.mkdir()
    (leftover / "__0_0.distcp").write_bytes(b"half")
    assert newest_checkpoint(tmp_path)[1]["step"] == 1
    save(tmp_path, 3)
    assert not leftover.exists()


def test_when_no_checkpoint_is_complete_the_run_does_not_start_over_silently(tmp_path):
    path = save(tmp_path, 5)
    file = path / "__0_0.distcp"
    content = file.read_bytes()
    middle = len(content) // 2
    for damage, words in (
        (b"PK", "has 2 bytes instead of"),
        (content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], "fails its checksum"),
        (None, "is missing"),
    ):
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage)
        with pytest.raises(UserError, match=f"step_00000005.*{words}"):
            newest_checkpoint(tmp_path)


def test_a_run_of_the_time_of_single_files_is_named(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save({"step": 3}, tmp_path / "checkpoints" / "step_00000003.pt")
    with pytest.raises(UserError, match=r"step_00000003\.pt was saved by an earlier version"):
        newest_checkpoint(tmp_path)


def test_tensors_have_to_fit_both_ways(tmp_path):
    path = save(tmp_path, 1, {"a": torch.ones(2), "b": torch.ones(3)})
    for into, words in (
        ({"a": torch.zeros(2)}, "unexpected b"),
        ({"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)}, "missing c"),
        ({"a": torch.zeros(2), "b": torch.zeros(4)}, "other shape: b"),
    ):
        with pytest.raises(UserError, match=words):
            load_tensors(path, into)


class Payload:
    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_an_index_with_code_is_refused(tmp_path):
    path = save(tmp_path, 1)
    (path / ".metadata").write_bytes(pickle.dumps(Payload(tmp_path / "owned")))
    with pytest.raises(UserError, match="refused"):
        read_tensors(path)
    assert not (tmp_path / "owned").exists()


def test_an_object_among_the_tensors_is_refused(tmp_path):
    """DCP would unpickle it, whatever it is."""
    path = save(tmp_path, 1, {"weights": torch.ones(2), "object": "words"})
    with pytest.raises(UserError, match="object is not a tensor"):
        read_tensors(path)
    with pytest.raises(UserError, match="object is not a tensor"):
        load_tensors(path, {"weights": torch.ones(2), "object": torch.ones(1)})


def test_a_full_disk_leaves_the_old_checkpoint_complete_and_names_it(tmp_path):
    """A real limit on file size stands in for a full disk: the write fails half-way."""
    save(tmp_path, 1, {"weights": torch.ones(10)})
    program = (
        "import resource, signal, sys, torch, pathlib\n"
        "from jepa.pretrain.checkpoint import CheckpointWriter\n"
        "from jepa.pretrain.distributed import DistContext\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try:\n"
        "    with CheckpointWriter(pathlib.Path(sys.argv[1]), 1, DistContext(torch.device('cpu'))) as saver:\n"
        "        saver.save(2, {'weights': torch.randn(1_000_000)}, {})\n"
        "except RuntimeError as error:\n    print(error)\n    sys.exit(7)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 7, result.stderr
    assert "File too large" in result.stdout
    assert "The last good one is step_00000001" in result.stdout
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000001"]
    assert newest_checkpoint(tmp_path)[1]["step"] == 1


def test_another_format_is_named(tmp_path):
    path = save(tmp_path, 1)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"format": checkpoint.FORMAT + 1}))
    with pytest.raises(UserError, match="has format 2"):
        checkpoint.read_values(path)
