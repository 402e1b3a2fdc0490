"""Input and output of an event family: setting (keys, plan, generator) and scene (parts per frame, ground truth)."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from jepa.toyworld.config import ToyWorldConfig
from jepa.toyworld.render import Colour, Part

COLOURS: dict[str, Colour] = {
    "red": (0.86, 0.22, 0.20),
    "orange": (0.95, 0.55, 0.14),
    "yellow": (0.93, 0.79, 0.20),
    "green": (0.28, 0.66, 0.32),
    "teal": (0.13, 0.62, 0.62),
    "blue": (0.20, 0.42, 0.82),
    "purple": (0.52, 0.30, 0.72),
    "pink": (0.91, 0.45, 0.64),
}
GREYS: tuple[Colour, ...] = ((0.36, 0.36, 0.38), (0.48, 0.46, 0.44), (0.58, 0.58, 0.60), (0.43, 0.40, 0.37))
WOOD: Colour = (0.62, 0.44, 0.28)
SKIN: Colour = (0.91, 0.72, 0.58)


@dataclass(frozen=True)
class EventPlan:
    """What a video, or a shot of one, will hold: known without simulating or rendering it."""

    family: str
    """event family"""
    outcome: str
    """what happens, among the family's outcomes"""
    split: str
    """the part of the benchmark that the video belongs to"""
    group: str
    """videos of one group have in common what would leak across a split"""
    colour: str
    """colour of the thing that the label is about"""
    shape: str
    """its shape"""
    gravity: float
    """m/s2"""
    friction: float
    """Coulomb's coefficient"""
    tasks: dict[str, str]
    """label columns: task name to answer"""


@dataclass(frozen=True)
class Actor:
    """Something that is named; its id is its index in `Scene.actors`, which is also `Part.actor`."""

    name: str
    """a phrase such as "red ball" """
    kind: str
    """what it is, in one word"""
    colour: str
    """its colour's name"""


@dataclass(frozen=True)
class Segment:
    """A verb and a noun over a span of time."""

    start_s: float
    """when it begins"""
    end_s: float
    """when it ends"""
    verb: str
    """what is done"""
    noun: str
    """to or with what"""
    captions: tuple[str, ...] = ()
    """the same in sentences"""


@dataclass(frozen=True)
class Hazard:
    """Something that a careful viewer would want to know beforehand."""

    onset_s: float
    """time at which it starts, to the frame"""
    end_s: float
    """time at which it is over; the end of the scene at the latest"""
    category: str
    """fall, fire or aggression"""
    severity: int
    """1 low, 2 medium, 3 high"""
    iab: str
    """id in the IAB Content Taxonomy 3.1"""


@dataclass
class Scene:
    """One continuous stretch of world."""

    side: bool
    """viewed from the side, standing on a floor; else from above"""
    frames: list[list[Part]]
    """what is painted in each frame, the lowest first"""
    actors: list[Actor]
    """what is named"""
    captions: tuple[str, ...]
    """paraphrases of one sentence about the video"""
    tags: tuple[str, ...]
    """words for search"""
    event_s: float
    """when the event starts; for a decoy, when it would have"""
    event_end_s: float
    """when it is over"""
    precursor_start_s: float
    """from when on it can be foreseen"""
    decoy: bool = False
    """the signs of an event that does not come"""
    segments: list[Segment] = field(default_factory=list)
    """what is done when, in order"""
    hazards: list[Hazard] = field(default_factory=list)
    """what goes wrong"""
    counterfactual: str = ""
    """what would have happened otherwise, and why it did not"""
    actions: np.ndarray | None = None
    """[frames, 2]: what an agent does, acceleration in m/s2"""


@dataclass(frozen=True)
class Setting:
    """What a family may draw on: the keys, the plan, and a generator of its own."""

    config: ToyWorldConfig
    """the world's keys"""
    plan: EventPlan
    """what must happen"""
    num_frames: int
    """how long"""
    rng: np.random.Generator
    """for the scene"""

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        return self.config.rate

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.num_frames / float(self.rate)

    @property
    def times(self) -> np.ndarray:
        """The time in seconds of every frame."""
        return np.arange(self.num_frames) / float(self.rate)

    def to_frame(self, time: float) -> float:
        """The time of the first frame that is not before `time`, or the end."""
        return min(float(np.ceil(time * float(self.rate) - 1e-9)) / float(self.rate), self.duration_s)

    def event_time(self, room_s: float = 0.0) -> float:
        """When the event comes: uniform from a fifth to four fifths of the scene, whatever the outcome, on a frame.

        It leaves `room_s` before the end where that can be had, so that the last frame shows what came of it.
        """
        latest = min(0.8, max(0.4, 1 - room_s / self.duration_s))
        return self.to_frame(self.rng.uniform(0.2, latest) * self.duration_s)

    def event_times(self) -> tuple[float, float]:
        """Two times, one in each half of the scene, for what is done and undone."""
        first, second = self.rng.uniform(0.2, 0.38), self.rng.uniform(0.57, 0.8)
        return self.to_frame(first * self.duration_s), self.to_frame(second * self.duration_s)

    def lead(self, event: float) -> float:
        """Precursor duration of an event, in seconds; never before the scene begins."""
        return float(min(self.config.precursor_s * self.rng.uniform(0.6, 1.0), 0.9 * event))

    def precursor(self, event: float, lead: float, decoy: bool) -> np.ndarray:
        """How plainly the event shows in each frame: from 0 at the lead to about 1 at the event time.

        A decoy's sign starts alike and falls behind with the square of the way, by `clarity` at the event; both vary
        from video to video. So the sign is less informative further ahead, and never certain.
        """
        height = 1 + 0.2 * self.rng.standard_normal()
        way = np.clip((self.times - (event - lead)) / max(lead, 1e-6), 0, 1)
        return np.clip(way * height - 0.9 * self.config.clarity * decoy * way * way, 0.0, 1.5)


def ease(times: np.ndarray, start: float, end: float) -> np.ndarray:
    """0 before `start`, 1 after `end`, smooth between (Hermite 3t^2 - 2t^3)."""
    t = np.clip((times - start) / max(end - start, 1e-6), 0, 1)
    return t * t * (3 - 2 * t)
