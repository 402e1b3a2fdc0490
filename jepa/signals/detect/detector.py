"""What passes between the probes and everything that reads them: windows of the past in, scores over time
out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from jepa.signals.document.objects import Calibration, ProbeFacts

# Digits that a document keeps. Enough to recompute sums to 1e-6 and few enough to read.
DIGITS = 6


class Signal(NamedTuple):
    """One score of one probe."""

    probe: str
    label: str


class ClipSpec(NamedTuple):
    """The frames that a probe looks at: `num_frames` of them, `fps` per second, the last one at the window's
    end."""

    num_frames: int
    fps: float

    @property
    def reach_s(self) -> float:
        """Time from the first frame to the last."""
        return (self.num_frames - 1) / self.fps


class WindowScores(NamedTuple):
    """Calibrated probabilities of B windows: observed [B, O], anticipated [B, A, H], tags [B, K]."""

    observed: np.ndarray
    anticipated: np.ndarray
    tags: np.ndarray


class Scorer(Protocol):
    """A frozen encoder with its probes."""

    @property
    def encoder_name(self) -> str:
        """Name of the encoder's architecture."""
        ...

    @property
    def encoder_sha256(self) -> str:
        """Hash of its configuration and weights."""
        ...

    @property
    def specs(self) -> Sequence[ClipSpec]:
        """The distinct clips that the probes look at."""
        ...

    @property
    def probes(self) -> Sequence[ProbeFacts]:
        """The probes, as a document lists them."""
        ...

    @property
    def calibrations(self) -> Sequence[Calibration]:
        """The probes' calibrations."""
        ...

    @property
    def observed(self) -> Sequence[Signal]:
        """What the columns of `WindowScores.observed` are."""
        ...

    @property
    def anticipated(self) -> Sequence[Signal]:
        """What the columns of `WindowScores.anticipated` are."""
        ...

    @property
    def horizons_ms(self) -> Sequence[int]:
        """What its last axis is, ascending."""
        ...

    @property
    def base_rates(self) -> np.ndarray:
        """[A, H]: how often each starts within each horizon anyway."""
        ...

    @property
    def tags(self) -> Sequence[Signal]:
        """What the columns of `WindowScores.tags` are."""
        ...

    def prepare(self, frame: Tensor) -> Tensor:
        """Turns one frame uint8 [C, H, W] into the encoder's input [C, h, w]."""
        ...

    def score(self, clips: Sequence[Tensor]) -> WindowScores:
        """Scores B windows, given as one tensor [B, C, T, h, w] for each of `specs`."""
        ...


@dataclass
class ScoreTrack:
    """Scores over time. Row i belongs to the window that ends at `end_ms[i]` and saw `last_frame[i]` last."""

    observed_signals: list[Signal]
    """what the columns of `observed` are"""
    anticipated_signals: list[Signal]
    """what the columns of `anticipated` are"""
    horizons_ms: list[int]
    """what the last axis of `anticipated` is"""
    end_ms: list[int] = field(default_factory=list)
    """end of each window, in milliseconds"""
    last_frame: list[int] = field(default_factory=list)
    """index of the last frame that each window saw"""
    observed: list[np.ndarray] = field(default_factory=list)
    """[O] for each window"""
    anticipated: list[np.ndarray] = field(default_factory=list)
    """[A, H] for each window"""

    def add(self, end_ms: int, last_frame: int, observed: np.ndarray, anticipated: np.ndarray) -> None:
        """Appends one window."""
        self.end_ms.append(end_ms)
        self.last_frame.append(last_frame)
        self.observed.append(observed)
        self.anticipated.append(anticipated)

    def observed_of(self, index: int) -> np.ndarray:
        """One signal over time, [W]."""
        return np.array([row[index] for row in self.observed], dtype=np.float64)

    def rows_between(self, after_ms: int, until_ms: int) -> slice:
        """The windows that end after `after_ms` and not later than `until_ms`."""
        first, last = np.searchsorted(self.end_ms, [after_ms, until_ms], side="right")
        return slice(int(first), int(last))
