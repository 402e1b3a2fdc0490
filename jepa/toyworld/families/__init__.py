"""Event families: one file each, with its outcomes and how a scene with a given outcome is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from jepa.toyworld.families import (
    agent,
    barrier,
    collide,
    fire,
    hand,
    ledge,
    meeting,
    motion,
    tower,
    vanish,
    walker,
)
from jepa.toyworld.scene import Scene, Setting


@dataclass(frozen=True)
class Family:
    """What the world needs to know of an event family; to add one, write such a file and list it in `FAMILIES`."""

    outcomes: tuple[str, ...]
    """what may happen"""
    deck: tuple[str, ...]
    """how often each outcome comes, by repetition"""
    shapes: tuple[str, ...]
    """what the thing that the label is about may look like"""
    least_s: float
    """the shortest scene in which the event has room"""
    tasks: Callable[[str], dict[str, str]]
    """label columns of an outcome"""
    build: Callable[[Setting], Scene | None]
    """makes the scene; None asks for another attempt"""


def _family(module: ModuleType) -> Family:
    return Family(module.OUTCOMES, module.DECK, module.SHAPES, module.LEAST_S, module.tasks, module.build)


FAMILIES: dict[str, Family] = {
    "motion": _family(motion),
    "collide": _family(collide),
    "ledge": _family(ledge),
    "tower": _family(tower),
    "hand": _family(hand),
    "walker": _family(walker),
    "meeting": _family(meeting),
    "fire": _family(fire),
    "agent": _family(agent),
    "vanish": _family(vanish),
    "barrier": _family(barrier),
}
EVENTS = ("collide", "ledge", "tower", "hand", "walker", "meeting", "fire", "agent")
"""The mix "events"."""
FROM_THE_SIDE = ("ledge", "tower", "walker", "meeting", "fire")
"""Those that stand on a floor; the others are seen from above."""
UNDER_GRAVITY = ("ledge", "tower", "walker", "meeting")
"""Those that other physics would change."""
SURPRISES = ("vanish", "barrier")
"""Those in which something impossible may happen, in groups of four videos."""
HAZARDS = {
    ("walker", "falls"),
    ("meeting", "push"),
    ("fire", "ignites"),
    ("fire", "reignites"),
    ("fire", "burns"),
}
"""Outcomes that hold a hazard."""
