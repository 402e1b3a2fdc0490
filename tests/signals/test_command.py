"""The command: one folder per video, finished ones skipped, failures counted and the rest done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa.errors import UserError
from jepa.signals import Detector, analysis, command, verify_command
from jepa.signals.document.hash_chain import read_document


def change(path: Path, where: list[str], value: Any) -> None:
    raw = json.loads(path.read_text())
    raw[where[0]][where[1]] = value
    path.write_text(json.dumps(raw))


def test_one_bad_file_does_not_stop_the_rest(
    detector: Any, run_command: Any, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video")
    summary = run_command([bad, video], tmp_path / "many")
    assert summary["counts"] == {"failed": 1, "done": 1}
    assert sum(summary["reasons"].values()) == 1
    assert summary["rows"][0]["stage"] in ("open", "probe")
    said = capsys.readouterr()
    assert "bad.mp4: failed (" in said.out and "2 videos: 1 failed, 1 done." in said.err
    before = detector.windows
    again = run_command([bad, video], tmp_path / "many")
    assert again["counts"] == {"failed": 1, "skipped": 1} and detector.windows == before


def test_a_second_start_redoes_what_changed(
    run_command: Any, policy_file: Path, video: Path, tmp_path: Path
) -> None:
    out = tmp_path / "twice"
    run_command([video], out)
    first = next(out.glob("*/signals.json")).read_bytes()
    policy_file.write_text(policy_file.read_text().replace("at_least: 0.6", "at_least: 0.95"))
    assert run_command([video], out)["counts"] == {"done": 1}
    second = next(out.glob("*/signals.json"))
    assert second.read_bytes() != first
    policy_file.write_text(policy_file.read_text().replace("at_least: 0.95", "at_least: 0.6"))
    assert run_command([video], out)["counts"] == {"done": 1}
    assert second.read_bytes() == first  # the same inputs give the same bytes
    change(second, ["asset", "name"], "x")
    assert run_command([video], out)["counts"] == {"done": 1}
    assert second.read_bytes() == first


def test_any_failure_of_one_video_is_its_own_and_its_traceback_is_kept(
    detector: Any, run_command: Any, make_video: Callable[..., Path], video: Path, tmp_path: Path
) -> None:
    """A fault in a detector, or in anything else, ends one video and not the batch."""

    class Breaks(type(detector)):  # type: ignore[misc]
        def score(self, clips: Any) -> Any:
            if clips[0].max() > 0.99:  # only the odd video is this white
                raise ZeroDivisionError("by nothing")
            return super().score(clips)

    odd = make_video("odd.mp4", [(255, 255, 255)] * 12)
    summary = run_command([odd, video], tmp_path / "out", [Breaks()])
    assert summary["counts"] == {"failed": 1, "done": 1}
    assert summary["rows"][0]["stage"] == "internal"
    assert summary["rows"][0]["reason"].startswith("ZeroDivisionError: by nothing")
    log = (tmp_path / "out/failures.log").read_text()
    assert "odd.mp4" in log and "Traceback" in log and "in score" in log


def test_each_file_is_hashed_once(
    run_command: Any, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    real = command.sha256_file
    for module in (command, analysis):
        monkeypatch.setattr(module, "sha256_file", lambda path: hashed.append(path) or real(path))
    run_command([video], tmp_path / "out")
    run_command([video], tmp_path / "out")
    assert hashed == [video, video]  # once per start


@pytest.mark.parametrize("name", [b"caf\xe9.mp4", b"two\nlines.mp4", b"50% & more#1.mp4"])
def test_videos_with_any_name_are_processed_and_found_again(
    detector: Any, run_command: Any, make_video: Callable[..., Path], tmp_path: Path, name: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    odd = tmp_path / os.fsdecode(name)
    make_video("plain.mp4", [(20, 20, 20)] * 8 + [(220, 20, 20)] * 8).rename(odd)
    (row,) = run_command([odd], tmp_path / "out")["rows"]
    assert row["path"].isprintable() and row["uri"].startswith("file:///")
    document = read_document(tmp_path / "out" / row["id"] / "signals.json")
    assert document.asset.name.isprintable()
    monkeypatch.setattr("jepa.signals.detect.registry._BUILDERS", {"colours": lambda *_: detector})
    (found,) = verify_command.run(verify_command.VerifyConfig(str(tmp_path / "out")))["findings"].values()
    assert found.sound and found.replayed > 0


def test_videos_of_a_folder_are_found_through_links_and_without_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in (
        "in/b.mp4",
        "in/deep/a.MKV",
        "in/deep/._a.mkv",
        "in/notes.txt",
        "in/still.png",
        "elsewhere/c.webm",
    ):
        (tmp_path / name).touch()
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/deep/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/labels.csv").write_text(
        "path,label\nb.mp4,x\n"
    )  # a label list does not narrow the folder
    found = command.find_videos(tmp_path / "in")
    assert [path.relative_to(tmp_path / "in").as_posix() for path in found] == [
        "b.mp4",
        "deep/a.MKV",
        "link/c.webm",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no video; looked for names that end in .*\.mp4"):
        command.find_videos(tmp_path / "empty")
    (tmp_path / "empty/a.png").touch()
    with pytest.raises(UserError, match="no video file"):
        command.find_videos(tmp_path / "empty")


def test_verifying_a_folder_in_which_every_video_failed_tells_so(run_command: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video")
    run_command([bad], tmp_path / "out")
    with pytest.raises(
        UserError, match=r"holds no document, because all 1 videos failed: .*nothing to verify"
    ):
        verify_command.run(verify_command.VerifyConfig(str(tmp_path / "out")))


def test_a_run_with_a_failure_raises_at_the_end_with_the_count(video: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    video.rename(folder / "good.mp4")
    (folder / "bad.mp4").write_bytes(b"not a video")
    with pytest.raises(
        command.VideosFailed, match="1 of 2 videos could not be processed: invalid data"
    ) as info:
        command.run(command.SignalsConfig(video=str(folder), detectors=[]))
    assert info.value.summary["counts"] == {"failed": 1, "done": 1}
    assert len(list((tmp_path / "in.signals").glob("good-*/signals.json"))) == 1


def test_a_video_alone_is_enough(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without any detector there are shots and breaks, nothing is called safe, and the document verifies."""
    monkeypatch.chdir(tmp_path)
    command.run(command.SignalsConfig(video=video.name, detectors=[]))
    said = capsys.readouterr()
    assert "not assessed: no detector looks for any" in said.out and "No detector runs" in said.err
    (path,) = (tmp_path / "story.signals").glob("story-*/signals.json")
    document = read_document(path)
    assert len(document.timeline.shots) > 1 and document.ads.breaks
    assert {item.verdict for item in document.ads.breaks} <= {"review", "skip"}
    assert {item.policy for item in document.decisions} == {"general"}
    (found,) = verify_command.run(verify_command.VerifyConfig("story.signals"))["findings"].values()
    assert found.sound


def test_results_lie_beside_the_video_and_are_named_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my clips.v2").mkdir()
    monkeypatch.chdir(tmp_path / "my clips.v2")
    assert command.folder_for("a.b.mp4") == tmp_path / "my clips.v2/a.b.signals"
    assert command.folder_for(".") == tmp_path / "my clips.v2.signals"
    assert command.folder_for("../my clips.v2/") == tmp_path / "my clips.v2.signals"
    with pytest.raises(UserError, match=r"Say out=DIR"):
        command.folder_for("/")


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_decoded(
    video: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*Say out=DIR"):
        command.run(command.SignalsConfig(video=str(video), detectors=[], out=str(tmp_path / "file/out")))


def test_a_registered_detector_runs_from_the_command_line(
    detector: Any, policy_file: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Detector] = []
    monkeypatch.setattr(
        "jepa.signals.detect.registry._BUILDERS", {"colours": lambda *_: built.append(detector) or detector}
    )
    config = command.SignalsConfig(
        video=str(video), policy=str(policy_file), out=str(tmp_path / "out"), detectors=["colours"]
    )
    assert command.run(config)["counts"] == {"done": 1}
    verify_command.run(verify_command.VerifyConfig(str(tmp_path / "out")))
    assert built == [detector, detector]
