"""Every change to a document is named, and forecasts come out the same from a file that ends where they
looked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest

from jepa.errors import UserError, VideoError
from jepa.signals import analyse as pipeline
from jepa.signals import verify
from jepa.signals.document.hash_chain import CHAIN_FILE, chain_faults, read_document, seal
from jepa.signals.policy import read_policy


def process(scorer: Any, policy_file: Path, videos: list[Path], out: Path, **more: Any) -> dict[str, Any]:
    config = pipeline.SignalsConfig(
        video=str(videos[0]), probes="none", policy=str(policy_file), out=str(out), stride_ms=100, **more
    )
    return pipeline.process(config, videos, read_policy(policy_file), scorer)


@pytest.fixture
def finished(scorer: Any, policy_file: Path, video: Path, tmp_path: Path) -> Path:
    process(scorer, policy_file, [video], tmp_path / "out")
    return next((tmp_path / "out").glob("*/signals.json"))


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, scorer: Any) -> Any:
    monkeypatch.setattr("jepa.signals.detect.probes.ProbeScorer", lambda *_: scorer)

    def run(path: Path, **more: Any) -> dict[str, Any]:
        return verify.run(verify.VerifyConfig(path=str(path), **more))

    return run


def change(path: Path, where: list[Any], value: Any) -> None:
    raw = json.loads(path.read_text())
    spot = raw
    for step in where[:-1]:
        spot = spot[step]
    spot[where[-1]] = value
    path.write_text(json.dumps(raw))


def test_untouched_documents_replay(check: Any, finished: Path) -> None:
    (found,) = check(finished.parent.parent, every=True)["findings"]
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
    with pytest.raises(verify.Unverified):
        check(finished, replay=False)
    assert named in capsys.readouterr().out


def test_removed_and_added_objects_are_named(finished: Path) -> None:
    raw = json.loads(finished.read_text())
    gone = raw["anticipated"].pop(1)
    assert any(gone["id"] in fault for fault in chain_faults(raw))
    raw["anticipated"].insert(1, gone)
    assert chain_faults(raw) == []
    raw["evidence"].append(raw["evidence"][0] | {"id": "e99"})
    assert any("evidence e99 is not in the log" in fault for fault in chain_faults(raw))


def test_resealed_lies_meet_policy_video_and_chain_file(
    check: Any, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Someone who recomputes the chain still has to explain the scores, the frames and chain.jsonl."""
    raw = json.loads(finished.read_text())
    raw["evidence"][0]["frame_sha256"] = "0" * 64
    raw["tracks"]["observed"][0]["p"][5] = 0.123
    del raw["log"]
    finished.write_text(json.dumps(seal(raw).model_dump(mode="json", by_alias=True)))
    with pytest.raises(verify.Unverified):
        check(finished.parent.parent, every=True)
    out = capsys.readouterr().out
    assert "evidence e1: frame" in out and "the document says 0.123" in out and "sealed anew" in out


def test_resealed_decision_is_caught_by_the_policy(
    check: Any, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = json.loads(finished.read_text())
    place = next(item for item in raw["ads"]["breaks"] if item["verdict"] == "hold")
    decision = next(item for item in raw["decisions"] if item["id"] == place["decision"])
    place["verdict"] = decision["action"] = "allow"
    del raw["log"]
    finished.write_text(json.dumps(seal(raw).model_dump(mode="json", by_alias=True)))
    with pytest.raises(verify.Unverified):
        check(finished, replay=False)
    assert f"decision {decision['id']}: action is 'allow'" in capsys.readouterr().out


def test_a_changed_chain_line_is_named(
    check: Any, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = finished.parent.parent / CHAIN_FILE
    chain.write_text(chain.read_text().replace('"seq": 1', '"seq": 2'))
    with pytest.raises(verify.Unverified):
        check(finished.parent.parent, replay=False)
    assert "chain.jsonl line 1" in capsys.readouterr().out


def test_another_policy_or_video_is_refused(check: Any, finished: Path, tmp_path: Path, video: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text((tmp_path / "policy.yaml").read_text().replace("at_least: 0.6", "at_least: 0.7"))
    with pytest.raises(verify.Unverified):
        check(finished, replay=False, policy=str(other))
    video.write_bytes(video.read_bytes() + b"\0")
    with pytest.raises(verify.Unverified):
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
def test_a_file_cut_after_the_last_seen_frame_gives_the_same_forecast(
    scorer: Any, policy_file: Path, video: Path, finished: Path, tmp_path: Path, number: int
) -> None:
    whole = read_document(finished).anticipated[number]
    short = truncate(video, tmp_path / "short.mp4", whole.last_frame + 1)
    process(scorer, policy_file, [short], tmp_path / "short")
    document = read_document(next((tmp_path / "short").glob("*/signals.json")))
    assert document.asset.frames == whole.last_frame + 1
    again = document.anticipated[number]
    for key in ("label", "issued_at_ms", "context_ms", "last_frame", "curve", "base_rate"):
        assert getattr(again, key) == getattr(whole, key)
    assert again.resolution.status == "expired"


def test_replay_never_asks_for_a_later_frame(
    check: Any, finished: Path, monkeypatch: pytest.MonkeyPatch, scorer: Any
) -> None:
    """The scorer is called for a forecast while the reader still stands at the last frame that it saw."""
    asked: list[int] = []
    seen_at: list[int] = []
    opened = verify.open_video

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
                    asked.append(index)
                    yield item

        return Counting()

    score = scorer.score
    monkeypatch.setattr(verify, "open_video", counting)
    monkeypatch.setattr(scorer, "score", lambda clips: seen_at.append(asked[-1]) or score(clips))
    check(finished)
    document = read_document(finished)
    wanted = [item.last_frame for item in document.anticipated]
    assert set(wanted) <= set(seen_at)
    assert max(asked) == max([*wanted, *(item.frame for item in document.evidence), *seen_at])


def test_one_bad_file_does_not_stop_the_rest(
    scorer: Any, policy_file: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video")
    summary = process(scorer, policy_file, [bad, video], tmp_path / "many")
    assert summary["counts"] == {"failed": 1, "done": 1}
    assert sum(summary["reasons"].values()) == 1
    assert summary["rows"][0]["stage"] in ("open", "probe")
    assert "failed (" in capsys.readouterr().out
    before = scorer.windows
    again = process(scorer, policy_file, [bad, video], tmp_path / "many")
    assert again["counts"] == {"failed": 1, "skipped": 1} and scorer.windows == before
    with pytest.raises(VideoError, match="no video of 1"):
        process(scorer, policy_file, [bad], tmp_path / "many")


def test_a_second_start_redoes_what_changed(
    scorer: Any, policy_file: Path, video: Path, tmp_path: Path
) -> None:
    out = tmp_path / "twice"
    process(scorer, policy_file, [video], out)
    first = next(out.glob("*/signals.json")).read_bytes()
    policy_file.write_text(policy_file.read_text().replace("at_least: 0.6", "at_least: 0.95"))
    assert process(scorer, policy_file, [video], out)["counts"] == {"done": 1}
    second = next(out.glob("*/signals.json"))
    assert second.read_bytes() != first
    policy_file.write_text(policy_file.read_text().replace("at_least: 0.95", "at_least: 0.6"))
    assert process(scorer, policy_file, [video], out)["counts"] == {"done": 1}
    assert second.read_bytes() == first  # the same inputs give the same bytes
    change(second, ["asset", "name"], "x")
    assert process(scorer, policy_file, [video], out)["counts"] == {"done": 1}
    assert second.read_bytes() == first


@pytest.mark.parametrize("fps", [10, 12, 25, 30])
def test_a_video_shorter_than_a_window_replays(
    check: Any, scorer: Any, policy_file: Path, make_video: Any, tmp_path: Path, fps: int
) -> None:
    """Frame rates whose last frame ends between two milliseconds, which a document cannot keep."""
    for frames in (1, 2, 3):
        video = make_video(f"v{fps}-{frames}.mp4", [(220, 220, 20)] * frames, fps=fps)
        process(scorer, policy_file, [video], tmp_path / f"out{frames}")
        (found,) = check(tmp_path / f"out{frames}", every=True)["findings"]
        assert found.replayed >= 1 and found.difference == 0
