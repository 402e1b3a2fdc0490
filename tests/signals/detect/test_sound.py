"""One pass over the sound: what listeners get and when, gaps, damage, and what is not assessed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from jepa.data.video.audio import AudioBlock
from jepa.signals import Detector, WindowScores, analyse, verify
from jepa.signals.detect.detector import DetectorSet, Listener, SoundTimeline
from jepa.signals.detect.sound import NO_TRACK, Hearing
from jepa.signals.document.objects import SignalsDocument, Silence
from jepa.signals.document.run import AudioMetadata, DetectorMetadata, HeadMetadata
from jepa.signals.policy import Policy

RATE = 8000
POLICY = Policy.model_validate(
    {
        "policy": "p", "version": "1", "about": "for tests", "labels": {"loud": {"risk": True}},
        "breaks": {"min_score": -1, "edge_ms": 200, "min_gap_ms": 500, "before_ms": 1000, "after_ms": 1000},
    }
)  # fmt: skip


class Ear(Listener):
    """Knows how much it has heard; loud is the highest level of the last half second."""

    def __init__(self) -> None:
        self.wave = np.zeros(0, np.float32)

    def push(self, block: AudioBlock) -> None:
        assert block.start_s == pytest.approx(len(self.wave) / RATE, abs=1e-6)
        self.wave = np.concatenate([self.wave, block.samples[0]])

    def score(self, end_ms: int) -> np.ndarray:
        assert len(self.wave) == pytest.approx(end_ms * RATE / 1000, abs=1)
        return np.array([min(1.0, float(np.abs(self.wave[-RATE // 2 :]).max(initial=0)))])

    def finish(self, duration_ms: int) -> SoundTimeline:
        assert len(self.wave) == pytest.approx(duration_ms * RATE / 1000, abs=1)
        return SoundTimeline(silences=[Silence(id="q1", start_ms=0, end_ms=duration_ms, loudest_lufs=-70.0)])


class Hearer(Detector):
    metadata = DetectorMetadata(
        id="ear",
        kind="ear",
        audio=AudioMetadata(sample_rate=RATE, mono=True),
        heads=[HeadMetadata(id="ear", task="describe", weights_sha256="0" * 64, labels=["loud"], calibration=None,
                            trained_on="nothing")],
    )  # fmt: skip

    def listen(self) -> Listener:
        return Ear()


def film(path: Path, sound: tuple[float, float] | None, seconds: float = 3.0, codec: str = "flac") -> Path:
    """A video of two colours, with a tone from one time to another if there is `sound`."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        track = container.add_stream(codec, rate=RATE, layout="mono") if sound else None
        for number in range(round(seconds * 10)):
            image = np.full((32, 32, 3), 30 if number < seconds * 5 else 220, np.uint8)
            for packet in video.encode(av.VideoFrame.from_ndarray(image)):
                container.mux(packet)
        for packet in video.encode():
            container.mux(packet)
        if track is not None and sound is not None:
            for first in range(round(sound[0] * RATE), round(sound[1] * RATE), 400):
                tone = 20_000 * np.sin(2 * np.pi * 500 * np.arange(first, first + 400) / RATE)
                frame = av.AudioFrame.from_ndarray(tone.astype(np.int16)[None], format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = RATE, first, Fraction(1, RATE)
                for packet in track.encode(frame):
                    container.mux(packet)
            for packet in track.encode():
                container.mux(packet)
    return path


def document_of(path: Path, causal: bool = False) -> SignalsDocument:
    return analyse(path, Hearer(), POLICY, causal=causal)


def loud(document: SignalsDocument) -> list[float | None]:
    return document.tracks.observed[0].p


def test_a_listener_hears_up_to_each_window_and_no_further(tmp_path: Path) -> None:
    document = document_of(film(tmp_path / "a.mkv", (1.0, 2.0)))
    sound = document.timeline.sound
    assert sound is not None and sound.codec == "flac" and sound.sample_rate == RATE and sound.unheard == []
    assert document.tracks.window_end_ms == [0, 500, 1000, 1500, 2000, 2500]
    assert [p is not None and p > 0.3 for p in loud(document)] == [False, False, False, True, True, False]
    # Nothing is stored before 1 s and after 2 s; a player is silent there.
    assert sound.gaps == [pytest.approx((0, 1000), abs=60), pytest.approx((2000, 3000), abs=60)]


def test_sound_longer_than_the_video_is_left_at_its_end(tmp_path: Path) -> None:
    document = document_of(film(tmp_path / "a.mkv", (0.0, 5.0), seconds=2.0))
    assert document.asset.duration_ms == 2000 and document.timeline.silences is not None
    assert document.timeline.silences[0].end_ms == 2000


@pytest.mark.parametrize("causal", [True, False])
def test_without_a_track_nothing_is_assessed_and_the_document_says_why(tmp_path: Path, causal: bool) -> None:
    path = film(tmp_path / "a.mp4", None)
    document = document_of(path, causal)
    assert (
        document.timeline.sound is None
        and document.timeline.silences is None
        and document.timeline.speech is None
    )
    assert loud(document) == [None] * 6
    assert NO_TRACK in {item.why for item in document.not_assessed}
    assert document.ads.breaks
    for item in document.ads.breaks:
        assert not {"silence", "speech_across", "speech_before"} & {factor.name for factor in item.factors}
    assert verify(document, POLICY, video=path, detectors=Hearer(), every=True).sound


def test_a_broken_track_is_not_assessed_and_the_video_is(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", (0.0, 3.0))
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(container.streams.audio[0]) if p.size and p.pos]
    with path.open("r+b") as file:
        for position, size in packets[2:]:
            file.seek(position + 8)  # behind Matroska's own header
            file.write(b"\xff" * max(0, size - 8))
    document = document_of(path)
    sound = document.timeline.sound
    assert sound is not None and sound.unheard and len(document.timeline.shots) == 2
    start, end = sound.unheard[0]
    assert end == 3000 and start < 1500
    assert loud(document)[-1] is None and loud(document)[0] is not None
    assert any(item.spans_ms == sound.unheard for item in document.not_assessed)
    for item in document.ads.breaks:
        assert "silence" not in {factor.name for factor in item.factors}
    assert verify(document, POLICY, video=path, detectors=Hearer(), every=True).sound


def test_a_document_whose_sound_was_changed_is_found_out(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", (0.0, 3.0))
    document = document_of(path)
    assert verify(document, POLICY, video=path, detectors=Hearer()).sound
    silences = [Silence(id="q1", start_ms=0, end_ms=1000, loudest_lufs=None)]
    changed = document.model_copy(
        update={"timeline": document.timeline.model_copy(update={"silences": silences})}
    )
    faults = verify(changed, POLICY, video=path, detectors=Hearer()).faults
    assert any("silence" in fault for fault in faults)
    assert any("not those of the replay" in fault for fault in faults)


def test_sets_without_a_detector_of_sound_do_not_open_the_track(tmp_path: Path) -> None:
    hearing = Hearing(tmp_path / "absent.mp4", DetectorSet([]), 0.0)
    assert hearing.scores([100]) == {} and hearing.finish(1000).sound is None


def test_scores_of_pictures_and_sound_stand_side_by_side() -> None:
    together = DetectorSet([Hearer()])
    heard = {"ear": WindowScores(np.array([[0.25], [np.nan]]), reasons={"ear": "Nothing is heard."})}
    scores = together.score([], heard)
    assert scores.observed[0, 0] == 0.25 and np.isnan(scores.observed[1, 0])
    assert scores.reasons == {"ear": "Nothing is heard."} and together.hears
