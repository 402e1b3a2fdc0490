"""A ball rolls behind a screen and comes out again, or does not: for measuring surprise.

Four videos are alike in everything else. In two the ball is there before and after the screen, or never; in two it
vanishes or appears behind it, which cannot be. Every single frame occurs as often in a possible video as in
an impossible one.
"""

from __future__ import annotations

from jepa.toyworld.backdrop import FLOOR_Y
from jepa.toyworld.render import VIEW_M, Part
from jepa.toyworld.scene import COLOURS, WOOD, Actor, Scene, Segment, Setting

OUTCOMES = ("stays", "never", "vanishes", "appears")
DECK = OUTCOMES
SHAPES = ("striped", "plain")
LEAST_S = 2.0


def tasks(outcome: str) -> dict[str, str]:
    """Whether physics allows it."""
    return {"possible": "yes" if outcome in ("stays", "never") else "no"}


def build(setting: Setting) -> Scene:
    """Rolls without slip at constant speed; what the screen covers at the event is the only difference."""
    plan, rng = setting.plan, setting.rng
    event = setting.to_frame(setting.duration_s / 2)
    radius, toward, speed = rng.uniform(0.22, 0.3), int(rng.choice([-1, 1])), rng.uniform(0.75, 1.05)
    middle, half = VIEW_M / 2 + rng.uniform(-0.3, 0.3), radius + rng.uniform(0.1, 0.2)
    tall = 2 * radius + rng.uniform(0.2, 0.5)
    there = plan.outcome in ("stays", "vanishes"), plan.outcome in ("stays", "appears")
    pale = (0.96, 0.95, 0.9) if plan.shape == "striped" else None
    screen = Part("box", middle, FLOOR_Y + tall / 2 - 0.08, (half, tall / 2 + 0.08, 0.04), WOOD, actor=1)
    frames = []
    for time in setting.times:
        parts = []
        if there[int(time >= event)]:
            x = middle + toward * speed * float(time - event)
            parts.append(Part("shade", x, FLOOR_Y, (radius, 0.06), (0.08, 0.08, 0.08), alpha=0.45))
            turn = -(x - middle) / radius
            parts.append(
                Part("disc", x, FLOOR_Y + radius, (radius,), COLOURS[plan.colour], turn, actor=0, accent=pale)
            )
        frames.append([*parts, screen])
    name = f"{plan.colour} {plan.shape} ball"
    captions = {
        "stays": (
            f"A {name} rolls behind a screen and comes out again.",
            f"A {name} passes behind a screen.",
        ),
        "never": (
            "A screen stands on the floor and nothing passes behind it.",
            "Nothing moves by the screen.",
        ),
        "vanishes": (
            f"A {name} rolls behind a screen and never comes out.",
            f"A {name} vanishes behind a screen.",
        ),
        "appears": (
            f"A {name} comes out from behind a screen where nothing went in.",
            f"A {name} appears from nowhere.",
        ),
    }[plan.outcome]
    possible = plan.outcome in ("stays", "never")
    return Scene(
        side=True,
        frames=frames,
        actors=[Actor(name, "ball", plan.colour), Actor("wooden screen", "screen", "brown")],
        captions=captions,
        tags=("ball", "screen", plan.colour, "possible" if possible else "impossible"),
        event_s=event,
        event_end_s=min(event + (half + radius) / speed, setting.duration_s),
        precursor_start_s=event,
        segments=[
            Segment(
                0.0,
                setting.duration_s,
                "pass" if possible else plan.outcome.rstrip("s"),
                "ball",
                captions[:1],
            )
        ],
        counterfactual=""
        if possible
        else "A ball that keeps to physics would be there before and after, or never.",
    )
