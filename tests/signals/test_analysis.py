"""From Python: a video in, a document out; detectors of any kind side by side; nothing written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import jepa.signals
from jepa.errors import VideoError
from jepa.signals import (
    Analyser,
    ClipMetadata,
    Detector,
    DetectorMetadata,
    HeadMetadata,
    WindowScores,
    analyse,
    read_policy,
    register_detector,
    verify,
)

NOTEBOOK_CELL = """
import jepa.signals
document = jepa.signals.analyse(video, detector, policy, stride_ms=100)
for item in document.ads.breaks:
    print(item.at_ms, item.verdict, item.score)
"""


class Brightness(Detector):
    """Mean grey level of the last frame: no probe, no encoder, no calibration."""

    metadata = DetectorMetadata(
        id="brightness",
        kind="brightness",
        settings={"full": "255"},
        clips=[ClipMetadata(num_frames=1, fps=10.0)],
        heads=[
            HeadMetadata(
                id="brightness",
                task="describe",
                labels=["light"],
                weights_sha256="0" * 64,
                calibration=None,
                trained_on="nothing: it is the mean grey level",
            )
        ],
    )

    def score(self, clips: Sequence[torch.Tensor]) -> WindowScores:
        return WindowScores(clips[0].float().mean(dim=(1, 2, 3, 4))[:, None].numpy() / 255)


def test_a_notebook_cell_prints_the_breaks_of_a_video(
    detector: Any, policy_file: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(NOTEBOOK_CELL.strip().splitlines()) <= 10
    exec(NOTEBOOK_CELL, {"video": video, "detector": detector, "policy": policy_file})
    assert capsys.readouterr().out.splitlines()[0].startswith("1500 hold ")


def test_a_detector_that_is_no_probe_runs_beside_others_and_reaches_everything(
    detector: Any, policy_file: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Document, policy, decisions and the replay of verify, from one class and one call of register_detector."""
    monkeypatch.setattr("jepa.signals.detect.registry._BUILDERS", {})
    register_detector("brightness", lambda source, device: Brightness())
    register_detector("colours", lambda source, device: detector)
    rule = (
        "  - {id: glare, subject: observed, signal: p, category: light, at_least: 0.3, action: review, queue: q, "
        "reason: Light.}\n"
    )
    text = policy_file.read_text().replace("labels:\n", "labels:\n  light: {risk: true}\n")
    policy_file.write_text(
        text.replace("observed:", "observed:") + rule + "observed: {start_at: 0.3, end_at: 0.2}\n"
    )
    document = analyse(video, [detector, Brightness()], policy_file, stride_ms=100)
    assert [item.id for item in document.run.detectors] == ["colours", "brightness"]
    spans = [span for span in document.observed if span.head == "brightness"]
    assert spans and {span.label for span in spans} == {"light"}
    decided = {decision.subject: decision for decision in document.decisions}
    assert decided[spans[0].id].rule_id == "glare" and decided[spans[0].id].action == "review"
    assert any(track.label == "light" for track in document.tracks.observed)
    found = verify(document, policy_file, video=video, every=True)
    assert found.sound and found.difference == 0
    # It is decoded once, and the other detector's scores are what they are alone.
    alone = analyse(video, detector, policy_file, stride_ms=100)
    assert alone.tracks.anticipated == document.tracks.anticipated


def test_the_detector_of_the_documentation_works_as_it_stands(
    policy_file: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepa.signals.detect.registry._BUILDERS", {})
    page = (Path(__file__).parents[2] / "docs/signals.md").read_text()
    (code,) = [block for block in page.split("```python\n")[1:] if "class Brightness" in block]
    names: dict[str, Any] = {}
    exec(code.split("```")[0], names)
    document = analyse(video, names["Brightness"](), policy_file)
    assert document.ads.segments[0].scene == "c1" and document.run.heads[0].id == "brightness"
    assert verify(document, policy_file, video=video).sound


def test_no_name_of_the_package_is_hidden_by_a_module() -> None:
    assert callable(jepa.signals.analyse) and callable(jepa.signals.verify)
    for name in jepa.signals.__all__:
        assert getattr(jepa.signals, name) is not None


def test_a_video_of_one_frame(document_of: Any, make_video: Callable[..., Path], tmp_path: Path) -> None:
    document = document_of(make_video("one.mp4", [(220, 20, 20)]), tmp_path / "one")
    assert document.asset.frames == 1 and document.asset.duration_ms == 100
    assert document.ads.breaks == [] and len(document.tracks.window_end_ms) == 1
    assert [(span.start_ms, span.end_ms) for span in document.observed] == [(0, 100)]
    assert "shorter than one window" in document.notices[0]


def two_frames(path: Path, apart_s: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        stream.codec_context.time_base = Fraction(1, 10)
        for pts, level in ((0, 40), (apart_s * 10, 200)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 10)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_two_frames_far_apart_give_a_document(detector: Any, policy_file: Path, tmp_path: Path) -> None:
    """Two hours and ten minutes: rates far below one frame a second."""
    for apart_s in (600, 7200):
        document = analyse(
            two_frames(tmp_path / f"{apart_s}.mp4", apart_s), detector, policy_file, stride_ms=60_000
        )
        assert document.asset.frames == 2 and document.asset.duration_ms >= 1000 * apart_s
        assert document.asset.fps[0] / document.asset.fps[1] < 1 / 200


def test_a_damaged_file_gives_its_good_frames_with_a_notice_when_read_leniently(
    detector: Any, policy_file: Path, video: Path, tmp_path: Path
) -> None:
    data = bytearray(video.read_bytes())
    start = data.index(b"mdat") + 4
    middle = (start + len(data)) // 2
    data[middle : middle + 3000] = b"\xff" * 3000
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    with pytest.raises(VideoError, match="damaged"):
        analyse(damaged, detector, policy_file, stride_ms=100)
    document = analyse(damaged, detector, policy_file, stride_ms=100, lenient=True)
    assert document.run.lenient and 0 < document.asset.frames < 92
    assert "read leniently" in document.notices[0]
    assert verify(document, policy_file, video=damaged, detectors=detector, every=True).sound
    whole = analyse(video, detector, policy_file, stride_ms=100, lenient=True)
    assert whole.asset.frames == 92 and whole.notices == []


def test_memory_does_not_grow_with_the_video(
    detector: Any, policy_file: Path, make_video: Callable[..., Path]
) -> None:
    """Pictures kept for the report stay few however long the video is."""
    from jepa.signals.detect import scan

    story = [(20, 20, 20), (20, 200, 20), (220, 20, 20), (10, 10, 230)]
    long = make_video("long.mp4", [story[i // 15 % 4] for i in range(1500)])
    result = Analyser(detector, read_policy(policy_file), stride_ms=200).run(long)
    document = result.document
    assert document.asset.duration_ms == 150_000 and len(result.scan.strip) <= scan._STRIP_MOST
    assert len(result.scan.shots._histograms) <= 64
    # One picture per forecast and one per span, none for heights that were passed.
    assert len(result.evidence) <= len(document.anticipated) + len(document.observed)


@pytest.mark.slow
def test_an_hour_goes_through_faster_than_it_lasts(
    run_command: Any, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    loop = [(20, 20, 20)] * 60 + [(20, 200, 20)] * 6 + [(220, 20, 20)] * 12 + [(10, 10, 230)] * 42
    video = make_video("hour.mp4", loop * 300)
    summary = run_command([video], tmp_path / "out")
    (path,) = (tmp_path / "out").glob("*/signals.json")
    document = jepa.signals.read_document(path)
    assert document.asset.duration_ms == 3_600_000 and len(document.observed) == 300
    assert summary["real_time_factor"] < 1 and set(summary["stage_fractions"]) >= {
        "decode", "encode", "shots", "write",
    }  # fmt: skip
    assert (path.parent / "report.html").stat().st_size < 20_000_000
