"""A ball rolls against a wall and bounces off, or is on the other side at once: for measuring surprise.

Four videos are alike in everything else: from the left and from the right, bouncing and passing. Every single frame
occurs as often in a possible video as in an impossible one.
"""

from __future__ import annotations

import numpy as np

from jepa.toyworld.backdrop import FLOOR_Y
from jepa.toyworld.physics import Simulation
from jepa.toyworld.render import VIEW_M, Part
from jepa.toyworld.scene import COLOURS, Actor, Scene, Segment, Setting

OUTCOMES = ("bounces_left", "bounces_right", "passes_left", "passes_right")
DECK = OUTCOMES
SHAPES = ("plain", "striped")
LEAST_S = 2.0


def tasks(outcome: str) -> dict[str, str]:
    """Whether physics allows it."""
    return {"possible": "yes" if outcome.startswith("bounces") else "no"}


def build(setting: Setting) -> Scene:
    """Simulates one bounce; its mirror image and the two mixtures of both are the other three videos."""
    plan, rng = setting.plan, setting.rng
    radius, speed, half = rng.uniform(0.22, 0.3), rng.uniform(0.75, 1.05), rng.uniform(0.07, 0.14)
    middle = VIEW_M / 2 + rng.uniform(-0.3, 0.3)
    simulation = Simulation(0.0, 0.0)
    contact = middle - half - radius
    simulation.disc(contact - speed * setting.duration_s / 2, 0.0, radius, (speed, 0.0), bounce=1.0)
    simulation.wall(middle - half + 0.01, -9, middle - half + 0.01, 9, bounce=0.85)
    motion = simulation.run(setting.num_frames, setting.rate)
    event = setting.to_frame(motion.contacts[(-1, 0)])
    left = motion.poses[:, 0, 0]
    right = 2 * middle - left
    later = setting.times >= event
    paths = {
        "bounces_left": left,
        "bounces_right": right,
        "passes_left": np.where(later, left, right),
        "passes_right": np.where(later, right, left),
    }
    pale = (0.96, 0.95, 0.9) if plan.shape == "striped" else None
    wall = Part("box", middle, FLOOR_Y + 0.65, (half, 0.75, 0.02), (0.55, 0.33, 0.27), actor=1)
    frames = []
    for x in paths[plan.outcome]:
        shade = Part("shade", float(x), FLOOR_Y, (radius, 0.06), (0.08, 0.08, 0.08), alpha=0.45)
        turn = -(float(x) - middle) / radius
        ball = Part(
            "disc", float(x), FLOOR_Y + radius, (radius,), COLOURS[plan.colour], turn, actor=0, accent=pale
        )
        frames.append([shade, ball, wall])
    name = f"{plan.colour} {plan.shape} ball"
    possible = plan.outcome.startswith("bounces")
    if possible:
        captions = (f"A {name} rolls against a wall and bounces back.", f"A wall turns a {name} round.")
    else:
        captions = (f"A {name} rolls into a wall and goes on behind it.", f"A {name} passes through a wall.")
    end = min(event + 0.3, setting.duration_s)
    return Scene(
        side=True,
        frames=frames,
        actors=[Actor(name, "ball", plan.colour), Actor("brick wall", "wall", "red")],
        captions=captions,
        tags=("ball", "wall", plan.colour, "possible" if possible else "impossible"),
        event_s=event,
        event_end_s=end,
        precursor_start_s=event,
        segments=[
            Segment(0.0, event, "roll", "ball", (f"A {name} rolls towards a wall.",)),
            Segment(event, end, "bounce" if possible else "pass", "wall", captions[1:]),
            Segment(end, setting.duration_s, "roll", "ball", (f"A {name} rolls away.",)),
        ],
        counterfactual="" if possible else "A ball that keeps to physics would have bounced off the wall.",
    )
