"""Anticipation by a state oracle in the toy world, by horizon: an upper bound for other methods.

    python benchmarks/toyworld_foresight.py --clips 400 --out benchmarks/toyworld_foresight.md

Nothing is rendered. A random forest gets the positions, extents and speeds of the first three actors and the amount of
smoke over the second that ends the horizon before the event, in forms that do not depend on which way the scene
faces. Balanced accuracy, mean and standard deviation over 5 folds; the same clips at every horizon.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold

from jepa.toyworld import ToyWorldConfig, World
from jepa.toyworld.families import EVENTS
from jepa.toyworld.render import Part
from jepa.toyworld.visibility import extent

SECONDS, RATE, STEPS = 10.0, 16, 16
HORIZONS_S = (0.0625, 0.125, 0.25, 0.5, 1.0, 1.5)


def state(parts: list[Part]) -> list[float]:
    """Middle, width, height and turn of actors 0 to 2, and the amount of smoke, in one frame."""
    values: list[float] = []
    for actor in range(3):
        own = [part for part in parts if part.actor == actor]
        if not own:
            values += [0.0] * 5
            continue
        edges = np.array([extent(part) for part in own])
        left, bottom, right, top = edges[:, 0].min(), edges[:, 1].min(), edges[:, 2].max(), edges[:, 3].max()
        values += [(left + right) / 2, (bottom + top) / 2, right - left, top - bottom, own[0].angle]
    return [*values, sum(part.alpha * part.size[0] ** 2 for part in parts if part.kind == "puff")]


def features(window: np.ndarray) -> np.ndarray:
    """[16, 16] states to features that do not depend on position or side."""
    actors = window[:, :15].reshape(STEPS, 3, 5)
    speed = np.diff(actors[::3, :, :2], axis=0)
    turning = speed[:-1, :, 0] * speed[1:, :, 1] - speed[:-1, :, 1] * speed[1:, :, 0]
    apart, closing = actors[-1, 0, :2] - actors[-1, 1, :2], (speed[-1, 0] - speed[-1, 1]) / 3
    pace = max(float(np.hypot(*closing)), 1e-6)
    miss = abs(apart[0] * closing[1] - apart[1] * closing[0]) / pace
    gaps = np.hypot(*(actors[:, 0, :2] - actors[:, 1, :2]).T)
    parts = [turning.ravel(), turning.sum(axis=0), [miss, -float(apart @ closing) / pace**2], gaps[::5]]
    parts += [
        np.abs(speed).ravel(),
        actors[::5, :, 1:4].ravel(),
        np.abs(actors[::5, :, 4]).ravel(),
        window[::5, 15],
    ]
    return np.concatenate(parts)


def score(values: np.ndarray, answers: np.ndarray) -> str:
    out = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(values, answers):
        forest = RandomForestClassifier(
            200, min_samples_leaf=3, class_weight="balanced_subsample", random_state=0
        )
        forest.fit(values[train], answers[train])
        out.append(balanced_accuracy_score(answers[test], forest.predict(values[test])))
    return f"{np.mean(out):.2f} ({np.std(out):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=400, help="clips of each family, events and decoys")
    parser.add_argument("--families", nargs="*", default=list(EVENTS))
    parser.add_argument("--clarity", type=float, default=0.6)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/toyworld_foresight.md"))
    options = parser.parse_args()
    lines = ["| task | clips | " + " | ".join(f"{h:g} s" for h in HORIZONS_S) + " |", "|---" * 8 + "|"]
    for family in options.families:
        knobs = {"family": family, "duration_s": SECONDS, "fps": float(RATE), "clarity": options.clarity}
        world = World(ToyWorldConfig(out="", distractors=0, **knobs))
        states, answers, lasts = [], [], []
        for index in range(40 * options.clips):
            if len(answers) == options.clips:
                break
            name, answer = next(((n, a) for n, a in world.plan(index).tasks.items() if "will" in n), ("", ""))
            if not name:
                continue
            shot = world.simulate(index)[0]
            last = round(shot.scene.event_s * RATE)
            if last >= RATE * (1 + HORIZONS_S[-1]):
                task = name
                states.append(np.array([state(parts) for parts in shot.frames]))
                answers.append(answer)
                lasts.append(last)
        columns = []
        for horizon in HORIZONS_S:
            ends = [last - round(horizon * RATE) for last in lasts]
            windows = [features(s[e - STEPS : e]) for s, e in zip(states, ends, strict=True)]
            columns.append(score(np.array(windows), np.array(answers)))
        lines.append(f"| {task} | {len(answers)} | " + " | ".join(columns) + " |")
        print(lines[-1], flush=True)
    about = (
        f"Written by `python benchmarks/toyworld_foresight.py --clips {options.clips} --clarity {options.clarity:g}`: "
        "balanced accuracy (standard deviation over 5 folds), chance 0.50, by the time from the end of the last frame "
        "that is observed to the event."
    )
    text = ["# Toy world: anticipation by a state oracle", about, "\n".join(lines)]
    options.out.write_text("\n\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
