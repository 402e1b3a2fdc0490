"""Smoke rises from a bin: it catches fire and goes out, burns out and catches fire again, only smokes, or burns on.

What catches fire was out at some time and burns at another, so each video that shows it shows the undoing too: of all
videos half burn at any time, whether or not a fire starts.
"""

from __future__ import annotations

import math

import numpy as np

from jepa.toyworld.backdrop import FLOOR_Y
from jepa.toyworld.render import VIEW_M, Colour, Part
from jepa.toyworld.scene import COLOURS, Actor, Hazard, Scene, Segment, Setting, ease

OUTCOMES = ("ignites", "reignites", "smoulders", "burns")
DECK = OUTCOMES
SHAPES = ("bin", "crate")
LEAST_S = 2.5
_SMOKE: Colour = (0.35, 0.35, 0.37)
_PUFFS_PER_S, _RISE_M_S, _LIFE_S = 18.0, 0.95, 1.4
_THIN = 0.2  # smoke that means nothing


def tasks(outcome: str) -> dict[str, str]:
    """`fire_starts` holds for every video, `fire_will_start` for those that start with smoke alone."""
    answer = "yes" if outcome in ("ignites", "reignites") else "no"
    return {"fire_starts": answer} | (
        {"fire_will_start": answer} if outcome in ("ignites", "smoulders") else {}
    )


def build(setting: Setting) -> Scene:
    """Flames and smoke have a level before, between and after two times; smoke is the precursor of the first."""
    plan, rng, times = setting.plan, setting.rng, setting.times
    outcome = plan.outcome
    first, second = setting.event_times()
    event = second if outcome == "reignites" else first
    lead = setting.lead(event)
    x = VIEW_M / 2 + rng.uniform(-0.5, 0.5)
    half = (
        (rng.uniform(0.24, 0.32), rng.uniform(0.28, 0.36))
        if plan.shape == "bin"
        else (rng.uniform(0.38, 0.46), 0.26)
    )
    top = FLOOR_Y + 2 * half[1]
    outside, inside = outcome in ("reignites", "burns"), outcome in ("ignites", "burns")
    change = ease(times, first, first + 0.4) * (1 - ease(times, second, second + 0.4))
    flames = rng.uniform(0.6, 1.2) * outside * (1 - change) + rng.uniform(0.5, 1.2) * inside * change
    outer = rng.uniform(0.3, 1.1) if outside else _THIN
    sign = (
        setting.precursor(event, lead, outcome == "smoulders")
        * (not outside)
        * (1 - change)
        * (times < second)
    )
    smoke = outer + (1 - _THIN) * sign + (rng.uniform(0.3, 1.1) - outer) * change
    wind = rng.uniform(-0.25, 0.25)
    puffs = _puffs(rng, setting.duration_s, x, top, half[0], wind)
    tongues = rng.uniform(0, 2 * math.pi, 7), rng.uniform(6, 12, 7)
    vessel = _vessel(plan.shape, COLOURS[plan.colour], x, top, half)
    frames = []
    for k, time in enumerate(times.tolist()):
        heat = float(flames[k])
        parts = [Part("shade", x, FLOOR_Y - 0.02, (half[0] * 1.3, 0.07), (0.1, 0.1, 0.1), alpha=0.4)]
        if heat > 0.05:
            parts.append(
                Part("puff", x, top + 0.3, (1.2 * heat + 0.3,), (1.0, 0.65, 0.25), alpha=0.35 * heat)
            )
        strengths = [
            0.25 * float(np.interp(born, times, smoke)) + 0.75 * float(smoke[k]) for born, *_ in puffs
        ]
        parts += _smoke(puffs, strengths, time, top)
        frames.append([*parts, *_flames(x, top, half[0], heat, time, tongues), *vessel])
    name = f"{plan.colour} {plan.shape}"
    captions = _captions(name, outcome)
    precursor, end = max(0.0, event - lead), min(event + 0.9, setting.duration_s)
    otherwise = {
        "ignites": f"The {name} would have gone on smoking had it been put out in time.",
        "reignites": f"The {name} would have gone on smoking had it been put out for good.",
        "smoulders": f"The {name} would have burned had the smoke grown thicker.",
    }
    if outcome == "ignites":
        end = min(second + 0.5, setting.duration_s)
    out_s = min(first + 0.5, event)
    segments = _segments(setting, name, captions[1:2], (out_s, event, end))
    burning = {
        "ignites": [(event, end)],
        "reignites": [(0.0, out_s), (event, setting.duration_s)],
        "burns": [(0.0, setting.duration_s)],
    }.get(outcome, [])
    return Scene(
        side=True,
        frames=frames,
        actors=[Actor(name, plan.shape, plan.colour)],
        captions=captions,
        tags=("smoke", plan.shape, plan.colour, outcome.replace("_", " ")),
        event_s=event,
        event_end_s=end,
        precursor_start_s=precursor,
        decoy=outcome == "smoulders",
        segments=segments,
        hazards=[Hazard(start, stop, "fire", 3, "381") for start, stop in burning],
        counterfactual=otherwise.get(outcome, ""),
    )


def _puffs(
    rng: np.random.Generator, duration: float, x: float, top: float, half: float, wind: float
) -> list[tuple[float, float, float, float]]:
    """Birth time, position, drift and size of every puff; smoke has risen for a lifetime before the first frame."""
    count = int((duration + _LIFE_S) * _PUFFS_PER_S)
    born = np.arange(count) / _PUFFS_PER_S - _LIFE_S
    offset = rng.uniform(-0.6, 0.6, count) * half
    drift, size = wind + rng.uniform(-0.12, 0.12, count), rng.uniform(0.22, 0.36, count)
    return [
        (float(b), x + float(s), float(d), float(z))
        for b, s, d, z in zip(born, offset, drift, size, strict=True)
    ]


def _flames(
    x: float, top: float, half: float, heat: float, time: float, tongues: tuple[np.ndarray, np.ndarray]
) -> list[Part]:
    """Tongues of fire, red outside and yellow inside, each flickering at its own rate."""
    parts = []
    for colour, size in (((0.89, 0.27, 0.1), 1.0), ((0.98, 0.6, 0.13), 0.72), ((1.0, 0.9, 0.45), 0.42)):
        for i, (phase, rate) in enumerate(zip(*tongues, strict=True)):
            height = (
                heat * size * (0.62 + 0.22 * math.sin(phase + rate * time)) * (1 - 0.09 * abs(i - 3) ** 1.5)
            )
            if height > 0.03:
                foot = x + (i - 3) / 3 * half * 0.85
                lean = 0.12 * math.sin(phase * 2 + 0.7 * rate * time) * height
                wide = 0.34 * half * min(1.0, 0.4 + heat) * (0.5 + 0.5 * size)
                flame = (
                    -wide,
                    0.0,
                    0.4 * -wide + lean * 0.6,
                    height * 0.5,
                    lean,
                    height,
                    0.5 * wide + lean * 0.6,
                    height * 0.45,
                    wide,
                    0.0,
                )
                parts.append(Part("polygon", foot, top - 0.05, flame, colour, flat=True))
    return parts


def _captions(name: str, outcome: str) -> tuple[str, ...]:
    """Sentences that say the same."""
    return {
        "ignites": (
            f"Smoke rises from a {name}, it catches fire and goes out again.",
            f"A {name} starts to burn.",
            "Smoke turns into flames that do not last.",
        ),
        "smoulders": (
            f"Smoke thickens over a {name} and thins out.",
            f"A {name} smokes but does not burn.",
            "Smoke, and no fire.",
        ),
        "reignites": (
            f"Flames on a {name} die down to smoke, and it catches fire again.",
            f"A {name} starts to burn once more.",
            "A fire goes out and comes back.",
        ),
        "burns": (f"A {name} burns.", f"Flames rise from a {name} all the time.", "A steady fire."),
    }[outcome]


def _smoke(
    puffs: list[tuple[float, float, float, float]], strengths: list[float], time: float, top: float
) -> list[Part]:
    """The puffs that are in the air at `time`; they rise, grow and fade."""
    parts = []
    for (born, x, drift, size), strength in zip(puffs, strengths, strict=True):
        age = time - born
        if 0 <= age < _LIFE_S:
            fade = min(1.0, age * 4) * (1 - age / _LIFE_S)
            swirl = drift * age + 0.06 * math.sin(3 * age + 9 * drift)
            at = x + swirl, top + _RISE_M_S * age * (0.6 + 0.4 * strength)
            radius = size * (0.6 + 0.7 * age) * (0.5 + 0.6 * strength)
            parts.append(Part("puff", *at, (radius,), _SMOKE, alpha=0.75 * fade * strength))
    return parts


def _vessel(shape: str, colour: Colour, x: float, top: float, half: tuple[float, float]) -> list[Part]:
    """The bin or crate that burns."""
    if shape == "bin":
        wide, high = half
        outline = (-wide, high, wide, high, 0.8 * wide, -high, -0.8 * wide, -high)
        return [
            Part("polygon", x, top - high, outline, colour, actor=0),
            Part("box", x, top, (wide * 1.08, 0.045, 0.03), colour, actor=0),
        ]
    slat: Colour = (0.2, 0.16, 0.12)
    return [
        Part("box", x, top - half[1], (*half, 0.03), colour, actor=0),
        Part("box", x, top - half[1], (half[0], 0.035, 0.01), slat, alpha=0.5, actor=0, flat=True),
    ]


def _segments(
    setting: Setting, name: str, caption: tuple[str, ...], times: tuple[float, float, float]
) -> list[Segment]:
    """What the fire does; `times` are when a first fire is out, the event and its end."""
    plan, (out_s, event, end) = setting.plan, times
    shape, whole_s = plan.shape, setting.duration_s
    smokes, burns = (f"Smoke rises from a {name}.",), (f"A {name} burns.",)
    if plan.outcome == "ignites":
        return [
            Segment(0.0, event, "smoke", shape, smokes),
            Segment(event, end, "ignite", shape, caption),
            Segment(end, whole_s, "smoke", shape, (f"The fire in a {name} is out.",)),
        ]
    if plan.outcome == "reignites":
        return [
            Segment(0.0, out_s, "burn", shape, burns),
            Segment(out_s, event, "smoke", shape, smokes),
            Segment(event, end, "ignite", shape, caption),
            Segment(end, whole_s, "burn", shape),
        ]
    if plan.outcome == "burns":
        return [
            Segment(0.0, event, "burn", shape, burns),
            Segment(event, end, "burn", shape, caption),
            Segment(end, whole_s, "burn", shape),
        ]
    return [
        Segment(0.0, event, "smoke", shape, smokes),
        Segment(event, end, "thin", shape, caption),
        Segment(end, whole_s, "smoke", shape),
    ]
