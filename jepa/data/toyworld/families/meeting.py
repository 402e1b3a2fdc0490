"""Two figures walk towards each other and meet: they shake hands, one pushes the other over, or they pass."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from jepa.data.toyworld import figure
from jepa.data.toyworld.physics import topple
from jepa.data.toyworld.render import VIEW_M
from jepa.data.toyworld.scene import COLOURS, Actor, Hazard, Scene, Segment, Setting, ease

OUTCOMES = ("handshake", "push", "pass")
DECK = OUTCOMES
SHAPES = ("figure",)
LEAST_S = 3.0
_APART_M = {"handshake": 0.95, "push": 0.78, "pass": 0.95}  # hands meet, hands reach the other's chest


def tasks(outcome: str) -> dict[str, str]:
    """`meeting` asks which of the three, before the moment `will_push` asks for the one that hurts."""
    return {"meeting": outcome, "will_push": "yes" if outcome == "push" else "no"}


def build(setting: Setting) -> Scene:
    """The arms start to rise at the lead: both alike for a handshake, one pair drawn back and out for a push."""
    plan, rng, times = setting.plan, setting.rng, setting.times
    outcome = plan.outcome
    moment, lead = setting.moment(), setting.lead()
    facing = int(rng.choice([-1, 1]))  # of the one who pushes
    pace = rng.uniform(0.5, 0.75)
    middle = VIEW_M / 2 + rng.uniform(-0.3, 0.3)
    stop, apart = outcome != "pass", _APART_M[outcome]
    go = 1 - ease(times, moment - 0.35, moment + 0.1) * stop
    leave = ease(times, moment + 0.8, moment + 1.2) if outcome == "handshake" else 0 * times
    steps = np.concatenate([[0.0], np.cumsum((go + leave)[:-1] * pace / float(setting.rate))])
    at = float(np.interp(moment, times, steps))
    sign = setting.omen(moment, lead, decoy=False)
    blur = 1 - 0.7 * (1 - setting.config.clarity)
    clasp = np.maximum(sign * blur * (times < moment), ease(times, moment - 0.15, moment) * stop)
    clasp = np.where(times < moment, clasp, np.minimum(1.0, clasp)) * (
        1 - ease(times, moment + 0.7, moment + 1.0)
    )
    if outcome == "pass":
        clasp = setting.omen(moment, lead, decoy=True) * blur * (1 - ease(times, moment - 0.1, moment + 0.2))
    shake = 0.22 * np.sin(2 * math.pi * 2.6 * (times - moment)) * ease(times, moment, moment + 0.2)
    shake = shake * (1 - ease(times, moment + 0.6, moment + 0.8)) * (outcome == "handshake")
    gone = np.where(
        times > moment + 0.1, topple(0.2, 1.6, plan.gravity, 1.15, np.maximum(times - moment - 0.1, 0)), 0.0
    )
    staggers = 0.4 * ease(times, moment, moment + 0.5) * (outcome == "push")
    other = [name for name in COLOURS if name != plan.colour][rng.integers(len(COLOURS) - 1)]
    phases = rng.uniform(0, 1.15, 2)
    frames = []
    for k in range(len(times)):
        poses = []
        for who, way in ((0, facing), (1, -facing)):
            moved = float(steps[k]) - at
            x = middle + way * (moved - apart / 2)
            if outcome == "handshake" and times[k] > moment + 0.8:
                x = middle + way * (-apart / 2 - moved)
            vigour = float(np.clip(go[k] + leave[k], 0.0, 1.0))
            turned = -way if outcome == "handshake" and times[k] > moment + 1.0 else way
            pose = figure.walk(x, turned, float(steps[k]) + phases[who], vigour)
            poses.append(_arms(pose, outcome, who, float(clasp[k]), float(shake[k]), bool(times[k] < moment)))
        if outcome == "push":
            poses[1] = figure.fallen(
                replace(poses[1], x=poses[1].x + facing * float(staggers[k])), float(gone[k])
            )
        parts = []
        for who in (1, 0):
            parts += figure.draw(poses[who], COLOURS[(plan.colour, other)[who]], who)
        frames.append(parts)
    one, two = f"figure in {plan.colour}", f"figure in {other}"
    says = {
        "handshake": (
            f"A {one} and a {two} meet, shake hands and part.",
            "Two people shake hands.",
            f"The {one} greets the {two}.",
        ),
        "push": (
            f"A {one} walks up to a {two} and pushes the other over.",
            f"A {two} is pushed and falls.",
            "One person shoves another.",
        ),
        "pass": (
            f"A {one} and a {two} walk past each other.",
            "Two people pass without stopping.",
            f"The {one} crosses the way of the {two}.",
        ),
    }[outcome]
    omen, end = max(0.0, moment - lead), min(moment + 0.9, setting.duration_s)
    verb = {"handshake": "shake", "push": "push", "pass": "pass"}[outcome]
    noun = "hand" if outcome == "handshake" else "figure"
    rest = {"handshake": "part", "push": "lie", "pass": "leave"}[outcome]
    otherwise = {
        "push": f"The {two} would have stayed upright had the {one} walked past.",
        "pass": "The two would have met had one of them stopped.",
    }
    return Scene(
        side=True,
        frames=frames,
        actors=[Actor(one, "figure", plan.colour), Actor(two, "figure", other)],
        captions=says,
        tags=("two figures", plan.colour, other, outcome),
        moment_s=moment,
        event_end_s=end,
        omen_s=omen,
        decoy=outcome == "pass",
        segments=[
            Segment(0.0, moment, "approach", "figure", ("Two figures walk towards each other.",)),
            Segment(moment, end, verb, noun, says[1:2]),
            Segment(end, setting.duration_s, rest, "figure"),
        ],
        hazards=[Hazard(moment, "aggression", 3, "HxqYV1")] if outcome == "push" else [],
        counterfactual=otherwise.get(outcome, ""),
    )


def _arms(pose: figure.Pose, outcome: str, who: int, clasp: float, shake: float, before: bool) -> figure.Pose:
    """Raises the arms by `clasp`: one to greet, or both to push, elbows bent until the moment."""
    if outcome == "push" and who == 0:
        bend = 1.3 * clasp if before else 0.15
        raised = 1.45 * clasp - (0.9 * clasp if before else 0.0)
        return replace(
            pose, arms=(raised, raised), elbows=(0.25 + bend, 0.25 + bend), lean=pose.lean + 0.12 * clasp
        )
    if outcome == "push":
        return replace(pose, arms=(pose.arms[0] + 0.5 * clasp, pose.arms[1]))
    return replace(pose, arms=(pose.arms[0] * (1 - clasp) + 1.25 * clasp + shake, pose.arms[1]))
