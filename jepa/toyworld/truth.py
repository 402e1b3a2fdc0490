"""The truth beside a video: what happens, when, where it is seen, and how it can be said."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from dataclasses import dataclass

import numpy as np

from jepa.toyworld.config import ToyWorldConfig
from jepa.toyworld.plan import Shot, VideoPlan
from jepa.toyworld.render import Camera, Part
from jepa.toyworld.scene import Scene
from jepa.toyworld.sight import boxes_of

_NEAR_S = 2.0  # an ad break this near to a hazard is a bad one


@dataclass(frozen=True)
class Take:
    """A shot with everything that happens in it."""

    shot: Shot
    """its place in the video"""
    scene: Scene
    """what happens"""
    frames: list[list[Part]]
    """what is painted, distractors and occluders included"""
    cameras: list[Camera]
    """from where it is seen"""


def truth_text(truth: dict[str, object]) -> str:
    """The text of a truth file: one line for each entry, so that it can be read and compared."""
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in truth.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def truth_of(config: ToyWorldConfig, plan: VideoPlan, takes: list[Take]) -> dict[str, object]:
    """Everything that is known about a video, in JSON's types; times in seconds from its first frame.

    `moment_s`, `omen_s` and `decoy` at the top are those of the first shot.
    """
    rate = float(config.rate)
    hazards = [
        dataclasses.asdict(hazard) | {"onset_s": _s(take.shot.start / rate + hazard.onset_s)}
        for take in takes
        for hazard in take.scene.hazards
    ]
    actors = [dataclasses.asdict(actor) for take in takes for actor in take.scene.actors]
    first = takes[0].scene
    return {
        "schema": "jepa.toyworld.truth/1",
        "index": plan.index,
        "world": config.fingerprint(),
        "label": plan.label,
        "split": plan.split,
        "group": plan.group,
        "tasks": plan.tasks,
        "fps": rate,
        "num_frames": config.frames,
        "width_px": config.width_px,
        "height_px": config.height_px,
        "moment_s": _s(first.moment_s),
        "omen_s": _s(first.omen_s),
        "decoy": first.decoy,
        "captions": _proofread(_captions(takes)),
        "tags": sorted({tag for take in takes for tag in take.scene.tags}),
        "counterfactual": _proofread(" ".join(filter(None, (take.scene.counterfactual for take in takes)))),
        "shots": [_proofread(_shot(config, take)) for take in takes],
        "scenes": _scenes(config, takes),
        "transitions": _transitions(config, takes),
        "segments": [_proofread(segment) for take in takes for segment in _segments(config, take)],
        "hazards": hazards,
        "breaks": _breaks(config, takes, hazards),
        "intensity_per_s": _intensity(config, takes),
        "actors": actors,
        "boxes": _boxes(config, takes),
        "actions": [_actions(take) for take in takes],
    }


def _proofread(value: object) -> object:
    """Every text in it with "an" before vowels: names of things are put into sentences as they come."""
    if isinstance(value, str):
        return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", value)
    if isinstance(value, dict):
        return {key: _proofread(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_proofread(item) for item in value]
    return value


def _s(value: float) -> float:
    return round(float(value), 4)


def _end(config: ToyWorldConfig, take: Take) -> int:
    """First frame after a shot; a dissolve is counted to the shot that comes in."""
    return min(take.shot.start + take.shot.num_frames, config.frames)


def _captions(takes: list[Take]) -> list[str]:
    if len(takes) == 1:
        return list(takes[0].scene.captions)
    count = min(len(take.scene.captions) for take in takes)
    return [" Then: ".join(take.scene.captions[i] for take in takes) for i in range(count)]


def _shot(config: ToyWorldConfig, take: Take) -> dict[str, object]:
    rate, shot, plan, scene = float(config.rate), take.shot, take.shot.plan, take.scene
    begin = shot.start / rate
    return {
        "start_s": _s(begin),
        "end_s": _s(_end(config, take) / rate),
        "family": plan.family,
        "outcome": plan.outcome,
        "colour": plan.colour,
        "shape": plan.shape,
        "gravity_m_s2": _s(plan.gravity),
        "friction": _s(plan.friction),
        "place": shot.place,
        "omen_s": _s(begin + scene.omen_s),
        "moment_s": _s(begin + scene.moment_s),
        "event_end_s": _s(begin + scene.event_end_s),
        "decoy": scene.decoy,
        "captions": list(scene.captions),
        "counterfactual": scene.counterfactual,
    }


def _scenes(config: ToyWorldConfig, takes: list[Take]) -> list[dict[str, object]]:
    """Runs of shots in one place."""
    rate = float(config.rate)
    out: list[dict[str, object]] = []
    for take in takes:
        if not out or out[-1]["place"] != take.shot.place:
            out.append({"start_s": _s(take.shot.start / rate), "end_s": 0.0, "place": take.shot.place})
        out[-1]["end_s"] = _s(_end(config, take) / rate)
    for scene, following in itertools.pairwise(out):
        scene["end_s"] = following["start_s"]
    return out


def _transitions(config: ToyWorldConfig, takes: list[Take]) -> list[dict[str, object]]:
    """Cuts, fades and dissolves; a cut is the time of the first frame of the new shot."""
    rate = float(config.rate)
    out: list[dict[str, object]] = []
    for take in takes[1:]:
        at, length = take.shot.start / rate, take.shot.entry_frames / rate
        begin = at - length / 2 if take.shot.entry == "fade" else at
        out.append(
            {"kind": take.shot.entry, "at_s": _s(at), "start_s": _s(begin), "end_s": _s(begin + length)}
        )
    return out


def _segments(config: ToyWorldConfig, take: Take) -> list[dict[str, object]]:
    begin, end = take.shot.start / float(config.rate), _end(config, take) / float(config.rate)
    out = []
    for segment in take.scene.segments:
        start_s, end_s = begin + segment.start_s, min(begin + segment.end_s, end)
        if end_s - start_s > 1e-6:
            out.append(dataclasses.asdict(segment) | {"start_s": _s(start_s), "end_s": _s(end_s)})
    return out


def _breaks(
    config: ToyWorldConfig, takes: list[Take], hazards: list[dict[str, object]]
) -> list[dict[str, object]]:
    """Moments at which an ad might come, each with a verdict and its reason."""
    rate = float(config.rate)
    onsets = [float(str(hazard["onset_s"])) for hazard in hazards]
    out: list[dict[str, object]] = []
    for before, take in zip([None, *takes[:-1]], takes, strict=True):
        begin = take.shot.start / rate
        if before is not None:
            near = any(abs(onset - begin) < _NEAR_S for onset in onsets)
            inside = before.shot.place == take.shot.place
            reason = (
                "inside a scene"
                if inside
                else ("near a hazard" if near else "between scenes, nothing under way")
            )
            out.append({"time_s": _s(begin), "good": not inside and not near, "reason": reason})
        if take.scene.event_end_s > take.scene.moment_s:
            middle = begin + (take.scene.omen_s + take.scene.event_end_s) / 2
            out.append({"time_s": _s(middle), "good": False, "reason": "in the middle of an event"})
    return out


def _intensity(config: ToyWorldConfig, takes: list[Take]) -> list[float]:
    """Per second, 0 to 1: how fast the actors move, raised while an event is near or under way."""
    rate = float(config.rate)
    values = np.zeros(config.frames)
    for take in takes:
        start, end = take.shot.start, _end(config, take)
        times = (np.arange(start, end) - start) / rate
        level = 0.5 * np.clip(_speed(take)[: end - start] * rate / 2.0, 0, 1)
        scene = take.scene
        during = (times >= scene.moment_s) & (times < scene.event_end_s)
        level += 0.2 * ((times >= scene.omen_s) & (times < scene.event_end_s))
        level += 0.3 * during * (1 if scene.hazards else 0.3 * (not scene.decoy))
        values[start:end] = level
    seconds = int(np.ceil(config.frames / rate))
    at = (np.arange(config.frames) / rate).astype(int)
    return [_s(min(1.0, values[at == second].mean())) for second in range(seconds)]


def _speed(take: Take) -> np.ndarray:
    """Mean displacement of the actors' parts from frame to frame, metres; leaps and newcomers are left out."""
    out = np.zeros(len(take.scene.frames))
    for k in range(1, len(out)):
        one, two = ([p for p in take.scene.frames[j] if p.actor >= 0] for j in (k - 1, k))
        if one and len(one) == len(two):
            moves = [float(np.hypot(b.x - a.x, b.y - a.y)) for a, b in zip(one, two, strict=True)]
            out[k] = np.mean([move for move in moves if move < 0.5] or [0.0])
    if len(out) > 1:
        out[0] = out[1]
    return out


def _boxes(config: ToyWorldConfig, takes: list[Take]) -> list[list[list[float] | None]]:
    """For each actor, in each frame: left, top, right, bottom in pixels and the share that is seen; None if unseen."""
    out: list[list[list[float] | None]] = []
    for take in takes:
        start, end = take.shot.start, _end(config, take)
        rows: list[list[list[float] | None]] = [[None] * config.frames for _ in take.scene.actors]
        for k in range(start, end):
            found = boxes_of(config, take.frames[k - start], take.cameras[k - start], len(rows))
            for row, box in zip(rows, found, strict=True):
                row[k] = box
        out += rows
    return out


def _actions(take: Take) -> dict[str, object] | None:
    """What an agent does from each frame to the next, or None where the shot has no agent."""
    if take.scene.actions is None:
        return None
    values = [[_s(x), _s(y)] for x, y in take.scene.actions.tolist()]
    return {"start_frame": take.shot.start, "unit": "m/s2", "axes": ["right", "up"], "values": values}
