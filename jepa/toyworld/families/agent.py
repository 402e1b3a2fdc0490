"""A small vehicle, seen from above, drives straight and turns left or right; its thrust is recorded at every step."""

from __future__ import annotations

import math

import numpy as np

from jepa.toyworld.physics import Simulation
from jepa.toyworld.render import VIEW_M, Part
from jepa.toyworld.scene import COLOURS, WOOD, Actor, Scene, Segment, Setting, ease

OUTCOMES = ("turns_left", "turns_right")
DECK = OUTCOMES
SHAPES = ("rover", "cart")
LEAST_S = 2.0
_DAMPING = 0.2  # fraction of its speed that anything on the table keeps in a second
_HOLD_S = 0.25  # a random nudge lasts this long


def tasks(outcome: str) -> dict[str, str]:
    """Which way the vehicle turns; the second column is for clips that end before it does."""
    side = outcome.removeprefix("turns_")
    return {"agent_turn": side, "agent_will_turn": side}


def build(setting: Setting) -> Scene:
    """Thrust that makes the path, plus nudges that do not matter to the label but do to the next frame."""
    plan, rng, times = setting.plan, setting.rng, setting.times
    sign = 1 if plan.outcome == "turns_left" else -1
    event = setting.event_time(1.0)
    start = rng.uniform(0, 2 * math.pi)
    speed, lead = rng.uniform(0.55, 0.85), setting.lead(event)
    turn = rng.uniform(1.1, 1.8)
    bend = 0.5 * setting.config.clarity * setting.precursor(event, lead, decoy=False) ** 2
    heading = start + sign * (bend + turn * ease(times, event - 0.1, event + 0.9))
    velocity = speed * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    drag = -math.log(_DAMPING)
    nudges = rng.normal(0, 0.35, (math.ceil(setting.duration_s / _HOLD_S) + 1, 2))
    actions = np.gradient(velocity, times, axis=0) + drag * velocity + nudges[(times / _HOLD_S).astype(int)]
    path = np.concatenate([np.zeros((1, 2)), np.cumsum(velocity[:-1], axis=0) / float(setting.rate)])
    middle = VIEW_M / 2 + rng.uniform(-0.5, 0.5, 2)
    origin = middle - _corner(velocity[0], path[-1], velocity[-1])
    simulation = Simulation(0.0, 0.3, _DAMPING)
    simulation.disc(origin[0], origin[1], 0.3, (velocity[0, 0], velocity[0, 1]), bounce=0.2)
    crates = rng.uniform(
        0.5, VIEW_M - 0.5, (2, 2)
    )  # anywhere: their position must be independent of the side
    for crate in crates:
        if np.hypot(*(crate - origin)) > 0.7:
            simulation.box(crate[0], crate[1], 0.17, 0.17)

    def thrust(clock: float) -> None:
        body = simulation.bodies[0]
        frame = min(int(clock * float(setting.rate) + 1e-6), len(actions) - 1)
        force = actions[frame] * body.mass
        body.apply_force_at_world_point((force[0], force[1]), body.position)

    motion = simulation.run(setting.num_frames, setting.rate, thrust)
    frames = []
    for k, poses in enumerate(motion.poses):
        parts = [
            Part("box", pose[0], pose[1], (0.17, 0.17, 0.03), WOOD, pose[2], actor=1, drop=0.1)
            for pose in poses[1:]
        ]
        frames.append(parts + _vehicle(plan.shape, poses[0, 0], poses[0, 1], float(heading[k]), plan.colour))
    name = f"{plan.colour} {plan.shape}"
    side = plan.outcome.removeprefix("turns_")
    captions = (
        f"A {name} drives straight and turns {side}.",
        f"A {name} takes a {side} turn.",
        f"Seen from above, a {name} bends its way to its {side}.",
    )
    end = min(event + 0.9, setting.duration_s)
    return Scene(
        side=False,
        frames=frames,
        actors=[Actor(name, plan.shape, plan.colour), Actor("wooden crate", "crate", "brown")],
        captions=captions,
        tags=("vehicle", plan.colour, plan.shape, f"{side} turn"),
        event_s=event,
        event_end_s=end,
        precursor_start_s=max(0.0, event - lead),
        segments=[
            Segment(0.0, event, "drive", plan.shape, (f"A {name} drives straight.",)),
            Segment(event, end, "turn", side, captions[1:2]),
            Segment(end, setting.duration_s, "drive", plan.shape, (f"A {name} drives on.",)),
        ],
        counterfactual=f"The {name} would have gone straight on without thrust to its {side}.",
        actions=actions,
    )


def _corner(come: np.ndarray, end: np.ndarray, leave: np.ndarray) -> np.ndarray:
    """Where the line on which the way begins, at 0 along `come`, meets the one on which it ends.

    With it in the middle, a vehicle has the middle straight ahead or straight behind, so that its position does
    not tell the side.
    """
    cross = come[0] * leave[1] - come[1] * leave[0]
    return come * (end[0] * leave[1] - end[1] * leave[0]) / cross


def _vehicle(shape: str, x: float, y: float, heading: float, colour: str) -> list[Part]:
    """Body, wheels and a light in front; the far end of the light is where it drives."""
    cosine, sine = math.cos(heading), math.sin(heading)

    def at(along: float, across: float) -> tuple[float, float]:
        return x + along * cosine - across * sine, y + along * sine + across * cosine

    wheel = (0.11, 0.055, 0.02)
    wheels = [
        Part("box", *at(a, b), wheel, (0.15, 0.15, 0.17), heading, actor=0)
        for a in (-0.19, 0.19)
        for b in (-0.27, 0.27)
    ]
    half = (0.34, 0.24, 0.07) if shape == "rover" else (0.31, 0.25, 0.18)
    body = Part("box", x, y, half, COLOURS[colour], heading, actor=0, drop=0.1)
    light = Part("disc", *at(0.24, 0.0), (0.08,), (1.0, 0.97, 0.8), actor=0, flat=True)
    return [*wheels, body, light]
