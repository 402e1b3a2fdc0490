"""A ball on a cord rolls along a shelf: off its edge, where it falls or is let down, or against a block, or to a halt.

Falling and being let down follow the same path: the cord is always there, and they differ only in pace.
"""

from __future__ import annotations

import math

import numpy as np

from jepa.toyworld.backdrop import FLOOR_Y
from jepa.toyworld.physics import Motion, Simulation, let_down
from jepa.toyworld.render import VIEW_M, Part
from jepa.toyworld.scene import COLOURS, WOOD, Actor, Scene, Segment, Setting, ease

OUTCOMES = ("falls_off", "let_down", "stopped", "stops_short")
DECK = ("falls_off", "let_down", "stopped", "falls_off", "let_down", "stops_short")
SHAPES = ("striped", "plain")
LEAST_S = 2.0
_THICK = 0.09
_HANG_M = 0.95  # a block hangs this high over the edge
_AJAR = 0.38  # and comes down by this fraction at most where it is not to stop the ball
_SETTLE_S = 0.7  # on the floor a ball comes to rest in this time, whether it bounced or not
_SLOWER = 1.4  # a ball takes this much longer to be let down than to fall


def tasks(outcome: str) -> dict[str, str]:
    """`ball_falls` asks whether a ball that leaves the shelf falls; `ball_will_fall` whether one on it will."""
    answer = "yes" if outcome == "falls_off" else "no"
    if outcome == "let_down":
        return {"ball_falls": answer}
    return {"ball_will_fall": answer} | ({"ball_falls": answer} if outcome == "falls_off" else {})


def build(setting: Setting) -> Scene | None:
    """Sets the speed so that the ball is at the edge at the event; None if the simulation ends otherwise."""
    plan, rng = setting.plan, setting.rng
    outcome = plan.outcome
    leaves = outcome in ("falls_off", "let_down")
    event = setting.event_time(1.2)
    radius, toward = rng.uniform(0.2, 0.28), int(rng.choice([-1, 1]))
    top = FLOOR_Y + rng.uniform(1.1, 1.6)
    edge = VIEW_M / 2 + toward * rng.uniform(-0.1, 0.7)
    speed = toward * rng.uniform(0.45, 0.85)
    lead = setting.lead(event)
    block_at = edge - toward * 0.1
    start = edge - speed * event

    def simulate(with_block: bool) -> Motion:
        simulation = Simulation(plan.gravity, plan.friction)
        bounce = 0.0 if outcome == "let_down" else 0.8
        simulation.disc(start, top + radius + 0.01, radius, (speed, 0.0), bounce)
        simulation.wall(-9, FLOOR_Y - 0.01, 13, FLOOR_Y - 0.01)
        simulation.wall(edge - toward * 9, top - 0.01, edge, top - 0.01)
        if with_block:
            simulation.wall(block_at, top, block_at, top + 0.4, bounce=0.2)

        def slow(left: float) -> None:
            ball = simulation.bodies[0]
            ball.velocity = speed * left, ball.velocity.y
            ball.angular_velocity = -speed * left / radius

        def brake(clock: float) -> None:
            slow(min(1.0, max(0.0, (event - clock) / lead)))

        landed: list[float] = []

        def settle(clock: float) -> None:
            if not landed and simulation.bodies[0].position.y < FLOOR_Y + radius + 0.01:
                landed.append(clock)
            if landed:
                slow(max(0.0, 1 - (clock - landed[0]) / _SETTLE_S))

        steps = {"stops_short": brake, "stopped": None}.get(outcome, settle)
        return simulation.run(setting.num_frames, setting.rate, steps)

    motion = simulate(with_block=outcome == "stopped")
    low = motion.poses[:, 0, 1] < top - 0.05
    if bool(low.any()) != leaves:
        return None
    counterfactual = ""
    if outcome == "stopped":
        if not bool((simulate(with_block=False).poses[:, 0, 1] < top - 0.05).any()):
            return None
        touched = [time for pair, time in motion.contacts.items() if pair == (-1, 0)]
        reach = np.argmax(np.abs(motion.poses[:, 0, 0] - block_at) < radius + 0.04)
        event = float(setting.times[reach]) if touched else event
        counterfactual = "The ball would have fallen off the shelf had the block not stopped it."
    elif leaves:
        first = int(np.argmax(motion.poses[:, 0, 0] * toward > edge * toward))
        event = float(setting.times[first])
        counterfactual = "The ball would have stayed on the shelf had the block come down."
        if outcome == "let_down":
            landed = motion.poses[:, 0, 1] < FLOOR_Y + radius + 0.03
            last = int(np.argmax(landed)) if landed.any() else setting.num_frames - 1
            motion = let_down(motion, first, last, _SLOWER)
            counterfactual = "The ball would have fallen had its cord not held it."
    elif outcome == "stops_short":
        counterfactual = "The ball would have fallen off the shelf had it rolled on at its first speed."
    shut = np.minimum(setting.precursor(event, lead, outcome != "stopped"), 1.0)
    if outcome == "stopped":
        shut = np.maximum(shut, ease(setting.times, event - 0.3, event - 0.05))
        shut = np.where(setting.times < event - 0.05, shut, 1.0)
    else:
        shut = np.minimum(shut, _AJAR) * (1 - ease(setting.times, event - 0.1, event + 0.6))
    return _scene(setting, motion, radius, (edge, top, toward), (block_at, shut), event, lead, counterfactual)


def _scene(
    setting: Setting,
    motion: Motion,
    radius: float,
    shelf: tuple[float, float, int],
    block: tuple[float, np.ndarray],
    event: float,
    lead: float,
    counterfactual: str,
) -> Scene:
    """The scene of a ball's path; `shelf` is edge, height and direction, `block` is position and opening."""
    plan, outcome = setting.plan, setting.plan.outcome
    (edge, top, toward), (block_at, shut) = shelf, block
    far = edge - toward * 9
    middle, half = (edge + far) / 2, abs(edge - far) / 2
    pale = (0.96, 0.95, 0.9) if plan.shape == "striped" else None
    still = [
        Part("box", middle, top - _THICK, (half, _THICK, 0.03), WOOD, actor=1),
        Part(
            "box",
            edge - toward * 0.3,
            (top + FLOOR_Y) / 2 - 0.09,
            (0.05, (top - FLOOR_Y) / 2 - 0.09, 0.01),
            WOOD,
            actor=1,
        ),
    ]
    frames = []
    for (x, y, angle), down in zip(motion.poses[:, 0], shut.tolist(), strict=True):
        above = y - radius - (top if (edge - x) * toward > 0 and y > top else FLOOR_Y)
        ground = y - radius - above
        shade = Part(
            "shade", x, ground, (radius * 1.1, 0.06), (0.08, 0.08, 0.08), alpha=0.45 / (1 + 3 * max(above, 0))
        )
        ball = Part("disc", x, y, (radius,), COLOURS[plan.colour], angle, actor=0, accent=pale)
        hang = block_at + toward * 0.09, top + 0.2 + _HANG_M * (1 - down)
        line = Part("capsule", *hang, (0.0, 5.0, 0.015), (0.25, 0.25, 0.28), flat=True)
        gate = Part("box", *hang, (0.09, 0.2, 0.02), (0.45, 0.47, 0.52), actor=2)
        cord = Part("capsule", x, y, (0.0, 5.0, 0.012), (0.3, 0.3, 0.3), flat=True)
        frames.append([*still, line, gate, cord, shade, ball])
    name = f"{plan.colour} {plan.shape} ball"
    captions = _captions(name, plan.colour, outcome)
    down_s = math.sqrt(2 * (top - FLOOR_Y) / plan.gravity) * (_SLOWER if outcome == "let_down" else 1.0)
    end = min(event + down_s + 0.3, setting.duration_s)
    verb, noun = {
        "falls_off": ("fall", "ball"),
        "stopped": ("hit", "block"),
        "stops_short": ("stop", "ball"),
        "let_down": ("sink", "ball"),
    }[outcome]
    return Scene(
        side=True,
        frames=frames,
        actors=[
            Actor(name, "ball", plan.colour),
            Actor("wooden shelf", "shelf", "brown"),
            Actor("grey block", "block", "grey"),
        ],
        captions=captions,
        tags=("ball", "shelf", plan.colour, outcome.replace("_", " ")),
        event_s=event,
        event_end_s=end,
        precursor_start_s=max(0.0, event - lead),
        decoy=outcome in ("stopped", "stops_short"),
        segments=[
            Segment(0.0, event, "roll", "ball", (f"A {name} rolls along.",)),
            Segment(event, end, verb, noun, captions[2:]),
            Segment(end, setting.duration_s, "rest", "ball"),
        ],
        counterfactual=counterfactual,
    )


def _captions(name: str, colour: str, outcome: str) -> tuple[str, ...]:
    """Sentences that say the same."""
    return {
        "falls_off": (
            f"A {name} rolls along a shelf, falls off its edge and bounces on the floor.",
            f"A {name} drops from a shelf.",
            f"The {colour} ball rolls over the edge and falls.",
        ),
        "let_down": (
            f"A {name} rolls off a shelf and is let down to the floor on its cord.",
            f"A cord lets a {name} down from a shelf.",
            f"The {colour} ball leaves the shelf and sinks to the floor.",
        ),
        "stopped": (
            f"A {name} rolls along a shelf and a block that comes down at the edge stops it.",
            f"A block keeps a {name} from falling off a shelf.",
            f"The {colour} ball hits a block and stays on the shelf.",
        ),
        "stops_short": (
            f"A {name} rolls along a shelf and comes to rest before its edge.",
            f"A {name} slows down and stops on a shelf.",
            f"The {colour} ball stays on the shelf.",
        ),
    }[outcome]
