"""Baselines of the toy world: recognition and anticipation from single frames, simple motion features, random weights.

    python benchmarks/toyworld_baselines.py --clips 600 --work toyworld_cells --out benchmarks/toyworld_baselines.md

Every score is the balanced accuracy of ridge regression on one kind of feature, over the pooled predictions of five
folds, with the half width of its 95 % interval. A family under a nuisance is a cell. Cells in the work folder are not
computed again, so a stopped run resumes, and several runs may use the same folder.

Recognition (clips of 4 s). "first", "middle" and "last" are one frame, as 32x32 grey pixels or, "lite0", as the
vector of EfficientNet-Lite0 (ImageNet weights) from 96 px of colour. "motion" is how much and in which direction 4x4
blocks of the picture change, in 32 frames. "random init" is a randomly initialised `vit_nano` on these frames at 64
px. "state" is a random forest on the true positions and speeds (nothing rendered): an upper bound.

Anticipation (clips of 10 s, event or decoy). "last frame" is the frame that ends the horizon before the event; "motion"
and "random init" get the 16 frames up to it. The same clips at every horizon.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import jepa
from jepa.files import write_json, write_text
from jepa.models.weights.timm_images import LITE0, load_image_backbone
from jepa.toyworld import ToyWorldConfig, World
from jepa.toyworld.config import VERSION
from jepa.toyworld.families import EVENTS
from jepa.toyworld.render import Part
from jepa.toyworld.visibility import extent

SECONDS, AHEAD_S, RATE, PIXELS, FINE_PX = 4.0, 10.0, 16, 64, 96
HORIZONS_S = (0.125, 0.5, 1.0)
STEPS = 16  # frames observed for anticipation
NUISANCES: dict[str, dict] = {
    "plain": {},
    "constant": {"background": "varied", "camera": "varied"},
    "per frame": {"temporal_noise": 0.5},
}
ONE_FRAME = ("first", "middle", "last")
RECOGNITION = (*ONE_FRAME, *(f"{when} lite0" for when in ONE_FRAME), "motion", "random init", "state")
ANTICIPATION = ("last frame", "last frame lite0", "motion", "random init")


def grey(frames: np.ndarray) -> np.ndarray:
    """[..., 64, 64, 3] uint8 to [..., 32, 32] float."""
    small = frames.reshape(*frames.shape[:-3], 32, 2, 32, 2, 3)
    return (small.mean(axis=(-4, -2, -1)) / 255).astype(np.float32)


def motion(clips: np.ndarray) -> np.ndarray:
    """[N, T, 32, 32] to features: how much and in which direction 4x4 blocks change, over time and sorted.

    Direction: the products of the change over time with the slopes along x and y, as in gradient-based optical flow.
    The greatest values in any step come too, since an event may happen at any time.
    """
    change = np.diff(clips, axis=1)
    before = clips[:, :-1]
    slope_x, slope_y = np.gradient(before, axis=3), np.gradient(before, axis=2)
    maps = [np.abs(change), change * slope_x, change * slope_y]
    blocks = [m.reshape(*m.shape[:2], 4, 8, 4, 8).mean(axis=(3, 5)).reshape(*m.shape[:2], 16) for m in maps]
    frame_change = np.sort(np.abs(change).mean(axis=(2, 3)), axis=1)
    parts = [f(b, axis=1) for b in blocks for f in (np.mean, np.max, np.min, np.std)]
    return np.concatenate([*parts, frame_change, *(b[:, ::2].reshape(len(b), -1) for b in blocks)], axis=1)


@torch.inference_mode()
def random_init(clips: np.ndarray) -> np.ndarray:
    """[N, T, 64, 64, 3] uint8 to mean and standard deviation over tokens of the last block, random weights."""
    torch.manual_seed(0)
    encoder = jepa.create_model("vit_nano").eval()
    out = []
    for batch in np.array_split(clips, max(1, len(clips) // 32)):
        video = torch.from_numpy(batch).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        tokens = encoder(video)
        out.append(torch.cat([tokens.mean(1), tokens.std(1)], 1).numpy())
    return np.concatenate(out)


@torch.inference_mode()
def lite0(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """[N, H, W, 3] uint8 to EfficientNet's vectors (its training mean and standard deviation are 0.5)."""
    batches = np.array_split(images, max(1, len(images) // 32))
    return np.concatenate(
        [model(torch.from_numpy(b).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy() for b in batches]
    )


def positions(parts: list[Part]) -> list[float]:
    """In one frame: middle, top and width of the first three actors, how far apart two are, the lowest part, flames."""
    values: list[float] = []
    for actor in range(3):
        own = [part for part in parts if part.actor == actor]
        edges = np.array([extent(part) for part in own]) if own else np.zeros((1, 4))
        x, y = (edges[:, 0].min() + edges[:, 2].max()) / 2, (edges[:, 1].min() + edges[:, 3].max()) / 2
        values += [x, y, edges[:, 3].max(), edges[:, 2].max() - edges[:, 0].min()]
    flames = sum(part.kind == "polygon" and part.flat for part in parts)
    gap = np.hypot(values[0] - values[4], values[1] - values[5])
    lowest = min((part.y for part in parts if part.actor >= 0), default=0.0)
    return [*values, gap, lowest, flames]


def state(frames: list[list[Part]]) -> np.ndarray:
    """Positions in every frame to extremes and standard deviations of path, speed and bend, and the turning."""
    path = np.array([positions(parts) for parts in frames])
    speed, bend = np.diff(path, axis=0), np.diff(path, n=2, axis=0)
    step = speed[:, [0, 1]]
    turning = (step[:-1, 0] * step[1:, 1] - step[:-1, 1] * step[1:, 0]).sum()
    spans = [f(v, axis=0) for v in (path, speed, bend) for f in (np.min, np.max, np.std)]
    return np.concatenate([*spans, speed.mean(axis=0), [turning]])


def score(values: np.ndarray, answers: np.ndarray, forest: bool = False) -> str:
    """Balanced accuracy over the pooled predictions of five folds, and the half width of its 95 % interval."""
    ridge = RidgeClassifierCV(alphas=np.logspace(0, 6, 13), class_weight="balanced")
    model = make_pipeline(StandardScaler(), ridge)
    if forest:
        model = RandomForestClassifier(200, min_samples_leaf=3, class_weight="balanced", random_state=0)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    found = cross_val_predict(model, values, answers, cv=folds)
    recalls = [np.mean(found[answers == answer] == answer) for answer in np.unique(answers)]
    counts = [np.sum(answers == answer) for answer in np.unique(answers)]
    variance = sum(p * (1 - p) / n for p, n in zip(recalls, counts, strict=True)) / len(recalls) ** 2
    return f"{np.mean(recalls):.2f} ±{1.96 * variance**0.5:.2f}"


def worlds(family: str, seconds: float, knobs: dict) -> tuple[World, World]:
    """The same world at 64 and at 96 px."""
    config = ToyWorldConfig(out="", family=family, duration_s=seconds, fps=RATE, **knobs)
    return tuple(World(replace(config, height_px=px, width_px=px)) for px in (PIXELS, FINE_PX))


def recognition(family: str, nuisance: str, clips: int, model: torch.nn.Module) -> list[list[str]]:
    """Rows of the columns about the complete clip; each has `clips` clips."""
    coarse, fine = worlds(family, SECONDS, NUISANCES[nuisance])
    last = coarse.config.num_frames - 1
    chosen_by_task: dict[str, list[int]] = {}
    for index in range(40 * clips):
        for name in coarse.plan(index).tasks:
            if "will" not in name and name != "hazard" and len(chosen_by_task.setdefault(name, [])) < clips:
                chosen_by_task[name].append(index)
        if chosen_by_task and all(len(chosen) == clips for chosen in chosen_by_task.values()):
            break
    rows = []
    for name, chosen in chosen_by_task.items():
        answers = np.array([coarse.plan(i).tasks[name] for i in chosen])
        observed, crisp, states = [], [], []
        for index in chosen:
            shots = coarse.simulate(index)
            states.append(state(shots[0].scene.frames))
            observed.append(np.stack(list(coarse.render(index, shots, [*range(0, last, 2), last]))))
            crisp.append(np.stack(list(fine.render(index, shots, (0, (last + 1) // 2, last)))))
        frames, images, small = np.stack(observed), np.stack(crisp), grey(np.stack(observed))
        picks = [small[:, k].reshape(len(small), -1) for k in (0, 16, -1)]
        columns = [score(pick, answers) for pick in picks]
        columns += [score(lite0(model, images[:, k]), answers) for k in range(3)]
        columns += [score(motion(small[:, :-1]), answers), score(random_init(frames[:, :-1]), answers)]
        columns += [score(np.array(states), answers, forest=True)]
        rows.append([name, nuisance, str(len(answers)), f"{1 / len(set(answers)):.2f}", *columns])
    return rows


def anticipation(family: str, nuisance: str, clips: int, model: torch.nn.Module) -> list[list[str]]:
    """Rows of the anticipation column at each horizon; the same `clips` clips at each."""
    coarse, fine = worlds(family, AHEAD_S, NUISANCES[nuisance])
    reach = round(HORIZONS_S[-1] * RATE) + STEPS
    answers, observed, crisp, name = [], [], [], ""
    for index in range(40 * clips):
        if len(answers) == clips:
            break
        tasks = [task for task in coarse.plan(index).tasks if "will" in task]
        if not tasks:
            continue
        shots = coarse.simulate(index)
        event = round(shots[0].scene.event_s * RATE)
        if event >= reach:
            name = tasks[0]
            answers.append(coarse.plan(index).tasks[name])
            observed.append(np.stack(list(coarse.render(index, shots, range(event - reach, event)))))
            ends = [event - round(h * RATE) - 1 for h in HORIZONS_S]
            crisp.append(np.stack(list(fine.render(index, shots, ends))))
    frames, images, labels = np.stack(observed), np.stack(crisp), np.array(answers)
    small = grey(frames)
    rows = []
    for number, horizon in enumerate(HORIZONS_S):
        end = reach - round(horizon * RATE)
        window = small[:, end - STEPS : end]
        columns = [
            score(window[:, -1].reshape(len(labels), -1), labels),
            score(lite0(model, images[:, number]), labels),
        ]
        columns += [score(motion(window), labels), score(random_init(frames[:, end - STEPS : end]), labels)]
        rows.append([name, nuisance, f"{horizon:g}", str(len(labels)), "0.50", *columns])
    return rows


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def report(options: argparse.Namespace) -> None:
    """The tables of all cells that are there."""
    kinds = {"recognition": ["task", "nuisance", "clips", "chance", *RECOGNITION]}
    kinds["anticipation"] = ["task", "nuisance", "horizon, s", "clips", "chance", *ANTICIPATION]
    about = (
        f"Written by `python benchmarks/toyworld_baselines.py`, version {VERSION} of the world, on one core "
        f"({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__}. Balanced accuracy "
        "with the half width of its 95 % interval; the script's `--help` explains each column."
    )
    text = ["# Toy world: baselines", about]
    titles = {
        "recognition": "Recognition from the complete clip",
        "anticipation": "Anticipation from frames before the event",
    }
    for kind, head in kinds.items():
        rows = []
        for nuisance in NUISANCES:
            for family in ("motion", *EVENTS):
                cell = options.work / f"{kind}-{nuisance.replace(' ', '_')}-{family}.json"
                rows += json.loads(cell.read_text(encoding="utf-8")) if cell.exists() else []
        text += [f"## {titles[kind]}", table(head, rows)]
    write_text(options.out, "\n\n".join(text) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=600, help="clips of each column; half for anticipation")
    parser.add_argument("--families", nargs="*", default=["motion", *EVENTS])
    parser.add_argument("--nuisances", nargs="*", default=list(NUISANCES), choices=list(NUISANCES))
    kinds = {"recognition": recognition, "anticipation": anticipation}
    parser.add_argument("--kinds", nargs="*", default=list(kinds), choices=list(kinds))
    parser.add_argument("--work", type=Path, default=Path("toyworld_cells"), help="folder for finished cells")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/toyworld_baselines.md"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = load_image_backbone(LITE0).model
    for kind in options.kinds:
        for nuisance in options.nuisances:
            for family in options.families:
                cell = options.work / f"{kind}-{nuisance.replace(' ', '_')}-{family}.json"
                if cell.exists() or (kind, family) == ("anticipation", "motion"):
                    continue
                count = options.clips if kind == "recognition" else options.clips // 2
                rows = kinds[kind](family, nuisance, count, model)
                write_json(cell, rows)
                for row in rows:
                    print(" | ".join(row), flush=True)
    report(options)


if __name__ == "__main__":
    main()
