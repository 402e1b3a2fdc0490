"""A figure walks and slips on a peel: it falls, lies down with care, or recovers; or it gets up from the floor.

Falling and lying down go through the same poses and differ only in pace.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from jepa.toyworld import figure
from jepa.toyworld.backdrop import FLOOR_Y
from jepa.toyworld.physics import topple, topple_s
from jepa.toyworld.render import VIEW_M, Colour, Part
from jepa.toyworld.scene import COLOURS, Actor, Hazard, Scene, Segment, Setting, ease

OUTCOMES = ("falls", "lies_down", "recovers", "gets_up")
DECK = ("falls", "lies_down", "recovers", "falls", "lies_down", "recovers", "gets_up")
SHAPES = ("figure",)
LEAST_S = 2.5
_PEEL: Colour = (0.95, 0.83, 0.25)
_SLOWER = 1.3  # lying down takes this much longer than falling


def tasks(outcome: str) -> dict[str, str]:
    """`figure_falls` asks whether a figure that goes down falls; `figure_will_fall` whether one that slips will."""
    answer = "yes" if outcome == "falls" else "no"
    columns = {"figure_falls": ("falls", "lies_down"), "figure_will_fall": ("falls", "recovers")}
    return {column: answer for column, outcomes in columns.items() if outcome in outcomes}


def build(setting: Setting) -> Scene:
    """A slip starts a wobble that grows; at the event the figure goes over as an inverted pendulum, or not."""
    plan, rng, times = setting.plan, setting.rng, setting.times
    outcome = plan.outcome
    facing = int(rng.choice([-1, 1]))
    event = setting.event_time(1.2)
    lead = setting.lead(event)
    slip = event - lead
    pace = rng.uniform(0.75, 1.05)
    upright = outcome != "gets_up"
    sign = setting.precursor(event, lead, outcome == "recovers") * upright
    wobble = (
        0.34
        * sign
        * np.sin(2 * math.pi * rng.uniform(1.3, 1.7) * (times - slip))
        * (1 - ease(times, event, event + 0.5))
    )
    angle = _angle(setting, event)
    walking = _walking(setting, event, slip)
    steps = np.concatenate([[0.0], np.cumsum(walking[:-1] * pace / float(setting.rate))])
    here = VIEW_M / 2 + rng.uniform(-0.5, 0.5)
    at = np.interp(min(max(slip if upright else event, 0.0), setting.duration_s), times, steps)
    phase, peel_x = rng.uniform(0, 1.15), here + facing * rng.uniform(0.1, 0.3)
    if not upright:
        here += facing * pace * (0.25 * lead + 0.14)  # where a fall would have ended
    shirt = COLOURS[plan.colour]
    slid = 0.35 * (ease(times, max(slip, 0.0), max(slip, 0.0) + 0.6) if upright else np.ones(len(times)))
    frames = []
    for k in range(len(times)):
        x = here + facing * float(steps[k] - at)
        pose = figure.walk(
            x,
            facing,
            float(steps[k]) + phase,
            float(0.15 + 0.85 * walking[k]) if upright else float(walking[k]),
        )
        flail = 1.9 * float(sign[k]) * (times[k] < event + 0.3)
        pose = replace(
            pose, lean=pose.lean - float(wobble[k]), arms=(pose.arms[0] + flail, pose.arms[1] - flail)
        )
        pose = figure.fallen(pose, float(angle[k]))
        frames.append([*_peel(peel_x + facing * float(slid[k])), *figure.draw(pose, shirt, 0)])
    name = f"figure in {plan.colour}"
    captions = _captions(name, outcome)
    precursor, end = max(0.0, slip), min(event + 0.7, setting.duration_s)
    segments = _segments(setting, name, captions[1:2], (precursor, event, end))
    otherwise = {
        "falls": "The figure would have walked on had the peel not been there.",
        "lies_down": "The figure would have fallen had it not let itself down.",
        "recovers": "The figure would have fallen had the wobble grown any further.",
    }
    return Scene(
        side=True,
        frames=frames,
        actors=[Actor(name, "figure", plan.colour)],
        captions=captions,
        tags=("figure", "peel", plan.colour, outcome.replace("_", " ")),
        event_s=event,
        event_end_s=end,
        precursor_start_s=precursor,
        decoy=outcome == "recovers",
        segments=segments,
        hazards=[Hazard(event, end, "fall", 2, "I4GWl6")] if outcome == "falls" else [],
        counterfactual=otherwise.get(outcome, ""),
    )


def _peel(x: float) -> list[Part]:
    y = FLOOR_Y + 0.03
    return [Part("capsule", x, y + 0.03, (dx, -0.03, 0.04), _PEEL) for dx in (-0.14, 0.0, 0.14)]


def _captions(name: str, outcome: str) -> tuple[str, ...]:
    """Sentences that say the same."""
    return {
        "falls": (
            f"A {name} walks, slips on a banana peel and falls.",
            f"A {name} slips and lands on the back.",
            "Someone falls after stepping on a peel.",
        ),
        "recovers": (
            f"A {name} walks, slips on a banana peel and recovers.",
            f"A {name} slips but keeps standing.",
            "Someone stumbles on a peel and walks on.",
        ),
        "gets_up": (
            f"A {name} lies on the floor, gets up and walks away.",
            f"A {name} rises from the floor.",
            "Someone who lay on the floor stands up.",
        ),
        "lies_down": (
            f"A {name} walks, slips on a banana peel and lies down with care.",
            f"A {name} slips and sinks gently to the back.",
            "Someone who slipped on a peel lies down slowly.",
        ),
    }[outcome]


def _angle(setting: Setting, event: float) -> np.ndarray:
    """Angle of the body from upright in every frame, in radians."""
    outcome, times = setting.plan.outcome, setting.times
    if outcome == "gets_up":
        return math.pi / 2 * (1 - ease(times, event - 0.5, event + 0.9))
    tipping = 0.15 * ease(times, event - 0.2, event)
    if outcome == "recovers":
        return tipping * (1 - ease(times, event, event + 0.6))
    pendulum = 0.15, 0.5, setting.plan.gravity, figure.HIP_M + 0.3
    if outcome == "lies_down":
        gone = 0.15 + (math.pi / 2 - 0.15) * ease(times, event, event + _SLOWER * topple_s(*pendulum))
    else:
        gone = topple(*pendulum, np.maximum(times - event, 0.0))
    return np.where(times >= event, gone, tipping)


def _walking(setting: Setting, event: float, slip: float) -> np.ndarray:
    """Vigour of the walk in every frame, 0 to 1: slower after the slip, and none on the floor."""
    outcome, times = setting.plan.outcome, setting.times
    if outcome == "gets_up":
        return ease(times, event + 0.8, event + 1.3)
    walking = 1 - 0.75 * ease(times, slip, slip + 0.3)
    if outcome == "recovers":
        return 1 - (1 - walking) * (1 - ease(times, event + 0.3, event + 0.8))
    return walking * (1 - ease(times, event, event + 0.25))


def _segments(
    setting: Setting, name: str, caption: tuple[str, ...], times: tuple[float, float, float]
) -> list[Segment]:
    """What the figure does before the slip, until the event, until its end and after."""
    outcome, (slip, event, end) = setting.plan.outcome, times
    verb = {"falls": "fall", "recovers": "recover", "gets_up": "rise", "lies_down": "sink"}[outcome]
    rest = {"falls": "lie", "recovers": "walk", "gets_up": "walk", "lies_down": "lie"}[outcome]
    if outcome == "gets_up":
        first = [Segment(0.0, event, "lie", "figure", (f"A {name} lies on the floor.",))]
    else:
        first = [
            Segment(0.0, slip, "walk", "figure", (f"A {name} walks.",)),
            Segment(slip, event, "slip", "peel", (f"A {name} slips on a peel.",)),
        ]
    return [
        *first,
        Segment(event, end, verb, "figure", caption),
        Segment(end, setting.duration_s, rest, "figure"),
    ]
