"""Loudness beside FFmpeg's own meter, silence and speech at known times, and the published way of cutting speech."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import wavfile

from jepa.data.video.audio import AudioBlock, AudioSpec
from jepa.errors import UserError
from jepa.signals.detect import audio
from jepa.signals.detect.audio import LoudnessDetector, SpeechDetector, SpeechStretches
from jepa.signals.detect.detector import Detector, Listener, SoundTimeline
from jepa.signals.detect.registry import build_detector

MONO = AudioSpec(16_000)
needs_silero = pytest.mark.skipif(audio.available_speech() is not None, reason="silero-vad is not installed")


def hear(
    listener: Listener, wave: np.ndarray, spec: AudioSpec, layout: str, block: int = 1000
) -> SoundTimeline:
    """What a listener makes of samples [C, N], given in blocks."""
    for first in range(0, wave.shape[1], block):
        part = wave[:, first : first + block].astype(np.float32)
        listener.push(AudioBlock(first / spec.sample_rate, part, spec, layout, "sound"))
    return listener.finish(round(wave.shape[1] * 1000 / spec.sample_rate))


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    """Vowels without a word: a buzz of gliding pitch through three resonances, eight syllables a second."""
    from scipy.signal import lfilter

    rng, count = np.random.default_rng(seed), int(seconds * 16_000)
    pitch = 120 + 20 * np.sin(2 * np.pi * 0.7 * np.arange(count) / 16_000)
    buzz = (np.diff(np.floor(np.cumsum(pitch) / 16_000), prepend=0) > 0).astype(float)
    vowels = [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480)]
    wave, step, narrow = np.zeros(count), 2000, np.exp(-np.pi * 90 / 16_000)
    for first in range(0, count, step):
        part = buzz[first : first + step]
        for formant in vowels[rng.integers(4)]:
            poles = [1, -2 * narrow * np.cos(2 * np.pi * formant / 16_000), narrow**2]
            part = lfilter([1 - narrow], poles, part)
        wave[first : first + step] = part * np.sin(np.pi * np.arange(len(part)) / len(part)) ** 0.5
    return 0.3 * wave / np.abs(wave).max()


def stereo(*parts: tuple[float, float]) -> np.ndarray:
    """A 1 kHz tone in both channels at 48 kHz, [2, N], from (seconds, amplitude) pairs."""
    level = np.concatenate([np.full(round(seconds * 48_000), amplitude) for seconds, amplitude in parts])
    tone = level * np.sin(2 * np.pi * 1000 * np.arange(len(level)) / 48_000)
    return np.stack([tone, tone])


LOUD = AudioSpec(48_000, mono=False)


def test_loudness_of_a_tone_is_what_the_standard_says() -> None:
    """EBU Tech 3341, case 1: a stereo sine of 1 kHz at -23 dBFS is -23 LUFS."""
    for level in (-23.0, -33.0):
        wave = stereo((10.0, 10 ** (level / 20)))
        found = hear(LoudnessDetector().listen(), wave, LOUD, "stereo").measures
        assert found["integrated_lufs"] == pytest.approx(level, abs=0.1)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="compares with the ffmpeg command")
def test_loudness_agrees_with_the_ffmpeg_command(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wave = np.concatenate(
        [0.2 * rng.standard_normal((2, 48_000 * 3)), stereo((3.0, 0.05), (2.0, 0.4))], axis=1
    )
    path = tmp_path / "a.wav"
    wavfile.write(path, 48_000, wave.T.astype(np.float32))
    report = subprocess.run(
        ["ffmpeg", "-hide_banner", "-i", path, "-af", "ebur128", "-f", "null", "-"],
        capture_output=True,
        text=True,
    ).stderr
    stated = float(re.findall(r"I:\s+(-?[\d.]+) LUFS", report)[-1])
    found = hear(LoudnessDetector().listen(), wave, LOUD, "stereo").measures["integrated_lufs"]
    assert found == pytest.approx(stated, abs=0.2)


def test_silence_is_found_where_it_is_and_follows_the_programmes_level() -> None:
    wave = stereo((3.0, 0.2), (1.0, 0.0), (2.0, 0.2), (0.25, 0.0), (2.0, 0.2), (1.0, 0.002), (1.0, 0.2))
    silences = hear(LoudnessDetector().listen(), wave, LOUD, "stereo").silences
    assert silences is not None
    # The quarter of a second is shorter than the 400 ms of momentary loudness; a tone 40 dB down is silence here ...
    found = [(s.start_ms, s.end_ms) for s in silences]
    assert found == [pytest.approx((3000, 4000), abs=100), pytest.approx((8250, 9250), abs=100)]
    assert silences[0].loudest_lufs is None or silences[0].loudest_lufs < -50  # the filters ring on
    # ... and not where everything is that quiet.
    assert hear(LoudnessDetector().listen(), stereo((6.0, 0.002)), LOUD, "stereo").silences == []


def test_silence_of_a_window_is_known_only_from_the_sound_before_its_end() -> None:
    listener = LoudnessDetector().listen()
    hear(listener, stereo((2.0, 0.2), (1.0, 0.0)), LOUD, "stereo")
    assert [listener.score(end)[0] for end in (0, 1000, 2000, 2300, 2500, 3000)] == [0, 0, 0, 0, 1, 1]


@needs_silero
def test_speech_is_found_where_somebody_speaks() -> None:
    quiet = np.zeros(16_000)
    wave = np.concatenate([quiet, voice(2.0), quiet, voice(1.5, seed=1), quiet])[None]
    listener = SpeechDetector().listen()
    speech = hear(listener, wave, MONO, "mono").speech
    assert speech is not None
    assert [(s.start_ms, s.end_ms) for s in speech] == [
        pytest.approx((1000, 3000), abs=150), pytest.approx((4000, 5500), abs=150)
    ]  # fmt: skip
    assert all(s.p > 0.7 for s in speech)


@needs_silero
def test_noise_tones_and_silence_are_no_speech() -> None:
    rng, times = np.random.default_rng(0), np.arange(5 * 16_000) / 16_000
    for wave in (np.zeros(80_000), 0.1 * rng.standard_normal(80_000), 0.3 * np.sin(2 * np.pi * 440 * times)):
        assert hear(SpeechDetector().listen(), wave[None], MONO, "mono").speech == []


@needs_silero
def test_blocks_of_any_length_give_the_same_speech_as_the_published_model_chunk_by_chunk() -> None:
    import onnxruntime

    found = importlib.util.find_spec("silero_vad")
    assert found is not None and found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]) / "data/silero_vad.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wave = voice(2.0).astype(np.float32)
    state, context, published = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    for first in range(0, len(wave) - 511, 512):
        chunk = np.concatenate([context, wave[first : first + 512]])
        inputs = {"input": chunk[None], "state": state, "sr": np.array(16_000, np.int64)}
        p, state = session.run(None, inputs)
        published.append(float(p[0, 0]))
        context = chunk[-64:]
    for block in (160, 512, 5000):
        listener = SpeechDetector().listen()
        hear(listener, wave[None], MONO, "mono", block)
        assert [p for _, p in listener._scored] == pytest.approx(published, abs=1e-4)  # type: ignore[attr-defined]


@needs_silero
@given(st.lists(st.sampled_from([0.01, 0.2, 0.4, 0.6, 0.95]), min_size=1, max_size=120), st.integers(0, 31))
@settings(max_examples=200, deadline=None)
def test_stretches_are_those_of_the_published_function(runs: list[float], seed: int) -> None:
    from silero_vad.utils_vad import get_speech_timestamps_from_probs

    lengths = np.random.default_rng(seed).integers(1, 9, len(runs))
    p = np.repeat(runs, lengths).tolist()
    published = get_speech_timestamps_from_probs(p, sampling_rate=16_000, threshold=0.5)
    stretches = SpeechStretches(0.5)
    for value in p:
        stretches.push(value)
    found = stretches.finish(len(p) * 32)
    # The published one counts samples, 16 to the millisecond, and may cut the last chunk's pause in half a millisecond.
    expected = [(item["start"] / 16, item["end"] / 16) for item in published]
    assert [(start, end) for start, end, _ in found] == [pytest.approx(pair, abs=1) for pair in expected]
    assert all(0 <= mean <= 1 for _, _, mean in found)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match="silence_lufs=5"):
        LoudnessDetector(silence_lufs=5)
    with pytest.raises(UserError, match=r"threshold=0\.05"):
        SpeechDetector(threshold=0.05)
    with pytest.raises(UserError, match="no number"):
        audio.build_loudness({"below_lu": "much"})


def test_a_document_states_enough_to_make_the_detectors_again() -> None:
    made: list[Detector] = [LoudnessDetector(-55, 20)] + (
        [] if audio.available_speech() else [SpeechDetector(0.6)]
    )
    for detector in made:
        again = build_detector(detector.metadata.kind, detector.metadata.settings)
        assert again.metadata == detector.metadata


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio.importlib.util, "find_spec", lambda name: None)
    assert audio.available_speech() == "pip install -U silero-vad onnxruntime"
    with pytest.raises(UserError, match="pip install -U silero-vad"):
        SpeechDetector()
