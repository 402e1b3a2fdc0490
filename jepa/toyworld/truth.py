"""Ground truth of a video: what happens, when, where it is visible, with captions; the world's own record."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from dataclasses import dataclass

import numpy as np

from jepa.toyworld.config import ToyWorldConfig
from jepa.toyworld.plan import ShotPlan, VideoPlan
from jepa.toyworld.render import Camera, Part
from jepa.toyworld.scene import Scene
from jepa.toyworld.visibility import visible_boxes

SCHEMA = "jepa.toyworld.truth/2"
_NEAR_S = 2.0  # a candidate break this near to a hazard is a bad one


@dataclass(frozen=True)
class SimulatedShot:
    """A shot with everything that happens in it."""

    plan: ShotPlan
    """its position in the video"""
    scene: Scene
    """what happens"""
    frames: list[list[Part]]
    """what is rendered, distractors and occluders included"""
    cameras: list[Camera]
    """from where it is seen"""


def truth_text(truth: dict[str, object]) -> str:
    """The text of a truth file: one line for each entry, so that it can be read and compared."""
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in truth.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def truth_of(config: ToyWorldConfig, plan: VideoPlan, shots: list[SimulatedShot]) -> dict[str, object]:
    """Everything that is known about a video, in JSON's types; times in seconds from its first frame.

    `event_s`, `precursor_start_s` and `decoy` at the top are those of the first shot.
    """
    rate = float(config.rate)
    hazards = [hazard for shot in shots for hazard in _hazards(config, shot)]
    actors = [dataclasses.asdict(actor) for shot in shots for actor in shot.scene.actors]
    first = shots[0].scene
    return {
        "schema": SCHEMA,
        "index": plan.index,
        "world": config.fingerprint(),
        "label": plan.label,
        "split": plan.split,
        "group": plan.group,
        "tasks": plan.tasks,
        "fps": rate,
        "num_frames": config.num_frames,
        "width_px": config.width_px,
        "height_px": config.height_px,
        "event_s": _s(first.event_s),
        "precursor_start_s": _s(first.precursor_start_s),
        "decoy": first.decoy,
        "captions": _proofread(_captions(shots)),
        "tags": sorted({tag for shot in shots for tag in shot.scene.tags}),
        "counterfactual": _proofread(" ".join(filter(None, (shot.scene.counterfactual for shot in shots)))),
        "shots": [_proofread(_shot(config, shot)) for shot in shots],
        "scenes": _scenes(config, shots),
        "transitions": _transitions(config, shots),
        "segments": [_proofread(segment) for shot in shots for segment in _segments(config, shot)],
        "hazards": hazards,
        "breaks": _breaks(config, shots, hazards),
        "intensity_per_s": _intensity(config, shots),
        "actors": actors,
        "boxes": _boxes(config, shots),
        "actions": [_actions(shot) for shot in shots],
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


def _end(config: ToyWorldConfig, shot: SimulatedShot) -> int:
    """First frame after a shot; a dissolve is counted to the shot that comes in."""
    return min(shot.plan.start + shot.plan.num_frames, config.num_frames)


def _captions(shots: list[SimulatedShot]) -> list[str]:
    if len(shots) == 1:
        return list(shots[0].scene.captions)
    count = min(len(shot.scene.captions) for shot in shots)
    return [" Then: ".join(shot.scene.captions[i] for shot in shots) for i in range(count)]


def _hazards(config: ToyWorldConfig, shot: SimulatedShot) -> list[dict[str, object]]:
    begin, end = shot.plan.start / float(config.rate), _end(config, shot) / float(config.rate)
    return [
        dataclasses.asdict(hazard)
        | {"onset_s": _s(begin + hazard.onset_s), "end_s": _s(min(begin + hazard.end_s, end))}
        for hazard in shot.scene.hazards
    ]


def _shot(config: ToyWorldConfig, shot: SimulatedShot) -> dict[str, object]:
    rate, plan, event, scene = float(config.rate), shot.plan, shot.plan.event, shot.scene
    begin = plan.start / rate
    return {
        "start_s": _s(begin),
        "end_s": _s(_end(config, shot) / rate),
        "family": event.family,
        "outcome": event.outcome,
        "colour": event.colour,
        "shape": event.shape,
        "gravity_m_s2": _s(event.gravity),
        "friction": _s(event.friction),
        "location": plan.location,
        "precursor_start_s": _s(begin + scene.precursor_start_s),
        "event_s": _s(begin + scene.event_s),
        "event_end_s": _s(begin + scene.event_end_s),
        "decoy": scene.decoy,
        "tags": [event.colour, event.shape, event.outcome.replace("_", " ")],
        "captions": list(scene.captions),
        "counterfactual": scene.counterfactual,
    }


def _scenes(config: ToyWorldConfig, shots: list[SimulatedShot]) -> list[dict[str, object]]:
    """Runs of shots at one location."""
    rate = float(config.rate)
    out: list[dict[str, object]] = []
    for shot in shots:
        if not out or out[-1]["location"] != shot.plan.location:
            out.append({"start_s": _s(shot.plan.start / rate), "end_s": 0.0, "location": shot.plan.location})
        out[-1]["end_s"] = _s(_end(config, shot) / rate)
    for scene, following in itertools.pairwise(out):
        scene["end_s"] = following["start_s"]
    return out


def _transitions(config: ToyWorldConfig, shots: list[SimulatedShot]) -> list[dict[str, object]]:
    """Cuts, fades and dissolves; a cut is the time of the first frame of the new shot."""
    rate = float(config.rate)
    out: list[dict[str, object]] = []
    for shot in shots[1:]:
        at, length = shot.plan.start / rate, shot.plan.entry_frames / rate
        begin = at - length / 2 if shot.plan.entry == "fade" else at
        out.append(
            {"kind": shot.plan.entry, "at_s": _s(at), "start_s": _s(begin), "end_s": _s(begin + length)}
        )
    return out


def _segments(config: ToyWorldConfig, shot: SimulatedShot) -> list[dict[str, object]]:
    begin, end = shot.plan.start / float(config.rate), _end(config, shot) / float(config.rate)
    out = []
    for segment in shot.scene.segments:
        start_s, end_s = begin + segment.start_s, min(begin + segment.end_s, end)
        if end_s - start_s > 1e-6:
            out.append(dataclasses.asdict(segment) | {"start_s": _s(start_s), "end_s": _s(end_s)})
    return out


def _breaks(
    config: ToyWorldConfig, shots: list[SimulatedShot], hazards: list[dict[str, object]]
) -> list[dict[str, object]]:
    """Candidate ad breaks, each with a verdict and its reason."""
    rate = float(config.rate)
    onsets = [float(str(hazard["onset_s"])) for hazard in hazards]
    out: list[dict[str, object]] = []
    for before, shot in zip([None, *shots[:-1]], shots, strict=True):
        begin = shot.plan.start / rate
        if before is not None:
            near = any(abs(onset - begin) < _NEAR_S for onset in onsets)
            inside = before.plan.location == shot.plan.location
            reason = (
                "inside a scene"
                if inside
                else ("near a hazard" if near else "between scenes, nothing under way")
            )
            out.append({"time_s": _s(begin), "good": not inside and not near, "reason": reason})
        if shot.scene.event_end_s > shot.scene.event_s:
            middle = begin + (shot.scene.precursor_start_s + shot.scene.event_end_s) / 2
            out.append({"time_s": _s(middle), "good": False, "reason": "in the middle of an event"})
    return out


def _intensity(config: ToyWorldConfig, shots: list[SimulatedShot]) -> list[float]:
    """Per second, 0 to 1: how fast the actors move, raised while an event is near or under way."""
    rate = float(config.rate)
    values = np.zeros(config.num_frames)
    for shot in shots:
        start, end = shot.plan.start, _end(config, shot)
        times = (np.arange(start, end) - start) / rate
        level = 0.5 * np.clip(_speed(shot)[: end - start] * rate / 2.0, 0, 1)
        scene = shot.scene
        during = (times >= scene.event_s) & (times < scene.event_end_s)
        level += 0.2 * ((times >= scene.precursor_start_s) & (times < scene.event_end_s))
        level += 0.3 * during * (1 if scene.hazards else 0.3 * (not scene.decoy))
        values[start:end] = level
    seconds = int(np.ceil(config.num_frames / rate))
    at = (np.arange(config.num_frames) / rate).astype(int)
    return [_s(min(1.0, values[at == second].mean())) for second in range(seconds)]


def _speed(shot: SimulatedShot) -> np.ndarray:
    """Mean displacement of the actors' parts from frame to frame, metres; leaps and newcomers are left out."""
    out = np.zeros(len(shot.scene.frames))
    for k in range(1, len(out)):
        one, two = ([p for p in shot.scene.frames[j] if p.actor >= 0] for j in (k - 1, k))
        if one and len(one) == len(two):
            moves = [float(np.hypot(b.x - a.x, b.y - a.y)) for a, b in zip(one, two, strict=True)]
            out[k] = np.mean([move for move in moves if move < 0.5] or [0.0])
    if len(out) > 1:
        out[0] = out[1]
    return out


def _boxes(config: ToyWorldConfig, shots: list[SimulatedShot]) -> list[list[list[float] | None]]:
    """For each actor, in each frame: left, top, right, bottom in pixels and the visible fraction; None if invisible."""
    out: list[list[list[float] | None]] = []
    for shot in shots:
        start, end = shot.plan.start, _end(config, shot)
        rows: list[list[list[float] | None]] = [[None] * config.num_frames for _ in shot.scene.actors]
        for k in range(start, end):
            found = visible_boxes(config, shot.frames[k - start], shot.cameras[k - start], len(rows))
            for row, box in zip(rows, found, strict=True):
                row[k] = box
        out += rows
    return out


def _actions(shot: SimulatedShot) -> dict[str, object] | None:
    """What an agent does from each frame to the next, or None where the shot has no agent."""
    if shot.scene.actions is None:
        return None
    values = [[_s(x), _s(y)] for x, y in shot.scene.actions.tolist()]
    return {"start_frame": shot.plan.start, "unit": "m/s2", "axes": ["right", "up"], "values": values}
