"""The benchmark measures something and says on what."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from jepa.data.bench import DecodeBenchConfig, _ours, measure
from jepa.errors import UserError


def test_a_small_benchmark(library, tmp_path, capsys):
    config = DecodeBenchConfig(
        data=str(library), num_frames=2, crop_px=16, workers=0, batch_size=2, clips=6, repeats=2,
        out=str(tmp_path / "b.md"),
    )  # fmt: skip
    measure(config)
    text = (tmp_path / "b.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| jepa")]
    assert (
        [r[0] for r in rows[:2]] == ["jepa", "jepa, pyav"] and float(rows[0][1]) > 0 and float(rows[1][1]) > 0
    )
    assert "CPU cores" in text and "torch " in text
    assert "jepa, pyav" in capsys.readouterr().out
    with pytest.raises(UserError, match="at least 16 clips"):
        measure(DecodeBenchConfig(data=str(library), clips=15, batch_size=8))


def test_another_loader_takes_turns_with_ours(library, tmp_path):
    def again(items, config):
        return _ours(items, config)

    config = DecodeBenchConfig(
        data=str(library), num_frames=2, crop_px=16, workers=0, batch_size=2, clips=4, repeats=1
    )
    assert [row["name"] for row in measure(config, {"again": again})["loaders"]] == ["jepa", "again"]


def test_the_published_loader_wants_a_copy_of_its_repository(tmp_path):
    spec = importlib.util.spec_from_file_location(
        "decode", Path(__file__).parents[2] / "benchmarks/decode.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(UserError, match="not a copy"):
        module.published(str(tmp_path))
