"""The truth beside a video, as JSON."""

from __future__ import annotations

import dataclasses
import json

from jepa.data.toyworld.config import ToyWorldConfig
from jepa.data.toyworld.scene import Plan, Scene


def truth_of(config: ToyWorldConfig, plan: Plan, scene: Scene) -> str:
    """The text of the truth file: one line for each entry, so that it can be read and compared."""
    truth = {
        "schema": "jepa.toyworld.truth/1",
        "index": plan.index,
        "world": config.fingerprint(),
        "family": plan.family,
        "outcome": plan.outcome,
        "split": plan.split,
        "group": plan.group,
        "tasks": plan.tasks,
        "fps": float(config.rate),
        "num_frames": config.frames,
        "caption": scene.caption,
        "actors": [dataclasses.asdict(actor) for actor in scene.actors],
        "segments": [dataclasses.asdict(segment) for segment in scene.segments],
    }
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in truth.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"
