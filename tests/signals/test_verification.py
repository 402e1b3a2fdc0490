"""Every change to a document is named, and forecasts come out the same from a file that ends where they
looked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest

from jepa.errors import UserError
from jepa.signals import verification, verify_command
from jepa.signals.document.hash_chain import CHAIN_FILE, read_document, seal


@pytest.fixture
def finished(folder_of: Any, video: Path, tmp_path: Path) -> Path:
    return folder_of(video, tmp_path / "out") / "signals.json"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, detector: Any) -> Any:
    """`jepa verify`, with the colour detector where the document names its kind."""
    monkeypatch.setattr("jepa.signals.detect.registry._BUILDERS", {"colours": lambda *_: detector})

    def run(path: Path, **more: Any) -> dict[str, Any]:
        return verify_command.run(verify_command.VerifyConfig(path=str(path), **more))

    return run


def change(path: Path, where: list[Any], value: Any) -> None:
    raw = json.loads(path.read_text())
    spot = raw
    for step in where[:-1]:
        spot = spot[step]
    spot[where[-1]] = value
    path.write_text(json.dumps(raw))


def test_untouched_documents_replay(check: Any, finished: Path) -> None:
    (found,) = check(finished.parent.parent, every=True)["findings"].values()
    document = read_document(finished)
    assert found.forecasts == len(document.anticipated) == 3
    assert found.replayed == len(document.tracks.window_end_ms)
    assert found.frames == len(document.evidence) > 0
    assert found.difference == 0


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        (["observed", 0, "p"], 0.6, "observed o1"),
        (["tracks", "observed", 0, "p", 3], 0.5, "tracks tracks"),
        (["anticipated", 0, "curve", 0, "p"], 0.11, "anticipated a1"),
        (["anticipated", 1, "resolution", "status"], "expired", "resolution a2"),
        (["evidence", 0, "frame_sha256"], "0" * 64, "evidence e1"),
        (["decisions", 4, "action"], "allow", "decision d5"),
        (["ads", "breaks", 0, "score"], 0.9, "break b1"),
        (["asset", "name"], "other.mp4", "asset"),
        (["not_assessed", 0, "why"], "All fine.", "not_assessed"),
        (["log", "entries", 5, "hash"], "1" * 64, "log around entry 6"),
        (["calibrations", 0, "method"], "prayer", "calibration cal"),
    ],
)
def test_one_change_is_named(
    check: Any, finished: Path, where: list[Any], value: Any, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(finished, where, value)
    with pytest.raises(verify_command.Unverified):
        check(finished, replay=False)
    assert named in capsys.readouterr().out


def test_resealed_lies_meet_policy_video_and_chain_file(
    check: Any, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Someone who recomputes the chain still has to explain the scores, the frames and chain.jsonl."""
    raw = json.loads(finished.read_text())
    raw["evidence"][0]["frame_sha256"] = "0" * 64
    raw["tracks"]["observed"][0]["p"][5] = 0.123
    del raw["log"]
    finished.write_text(json.dumps(seal(raw).model_dump(mode="json", by_alias=True)))
    with pytest.raises(verify_command.Unverified):
        check(finished.parent.parent, every=True)
    out = capsys.readouterr().out
    assert "evidence e1: frame" in out and "the document states 0.123" in out and "sealed anew" in out


def test_resealed_decision_is_caught_by_the_policy(
    check: Any, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = json.loads(finished.read_text())
    held = next(item for item in raw["ads"]["breaks"] if item["verdict"] == "hold")
    decision = next(item for item in raw["decisions"] if item["id"] == held["decision"])
    held["verdict"] = decision["action"] = "allow"
    del raw["log"]
    finished.write_text(json.dumps(seal(raw).model_dump(mode="json", by_alias=True)))
    with pytest.raises(verify_command.Unverified):
        check(finished, replay=False)
    assert f"decision {decision['id']}: action is 'allow'" in capsys.readouterr().out


def test_a_changed_chain_line_is_named(
    check: Any, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = finished.parent.parent / CHAIN_FILE
    chain.write_text(chain.read_text().replace('"seq": 1', '"seq": 2'))
    with pytest.raises(verify_command.Unverified):
        check(finished.parent.parent, replay=False)
    assert "chain.jsonl line 1" in capsys.readouterr().out


def test_another_policy_or_video_is_refused(check: Any, finished: Path, tmp_path: Path, video: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text((tmp_path / "policy.yaml").read_text().replace("at_least: 0.6", "at_least: 0.7"))
    with pytest.raises(verify_command.Unverified):
        check(finished, replay=False, policy=str(other))
    video.write_bytes(video.read_bytes() + b"\0")
    with pytest.raises(verify_command.Unverified):
        check(finished)
    with pytest.raises(UserError, match=r"holds no signals\.json"):
        check(tmp_path / "nothing")


def truncate(source: Path, target: Path, frames: int) -> Path:
    """Copies the packets of the first frames, without decoding; `frames` must end a group that shows in
    order."""
    with av.open(str(source)) as one, av.open(str(target), "w") as two:
        stream = one.streams.video[0]
        copy = two.add_stream_from_template(stream)
        limit = (frames - 0.5) / float(stream.average_rate)
        for packet in one.demux(stream):
            if packet.size and packet.pts * packet.time_base < limit:
                packet.stream = copy
                two.mux(packet)
    return target


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_file_cut_after_the_last_observed_frame_gives_the_same_forecast(
    document_of: Any, video: Path, finished: Path, tmp_path: Path, number: int
) -> None:
    whole = read_document(finished).anticipated[number]
    short = truncate(video, tmp_path / "short.mp4", whole.last_frame + 1)
    document = document_of(short, tmp_path / "short")
    assert document.asset.frames == whole.last_frame + 1
    again = document.anticipated[number]
    for key in ("label", "issued_at_ms", "context_ms", "last_frame", "curve", "base_rate"):
        assert getattr(again, key) == getattr(whole, key)
    assert again.resolution.status == "expired"


def test_replay_never_reads_a_later_frame(
    check: Any, finished: Path, monkeypatch: pytest.MonkeyPatch, detector: Any
) -> None:
    """The detector is called for a forecast while the reader still stands at the last frame that it saw."""
    read: list[int] = []
    seen_at: list[int] = []
    opened = verification.open_video

    def counting(path: Any, **more: Any) -> Any:
        reader = opened(path, **more)
        frames = iter(reader)

        class Counting:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: Any) -> None:
                reader.close()

            def __iter__(self) -> Any:
                for index, item in enumerate(frames):
                    read.append(index)
                    yield item

        return Counting()

    score = detector.score
    monkeypatch.setattr(verification, "open_video", counting)
    monkeypatch.setattr(detector, "score", lambda clips: seen_at.append(read[-1]) or score(clips))
    check(finished)
    document = read_document(finished)
    expected = [item.last_frame for item in document.anticipated]
    assert set(expected) <= set(seen_at)
    assert max(read) == max([*expected, *(item.frame for item in document.evidence), *seen_at])


@pytest.mark.parametrize("fps", [10, 12, 25, 30])
def test_a_video_shorter_than_a_window_replays(
    check: Any, folder_of: Any, make_video: Any, tmp_path: Path, fps: int
) -> None:
    """Frame rates whose last frame ends between two milliseconds, which a document cannot keep."""
    for frames in (1, 2, 3):
        video = make_video(f"v{fps}-{frames}.mp4", [(220, 220, 20)] * frames, fps=fps)
        folder_of(video, tmp_path / f"out{frames}")
        (found,) = check(tmp_path / f"out{frames}", every=True)["findings"].values()
        assert found.replayed >= 1 and found.difference == 0


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        (["run", "detectors", 0, "heads", 0, "trained_on"], "a million videos", "head now: its trained_on"),
        (
            ["run", "detectors", 0, "heads", 1, "base_rates", "red"],
            [0.3, 0.3, 0.3],
            "head ahead: its base_rates",
        ),
        (["run", "detectors", 0, "encoder", "name"], "huge", "detector colours: its encoder"),
        (["calibrations", 0, "method"], "prayer", "calibrations are not those"),
    ],
)
def test_resealed_metadata_meets_the_detectors(
    finished: Path, detector: Any, policy_file: Path, video: Path, where: list[Any], value: Any, named: str
) -> None:
    raw = json.loads(finished.read_text())
    spot = raw
    for step in where[:-1]:
        spot = spot[step]
    spot[where[-1]] = value
    del raw["log"]
    found = verification.verify(seal(raw), policy_file, video=video, detectors=detector)
    assert any(named in fault for fault in found.faults)


def test_verify_from_python_returns_what_does_not_fit(
    finished: Path, detector: Any, policy_file: Path, video: Path
) -> None:
    found = verification.verify(finished, policy_file, video=video, detectors=[detector])
    assert found.sound and found.replayed > 0
    alone = verification.verify(read_document(finished), policy_file)
    assert alone.sound and alone.replayed == 0 and alone.entries == found.entries
    with pytest.raises(UserError, match=r"no detector called 'colours' is registered.*package\.module:KIND"):
        verification.verify(finished, policy_file, video=video)
    change(finished, ["asset", "name"], "x")
    assert not verification.verify(finished, policy_file).sound


def test_a_document_of_an_older_version_is_one_fault_with_the_remedy(
    finished: Path, policy_file: Path
) -> None:
    change(finished, ["schema"], "jepa.signals/1")
    (fault,) = verification.verify(finished, policy_file).faults
    assert "Run `jepa signals` again with this version" in fault
