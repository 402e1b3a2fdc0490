"""A figure walks and slips on a peel: it falls, lies down with care, or recovers; or it gets up from the floor.

Falling and lying down share every pose: only the pace tells them apart.
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
    upright, goes = outcome != "gets_up", outcome in ("falls", "lies_down")
    sign = setting.precursor(event, lead, outcome == "recovers") * upright
    wobble = (
        0.34
        * sign
        * np.sin(2 * math.pi * rng.uniform(1.3, 1.7) * (times - slip))
        * (1 - ease(times, event, event + 0.5))
    )
    pendulum = 0.15, 0.5, plan.gravity, figure.HIP_M + 0.3
    if outcome == "lies_down":
        gone = 0.15 + (math.pi / 2 - 0.15) * ease(times, event, event + _SLOWER * topple_s(*pendulum))
    else:
        gone = topple(*pendulum, np.maximum(times - event, 0.0))
    tipping = 0.15 * ease(times, event - 0.2, event)
    angle = np.where(times >= event, gone, tipping)
    if outcome == "recovers":
        angle = tipping * (1 - ease(times, event, event + 0.6))
    if outcome == "gets_up":
        angle = math.pi / 2 * (1 - ease(times, event - 0.5, event + 0.9))
    walking = 1 - 0.75 * ease(times, slip, slip + 0.3)
    if goes:
        walking = walking * (1 - ease(times, event, event + 0.25))
    if outcome == "recovers":
        walking = 1 - (1 - walking) * (1 - ease(times, event + 0.3, event + 0.8))
    if not upright:
        walking = ease(times, event + 0.8, event + 1.3)
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
    captions = {
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
    precursor, end = max(0.0, slip), min(event + 0.7, setting.duration_s)
    verb = {"falls": "fall", "recovers": "recover", "gets_up": "rise", "lies_down": "sink"}[outcome]
    rest = {"falls": "lie", "recovers": "walk", "gets_up": "walk", "lies_down": "lie"}[outcome]
    segments = [
        Segment(precursor, event, "slip", "peel", (f"A {name} slips on a peel.",)),
        Segment(event, end, verb, "figure", captions[1:2]),
        Segment(end, setting.duration_s, rest, "figure"),
    ]
    if upright:
        segments.insert(0, Segment(0.0, precursor, "walk", "figure", (f"A {name} walks.",)))
    else:
        segments[0] = Segment(0.0, event, "lie", "figure", (f"A {name} lies on the floor.",))
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
