"""Two discs glide over an air table and hit each other, or pass close by: a frame shows two discs either way."""

from __future__ import annotations

import math

import numpy as np

from jepa.toyworld.physics import Simulation
from jepa.toyworld.render import VIEW_M, Part
from jepa.toyworld.scene import COLOURS, Actor, Scene, Segment, Setting

OUTCOMES = ("hit", "miss")
DECK = OUTCOMES
SHAPES = ("plain", "striped")
LEAST_S = 1.5
_DRAUGHT_M_S2 = 0.45  # draughts push the discs, so that a hit is the less certain the further it is ahead
_HOLD_S = 0.25  # a draught lasts this long


def tasks(outcome: str) -> dict[str, str]:
    """Both columns ask the same; the second is for clips that end before the event."""
    answer = "yes" if outcome == "hit" else "no"
    return {"collision": answer, "will_collide": answer}


def build(setting: Setting) -> Scene | None:
    """Meets the discs at the event, or lets them pass with a gap; None if the simulation ends otherwise."""
    plan, rng = setting.plan, setting.rng
    hit = plan.outcome == "hit"
    event = setting.event_time()
    radii = rng.uniform(0.34, 0.52, 2)
    heading, speed = rng.uniform(0, 2 * math.pi), rng.uniform(1.1, 1.7)
    closing = np.array([math.cos(heading), math.sin(heading)]) * speed
    across = np.array([-math.sin(heading), math.cos(heading)]) * rng.choice([-1.0, 1.0])
    touch = radii.sum()
    offset = (
        touch * rng.uniform(0.0, 0.75)
        if hit
        else touch + rng.uniform(0.15, 0.45) + 0.4 * setting.config.clarity
    )
    along = math.sqrt(max(touch**2 - offset**2, 0.0)) if hit else 0.0
    apart = across * offset + closing / speed * along
    drift = rng.uniform(-0.25, 0.25, 2)
    part = rng.uniform(0.35, 0.65)
    velocities = closing * part + drift, -closing * (1 - part) + drift
    middle = VIEW_M / 2 + rng.uniform(-0.6, 0.6, 2)
    simulation = Simulation(0.0, 0.0)
    for position, radius, velocity in (
        (-apart / 2, radii[0], velocities[0]),
        (apart / 2, radii[1], velocities[1]),
    ):
        x, y = middle + position - velocity * event
        simulation.disc(x, y, radius, (velocity[0], velocity[1]), bounce=1.0)
    draught = rng.normal(0, _DRAUGHT_M_S2, (int(setting.duration_s / _HOLD_S) + 2, 2, 2))

    def blow(clock: float) -> None:
        for body, (x, y) in zip(simulation.bodies, draught[int(clock / _HOLD_S)], strict=True):
            body.apply_force_at_world_point((x * body.mass, y * body.mass), body.position)

    motion = simulation.run(setting.num_frames, setting.rate, blow)
    touched = motion.contacts.get((0, 1))
    if (touched is not None) != hit:
        return None
    gaps = np.hypot(*(motion.poses[:, 0, :2] - motion.poses[:, 1, :2]).T) - touch
    event = setting.to_frame(touched) if touched is not None else float(setting.times[int(np.argmin(gaps))])
    if (not hit and gaps.min() < 0.08) or not 0.15 < event / setting.duration_s < 0.85:
        return None
    other = [name for name in COLOURS if name != plan.colour][rng.integers(len(COLOURS) - 1)]
    pale = (0.95, 0.94, 0.9) if plan.shape == "striped" else None
    spin = rng.uniform(0, 2 * math.pi, 2)
    frames = [
        [
            Part("disc", pose[0], pose[1], (radius,), COLOURS[name], turn, actor=i, accent=pale, drop=0.1)
            for i, (pose, radius, name, turn) in enumerate(
                zip(poses, radii, (plan.colour, other), spin, strict=True)
            )
        ]
        for poses in motion.poses
    ]
    one, two = f"{plan.colour} {plan.shape} disc", f"{other} {plan.shape} disc"
    captions = _captions(hit, one, two, f"{plan.colour} and {other}")
    otherwise = f"The discs would have collided had the {one} started {offset - touch:.2f} m further in."
    if hit:
        otherwise = f"Had the {one} started a disc's width to the side, the two would have passed each other."
    verb = "collide" if hit else "pass"
    end = min(event + 0.4, setting.duration_s)
    return Scene(
        side=False,
        frames=frames,
        actors=[Actor(one, "disc", plan.colour), Actor(two, "disc", other)],
        captions=captions,
        tags=("discs", plan.colour, other, "collision" if hit else "near miss"),
        event_s=event,
        event_end_s=end,
        precursor_start_s=max(0.0, event - setting.config.precursor_s),
        decoy=not hit,
        segments=[
            Segment(0.0, event, "approach", "disc", (f"A {one} and a {two} glide towards each other.",)),
            Segment(event, end, verb, "disc", captions[1:2]),
            Segment(end, setting.duration_s, "leave", "disc", ("The discs glide apart.",)),
        ],
        counterfactual=otherwise,
    )


def _captions(hit: bool, one: str, two: str, colours: str) -> tuple[str, ...]:
    """Sentences that say the same."""
    if hit:
        return (
            f"A {one} and a {two} hit each other and bounce apart.",
            f"A {one} collides with a {two}.",
            f"Two discs, {colours}, crash.",
        )
    return (
        f"A {one} and a {two} pass close by each other.",
        f"A {one} just misses a {two}.",
        f"Two discs, {colours}, nearly touch and go on.",
    )
