"""The detector interface: windows of past frames in, calibrated probabilities over time out.

A detector reads clips and scores labels. It may be a frozen encoder with probes (`probes.py`), another
network, or three lines of arithmetic. Several run side by side in one pass over a video, as a `DetectorSet`.

    B windows, O observed labels, A anticipated labels, H horizons
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from jepa.data.video.audio import AudioBlock
from jepa.errors import UserError
from jepa.signals.document.objects import Silence, Speech
from jepa.signals.document.run import Calibration, DetectorMetadata, HeadMetadata

Prepare = Callable[[Tensor], Tensor]
# Digits that a document keeps. Enough to recompute sums to 1e-6 and few enough to read.
DIGITS = 6


class Signal(NamedTuple):
    """One score of one head."""

    head: str
    label: str


class ClipSpec(NamedTuple):
    """The frames that a detector reads: `num_frames` of them, `fps` per second, the last one at the window's end.

    Example:
        >>> ClipSpec(num_frames=16, fps=5.0).reach_s
        3.0
    """

    num_frames: int
    fps: float

    @property
    def reach_s(self) -> float:
        """Time from the first frame to the last."""
        return (self.num_frames - 1) / self.fps


class Feed(NamedTuple):
    """Clips of one kind: their `spec`, and what `prepare` makes of each frame uint8 [C, H, W]."""

    spec: ClipSpec
    prepare: Prepare


class WindowScores(NamedTuple):
    """Calibrated probabilities of B windows: observed [B, O], and anticipated [B, A, H] where something is forecast.

    NaN is "not assessed": a head says so for all of its labels in a window, or for none. Such a window opens no span,
    issues no forecast and settles none. It is for what a head cannot judge, such as a kind of video that it was not
    trained on, and no third word for an unlikely label.

    Example:
        >>> no_sound = "The file has no audio track."
        >>> scores = WindowScores(np.full((4, 1), np.nan), reasons={"speech": no_sound})
        >>> bool(np.isnan(scores.observed).all())
        True
    """

    observed: np.ndarray
    anticipated: np.ndarray | None = None
    reasons: Mapping[str, str] = MappingProxyType({})
    """by head id, one sentence that says why its windows are not assessed"""
    distances: Mapping[str, np.ndarray] = MappingProxyType({})
    """by head id, for each head whose metadata has a `domain`: how unlike its training windows each window is [B],
    `rounded_distance`; NaN scores where that is above `domain.threshold`"""


class SoundTimeline(NamedTuple):
    """What a listener adds to the document's timeline; None for what it does not assess.

    `measures` are fields of the document's `Sound`, such as `integrated_lufs`.
    """

    silences: list[Silence] | None = None
    speech: list[Speech] | None = None
    measures: Mapping[str, float | None] = {}


class Listener(Protocol):
    """What a detector of sound keeps while it hears one video. Times start at the first frame.

    Blocks follow each other without a hole; before `score(end_ms)` comes everything up to that time and nothing later.
    """

    def push(self, block: AudioBlock) -> None:
        """Hears the next samples, of the kind that `metadata.audio` asks for."""
        ...

    def score(self, end_ms: int) -> np.ndarray:
        """The probabilities [O] of the window that ends at `end_ms`; ends ascend."""
        ...

    def finish(self, duration_ms: int) -> SoundTimeline:
        """What was heard in the entire video."""
        ...


class Detector(Protocol):
    """What scores windows of a video. Derive from it to get the defaults.

    `metadata` names the detector, the clips that it reads and its heads. The columns of `WindowScores` follow from
    it: `observed` are the labels of all `classify` and `describe` heads, in order; `anticipated` those of all
    `anticipate` heads, whose horizons must agree.

    A detector that works frame by frame asks for clips of one frame. One that hears states `metadata.audio` and makes a
    `Listener` for each video, which scores instead of `score`.

    Example:
        >>> from jepa.signals.document.run import ClipMetadata, DetectorMetadata, HeadMetadata
        >>> class Red(Detector):
        ...     head = HeadMetadata(id="red", task="describe", labels=["red"], weights_sha256="0" * 64,
        ...                         calibration=None, trained_on="nothing: it is the mean of the red channel")
        ...     clip = ClipMetadata(num_frames=1, fps=2.0)
        ...     metadata = DetectorMetadata(id="red", kind="red", clips=[clip], heads=[head])
        ...     def score(self, clips):
        ...         return WindowScores(clips[0][:, :1].float().mean(dim=(2, 3, 4)).numpy() / 255)
        >>> import torch
        >>> Red().score([torch.zeros(4, 3, 1, 8, 8)]).observed.shape
        (4, 1)
    """

    metadata: DetectorMetadata
    calibrations: Sequence[Calibration] = ()
    """the calibrations that the heads name"""
    source: Mapping[str, str] = {}
    """what its builder needs to make it again besides `metadata.settings`: files of this machine, say"""

    def prepare(self, frame: Tensor) -> Tensor:
        """Turns one frame uint8 [C, H, W] into one frame of the input [C, h, w]; kept as it is by default."""
        return frame

    def score(self, clips: Sequence[Tensor]) -> WindowScores:
        """Scores B windows, given as one tensor [B, C, T, h, w] for each of `metadata.clips`."""
        raise TypeError(f"the detector {self.metadata.id} has no score(clips), which its metadata promises")

    def listen(self) -> Listener:
        """A new listener for one video's sound, where `metadata.audio` asks for it."""
        raise TypeError(f"the detector {self.metadata.id} has no listen(), which its metadata promises")


class DetectorSet:
    """Detectors that run side by side, as one: their heads, feeds and scores one after the other.

    Args:
        detectors: any number; without one nothing is scored, and a document has shots and breaks only.

    Raises:
        UserError: two of the same id; two heads of the same id; heads with different horizons.

    Example:
        >>> DetectorSet([]).heads
        []
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self.detectors = list(detectors)
        self.metadata: list[DetectorMetadata] = [detector.metadata for detector in self.detectors]
        self.heads: list[HeadMetadata] = [head for metadata in self.metadata for head in metadata.heads]
        _refuse_twice("detectors", [metadata.id for metadata in self.metadata])
        _refuse_twice("heads", [head.id for head in self.heads])
        self.calibrations = [item for detector in self.detectors for item in detector.calibrations]
        observing = [head for head in self.heads if head.task != "anticipate"]
        ahead = [head for head in self.heads if head.task == "anticipate"]
        self.observed = [Signal(head.id, label) for head in observing for label in head.labels]
        self.anticipated = [Signal(head.id, label) for head in ahead for label in head.labels]
        self.hears = any(metadata.audio is not None for metadata in self.metadata)
        """whether one of them listens to the sound"""
        horizons = {head.id: tuple(head.horizons_ms) for head in ahead}
        if len(set(horizons.values())) > 1:
            raise UserError(
                f"the heads forecast within different times: {horizons} (ms). Train them with the same "
                "anticipate.horizons_s, or use one of them."
            )
        self.horizons_ms = list(next(iter(horizons.values()), ()))
        if self.horizons_ms != sorted(set(self.horizons_ms)):
            raise UserError(f"the horizons {self.horizons_ms} (ms) are not ascending. Order them.")

    @classmethod
    def of(cls, detectors: Detector | Sequence[Detector]) -> DetectorSet:
        """One detector, or several, as a set.

        Raises:
            UserError: a path, which names no detector by itself; or what the class refuses.
        """
        if isinstance(detectors, (str, os.PathLike)):
            raise UserError(
                f"{os.fspath(detectors)!r} is a path and no detector. For a folder of probes give "
                f"ProbeDetector({os.fspath(detectors)!r})."
            )
        return cls(detectors if isinstance(detectors, Sequence) else [detectors])

    def feeds(self, timed: Callable[[str, Prepare], Prepare] | None = None) -> list[Feed]:
        """The clips that all detectors read, in the order that `score` takes them; `timed` may time `prepare` by the
        detector's id."""
        found = []
        for detector in self.detectors:
            # One callable per detector: windows prepare a frame once for all of its clips.
            prepare = detector.prepare if timed is None else timed(detector.metadata.id, detector.prepare)
            found += [Feed(ClipSpec(clip.num_frames, clip.fps), prepare) for clip in detector.metadata.clips]
        return found

    def score(
        self, clips: Sequence[Tensor], heard: Mapping[str, WindowScores] = MappingProxyType({})
    ) -> WindowScores:
        """Scores B windows: observed [B, O] and anticipated [B, A, H] of all detectors.

        Args:
            clips: one tensor [B, C, T, h, w] per feed.
            heard: for each detector of sound, by id, the scores of its listener.

        Raises:
            ValueError: a detector's scores do not have the shape that its metadata promises, or it assessed a window
                for some labels of a head and not for others.
        """
        horizons = len(self.horizons_ms)
        batch = clips[0].shape[0] if clips else len(next(iter(heard.values())).observed)
        reasons: dict[str, str] = {}
        distances: dict[str, np.ndarray] = {}
        observed, anticipated, first = [np.zeros((batch, 0))], [np.zeros((batch, 0, horizons))], 0
        for detector in self.detectors:
            metadata = detector.metadata
            if metadata.audio is not None:
                scores = heard[metadata.id]
            else:
                scores = detector.score(clips[first : first + len(metadata.clips)])
            first += len(metadata.clips)
            ahead = sum(len(head.labels) for head in metadata.heads if head.task == "anticipate")
            now = sum(len(head.labels) for head in metadata.heads) - ahead
            observed.append(_checked(metadata.id, "observed", scores.observed, (batch, now)))
            anticipated.append(
                _checked(metadata.id, "anticipated", scores.anticipated, (batch, ahead, horizons))
            )
            reasons |= scores.reasons
            distances |= scores.distances
        joined = WindowScores(
            np.concatenate(observed, axis=1), np.concatenate(anticipated, axis=1), reasons, distances
        )
        self.left_out(joined)
        return joined

    def left_out(self, scores: WindowScores) -> np.ndarray:
        """Which heads did not assess which of B windows, bool [B, heads], in the order of `heads`.

        Raises:
            ValueError: a head assessed a window for some of its labels and not for others.
        """
        assert scores.anticipated is not None
        found = []
        for head in self.heads:
            ahead = head.task == "anticipate"
            array = scores.anticipated if ahead else scores.observed
            signals = self.anticipated if ahead else self.observed
            own = array[:, [signal.head == head.id for signal in signals]].reshape(len(array), -1)
            nan = np.isnan(own)
            if (nan.any(axis=1) != nan.all(axis=1)).any():
                raise ValueError(
                    f"head {head.id} gives NaN for some of its labels and numbers for others in the same window"
                )
            found.append(nan.all(axis=1))
        return np.stack(found, axis=1)


def _checked(detector: str, name: str, array: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """A detector's scores, which must have this shape; where it promises none, any empty array or None will do."""
    scores = np.zeros((0,)) if array is None else np.asarray(array)
    if scores.size == 0 and 0 in shape:
        return np.zeros(shape)
    if scores.shape != shape:
        raise ValueError(
            f"detector {detector}: {name} has the shape {list(scores.shape)}, and its metadata promises "
            f"{list(shape)}"
        )
    return scores


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UserError(
            f"two {what} are called {twice[0]}, and a document could not distinguish them. Give one of them another id."
        )


class ScoreTrack:
    """Scores over time. Row i belongs to the window that ends at `end_ms[i]` and whose last frame is `last_frame[i]`.

    Args:
        observed_signals: what the columns of `observed` are.
        anticipated_signals: what the columns of `anticipated` are.
        horizons_ms: what the last axis of `anticipated` is.
    """

    def __init__(
        self,
        observed_signals: Sequence[Signal],
        anticipated_signals: Sequence[Signal],
        horizons_ms: Sequence[int],
    ) -> None:
        self.observed_signals = list(observed_signals)
        self.anticipated_signals = list(anticipated_signals)
        self.horizons_ms = list(horizons_ms)
        self.end_ms: list[int] = []
        self.last_frame: list[int] = []
        self.context_ms: list[tuple[int, int]] = []
        """first and last frame time of each window"""
        self.observed: list[np.ndarray] = []
        """[O] for each window"""
        self.anticipated: list[np.ndarray] = []
        """[A, H] for each window"""
        self.tags: list[np.ndarray] = []
        """every label of every head that looks at the present, before the policy groups them, for each window"""
        self.reasons: list[dict[str, str]] = []
        """for each window, the heads that did not assess it, and why"""
        self.distances: list[dict[str, float]] = []
        """for each window, how unlike a head's training windows it is, by head"""


def rounded_distance(distance: np.ndarray) -> np.ndarray:
    """Distances as the document keeps them, and as they are compared with a threshold: six significant digits.

    Example:
        >>> rounded_distance(np.array([12.3456789, 0.000123456789])).tolist()
        [12.3457, 0.000123457]
    """
    return np.array([float(f"{value:.6g}") for value in np.asarray(distance, dtype=np.float64)])


def rounded(p: np.ndarray) -> np.ndarray:
    """Probabilities as the document keeps them; rounding keeps order, so curves stay non-decreasing. NaN stays NaN.

    Example:
        >>> rounded(np.array([0.12345678, 1.0000001])).tolist()
        [0.123457, 1.0]
    """
    return np.round(np.clip(np.asarray(p, dtype=np.float64), 0.0, 1.0), DIGITS)
