"""Tiny videos whose truth is their colour, and a detector that reads it.

Red is the risk: p of "red" is the red level of a window's last frame. Green announces it: p that "red" starts
is the green level, less for near horizons. So every score can be worked out by hand, and none can see the
future.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from jepa.signals import Analyser, Detector, WindowScores, read_document
from jepa.signals.command import SignalsConfig, process
from jepa.signals.detect.detector import rounded_distance
from jepa.signals.document.objects import SignalsDocument
from jepa.signals.document.run import (
    Calibration,
    ClipMetadata,
    DetectorMetadata,
    DomainMetadata,
    EncoderMetadata,
    HeadMetadata,
)

FPS = 10
POLICY = """
policy: test
version: "1"
about: for tests
labels:
  red: {iab: I4GWl6, risk: true}
  bright: {iab: "483"}
breaks: {min_score: -1.0, min_gap_ms: 500, edge_ms: 200, before_ms: 2000, after_ms: 1000, still_ms: 300}
forecast: {issue_at: 0.5, rearm_at: 0.3, horizon_ms: 1000}
rules:
  - {id: after, subject: break, signal: risk_after, category: I4GWl6, at_least: 0.5, action: hold, queue: ads,
    reason: Red ahead.}
  - {id: before, subject: break, signal: risk_before, category: red, at_least: 0.5, action: move, reason: Red
    before.}
  - {id: now, subject: observed, signal: p, category: I4GWl6, at_least: 0.6, action: remove, queue: people,
    reason: Red.}
  - {id: ahead, subject: anticipated, signal: p, category: any, at_least: 0.6, action: review, queue: live,
    reason: Soon red.}
"""


NOW = HeadMetadata(
    id="now",
    task="classify",
    weights_sha256="b" * 64,
    labels=["red", "bright"],
    calibration="cal",
    trained_on="colours",
)
AHEAD = HeadMetadata(
    id="ahead",
    task="anticipate",
    weights_sha256="c" * 64,
    labels=["red"],
    horizons_ms=[500, 1000, 2000],
    base_rates={"red": [0.01, 0.02, 0.04]},
    calibration="cal",
    trained_on="colours",
)


class ColourDetector(Detector):
    """Reads colours; see the head of this file."""

    calibrations = (Calibration(id="cal", method="none"),)

    def __init__(self, now: HeadMetadata = NOW, ahead: HeadMetadata = AHEAD) -> None:
        self.windows = 0
        self.metadata = DetectorMetadata(
            id="colours",
            kind="colours",
            encoder=EncoderMetadata(name="colour", weights_sha256="a" * 64),
            clips=[ClipMetadata(num_frames=4, fps=10.0), ClipMetadata(num_frames=2, fps=5.0)],
            heads=[now, ahead],
        )

    def prepare(self, frame: torch.Tensor) -> torch.Tensor:
        return frame.float()[:, ::4, ::4] / 255

    def score(self, clips: Sequence[torch.Tensor]) -> WindowScores:
        assert [clip.shape[2] for clip in clips] == [4, 2]
        self.windows += clips[0].shape[0]
        red, green, blue = clips[0][:, :, -1].mean(dim=(2, 3)).double().numpy().T
        now = np.stack([red, blue], axis=1)
        return WindowScores(now, green[:, None, None] * np.array([0.5, 1.0, 1.0])[None, None])


class ShyDetector(ColourDetector):
    """A colour detector that was never shown blue: windows that end in blue are outside its domain."""

    def __init__(self) -> None:
        domain = DomainMetadata(method="blue", alpha=0.02, threshold=0.5, groups=50, promised=True)
        super().__init__(
            NOW.model_copy(update={"domain": domain}), AHEAD.model_copy(update={"domain": domain})
        )

    def score(self, clips: Sequence[torch.Tensor]) -> WindowScores:
        scores = super().score(clips)
        assert scores.anticipated is not None
        blue = rounded_distance(clips[0][:, 2, -1].mean(dim=(1, 2)).numpy())
        outside = blue > 0.5
        return WindowScores(
            np.where(outside[:, None], np.nan, scores.observed),
            np.where(outside[:, None, None], np.nan, scores.anticipated),
            {"now": "Outside the domain of now.", "ahead": "Outside the domain of ahead."},
            {"now": blue, "ahead": blue},
        )


def write_video(path: Path, colours: Sequence[tuple[int, int, int]], fps: int = FPS, size: int = 32) -> Path:
    """A lossless H.264 video of plain colours with a grain that is the same in every frame."""
    grain = np.random.default_rng(0).integers(0, 6, (size, size, 1))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=fps, options={"qp": "0", "bf": "2"})
        stream.width = stream.height = size
        stream.pix_fmt = (
            "rgb24" if "rgb24" in [f.name for f in stream.codec_context.codec.video_formats] else "bgr0"
        )
        for colour in colours:
            image = np.clip(np.array(colour) + grain, 0, 255).astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def story(*parts: tuple[int, tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Colours frame by frame from (frames, colour) pairs."""
    return [colour for count, colour in parts for _ in range(count)]


CALM, OMEN, RED, BLUE = (20, 20, 20), (20, 200, 20), (220, 20, 20), (10, 10, 230)
PLAIN_STORY = story((15, CALM), (6, OMEN), (12, RED), (20, BLUE), (8, OMEN), (25, CALM), (6, OMEN))


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Calm, omen, red (confirmed), blue, omen without red (refuted), calm, omen at the very end (expired)."""
    return write_video(tmp_path / "story.mp4", PLAIN_STORY)


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    return lambda name, colours, **more: write_video(tmp_path / name, colours, **more)


@pytest.fixture
def detector() -> ColourDetector:
    return ColourDetector()


@pytest.fixture
def shy_detector() -> ShyDetector:
    return ShyDetector()


@pytest.fixture
def run_command(detector: ColourDetector, policy_file: Path) -> Callable[..., dict[str, Any]]:
    """`jepa signals` on videos as if they were live, with the colour detector or others; returns the summary."""

    def run(
        videos: Sequence[Path], out: Path, detectors: Sequence[Detector] = (), **more: Any
    ) -> dict[str, Any]:
        config = SignalsConfig(
            video=str(videos[0]),
            policy=str(policy_file),
            out=str(out),
            stride_ms=100,
            **{"causal": True, **more},
        )
        analyser = Analyser(
            list(detectors) or [detector],
            policy_file,
            stride_ms=100,
            causal=config.causal,
            batch_size=config.batch_size,
            lenient=config.lenient,
            limits=config.limits,
        )
        return process(config, videos, analyser)

    return run


@pytest.fixture
def folder_of(run_command: Callable[..., dict[str, Any]]) -> Callable[..., Path]:
    """The folder that `jepa signals` writes for one video."""

    def run(video: Path, out: Path, detectors: Sequence[Detector] = (), **more: Any) -> Path:
        run_command([video], out, detectors, **more)
        return next(out.glob("*/signals.json")).parent

    return run


@pytest.fixture
def document_of(folder_of: Callable[..., Path]) -> Callable[..., SignalsDocument]:
    """The document that `jepa signals` writes for one video."""
    return lambda *args, **more: read_document(folder_of(*args, **more) / "signals.json")


@pytest.fixture(scope="session")
def raw_document(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The story's document as JSON."""
    folder = tmp_path_factory.mktemp("document")
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    video = write_video(folder / "story.mp4", PLAIN_STORY)
    config = SignalsConfig(
        video=str(video), policy=str(policy), out=str(folder / "out"), stride_ms=100, causal=True
    )
    process(config, [video], Analyser(ColourDetector(), policy, stride_ms=100, causal=True))
    return next((folder / "out").glob("*/signals.json")).read_text()
