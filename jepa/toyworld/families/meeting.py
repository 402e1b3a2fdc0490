"""Two figures walk up to each other: they shake hands or hold them, push or lay the other down, talk, or pass.

Shaking and holding hands go through the same poses, as do pushing over and laying down; they differ only in motion.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jepa.toyworld import figure
from jepa.toyworld.physics import topple, topple_s
from jepa.toyworld.render import VIEW_M, Part
from jepa.toyworld.scene import COLOURS, Actor, Hazard, Scene, Segment, Setting, ease

OUTCOMES = ("handshake", "holds", "push", "lays_down", "talk", "pass")
DECK = ("push", "handshake", "lays_down", "holds", "talk", "push", "handshake", "lays_down", "holds", "pass")
SHAPES = ("figure",)
LEAST_S = 3.0
_HALF_M = 0.62  # from the middle to a figure that slows down
_SLOWER = 1.3  # laying down takes this much longer than a push
_LOWERED = ("push", "lays_down")
_JOINED = ("handshake", "holds")


def tasks(outcome: str) -> dict[str, str]:
    """`push` asks of who goes down, `handshake` of hands that join; `will_push` before it is settled."""
    columns = {"push": _LOWERED, "handshake": _JOINED, "will_push": ("push", "talk", "handshake")}
    event = {"push": "push", "handshake": "handshake", "will_push": "push"}
    return {
        column: "yes" if outcome == event[column] else "no"
        for column, outcomes in columns.items()
        if outcome in outcomes
    }


class _Motion(NamedTuple):
    """How the figures move, one value per frame."""

    steps: np.ndarray
    """metres walked"""
    moved: np.ndarray
    """the same, from where they slow down"""
    vigour: np.ndarray
    """of the walk, 0 to 1"""
    staggers: np.ndarray
    """metres by which the second is pushed back"""
    gone: np.ndarray
    """radians by which the second has gone over"""


def build(setting: Setting) -> Scene:
    """All walk up alike and lift a hand a little; what sets them apart grows with the square of the way."""
    plan, rng, times = setting.plan, setting.rng, setting.times
    outcome = plan.outcome
    event = setting.event_time(1.4)
    lead = setting.lead(event)
    facing = int(rng.choice([-1, 1]))  # of the one who pushes
    pace, middle = rng.uniform(0.5, 0.75), VIEW_M / 2 + rng.uniform(-0.3, 0.3)
    slows = event - 0.4
    go = np.ones(len(times)) if outcome == "pass" else 1 - ease(times, slows, event + 0.1)
    joined = outcome in _JOINED
    leave = ease(times, event + 0.8, event + 1.2) if joined else 0 * times
    steps = np.concatenate([[0.0], np.cumsum((go + leave)[:-1] * pace / float(setting.rate))])
    moved = steps - float(np.interp(slows, times, steps))
    way = np.clip((times - (event - lead)) / lead, 0, 1)
    hint = (way**2 * setting.config.clarity * np.clip(1 + 0.25 * rng.standard_normal(), 0.3, 1.7)) * (
        times < event
    )
    lift = (
        0.35
        * way
        * np.clip(1 + 0.25 * rng.standard_normal(), 0.3, 1.7)
        * (1 - ease(times, event, event + 0.4))
    )
    act = ease(times, event - 0.1, event + 0.05) * (1 - ease(times, event + 0.7, event + 1.0))
    turn = 2 * math.pi * (2.6 * (times - event) * (outcome == "handshake") + rng.uniform())
    shake = 0.3 * np.sin(turn) * act
    pendulum = 0.1, 0.9, plan.gravity, 1.15
    gone = topple(*pendulum, np.maximum(times - event - 0.1, 0)) * (times > event + 0.1)
    if outcome == "lays_down":
        gone = math.pi / 2 * ease(times, event + 0.1, event + 0.1 + _SLOWER * topple_s(*pendulum))
    staggers = 0.4 * ease(times, event, event + 0.5)
    other = [name for name in COLOURS if name != plan.colour][rng.integers(len(COLOURS) - 1)]
    phases = rng.uniform(0, 1.15, 2)
    motion = _Motion(steps, moved, go + leave, staggers, gone)
    reaches = [figure.Reach(*map(float, row)) for row in zip(lift, hint, act, shake, strict=True)]
    frames = [
        _figures(setting, k, motion, reach, (facing, middle, event), phases, (plan.colour, other))
        for k, reach in enumerate(reaches)
    ]
    one, two = f"figure in {plan.colour}", f"figure in {other}"
    captions = _captions(one, two, outcome)
    precursor, end = max(0.0, event - lead), min(event + 0.9, setting.duration_s)
    otherwise = {
        "push": f"The {two} would have stayed upright had the {one} walked past.",
        "lays_down": f"The {two} would have fallen had the {one} pushed.",
        "talk": f"The {two} would have fallen had the {one} pushed.",
        "pass": "The two would have met had one of them stopped.",
    }
    return Scene(
        side=True,
        frames=frames,
        actors=[Actor(one, "figure", plan.colour), Actor(two, "figure", other)],
        captions=captions,
        tags=("two figures", plan.colour, other, outcome),
        event_s=event,
        event_end_s=end,
        precursor_start_s=precursor,
        decoy=outcome in ("pass", "talk"),
        segments=_segments(setting, captions[1:2], event, end),
        hazards=[Hazard(event, end, "aggression", 3, "HxqYV1")] if outcome == "push" else [],
        counterfactual=otherwise.get(outcome, ""),
    )


def _arms(pose: figure.Pose, outcome: str, who: int, reach: figure.Reach) -> figure.Pose:
    """One hand is lifted in all; a push draws both back and out, a handshake brings one forward."""
    near, far = pose.arms[0] + reach.lift, pose.arms[1]
    if outcome in _LOWERED and who == 0:
        raised = 1.1 * reach.hint * (1 - reach.act) + 1.45 * reach.act
        bend = 1.2 * reach.hint * (1 - reach.act)
        return replace(
            pose,
            arms=(near + raised - reach.lift * reach.act, far + raised),
            elbows=(0.25 + bend, 0.25 + bend),
        )
    if outcome in _JOINED:
        held = max(0.8 * reach.hint, reach.act)
        return replace(pose, arms=(near * (1 - held) + 1.25 * held + reach.shake, far))
    return replace(pose, arms=(near, far))


def _captions(one: str, two: str, outcome: str) -> tuple[str, ...]:
    """Sentences that say the same."""
    return {
        "handshake": (
            f"A {one} and a {two} meet, shake hands and part.",
            "Two people shake hands.",
            f"The {one} greets the {two}.",
        ),
        "holds": (
            f"A {one} and a {two} meet, hold hands for a moment and part.",
            "Two people hold hands without shaking them.",
            f"The {one} takes the hand of the {two}.",
        ),
        "push": (
            f"A {one} walks up to a {two} and pushes the other over.",
            f"A {two} is pushed and falls.",
            "One person shoves another.",
        ),
        "talk": (
            f"A {one} and a {two} meet and stand together.",
            "Two people stop to talk.",
            f"The {one} stands by the {two}.",
        ),
        "lays_down": (
            f"A {one} walks up to a {two} and lays the other down gently.",
            f"A {two} is helped to lie down.",
            "One person lowers another to the floor.",
        ),
        "pass": (
            f"A {one} and a {two} walk past each other.",
            "Two people pass without stopping.",
            f"The {one} crosses the way of the {two}.",
        ),
    }[outcome]


def _figures(
    setting: Setting,
    k: int,
    motion: _Motion,
    reach: figure.Reach,
    meeting: tuple[int, float, float],
    phases: np.ndarray,
    shirts: tuple[str, str],
) -> list[Part]:
    """Both figures in frame `k`; `meeting` is where the first faces, the middle in metres and the event time."""
    outcome, (facing, middle, event) = setting.plan.outcome, meeting
    time, joined = setting.times[k], outcome in _JOINED
    back, turned = joined and time > event + 0.8, joined and time > event + 1.0
    halt = float(np.interp(event + 0.5, setting.times, motion.moved))
    poses = []
    for who, side in ((0, facing), (1, -facing)):
        along = 2 * halt - float(motion.moved[k]) if back else float(motion.moved[k])
        pose = figure.walk(
            middle + side * (along - _HALF_M),
            -side if turned else side,
            float(motion.steps[k]) + phases[who],
            float(np.clip(motion.vigour[k], 0.0, 1.0)),
        )
        poses.append(_arms(pose, outcome, who, reach))
    if outcome in _LOWERED:
        shifted = replace(poses[1], x=poses[1].x + facing * float(motion.staggers[k]))
        poses[1] = figure.fallen(shifted, float(motion.gone[k]))
    return [part for who in (1, 0) for part in figure.draw(poses[who], COLOURS[shirts[who]], who)]


def _segments(setting: Setting, caption: tuple[str, ...], event: float, end: float) -> list[Segment]:
    """What both do until the event, until its end and after."""
    verb, noun, rest = {
        "handshake": ("shake", "hand", "part"),
        "push": ("push", "figure", "lie"),
        "pass": ("pass", "figure", "leave"),
        "talk": ("talk", "figure", "talk"),
        "holds": ("hold", "hand", "part"),
        "lays_down": ("lower", "figure", "lie"),
    }[setting.plan.outcome]
    return [
        Segment(0.0, event, "approach", "figure", ("Two figures walk towards each other.",)),
        Segment(event, end, verb, noun, caption),
        Segment(end, setting.duration_s, rest, "figure"),
    ]
