"""Plan of each video, by number alone: split, event families, outcomes, appearance, physics; nothing is simulated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa.toyworld.config import ToyWorldConfig
from jepa.toyworld.families import EVENTS, FAMILIES, FROM_THE_SIDE, HAZARDS, SURPRISES, UNDER_GRAVITY
from jepa.toyworld.random_streams import balanced, stream
from jepa.toyworld.scene import COLOURS, EventPlan

SPLITS = ("train", "val", "test", "test_combinations", "test_physics", "test_rare", "test_surprise")
_STANDARD = ("train",) * 7 + ("val",) + ("test",) * 2
SPLIT_CYCLES: dict[str, tuple[str, ...]] = {
    "standard": _STANDARD,
    "combinations": ("test_combinations",),
    "physics": ("test_physics",),
    "rare": ("test_rare",),
    "surprise": ("test_surprise",),
    "all": ("train",) * 10 + ("val",) * 2 + ("test",) * 2
    + ("test_combinations", "test_physics") + ("test_surprise",) * 4,
}  # fmt: skip
"""The splits of successive videos, over and over."""
WINDOW_S = 2.0
"""Length of the windows in which rare hazards are counted."""
RARE_FRACTION = 1e-3
"""Hazards per window in the rare part."""


@dataclass(frozen=True)
class ShotPlan:
    """One shot of a video."""

    event: EventPlan
    """what happens in it"""
    start: int
    """first frame in the video"""
    num_frames: int
    """length, with the frames of a dissolve into the next shot"""
    key: int
    """index of its random streams"""
    location: int
    """number of the location; the same for all shots of a scene"""
    entry: str = "none"
    """how it comes in: none, cut, fade or dissolve"""
    entry_frames: int = 0
    """length of the entry in frames, from `start`"""


@dataclass(frozen=True)
class VideoPlan:
    """What a video will hold."""

    index: int
    """the video's number"""
    split: str
    """the part of the benchmark that it belongs to"""
    group: str
    """videos of one group have in common what would leak across a split"""
    label: str
    """its answer in the list's label column"""
    tasks: dict[str, str]
    """further label columns"""
    shots: tuple[ShotPlan, ...]
    """in order"""


def plan_video(config: ToyWorldConfig, index: int) -> VideoPlan:
    """The plan of video `index`: a pure function of the keys and the number, in well under a millisecond."""
    cycle = SPLIT_CYCLES[config.part]
    run, step = divmod(index, len(cycle))
    split = cycle[step]
    position = run * cycle.count(split) + step - cycle.index(split)
    if config.family == "film" and split != "test_surprise":
        shots = _film(config, index, split)
        hazard = any((s.event.family, s.event.outcome) in HAZARDS for s in shots)
        label = "hazard" if hazard else "calm"
        return VideoPlan(index, split, f"{index:06d}", label, {"hazard": "yes" if hazard else "no"}, shots)
    if split == "test_surprise":
        quad, member = divmod(position, 4)
        key = index - member
        family = SURPRISES[quad % 2]
        outcome = FAMILIES[family].outcomes[member]
    else:
        key = index
        family, outcome = _event(config, split, position, config.duration_s)
    plan = _appearance(config, key, 0, family, outcome, split, f"{key:06d}")
    label = outcome if config.family == family else f"{family} {outcome}"
    return VideoPlan(
        index, split, plan.group, label, plan.tasks, (ShotPlan(plan, 0, config.num_frames, key, key),)
    )


def _event(config: ToyWorldConfig, split: str, position: int, duration_s: float) -> tuple[str, str]:
    """Family and outcome number `position` of a split, so that both come equally often along it."""
    mix: tuple[str, ...] = (config.family,) if config.family in FAMILIES else EVENTS
    if split == "test_physics":
        mix = tuple(name for name in mix if name in UNDER_GRAVITY)
    number = SPLITS.index(split)
    family = mix[balanced(config.seed, number, position, len(mix))]
    deck = FAMILIES[family].deck
    if split == "test_rare":
        return _rare(config, position, family, duration_s)
    group = 100 + 50 * number + list(FAMILIES).index(family)
    return family, deck[balanced(config.seed, group, position // len(mix), len(deck))]


def _rare(config: ToyWorldConfig, position: int, family: str, duration_s: float) -> tuple[str, str]:
    """A harmless outcome, or with the frequency of rare hazards a harmful one of any family."""
    rng = stream(config.seed, position, "rare")
    if rng.uniform() < RARE_FRACTION * duration_s / WINDOW_S:
        one = sorted(HAZARDS)[rng.integers(len(HAZARDS))]
        return one
    harmless = [outcome for outcome in FAMILIES[family].deck if (family, outcome) not in HAZARDS]
    return family, harmless[rng.integers(len(harmless))]


def held_out(family: str, colour: str, shape: str) -> bool:
    """True for the fifth of all combinations of colour, shape and kind of event that no training video shows.

    Never by outcome: if an outcome were missing for a colour, the colour would be informative about the outcome.
    """
    location = (
        list(COLOURS).index(colour)
        + 2 * FAMILIES[family].shapes.index(shape)
        + 3 * list(FAMILIES).index(family)
    )
    return location % 5 == 0


def _appearance(
    config: ToyWorldConfig, key: int, shot: int, family: str, outcome: str, split: str, group: str
) -> EventPlan:
    """Adds looks and physics to an outcome: combinations are held out everywhere but in their own part."""
    rng = stream(config.seed, key, "plan", shot)
    shapes, colours = FAMILIES[family].shapes, list(COLOURS)
    pairs = [
        (colour, shape)
        for colour in colours
        for shape in shapes
        if family in SURPRISES or held_out(family, colour, shape) == (split == "test_combinations")
    ]
    colour, shape = pairs[rng.integers(len(pairs))]
    gravity, friction = rng.uniform(8.5, 11.0), rng.uniform(0.5, 0.8)
    if split == "test_physics":
        gravity = rng.uniform(3.0, 5.0) if rng.uniform() < 0.5 else rng.uniform(16.0, 22.0)
        friction = rng.uniform(0.1, 0.2) if rng.uniform() < 0.5 else rng.uniform(1.2, 1.6)
    tasks = FAMILIES[family].tasks(outcome)
    if family in EVENTS:
        tasks["hazard"] = "yes" if (family, outcome) in HAZARDS else "no"
    return EventPlan(family, outcome, split, group, colour, shape, float(gravity), float(friction), tasks)


def _film(config: ToyWorldConfig, index: int, split: str) -> tuple[ShotPlan, ...]:
    """Shots of 3 to 5 s in scenes of one to three; scenes differ in location and are joined in one of three ways."""
    rng = stream(config.seed, index, "film")
    rate = float(config.rate)
    count = max(1, round(config.duration_s / rng.uniform(3.4, 4.2)))
    weights = rng.uniform(0.85, 1.15, count)
    starts = np.concatenate([[0], np.round(np.cumsum(weights) / weights.sum() * config.num_frames)]).astype(
        int
    )
    shots: list[ShotPlan] = []
    left, side, location = 0, True, 0
    for number in range(count):
        entry, entry_s = ("cut", 0.0) if number else ("none", 0.0)
        if left == 0:
            left, side, location = int(rng.integers(1, 4)), bool(rng.uniform() < 0.6), location + 1
            if number:
                entry, entry_s = (("cut", 0.0), ("fade", 0.8), ("dissolve", 0.6))[rng.integers(3)]
        left -= 1
        family, outcome = _shot_event(config, index, number, split, side, rng)
        plan = _appearance(config, index, number, family, outcome, split, f"{index:06d}")
        length = int(starts[number + 1] - starts[number])
        shots.append(
            ShotPlan(
                plan,
                int(starts[number]),
                length,
                index * 64 + number,
                index * 64 + location,
                entry,
                round(entry_s * rate),
            )
        )
    return tuple(_overlap(shots))


def _shot_event(
    config: ToyWorldConfig, index: int, number: int, split: str, side: bool, rng: np.random.Generator
) -> tuple[str, str]:
    families = [name for name in EVENTS if (name in FROM_THE_SIDE) == side]
    if split == "test_physics":
        families = list(UNDER_GRAVITY)
    family = families[rng.integers(len(families))]
    if split == "test_rare":
        return _rare(
            config, index * 64 + number, family, config.duration_s / max(1, round(config.duration_s / 3.8))
        )
    deck = FAMILIES[family].deck
    return family, deck[rng.integers(len(deck))]


def _overlap(shots: list[ShotPlan]) -> list[ShotPlan]:
    """Lengthens each shot that the next one dissolves into, so that both have frames to blend."""
    out = []
    for shot, following in zip(shots, [*shots[1:], None], strict=True):
        extra = following.entry_frames if following is not None and following.entry == "dissolve" else 0
        out.append(ShotPlan(**{**vars(shot), "num_frames": shot.num_frames + extra}))
    return out
