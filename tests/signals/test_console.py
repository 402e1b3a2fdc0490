"""The short result on stdout."""

from __future__ import annotations

from typing import Any

from jepa.signals.console import closing, findings_of, result_lines
from jepa.signals.document.hash_chain import read_document


def test_a_video_is_told_in_a_few_lines(run_command: Any, video: Any, tmp_path: Any, capsys: Any) -> None:
    summary = run_command([video], tmp_path / "out", causal=False)
    (path,) = (tmp_path / "out").glob("*/signals.json")
    found = findings_of(read_document(path))
    assert found["risks"]["red"] > 0.5 and found["looked_for"] == ["red"]
    assert sum(found["breaks"].values()) >= len(found["allowed_ms"]) > 0
    lines = result_lines(summary["rows"][0], path.with_name("report.html"))
    assert capsys.readouterr().out.splitlines()[: len(lines)][0].startswith("story.mp4: ")
    assert [line.split()[0] for line in lines[1:]][-1] == "page" and str(path.parent) in lines[-1]
    assert any(line.startswith("  risks       red 0.") for line in lines)
    assert closing(summary, tmp_path)[0] == "1 video: 1 done."


def test_a_failure_and_an_empty_run_are_told_too(tmp_path: Any) -> None:
    row = {"path": "/films/a.mp4", "status": "failed", "stage": "open", "reason": "no such file"}
    assert result_lines(row, tmp_path) == ["a.mp4: failed (open): no such file"]
    summary = {"videos": 2, "counts": {"failed": 2}, "real_time_factor": None}
    assert closing(summary, tmp_path) == ["2 videos: 2 failed."]
