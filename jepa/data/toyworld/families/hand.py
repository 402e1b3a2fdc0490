"""A hand over a table, seen from above: it grasps a thing, turns away from it, puts it down, or carries it past."""

from __future__ import annotations

import math

import numpy as np

from jepa.data.toyworld.families.motion import outline
from jepa.data.toyworld.render import VIEW_M, Colour, Part
from jepa.data.toyworld.scene import COLOURS, SKIN, Actor, Scene, Segment, Setting, ease

OUTCOMES = ("grasps", "turns_away", "puts_down", "carries")
DECK = ("grasps", "turns_away", "grasps", "puts_down", "grasps", "carries")
SHAPES = ("square", "star", "cross", "ring")
LEAST_S = 2.0
_GRIP = 0.5  # metres from the wrist to what is held


def tasks(outcome: str) -> dict[str, str]:
    """`hand_grasps` holds for every video; `hand_will_grasp` for those in which an empty hand comes near."""
    answer = "yes" if outcome == "grasps" else "no"
    return {"hand_grasps": answer} | (
        {"hand_will_grasp": answer} if outcome in ("grasps", "turns_away") else {}
    )


def build(setting: Setting) -> Scene:
    """Moves the wrist along one line in and out; what differs is how far it comes and what it holds when."""
    plan, rng, times = setting.plan, setting.rng, setting.times
    outcome = plan.outcome
    moment = setting.moment()
    lead = max(0.8, setting.lead(moment))
    thing = VIEW_M / 2 + rng.uniform(-0.55, 0.55, 2)
    angle = math.pi / 2 + rng.uniform(-0.9, 0.9)
    inward = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-math.sin(angle), math.cos(angle)]) * rng.choice([-1.0, 1.0])
    radius, spin = rng.uniform(0.24, 0.32), rng.uniform(0, 2 * math.pi)
    far = rng.uniform(1.0, 1.5)
    decoy = outcome == "turns_away"
    near = ease(times, moment - 1.2 * lead, moment) * (
        1 - ease(times, moment + 0.25, moment + 0.25 + 1.2 * lead)
    )
    gap = rng.uniform(0.22, 0.4) + 0.5 * setting.config.clarity * rng.uniform(0.3, 1.0) if decoy else 0.0
    swerve = gap * rng.uniform(0.3, 0.8)
    if outcome == "carries":
        swerve, gap = rng.choice([-1, 1]) * rng.uniform(0.2, 0.6), rng.uniform(0.0, 0.4)
    reach = far - (far - gap) * near
    wrist = thing - inward * (reach + _GRIP)[:, None] + across * (swerve * near)[:, None]
    open_by = (
        setting.omen(moment, lead, decoy) * (times < moment)
        if outcome in ("grasps", "turns_away")
        else 0 * times
    )
    grip = wrist + inward * _GRIP
    holds = {
        "grasps": times >= moment,
        "turns_away": np.zeros(len(times), bool),
        "puts_down": times < moment,
        "carries": np.ones(len(times), bool),
    }[outcome]
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
    says = {
        "grasps": (
            f"A hand reaches for a {name}, grasps it and takes it away.",
            f"A {name} is picked up.",
            f"The hand takes the {name}.",
        ),
        "turns_away": (
            f"A hand reaches towards a {name} but turns away without it.",
            f"A hand comes near a {name} and withdraws.",
            f"The {name} is left where it is.",
        ),
        "puts_down": (
            f"A hand puts a {name} down and withdraws.",
            f"A {name} is placed on the table.",
            f"The hand leaves the {name} behind.",
        ),
        "carries": (
            f"A hand brings a {name} and takes it away again.",
            f"A {name} is shown and kept in the hand.",
            f"The hand does not let go of the {name}.",
        ),
    }[outcome]
    omen = max(0.0, moment - lead)
    end = min(moment + 0.25, setting.duration_s)
    before = "reach" if outcome in ("grasps", "turns_away") else "bring"
    verb = {"grasps": "grasp", "turns_away": "leave", "puts_down": "release", "carries": "keep"}[outcome]
    otherwise = {
        "grasps": f"The {name} would have stayed had the hand turned away.",
        "turns_away": f"The {name} would have been taken had the hand closed on it.",
    }
    return Scene(
        side=False,
        frames=frames,
        actors=[Actor(name, plan.shape, plan.colour), Actor("hand", "hand", "skin")],
        captions=says,
        tags=("hand", plan.colour, plan.shape, outcome.replace("_", " ")),
        moment_s=moment,
        event_end_s=end,
        omen_s=omen,
        decoy=decoy,
        segments=[
            Segment(omen, moment, before, plan.shape, ("A hand moves towards the middle.",)),
            Segment(moment, end, verb, plan.shape, says[2:]),
            Segment(end, setting.duration_s, "withdraw", "hand", ("The hand withdraws.",)),
        ],
        counterfactual=otherwise.get(outcome, ""),
    )


def _hand(wrist: np.ndarray, angle: float, spread: float, sleeve: Colour) -> tuple[list[Part], list[Part]]:
    """Forearm and palm below what is held, fingers above it; `spread` is how far they are open, in radians."""
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
        fingers.append(limb(base, turn * spread, 0.22 if abs(turn) > 0.9 else 0.28, 0.055))
    return [arm, hold, palm], fingers
