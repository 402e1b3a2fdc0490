"""A hand comes to a table twice, seen from above: it grasps a thing and puts it down, the other way round, or neither.

What is grasped lay there at some time and is held at another, so each video that shows it shows the undoing too: of
all videos half have the thing in the hand at any time, whether or not it is grasped.
"""

from __future__ import annotations

import math

import numpy as np

from jepa.toyworld.families.motion import outline
from jepa.toyworld.render import VIEW_M, Colour, Part
from jepa.toyworld.scene import COLOURS, SKIN, Actor, Scene, Segment, Setting, ease

OUTCOMES = ("grasps", "grasps_again", "turns_away", "carries")
DECK = OUTCOMES
SHAPES = ("square", "star", "cross", "ring")
LEAST_S = 2.5
_GRIP = 0.5  # metres from the wrist to what is held


def tasks(outcome: str) -> dict[str, str]:
    """`hand_grasps` holds for every video; `hand_will_grasp` for those in which an empty hand comes near first."""
    answer = "yes" if outcome in ("grasps", "grasps_again") else "no"
    return {"hand_grasps": answer} | (
        {"hand_will_grasp": answer} if outcome in ("grasps", "turns_away") else {}
    )


def build(setting: Setting) -> Scene:
    """Moves the wrist in and out twice along one line; what differs is how far it comes and what it holds when."""
    plan, rng, times = setting.plan, setting.rng, setting.times
    outcome = plan.outcome
    first, second = setting.event_times()
    event = second if outcome == "grasps_again" else first
    lead = max(0.8, setting.lead(first))
    thing = VIEW_M / 2 + rng.uniform(-0.55, 0.55, 2)
    angle = math.pi / 2 + rng.uniform(-0.9, 0.9)
    inward = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-math.sin(angle), math.cos(angle)]) * rng.choice([-1.0, 1.0])
    radius, spin = rng.uniform(0.24, 0.32), rng.uniform(0, 2 * math.pi)
    far = rng.uniform(1.0, 1.5)
    decoy = outcome == "turns_away"
    between = (first + second) / 2
    back_s = min(1.2 * lead, between - first - 0.2)
    come_s, leave_s = min(1.2 * lead, first), min(1.2 * lead, setting.duration_s - second - 0.2)
    near = ease(times, first - come_s, first) * (1 - ease(times, first + 0.2, first + 0.2 + back_s))
    near += ease(times, second - back_s, second) * (1 - ease(times, second + 0.2, second + 0.2 + leave_s))
    gap = rng.uniform(0.22, 0.4) + 0.5 * setting.config.clarity * rng.uniform(0.3, 1.0) if decoy else 0.0
    swerve = gap * rng.uniform(0.3, 0.8)
    if outcome == "carries":
        swerve, gap = rng.choice([-1, 1]) * rng.uniform(0.2, 0.6), rng.uniform(0.0, 0.4)
    reach = far - (far - gap) * near
    wrist = thing - inward * (reach + _GRIP)[:, None] + across * (swerve * near)[:, None]
    grip = wrist + inward * _GRIP
    before, after = times < first, times >= second
    holds = {
        "grasps": ~before & ~after,
        "grasps_again": before | after,
        "turns_away": np.zeros(len(times), bool),
        "carries": np.ones(len(times), bool),
    }[outcome]
    way = np.clip((times - (second - back_s)) / back_s, 0, 1) * (
        times < second
    )  # the hand opens on its way back, too
    open_by = np.maximum(setting.precursor(first, lead, decoy) * before, way) * ~holds
    at = np.where(holds[:, None], grip, thing)
    sleeve = list(COLOURS.values())[rng.integers(len(COLOURS))]
    frames = []
    for k in range(len(times)):
        lift = 0.2 if holds[k] else 0.08
        shape = [
            part._replace(drop=lift) if part.drop else part
            for part in outline(
                plan.shape, float(at[k, 0]), float(at[k, 1]), radius, COLOURS[plan.colour], spin, 0
            )
        ]
        under, over = _hand(wrist[k], angle, 0.3 + 0.55 * float(open_by[k]) if not holds[k] else 0.42, sleeve)
        frames.append([*under, *shape, *over])
    name = f"{plan.colour} {plan.shape}"
    captions = _captions(name, outcome)
    otherwise = {
        "grasps": f"The {name} would have stayed had the hand turned away.",
        "grasps_again": f"The {name} would have stayed had the hand turned away the second time.",
        "turns_away": f"The {name} would have been taken had the hand closed on it.",
    }
    return Scene(
        side=False,
        frames=frames,
        actors=[Actor(name, plan.shape, plan.colour), Actor("hand", "hand", "skin")],
        captions=captions,
        tags=("hand", plan.colour, plan.shape, outcome.replace("_", " ")),
        event_s=event,
        event_end_s=min(event + 0.25, setting.duration_s),
        precursor_start_s=max(0.0, event - (back_s if event == second else lead)),
        decoy=decoy,
        segments=_segments(setting, name, max(0.0, first - lead), (first, second)),
        counterfactual=otherwise.get(outcome, ""),
    )


def _hand(wrist: np.ndarray, angle: float, opening: float, sleeve: Colour) -> tuple[list[Part], list[Part]]:
    """Forearm and palm below what is held, fingers above it; `opening` is how far they are open, in radians."""
    inward = math.cos(angle), math.sin(angle)
    x, y = float(wrist[0]), float(wrist[1])

    def limb(start: tuple[float, float], turn: float, length: float, radius: float) -> Part:
        size = length * math.cos(angle + turn), length * math.sin(angle + turn), radius
        return Part("capsule", *start, size, SKIN, actor=1, drop=0.12 if radius > 0.1 else 0.0)

    arm = Part("capsule", x, y, (-3.5 * inward[0], -3.5 * inward[1], 0.17), sleeve, drop=0.16)
    hold = limb((x, y), 0.0, 0.16, 0.12)
    palm = Part("disc", x + 0.16 * inward[0], y + 0.16 * inward[1], (0.19,), SKIN, actor=1, drop=0.12)
    fingers = []
    for turn in (-1.0, -0.35, 0.3, 0.95):
        base = x + 0.3 * math.cos(angle + 0.55 * turn), y + 0.3 * math.sin(angle + 0.55 * turn)
        fingers.append(limb(base, turn * opening, 0.22 if abs(turn) > 0.9 else 0.28, 0.055))
    return [arm, hold, palm], fingers


def _captions(name: str, outcome: str) -> tuple[str, ...]:
    """Sentences that say the same."""
    return {
        "grasps": (
            f"A hand reaches for a {name}, takes it away and puts it back.",
            f"A {name} is picked up and brought back.",
            f"The hand takes the {name}.",
        ),
        "turns_away": (
            f"A hand reaches twice towards a {name} but turns away without it.",
            f"A hand comes near a {name} and withdraws.",
            f"The {name} is left where it is.",
        ),
        "grasps_again": (
            f"A hand puts a {name} down, comes back and grasps it.",
            f"A {name} is placed on the table and picked up again.",
            f"The hand takes the {name} that it brought.",
        ),
        "carries": (
            f"A hand brings a {name} twice and takes it away again.",
            f"A {name} is shown and kept in the hand.",
            f"The hand does not let go of the {name}.",
        ),
    }[outcome]


def _segments(setting: Setting, name: str, precursor: float, times: tuple[float, float]) -> list[Segment]:
    """What the hand does on its way, at both times, between them and after."""
    shape, (first, second) = setting.plan.shape, times
    verbs = {
        "grasps": ("reach", "grasp", "release"),
        "grasps_again": ("bring", "release", "grasp"),
        "turns_away": ("reach", "leave", "leave"),
        "carries": ("bring", "keep", "keep"),
    }[setting.plan.outcome]
    sentences = {
        "grasp": f"The hand takes the {name}.",
        "release": f"The hand lets go of the {name}.",
        "leave": f"The {name} is left where it is.",
        "keep": f"The hand does not let go of the {name}.",
    }
    ends = [min(time + 0.25, setting.duration_s) for time in times]
    return [
        Segment(precursor, first, verbs[0], shape, ("A hand moves towards the middle.",)),
        Segment(first, ends[0], verbs[1], shape, (sentences[verbs[1]],)),
        Segment(ends[0], second, "return", "hand", ("The hand withdraws and comes back.",)),
        Segment(second, ends[1], verbs[2], shape, (sentences[verbs[2]],)),
        Segment(ends[1], setting.duration_s, "withdraw", "hand", ("The hand withdraws.",)),
    ]
