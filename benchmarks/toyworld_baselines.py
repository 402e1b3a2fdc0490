"""What trivial methods score on the toy world: the table of its data card.

    python benchmarks/toyworld_baselines.py --clips 500 --out benchmarks/toyworld_baselines.md

For every family and nuisance, clips of 6 s are rendered at 64 px (uncompressed) and reduced to 32x32 grey. Each column
is ridge classification on standardised features, balanced accuracy, mean and standard deviation over 5 folds:

- chance: one over the number of answers;
- first, middle, last frame: the grey pixels of that frame alone;
- motion: 4x4 block means of absolute differences and of signed flow moments over 16 steps;
- untrained: mean-pooled features of a `vit_nano` encoder with random weights on 16 frames of 64 px.

Anticipation: "last frame" sees the frame that lies the horizon before the moment, "motion" and "untrained" the second
that ends there. Only clips that show an event or its decoy take part, and the same clips at every horizon.
"""

from __future__ import annotations

import argparse
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import jepa
from jepa.data.toyworld import ToyWorldConfig, World
from jepa.data.toyworld.families import EVENTS

SECONDS, RATE, PIXELS = 6.0, 16, 64
HORIZONS_S = (0.125, 0.25, 0.5, 1.0, 1.5)
STEPS = 16  # frames that motion and the encoder see
NUISANCES = {
    "plain": {},
    "varied background": {"background": "varied"},
    "flicker": {"flicker": 0.5},
}


def render(job: tuple[ToyWorldConfig, int]) -> tuple[dict[str, str], float, np.ndarray, np.ndarray]:
    """Answers, moment, frames [T, 64, 64, 3] and the same in 32x32 grey of one clip."""
    config, index = job
    world = World(config)
    takes = world.takes(index)
    frames = np.stack(list(world.render(index, takes)))
    return world.plan(index).tasks, takes[0].scene.moment_s, frames, grey(frames)


def grey(frames: np.ndarray) -> np.ndarray:
    """[..., 64, 64, 3] uint8 to [..., 32, 32] float."""
    small = frames.reshape(*frames.shape[:-3], 32, 2, 32, 2, 3)
    return (small.mean(axis=(-4, -2, -1)) / 255).astype(np.float32)


def motion(clips: np.ndarray) -> np.ndarray:
    """[N, 16, 32, 32] to features: how much and which way the picture changes in 4x4 blocks at each step.

    Which way: the products of the change over time with the slopes along x and y, as in gradient-based optical flow.
    """
    change = np.diff(clips, axis=1)
    before = clips[:, :-1]
    slope_x, slope_y = np.gradient(before, axis=3), np.gradient(before, axis=2)
    maps = [np.abs(change), change * slope_x, change * slope_y]
    blocks = [m.reshape(*m.shape[:2], 4, 8, 4, 8).mean(axis=(3, 5)).reshape(len(clips), -1) for m in maps]
    return np.concatenate([*blocks, *(b.reshape(len(b), -1, 16).mean(axis=1) for b in blocks)], axis=1)


@torch.no_grad()
def untrained(clips: np.ndarray) -> np.ndarray:
    """[N, 16, 64, 64, 3] uint8 to mean and deviation over tokens of the last block, random weights."""
    torch.manual_seed(0)
    encoder = jepa.create_model("vit_nano").eval()
    out = []
    for batch in np.array_split(clips, max(1, len(clips) // 32)):
        video = torch.from_numpy(batch).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        tokens = encoder(video)
        out.append(torch.cat([tokens.mean(1), tokens.std(1)], 1).numpy())
    return np.concatenate(out)


def score(features: np.ndarray, answers: np.ndarray) -> str:
    """Balanced accuracy, mean and deviation over five folds."""
    values = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(features, answers):
        ridge = RidgeClassifierCV(alphas=np.logspace(0, 6, 13), class_weight="balanced")
        model = make_pipeline(StandardScaler(), ridge)
        model.fit(features[train], answers[train])
        values.append(balanced_accuracy_score(answers[test], model.predict(features[test])))
    return f"{np.mean(values):.2f} ({np.std(values):.2f})"


def spaced(frames: np.ndarray, count: int) -> np.ndarray:
    return frames[:, np.linspace(0, frames.shape[1] - 1, count).astype(int)]


def rows_of(
    family: str, nuisance: str, knobs: dict, clips: int, pool: ProcessPoolExecutor
) -> tuple[list, list]:
    """Recognition and anticipation rows of one family under one nuisance."""
    config = ToyWorldConfig(
        out="", family=family, duration_s=SECONDS, fps=RATE, height_px=PIXELS, width_px=PIXELS
    )
    config = replace(config, **knobs)
    done = list(pool.map(render, [(config, i) for i in range(clips)], chunksize=8))
    tasks, moments = [d[0] for d in done], np.array([d[1] for d in done])
    frames, greys = np.stack([d[2] for d in done]), np.stack([d[3] for d in done])
    recognition, anticipation = [], []
    names = sorted({name for answers in tasks for name in answers} - {"hazard"})
    for name in names:
        part = np.array([i for i, answers in enumerate(tasks) if name in answers])
        answers = np.array([tasks[i][name] for i in part])
        chance = f"{1 / len(set(answers)):.2f}"
        if "will" not in name:
            seen, small = frames[part], greys[part]
            flat = [small[:, k].reshape(len(part), -1) for k in (0, small.shape[1] // 2, -1)]
            columns = [score(f, answers) for f in flat]
            columns += [
                score(motion(spaced(small, STEPS)), answers),
                score(untrained(spaced(seen, STEPS)), answers),
            ]
            recognition.append([name, nuisance, str(len(part)), chance, *columns])
            continue
        last = np.round(moments[part] * RATE).astype(int)
        enough = last >= RATE * (1 + HORIZONS_S[-1])
        part, last, answers = part[enough], last[enough], answers[enough]
        for horizon in HORIZONS_S:
            ends = last - round(horizon * RATE)
            windows = np.stack([frames[i, e - STEPS : e] for i, e in zip(part, ends, strict=True)])
            small = np.stack([greys[i, e - STEPS : e] for i, e in zip(part, ends, strict=True)])
            columns = [score(small[:, -1].reshape(len(part), -1), answers)]
            columns += [score(motion(small), answers), score(untrained(windows), answers)]
            anticipation.append([name, nuisance, f"{horizon:g}", str(len(part)), chance, *columns])
    return recognition, anticipation


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def report(options: argparse.Namespace, recognition: list, anticipation: list, seconds: float) -> None:
    methods = ["motion", "untrained"]
    head = ["task", "nuisance", "clips", "chance", "first frame", "middle frame", "last frame", *methods]
    ahead = ["task", "nuisance", "horizon, s", "clips", "chance", "last frame", *methods]
    about = (
        f"Written by `python benchmarks/toyworld_baselines.py --clips {options.clips}` on {platform.machine()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, {seconds:.0f} s. Balanced "
        "accuracy, mean (standard deviation over 5 folds)."
    )
    text = ["# Toy world: baselines", about, "## The whole clip is seen", table(head, recognition)]
    text += ["## Only what lies before the event is seen", table(ahead, anticipation)]
    options.out.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=500, help="clips of each family under each nuisance")
    parser.add_argument("--families", nargs="*", default=["motion", *EVENTS])
    parser.add_argument("--nuisances", nargs="*", default=list(NUISANCES), choices=list(NUISANCES))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/toyworld_baselines.md"))
    options = parser.parse_args()
    recognition, anticipation, start = [], [], time.time()
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for nuisance in options.nuisances:
            for family in options.families:
                one, two = rows_of(family, nuisance, NUISANCES[nuisance], options.clips, pool)
                recognition += one
                anticipation += two
                report(options, recognition, anticipation, time.time() - start)
                for row in one + two:
                    print(" | ".join(row), f"[{time.time() - start:.0f} s]", flush=True)


if __name__ == "__main__":
    main()
