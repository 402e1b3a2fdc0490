"""A tower on a tilting board: it falls, is let down by its cords, sways and stands again, or is built by a hook.

Falling and being let down follow the same path: a cord goes up from each block, and they differ only in pace.
"""

from __future__ import annotations

import math

import numpy as np

from jepa.toyworld.backdrop import FLOOR_Y
from jepa.toyworld.physics import Motion, Simulation, let_down
from jepa.toyworld.render import VIEW_M, Colour, Part
from jepa.toyworld.scene import COLOURS, WOOD, Actor, Scene, Segment, Setting, ease

OUTCOMES = ("falls", "let_down", "sways", "built")
DECK = ("falls", "let_down", "sways", "falls", "let_down", "sways", "built")
SHAPES = ("blocks", "slabs")
LEAST_S = 2.5
_BOARD = 0.8, 0.05
_SLOWER = 1.3  # a tower takes this much longer to be let down than to fall


def tasks(outcome: str) -> dict[str, str]:
    """`tower_falls` asks whether a tower that comes down falls; `tower_will_fall` whether one that tilts will."""
    answer = "yes" if outcome == "falls" else "no"
    columns = {"tower_falls": ("falls", "let_down"), "tower_will_fall": ("falls", "sways")}
    return {column: answer for column, outcomes in columns.items() if outcome in outcomes}


def build(setting: Setting) -> Scene | None:
    """Tilts the board as the outcome needs; None if physics decides otherwise."""
    plan, rng = setting.plan, setting.rng
    count = int(rng.integers(4, 6))
    half = (
        (rng.uniform(0.2, 0.25), rng.uniform(0.13, 0.16))
        if plan.shape == "blocks"
        else (rng.uniform(0.24, 0.29), 0.1)
    )
    if plan.shape == "slabs":
        count += 2
    middle, board_y = VIEW_M / 2 + rng.uniform(-0.4, 0.4), FLOOR_Y + 0.5
    event = setting.event_time(1.8)
    lead, side = setting.lead(event), float(rng.choice([-1, 1]))
    names = list(COLOURS)
    base = names.index(plan.colour)
    colours = [
        COLOURS[names[(base + 3 * i) % len(names)]] if i else COLOURS[plan.colour] for i in range(count)
    ]
    bottoms = [board_y + _BOARD[1] + (2 * i + 1) * half[1] for i in range(count)]
    if plan.outcome == "built":
        return _scene(setting, _build_up(setting, middle, bottoms, half), half, colours, event, lead)
    critical = math.atan(half[0] / (count * half[1]))
    goes = plan.outcome != "sways"
    friction = max(plan.friction, 0.45)  # below it the blocks slide off before they can tip
    peak = 1.45 * critical
    if not goes:
        holds = min(critical, 0.9 * math.atan(friction))
        peak = holds * rng.uniform(0.4, 0.9) * (1.05 - 0.35 * setting.config.clarity)
    sway, phase = 0.1 * critical * rng.uniform(0.5, 1.5), rng.uniform(0, 2 * math.pi)

    def tilt(clock: float) -> float:
        rise = float(ease(np.array(clock), event - lead, event))
        if not goes:
            rise *= 1 - float(ease(np.array(clock), event, event + 0.8))
        rocks = sway * rise * (1 - float(ease(np.array(clock), event, event + 0.5)))
        return side * (peak * rise + rocks * math.sin(9 * clock + phase))

    simulation = Simulation(plan.gravity, friction)
    simulation.wall(-9, FLOOR_Y - 0.01, 13, FLOOR_Y - 0.01, bounce=0.2)
    simulation.plank(middle, board_y, *_BOARD)
    for bottom in bottoms:
        simulation.box(middle, bottom, *half)

    def steer(clock: float) -> None:
        board = simulation.bodies[0]
        board.angular_velocity = (tilt(clock + 1 / 240) - board.angle) * 240

    motion = simulation.run(setting.num_frames, setting.rate, steer)
    low = motion.poses[:, -1, 1] < bottoms[-1] - 2 * half[1]
    if bool(low.any()) != goes:
        return None
    if goes:
        across = np.cos(motion.poses[:, 0, 2]) * (motion.poses[:, -1, 0] - motion.poses[:, 1, 0])
        away = np.abs(across - (bottoms[-1] - bottoms[0]) * -np.sin(motion.poses[:, 0, 2])) > 0.06
        tipped = np.abs(motion.poses[:, -1, 2] - motion.poses[:, 0, 2]) > 0.06
        first = int(np.argmax(away | tipped | low))
        if first < setting.num_frames // 8:
            return None
        event = float(setting.times[first])
        if plan.outcome == "let_down":
            heights = motion.poses[:, 1:, 1].mean(axis=1)
            landed = heights < heights[-1] + 0.04 * (heights[0] - heights[-1])
            motion = let_down(motion, first, int(np.argmax(landed)), _SLOWER)
    return _scene(setting, motion, half, colours, event, lead)


def _build_up(setting: Setting, middle: float, bottoms: list[float], half: tuple[float, float]) -> Motion:
    """A hook lifts the blocks one after the other from the floor beside the board; it is the last body."""
    count = len(bottoms)
    poses = np.zeros((setting.num_frames, count + 2, 3))
    poses[:, 0] = middle, bottoms[0] - half[1] - _BOARD[1], 0.0
    span, high = setting.duration_s * 0.95 / count, bottoms[-1] + 0.35
    hook = np.tile(np.array([middle, high]), (setting.num_frames, 1))
    for i, bottom in enumerate(bottoms):
        side = 1 if i % 2 else -1
        home = middle + side * (1.2 + 0.03 * i), FLOOR_Y + half[1] * (1 + 2 * ((count - 1 - i) // 2))
        come, up, over, down = (
            ease(setting.times, span * (i + start), span * (i + end))
            for start, end in ((0.0, 0.28), (0.28, 0.55), (0.5, 0.78), (0.73, 0.98))
        )
        block = poses[:, i + 1]
        block[:, 0] = home[0] + (middle - home[0]) * over
        block[:, 1] = home[1] + (high - home[1]) * up + (bottom - high) * down
        here = setting.times >= span * i
        hook[here] += (block[:, :2] - hook)[here] * come[here, None]
    poses[:, -1, :2] = hook
    return Motion(poses)


def _scene(
    setting: Setting,
    motion: Motion,
    half: tuple[float, float],
    colours: list[Colour],
    event: float,
    lead: float,
) -> Scene:
    plan = setting.plan
    frames = [_parts(poses, half, colours, plan.outcome == "built") for poses in motion.poses]
    name = f"tower of {len(colours)} {plan.shape}"
    captions = _captions(name, plan.outcome)
    verbs = {
        "falls": ("lean", "fall"),
        "sways": ("lean", "stand"),
        "built": ("build", "build"),
        "let_down": ("lean", "sink"),
    }
    before, after = verbs[plan.outcome]
    precursor = max(0.0, event - lead)
    end = min(event + 0.9, setting.duration_s)
    segments = [
        Segment(precursor, event, before, "tower", captions[1:2]),
        Segment(event, end, after, "tower", captions[:1]),
    ]
    if plan.outcome != "built":
        segments.insert(0, Segment(0.0, precursor, "stand", "tower", (f"A {name} stands on a board.",)))
    else:
        segments = [Segment(0.0, setting.duration_s, before, "tower", captions[:1])]
    otherwise = {
        "falls": "The tower would have stood had the board stayed level.",
        "let_down": "The tower would have fallen had its cords not held it.",
        "sways": "The tower would have fallen had the board tilted further.",
    }
    return Scene(
        side=True,
        frames=frames,
        actors=[Actor(name, "tower", plan.colour), Actor("tilting board", "board", "brown")],
        captions=captions,
        tags=("tower", plan.shape, plan.outcome),
        event_s=event,
        event_end_s=end,
        precursor_start_s=precursor,
        decoy=plan.outcome == "sways",
        segments=segments,
        counterfactual=otherwise.get(plan.outcome, ""),
    )


def _parts(poses: np.ndarray, half: tuple[float, float], colours: list[Colour], hook: bool) -> list[Part]:
    """Board, wedge, blocks and either their cords or the hook that builds, in one frame."""
    x, y, angle = poses[0]
    parts = [
        Part("shade", x, FLOOR_Y - 0.02, (0.9, 0.08), (0.1, 0.1, 0.1), alpha=0.35),
        Part("polygon", x, FLOOR_Y, (-0.28, 0.0, 0.28, 0.0, 0.0, y - FLOOR_Y), (0.42, 0.44, 0.48), actor=1),
        Part("box", x, y, (*_BOARD, 0.03), WOOD, angle, actor=1),
    ]
    blocks = poses[1 : len(colours) + 1]
    if not hook:
        parts += [
            Part("capsule", pose[0], pose[1], (0.0, 5.0, 0.01), (0.35, 0.35, 0.35), flat=True)
            for pose in blocks
        ]
    for pose, colour in zip(blocks, colours, strict=True):
        parts.append(Part("box", pose[0], pose[1], (*half, 0.035), colour, pose[2], actor=0))
    if hook:
        parts += _hook(poses[-1], half)
    return parts


def _hook(pose: np.ndarray, half: tuple[float, float]) -> list[Part]:
    """A line from above down to a block."""
    x, y = float(pose[0]), float(pose[1]) + half[1]
    line: Colour = (0.25, 0.25, 0.28)
    tackle = Part("box", x, y + 0.06, (0.1, 0.06, 0.02), line)
    return [Part("capsule", x, y + 0.12, (0.0, 6.0, 0.018), line, flat=True), tackle]


def _captions(name: str, outcome: str) -> tuple[str, ...]:
    """Sentences that say the same."""
    return {
        "falls": (
            f"A {name} on a tilting board topples over.",
            f"The board tilts and the {name} falls.",
            "A tower collapses.",
        ),
        "sways": (
            f"A {name} sways on a tilting board and stays up.",
            f"The board tilts, but the {name} stands.",
            "A tower wobbles without falling.",
        ),
        "built": (
            f"A hook builds a {name}.",
            f"A {name} is stacked piece by piece.",
            "A tower grows block by block.",
        ),
        "let_down": (
            f"A {name} on a tilting board is let down gently by its cords.",
            f"The board tilts and cords lower the {name} to the floor.",
            "A tower is taken down softly.",
        ),
    }[outcome]
