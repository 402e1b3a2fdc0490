"""Detectors of sound that arrive as packages: loudness and silence (EBU R128), and speech (Silero VAD).

    kind       what                                            package        licence
    loudness   momentary, integrated, range; stretches of       PyAV (FFmpeg)  LGPL-2.1-or-later
               silence
    speech     when somebody speaks                             silero-vad     MIT

Neither knows what is said, or by whom. Both hear the past only: silence is known 0.4 s after it began, speech 0.3 s.
"""

from __future__ import annotations

import importlib.util
import math
from collections import deque
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from jepa.data.video.audio import AudioBlock
from jepa.errors import UserError, require
from jepa.files import sha256_file
from jepa.signals.detect.detector import DIGITS, Detector, Listener, SoundTimeline
from jepa.signals.document.objects import Silence, Speech
from jepa.signals.document.run import AudioMetadata, DetectorMetadata, HeadMetadata

MOMENTARY_MS = 400  # EBU Tech 3341: the window of momentary loudness
_STEP_MS = 100
_RATE = 48_000  # at which BS.1770 states its filters
_GATED_LUFS = -70.0  # BS.1770: quieter blocks are not counted; FFmpeg's integrated loudness before any counts
_DIGITAL_LUFS = -120.0  # where FFmpeg's meter stands without any sound

CHUNK_MS = 32  # Silero VAD reads 512 samples at 16 kHz
_CHUNK, _CONTEXT = 512, 64
_MIN_SPEECH_MS, _MIN_PAUSE_MS, _PAD_MS = 250, 100, 30  # the defaults of its get_speech_timestamps
SPEECH_KNOWN_MS = _MIN_SPEECH_MS + 2 * CHUNK_MS  # after its start speech is known to be some
SPEECH_OVER_MS = _MIN_PAUSE_MS + CHUNK_MS - _PAD_MS  # after its end speech is known to be over
_SCORED_MS = 500  # a window's probability is the mean over this much before its end


class LoudnessDetector(Detector):
    """Loudness by EBU R128 through FFmpeg's `ebur128` filter, and stretches of silence.

    Silent is where the momentary loudness stays below `silence_lufs`, or more than `below_lu` under the integrated
    loudness of the video so far: what counts as silence in a quiet recording would be noise in a loud one.

    Args:
        silence_lufs: level in LUFS that is silence in any video.
        below_lu: distance in LU from the loudness so far.

    Raises:
        UserError: a level that makes no sense.
    """

    def __init__(self, silence_lufs: float = -60.0, below_lu: float = 25.0) -> None:
        if not -120 <= silence_lufs <= 0 or not 5 <= below_lu <= 70:
            raise UserError(
                f"silence_lufs={silence_lufs:g} has to be between -120 and 0, and below_lu={below_lu:g} between 5 "
                "and 70."
            )
        self.silence_lufs, self.below_lu = silence_lufs, below_lu
        head = HeadMetadata(
            id="loudness",
            task="describe",
            weights_sha256="0" * 64,
            labels=["silence"],
            calibration=None,
            trained_on="nothing: it is a measurement (EBU R128), 1 where it is silent and 0 elsewhere",
        )
        self.metadata = DetectorMetadata(
            id="loudness",
            kind="loudness",
            settings={"silence_lufs": f"{silence_lufs:g}", "below_lu": f"{below_lu:g}"},
            audio=AudioMetadata(sample_rate=_RATE, mono=False),
            heads=[head],
        )

    def listen(self) -> Listener:
        """See `Detector`."""
        return _LoudnessListener(self.silence_lufs, self.below_lu)


class _LoudnessListener:
    """Momentary loudness every 100 ms, as stretches of silence."""

    def __init__(self, silence_lufs: float, below_lu: float) -> None:
        self._silence_lufs, self._below_lu = silence_lufs, below_lu
        self._source: Any = None
        self._sink: Any = None
        self._samples = self._steps = 0
        self._integrated: float | None = None
        self._range: float | None = None
        self._silences: list[list[float]] = []  # start, end, loudest
        self._silent: deque[tuple[int, bool]] = deque(maxlen=64)

    def push(self, block: AudioBlock) -> None:
        if self._source is None:
            self._build(block.layout)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(block.samples.T).reshape(1, -1), format="flt", layout=block.layout
        )
        frame.sample_rate, frame.pts, frame.time_base = _RATE, self._samples, Fraction(1, _RATE)
        self._samples += block.samples.shape[1]
        self._source.push(frame)
        while True:
            try:
                measured = self._sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            self._measure(measured.metadata)

    def _build(self, layout: str) -> None:
        # Kept, because PyAV's filters do not keep the graph that they belong to.
        self._graph = graph = av.filter.Graph()
        self._source = graph.add_abuffer(
            sample_rate=_RATE, format="flt", layout=layout, time_base=Fraction(1, _RATE)
        )
        meter = graph.add("ebur128", "metadata=1:framelog=quiet")
        self._sink = graph.add("abuffersink")
        self._source.link_to(meter)
        meter.link_to(self._sink)
        graph.configure()

    def _measure(self, values: Mapping[str, str]) -> None:
        """Takes the next 100 ms."""
        self._steps += 1
        end_ms = self._steps * _STEP_MS
        momentary = float(values["lavfi.r128.M"])
        if not math.isfinite(momentary):  # FFmpeg's sum of digital silence can round to just below zero
            momentary = _DIGITAL_LUFS
        integrated = float(values["lavfi.r128.I"])
        if integrated > _GATED_LUFS:
            self._integrated, self._range = integrated, float(values["lavfi.r128.LRA"])
        if end_ms < MOMENTARY_MS:  # the first window is not full yet
            return
        level = self._silence_lufs
        if self._integrated is not None:
            level = max(level, self._integrated - self._below_lu)
        silent = momentary < level
        self._silent.append((end_ms, silent))
        if not silent:
            return
        start_ms = end_ms - MOMENTARY_MS
        if self._silences and start_ms <= self._silences[-1][1]:
            last = self._silences[-1]
            last[1], last[2] = end_ms, max(last[2], momentary)
        else:
            self._silences.append([start_ms, end_ms, momentary])

    def score(self, end_ms: int) -> np.ndarray:
        known = [silent for at_ms, silent in self._silent if at_ms <= end_ms]
        return np.array([float(known[-1]) if known else 0.0])

    def finish(self, duration_ms: int) -> SoundTimeline:
        silences = [
            Silence(
                id=f"q{number}",
                start_ms=int(start),
                end_ms=min(int(end), duration_ms),
                loudest_lufs=loudest if loudest > _DIGITAL_LUFS else None,
            )
            for number, (start, end, loudest) in enumerate(self._silences, start=1)
            if start < duration_ms
        ]
        measures = {"integrated_lufs": self._integrated, "loudness_range_lu": self._range}
        return SoundTimeline(silences=silences, measures=measures)


def available_loudness() -> str | None:
    """None where loudness can be measured; otherwise what to install."""
    known = "ebur128" in av.filter.filters_available and hasattr(av.AudioFrame, "metadata")
    return None if known else "pip install -U av"


class SpeechDetector(Detector):
    """Speech by Silero VAD (silero-vad, MIT): the probability that somebody speaks, in chunks of 32 ms.

    Stretches are cut as its `get_speech_timestamps` does: begun at `threshold`, ended 0.15 below it for 100 ms, dropped
    if shorter than 250 ms, padded by 30 ms.

    Args:
        threshold: probability at which speech begins.

    Raises:
        UserError: the package is not installed, or the threshold is no probability.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0.15 < threshold < 1:
            raise UserError(f"threshold={threshold:g} has to be above 0.15 and below 1.")
        self.threshold = threshold
        path = _weights()
        if path is None:
            raise UserError(f"Silero VAD is not installed, or its package is too old. Run: {_REMEDY}.")
        runtime: Any = require("onnxruntime", "detectors")
        options = runtime.SessionOptions()
        # One thread: the network is small, and the pass over the frames needs the others.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        head = HeadMetadata(
            id="speech",
            task="describe",
            weights_sha256=sha256_file(path),
            labels=["speech"],
            calibration=None,
            trained_on="speech in over 6000 languages with noise and music, by its authors' statement (Silero VAD)",
        )
        self.metadata = DetectorMetadata(
            id="speech",
            kind="speech",
            settings={"threshold": f"{threshold:g}"},
            licence="MIT",
            audio=AudioMetadata(sample_rate=16_000, mono=True),
            heads=[head],
        )

    def listen(self) -> Listener:
        """See `Detector`."""
        return _SpeechListener(self._session, self.threshold)


class _SpeechListener:
    """Runs the network chunk by chunk, with its state, and cuts stretches."""

    def __init__(self, session: Any, threshold: float) -> None:
        self._session = session
        self._state = [np.zeros((1, 1, 128), np.float32), np.zeros((1, 1, 128), np.float32)]
        self._samples = np.zeros(
            _CONTEXT, np.float32
        )  # context of the next chunk, and what is not a chunk yet
        self._scored: deque[tuple[int, float]] = deque()
        self._chunks = 0
        self.stretches = SpeechStretches(threshold)

    def push(self, block: AudioBlock) -> None:
        self._samples = np.concatenate([self._samples, block.samples[0]])
        count = (len(self._samples) - _CONTEXT) // _CHUNK
        if count <= 0:
            return
        every = np.lib.stride_tricks.sliding_window_view(self._samples, _CONTEXT + _CHUNK)[::_CHUNK][:count]
        inputs = {"input": np.ascontiguousarray(every), "h": self._state[0], "c": self._state[1]}
        scores, *self._state = self._session.run(None, inputs)
        self._samples = self._samples[count * _CHUNK :]
        for p in scores.tolist():
            self.stretches.push(p)
            self._chunks += 1
            self._scored.append((self._chunks * CHUNK_MS, p))

    def score(self, end_ms: int) -> np.ndarray:
        while self._scored and self._scored[0][0] <= end_ms - _SCORED_MS:
            self._scored.popleft()
        recent = [p for at_ms, p in self._scored if at_ms <= end_ms]
        return np.array([float(np.mean(recent)) if recent else 0.0])

    def finish(self, duration_ms: int) -> SoundTimeline:
        speech = [
            Speech(id=f"v{number}", start_ms=start, end_ms=end, p=round(min(1.0, p), DIGITS))
            for number, (start, end, p) in enumerate(self.stretches.finish(duration_ms), start=1)
        ]
        return SoundTimeline(speech=speech)


class SpeechStretches:
    """Cuts stretches of speech out of probabilities, as Silero's `get_speech_timestamps` does with its defaults.

    Args:
        threshold: probability at which a stretch begins; it ends 0.15 below.

    Example:
        >>> stretches = SpeechStretches(0.5)
        >>> for p in [0.0] * 10 + [0.9] * 20 + [0.0] * 10:
        ...     stretches.push(p)
        >>> [(start, end) for start, end, p in stretches.finish(40 * 32)]
        [(290, 990)]
    """

    def __init__(self, threshold: float) -> None:
        self._on, self._off = threshold, max(threshold - 0.15, 0.01)
        self._at_ms = 0
        self._start: int | None = None
        self._end: int | None = None
        self._sums = [0.0, 0.0]  # of the probabilities since the start, and up to the possible end
        self._found: list[tuple[int, int, float]] = []

    def push(self, p: float) -> None:
        """Takes the next chunk's probability."""
        now, self._at_ms = self._at_ms, self._at_ms + CHUNK_MS
        if self._start is None:
            if p >= self._on:
                self._start, self._end, self._sums = now, None, [p, 0.0]
            return
        if p >= self._on:
            self._end = None
        elif p < self._off:
            if self._end is None:
                self._end, self._sums[1] = now, self._sums[0]
            if now - self._end >= _MIN_PAUSE_MS:
                self._close(self._end, self._sums[1])
                return
        self._sums[0] += p

    def _close(self, end_ms: int, total: float) -> None:
        assert self._start is not None
        if end_ms - self._start > _MIN_SPEECH_MS:
            self._found.append((self._start, end_ms, total * CHUNK_MS / (end_ms - self._start)))
        self._start = self._end = None

    def finish(self, duration_ms: int) -> list[tuple[int, int, float]]:
        """(start, end, mean probability) of all stretches, padded, in milliseconds."""
        if self._start is not None:
            self._close(self._at_ms, self._sums[0])
        return _padded(self._found, duration_ms)


def _padded(found: Sequence[tuple[int, int, float]], duration_ms: int) -> list[tuple[int, int, float]]:
    """Stretches made longer by `_PAD_MS` on both sides, or by half of the pause between two that are closer."""
    padded = []
    for i, (start, end, p) in enumerate(found):
        before = start - found[i - 1][1] if i else None
        after = found[i + 1][0] - end if i + 1 < len(found) else None
        first = max(0, start - _PAD_MS) if before is None or before >= 2 * _PAD_MS else start - before // 2
        last = end + _PAD_MS if after is None or after >= 2 * _PAD_MS else end + after // 2
        padded.append((first, min(last, duration_ms), p))
    return [item for item in padded if item[0] < item[1]]


_REMEDY = "pip install -U silero-vad onnxruntime"


def _weights() -> Path | None:
    """The network's file; the package is located and never imported, because that imports torch and sets threads."""
    found = importlib.util.find_spec("silero_vad")
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        path = Path(folder) / "data" / "silero_vad_16k_sequence.onnx"
        if path.is_file():
            return path
    return None


def available_speech() -> str | None:
    """None where speech can be detected; otherwise what to install."""
    installed = _weights() is not None and importlib.util.find_spec("onnxruntime") is not None
    return None if installed else _REMEDY


def build_loudness(source: Mapping[str, str], device: str = "auto") -> LoudnessDetector:
    """Makes the detector from a document's settings."""
    return LoudnessDetector(**_numbers(source, ("silence_lufs", "below_lu")))


def build_speech(source: Mapping[str, str], device: str = "auto") -> SpeechDetector:
    """Makes the detector from a document's settings."""
    return SpeechDetector(**_numbers(source, ("threshold",)))


def _numbers(source: Mapping[str, str], names: Sequence[str]) -> dict[str, float]:
    try:
        return {name: float(source[name]) for name in names if name in source}
    except ValueError as error:
        raise UserError(f"a setting of a detector of sound is no number: {error}.") from error
