"""What an event family returns: what is drawn in every frame, and what is true about it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from jepa.data.toyworld.config import ToyWorldConfig
from jepa.data.toyworld.render import Colour, Part

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


@dataclass(frozen=True)
class Plan:
    """What a video will hold, known without simulating or rendering it."""

    index: int
    """the video's number"""
    family: str
    """event family"""
    outcome: str
    """what happens, among the family's outcomes"""
    split: str
    """the part of the benchmark that the video belongs to"""
    group: str
    """videos of one group share what would leak across a split"""
    colour: str
    """colour of the thing that the label is about"""
    shape: str
    """its shape"""
    tasks: dict[str, str]
    """label columns: task name to answer"""


@dataclass(frozen=True)
class Actor:
    """Something that is named: its id is its place in `Scene.actors`."""

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
    """to or by what"""


@dataclass
class Scene:
    """One continuous stretch of world, `frames` long."""

    side: bool
    """seen from the side, standing on a floor; else from above"""
    frames: list[list[Part]]
    """what is painted in each frame, the lowest first"""
    actors: list[Actor]
    """what is named"""
    caption: str
    """one sentence about the whole"""
    segments: list[Segment] = field(default_factory=list)
    """what is done when, in order"""


@dataclass(frozen=True)
class Setting:
    """What a family may draw on: the knobs, the plan, and generators of its own."""

    config: ToyWorldConfig
    """the world's knobs"""
    plan: Plan
    """what must happen"""
    rng: np.random.Generator
    """for the scene"""
    distractor_rng: np.random.Generator
    """for what no label is about, so that more distractors leave the rest as it was"""

    @property
    def times(self) -> np.ndarray:
        """The time in seconds of every frame."""
        return np.arange(self.config.frames) / float(self.config.rate)
