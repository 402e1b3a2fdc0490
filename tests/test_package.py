"""Importing is polite (law 5), and every file is written whole or not at all (law 4)."""

import pickle
import subprocess
import sys

import pytest

import jepa
from jepa.errors import UserError, VideoError
from jepa.files import atomic_path, sha256_file, write_json


def in_a_new_process(program):
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_jepa_imports_nothing_heavy():
    loaded = in_a_new_process("import sys, jepa; print(sorted({m.split('.')[0] for m in sys.modules}))")
    for heavy in ("torch", "numpy", "hydra", "wandb", "av", "matplotlib"):
        assert f"'{heavy}'" not in loaded


def test_importing_changes_no_global_state():
    program = (
        "import os, logging, random, multiprocessing, numpy, torch\n"
        "def state(): return (dict(os.environ), list(logging.root.handlers), logging.root.level, random.getstate(), "
        "numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads(), "
        "multiprocessing.get_start_method(allow_none=True))\n"
        "before = state()\n"
        "import jepa, jepa.models, jepa.data, jepa.masking\n"
        "print(state() == before)"
    )
    assert in_a_new_process(program) == "True"


def test_every_public_name_resolves_and_wrong_ones_say_so():
    for name in ("create_model", "list_models", "load_encoder", "open_video", "UserError", "VideoError"):
        assert getattr(jepa, name) is not None
        assert name in dir(jepa)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = jepa.no_such_thing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    before = sha256_file(path)
    with pytest.raises(RuntimeError), atomic_path(path) as partial:
        partial.write_text("half")
        raise RuntimeError("killed")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert sha256_file(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_a_partial_file_keeps_the_ending_by_which_writers_choose_a_format(tmp_path):
    with atomic_path(tmp_path / "clip.mp4") as partial:
        assert partial.suffix == ".mp4"
        partial.write_bytes(b"x")


def test_errors_cross_process_borders():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "decode", "it is cut short")))
    assert (error.path, error.stage, error.reason) == ("a.mp4", "decode", "it is cut short")
    assert "a.mp4" in str(error)
    assert issubclass(UserError, ValueError)
