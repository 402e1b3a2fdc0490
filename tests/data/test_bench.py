"""The benchmark measures something and says on what."""

from __future__ import annotations

import pytest

from jepa.data.bench import DecodeBenchConfig, measure
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
    with pytest.raises(UserError, match="not a copy"):
        measure(DecodeBenchConfig(data=str(library), reference=str(tmp_path)))
    with pytest.raises(UserError, match="at least 16 clips"):
        measure(DecodeBenchConfig(data=str(library), clips=15, batch_size=8))
