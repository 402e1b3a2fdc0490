"""One pass over the sound of a video, in step with its frames: every block goes to the listeners, then is freed.

A listener gets the sound up to the end of the window that is scored and nothing later. Times start at the first frame.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from jepa.data import LimitsConfig
from jepa.data.video.audio import AudioBlock, AudioInfo, AudioReader, AudioSpec, IsolatedAudio, open_audio
from jepa.errors import VideoError
from jepa.signals.detect.detector import DetectorSet, Listener, WindowScores
from jepa.signals.document.objects import Silence, Sound, Speech
from jepa.signals.document.run import DetectorMetadata

_UNHEARD_MS = 500  # a window is not assessed when this much before its end holds sound that did not decode
NO_TRACK = "The file has no audio track."


@dataclass
class Heard:
    """What one pass over the sound brought, for the document's timeline; None where nobody assessed it."""

    sound: Sound | None = None
    silences: list[Silence] | None = None
    speech: list[Speech] | None = None
    notices: list[str] = field(default_factory=list)
    reason: str | None = None
    """why (part of) the sound was not assessed"""


class Hearing:
    """Feeds the listeners of a set of detectors.

    Args:
        path: the video.
        detectors: those whose metadata ask for audio are listened with; without any, the file is not opened.
        origin_s: time of the first frame on the file's clock.
        limits: what the file may cost.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        detectors: DetectorSet,
        origin_s: float,
        limits: LimitsConfig | None = None,
    ) -> None:
        self.listeners: dict[str, Listener] = {}
        hearing = [item for item in detectors.detectors if item.metadata.audio is not None]
        self._metadata = [item.metadata for item in hearing]
        self._specs = {item.id: _spec_of(item) for item in self._metadata}
        self.reason: str | None = None
        self._gaps: list[tuple[float, float]] = []
        self._unheard: list[tuple[float, float]] = []
        self._reader: AudioReader | IsolatedAudio | None = None
        self._info: AudioInfo | None = None
        self._origin_s = origin_s
        self._sources = {spec: _Source(spec) for spec in self._specs.values()}
        if hearing:
            self._open(path, limits)
        if self._info is not None:
            self.listeners = {item.metadata.id: item.listen() for item in hearing}
        self._blocks: Iterator[AudioBlock] = iter(self._reader or ())

    def _open(self, path: str | os.PathLike[str], limits: LimitsConfig | None) -> None:
        try:
            reader = open_audio(path, *self._sources, start_s=self._origin_s, limits=limits)
        except VideoError as error:
            self.reason = f"The sound cannot be read: {error.reason}."
            return
        self._reader, self._info = reader, reader.info
        if reader.info is None:
            self.reason = NO_TRACK

    def advance(self, until_s: float) -> None:
        """Lets the listeners hear everything up to a time, and nothing later."""
        if not self.listeners:
            return
        for spec, source in self._sources.items():
            while source.end_s < until_s:
                if not self._read():
                    source.pad(until_s, self._failed)
            for block in source.take(until_s):
                self._note(block)
                for name, listener in self.listeners.items():
                    if self._specs[name] == spec:
                        listener.push(block)

    def _read(self) -> bool:
        """Reads one block into its source; False at the end of the track."""
        try:
            block = next(self._blocks, None)
        except VideoError as error:
            self.reason = f"The sound cannot be read to its end: {error.reason}."
            self._blocks = iter(())
            return False
        if block is None:
            return False
        self._sources[block.spec].put(block._replace(start_s=block.start_s - self._origin_s))
        return True

    @property
    def _failed(self) -> bool:
        return self.reason is not None

    def _note(self, block: AudioBlock) -> None:
        """Keeps where the file holds no sound, from the first kind of samples."""
        if block.kind == "sound" or block.spec != next(iter(self._sources)):
            return
        stretches = self._gaps if block.kind == "gap" else self._unheard
        if stretches and block.start_s - stretches[-1][1] < 1e-3:
            stretches[-1] = (stretches[-1][0], block.end_s)
        else:
            stretches.append((block.start_s, block.end_s))

    def scores(self, ends_ms: Sequence[int]) -> dict[str, WindowScores]:
        """By detector of sound, its scores [B, O] of windows with these ascending ends; NaN is not assessed."""
        rows = {item.id: np.full((len(ends_ms), self._labels(item)), np.nan) for item in self._metadata}
        for row, end_ms in enumerate(ends_ms):
            self.advance(end_ms / 1000)
            if self._is_unheard(end_ms):
                continue
            for name, listener in self.listeners.items():
                rows[name][row] = listener.score(end_ms)
        why = self.reason or "The sound does not decode here."
        return {
            item.id: WindowScores(rows[item.id], reasons={head.id: why for head in item.heads})
            for item in self._metadata
        }

    @staticmethod
    def _labels(metadata: DetectorMetadata) -> int:
        return sum(len(head.labels) for head in metadata.heads)

    def _is_unheard(self, end_ms: int) -> bool:
        return any(a * 1000 < end_ms and b * 1000 > end_ms - _UNHEARD_MS for a, b in self._unheard)

    def finish(self, duration_ms: int) -> Heard:
        """Hears the rest and closes the file."""
        self.advance(duration_ms / 1000)
        found = Heard(reason=self.reason)
        if self._reader is not None:
            found.notices = list(self._reader.notices)
            self._reader.close()
        if self._info is None:
            return found
        measures: dict[str, float | None] = {"integrated_lufs": None, "loudness_range_lu": None}
        for listener in self.listeners.values():
            heard = listener.finish(duration_ms)
            found.silences = heard.silences if heard.silences is not None else found.silences
            found.speech = heard.speech if heard.speech is not None else found.speech
            measures |= {key: value for key, value in heard.measures.items() if key in measures}
        info = self._info
        found.sound = Sound(
            track=info.track,
            tracks=info.tracks,
            codec=info.codec,
            sample_rate=info.sample_rate,
            channels=info.channels,
            gaps=_stretches(self._gaps, duration_ms),
            unheard=_stretches(self._unheard, duration_ms),
            **measures,
        )
        return found


def _spec_of(metadata: DetectorMetadata) -> AudioSpec:
    assert metadata.audio is not None
    return AudioSpec(metadata.audio.sample_rate, metadata.audio.mono)


class _Source:
    """Blocks of one kind of samples that were read and not yet heard."""

    def __init__(self, spec: AudioSpec) -> None:
        self._spec = spec
        self._waiting: list[AudioBlock] = []
        self._layout = "mono"
        self._channels = 1
        self.end_s = 0.0
        """when the last of them ends"""

    def put(self, block: AudioBlock) -> None:
        self._waiting.append(block)
        self._layout, self._channels, self.end_s = block.layout, block.samples.shape[0], block.end_s

    def pad(self, until_s: float, failed: bool) -> None:
        """Zeros up to a time, of at most a second: the track is over, or what follows could not be read."""
        rate = self._spec.sample_rate
        count = max(1, round(min(1.0, until_s - self.end_s) * rate))
        zeros = np.zeros((self._channels, count), np.float32)
        self.put(AudioBlock(self.end_s, zeros, self._spec, self._layout, "damaged" if failed else "gap"))

    def take(self, until_s: float) -> Iterator[AudioBlock]:
        """The blocks up to a time; one that reaches beyond it is cut there."""
        while self._waiting and self._waiting[0].start_s < until_s:
            block = self._waiting.pop(0)
            count = round((until_s - block.start_s) * self._spec.sample_rate)
            if count < block.samples.shape[1]:
                rest = block._replace(
                    start_s=block.start_s + count / self._spec.sample_rate, samples=block.samples[:, count:]
                )
                self._waiting.insert(0, rest)
                block = block._replace(samples=block.samples[:, :count])
            if block.samples.shape[1]:
                yield block
            if count <= 0:
                return


def _stretches(found: Sequence[tuple[float, float]], duration_ms: int) -> list[tuple[int, int]]:
    """Stretches in whole milliseconds, inside the video."""
    whole = [(round(a * 1000), min(round(b * 1000), duration_ms)) for a, b in found]
    return [(a, b) for a, b in whole if a < b]
