"""Ablations at equal compute: a list of configs, trained with several seeds and probed during training.

    python benchmarks/recipes/run.py benchmarks/recipes/plans/motion.yaml --work recipes
    python benchmarks/recipes/run.py PLAN --only latents --worlds constant --seeds 0      # repeats one row
    python benchmarks/recipes/show.py PLAN                                                # table and curves

A plan names worlds, tasks, a budget and runs (see plans/). Every finished run is one line of the results file; a
line that is there already is not made again, so a stopped list resumes where it was. Training is `Trainer.train_step`
on clips from memory, with one thread. The probe is `cross_validate` of jepa.probes on features in memory. Only training
counts into the seconds of a curve, in processor time, since other work on the machine would blur wall time.
Operations (FLOPs) are counted by PyTorch over one step, forward and backward, target encoder included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from clips import FrameStore, StoredClips, read_labels
from probe import Task, accuracy, encode, load_task
from torch.utils.flop_counter import FlopCounterMode

import jepa
from jepa.bench import machine
from jepa.config import compose_config, to_dataclass
from jepa.data import EvalClipConfig, Stream, collate, read_items
from jepa.data.transforms import normalise
from jepa.models import Preprocessing, VideoEncoder, save_encoder
from jepa.models.layers import init_block_weights
from jepa.pretrain import PretrainConfig, Trainer, build_objective
from jepa.pretrain.diagnostics import rank_me, std_across_clips, std_across_time
from jepa.pretrain.objectives.masked_prediction import build_targets
from jepa.toyworld import ToyWorldConfig, write_world


def make_trainer(config: PretrainConfig, source: StoredClips, init_std: float | None = None) -> Trainer:
    """The library's trainer on clips from memory; it writes no run folder."""
    objective = build_objective(config)
    if init_std is not None:  # as the published code initialises models of any width
        generator = torch.Generator().manual_seed(config.train.seed)
        for part in objective.children():
            init_block_weights(part, init_std, generator)
        objective.target = build_targets(config.objective, objective.encoder)
    if "target" not in objective.exportable():
        raise SystemExit("Runs are probed by their target encoder; objective.target_encoder has to be ema.")
    stream = Stream(source, source.items, "", config.train.batch_size)
    return Trainer(config, dataset=stream, objective=objective)


@torch.inference_mode()
def diagnose(trainer: Trainer, source: StoredClips) -> dict[str, float]:
    """Rank and standard deviations of the target encoder's features on 64 clips."""
    encoder, data = trainer.encoder, trainer.config.data
    video = normalise(collate(source.__getitems__(list(range(64))))["video"], data.mean, data.std)
    tokens = encoder(video)
    return {
        "rank": rank_me(tokens.flatten(0, 1)[:: max(1, tokens[..., 0].numel() // 1024)]),
        "std_clips": std_across_clips(tokens),
        "std_time": std_across_time(tokens, encoder.grid_of(video).t),
    }


def main() -> None:
    """Goes through the plan; prints each row when it is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", type=Path)
    parser.add_argument("--only", nargs="*", help="names of runs")
    parser.add_argument("--worlds", nargs="*", help="names of worlds")
    parser.add_argument("--seeds", nargs="*", type=int, help="training seeds, instead of the plan's")
    parser.add_argument("--work", type=Path, default=Path("recipes"), help="folder of worlds and encoders")
    parser.add_argument("--results", type=Path, help="JSON lines; by default beside the plan")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan = yaml.safe_load(options.plan.read_text())
    results = options.results or options.plan.with_suffix(".jsonl")
    for seed in options.seeds or plan["seeds"]:
        for world in plan["worlds"]:
            for name in plan["runs"]:
                if (options.only and name not in options.only) or (
                    options.worlds and world not in options.worlds
                ):
                    continue
                done = {row["id"] for row in read_rows(results)}
                if identify(plan, world, name, seed) not in done:
                    row = one_run(plan, world, name, seed, options.work)
                    with open(results, "a", encoding="utf-8") as handle:
                        handle.write(json.dumps(row) + "\n")
                    print(summary(row), flush=True)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All finished runs."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def identify(plan: dict[str, Any], world: str, name: str, seed: int) -> str:
    """The settings that define a row."""
    knobs = [
        plan["budget"],
        plan["common"],
        plan["worlds"][world],
        plan["runs"][name],
        plan["tasks"],
        *([plan["goal"]] if "goal" in plan else []),
        name,
        seed,
    ]
    return hashlib.sha256(json.dumps(knobs, sort_keys=True).encode()).hexdigest()[:12]


def one_run(plan: dict[str, Any], world: str, name: str, seed: int, work: Path) -> dict[str, Any]:
    """Trains one encoder and returns its row."""
    run = plan["runs"][name]
    overrides = [
        *plan["common"],
        *run.get("set", []),
        f"train.seed={seed}",
        "train.device=cpu",
        "data.root=x",
        "out=x",
    ]
    config: PretrainConfig = to_dataclass("pretrain", compose_config("pretrain", PretrainConfig, overrides))
    config.out = ""  # no run folder
    store = open_store(plan, world, work)
    tasks = load_tasks(plan, world, config, store, work)
    held_out = held_out_videos(plan, world, work)
    items = [item for item in store.items() if item.path not in held_out]
    source = StoredClips(store, items, config.data, seed)
    flops = count_flops(config, source)
    steps = 0 if run.get("untrained") else steps_of(run.get("budget", plan["budget"]), flops)
    config.train.steps = max(1, steps)
    trainer = make_trainer(config, source, run.get("init_std"))
    points = sorted({round(steps * part) for part in plan.get("points", (0, 0.1, 0.2, 0.35, 0.5, 0.75, 1))})
    row: dict[str, Any] = {
        "id": identify(plan, world, name, seed), "name": name, "world": world, "seed": seed,
        "set": [*plan["common"], *run.get("set", [])], "steps": steps, "flops_per_step": flops,
        "videos": len(items), "curve": [], **about_machine(),
    }  # fmt: skip
    spent, wall = 0.0, 0.0
    losses: list[float] = []
    batches = trainer.batches()
    for step in range(steps + 1):
        if step in points:
            row["curve"].append(
                {"step": step, "cpu_s": round(spent, 2), "wall_s": round(wall, 2), "flops": step * flops}
                | ({"loss": sum(losses) / len(losses)} if losses else {})
                | diagnose(trainer, source)
                | evaluate(trainer.encoder, config, tasks, plan, final=step == steps)
            )
            losses = []
            if reached(plan, row["curve"][-1]):
                break
        if step < steps:
            started, began = time.process_time(), time.perf_counter()
            losses.append(trainer.train_step([next(batches)]).losses["loss"].item())
            spent += time.process_time() - started
            wall += time.perf_counter() - began
            if not math.isfinite(losses[-1]):
                row["failed"] = f"loss not finite at step {step}"
                break
    export(trainer, work / "encoders" / f"{world}-{name}-{seed}", row["curve"][-1]["step"])
    return row


def reached(plan: dict[str, Any], point: dict[str, Any]) -> bool:
    """Whether a point of a curve is at or above the plan's goal, where it has one: there the run may stop."""
    goal = plan.get("goal")
    return (
        goal is not None and point["tasks"][goal["task"]][str(goal["labels"])]["accuracy"] >= goal["accuracy"]
    )


def count_flops(config: PretrainConfig, source: StoredClips) -> int:
    """Floating-point operations of one step, counted on a throw-away copy."""
    with FlopCounterMode(display=False) as counter:
        trainer = make_trainer(config, source)
        trainer.train_step([next(trainer.batches())])
    return counter.get_total_flops()


def steps_of(budget: dict[str, float], flops: int) -> int:
    """Number of steps within a budget: {steps: n} or {flops: x}."""
    return int(budget["steps"]) if "steps" in budget else max(1, round(budget["flops"] / flops))


def open_store(plan: dict[str, Any], world: str, work: Path) -> FrameStore:
    """Renders the world if it is not there, and decodes it once."""
    about = plan["worlds"][world]
    roots = [Path(os.environ["JEPA_REAL"]) / folder for folder in about.get("folders", [])]
    if not roots:
        for part, knobs in about["toyworld"].items():
            config = ToyWorldConfig(out=str(work / "worlds" / part), **knobs)
            write_world(config)
            roots.append(Path(config.out))
    keep = about["keep"]
    return FrameStore(work / "stores" / world, roots, keep["short_px"], keep["fps"])


def load_tasks(
    plan: dict[str, Any], world: str, config: PretrainConfig, store: FrameStore, work: Path
) -> list[Task]:
    """The labelled clips of the world's tasks."""
    tasks = []
    data = config.data
    view = EvalClipConfig(
        data.num_frames, data.fps, data.crop_px, short=data.short, mean=data.mean, std=data.std
    )
    for name, about in plan["tasks"].items():
        for part in plan["worlds"][world].get("toyworld", {}):
            root = work / "worlds" / part
            if about["family"] not in part:
                continue
            length = config.data.num_frames / config.data.fps
            items = read_labels(root, about["column"], about.get("ends_s"), length)
            tasks.append(load_task(name, store, items, view, plan["labels"][-1]))
    return tasks


def held_out_videos(plan: dict[str, Any], world: str, work: Path) -> set[str]:
    """Videos of the val and test parts of a toy world: no training uses them."""
    found = set()
    for part in plan["worlds"][world].get("toyworld", {}):
        found |= {item.path for item in read_items(work / "worlds" / part) if item.split != "train"}
    return found


def evaluate(
    encoder: VideoEncoder, config: PretrainConfig, tasks: list[Task], plan: dict[str, Any], final: bool
) -> dict[str, Any]:
    """Probe accuracies of the target encoder: quick on the way, both heads and three seeds at the end."""
    out: dict[str, Any] = {}
    for task in tasks:
        tokens = encode(encoder, task, config.data)
        time_steps = config.data.num_frames // config.model.tubelet_frames
        kinds, seeds = (["attentive", "linear"], [0, 1, 2]) if final else (["attentive"], [0])
        counts = plan["labels"] if final else plan["labels"][-1:]
        out[task.name] = {str(n): accuracy(tokens, time_steps, task, n, kinds, seeds) for n in counts}
    return {"tasks": out}


def export(trainer: Trainer, out: Path, steps: int) -> None:
    """Writes the target encoder, so that `jepa probe encoder=...` can read it."""
    config, data, objective = trainer.config, trainer.config.data, trainer.objective
    metadata = {
        "model": config.model.name, "weights": "target", "objective": config.objective.target, "steps": steps,
        "batch_size": config.train.batch_size, "seed": config.train.seed, "tool": f"jepa {jepa.__version__}",
    }  # fmt: skip
    preprocessing = Preprocessing(data.num_frames, data.fps, data.crop_px, data.crop_px, data.mean, data.std)
    predictor = objective.predictor if objective.predicts_latents else None
    save_encoder(out, trainer.encoder, preprocessing, metadata, predictor)


def about_machine() -> dict[str, str]:
    """Hardware, versions and commit of a row."""
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    return {
        "cpu": machine()["processor"],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip(),
    }


def summary(row: dict[str, Any]) -> str:
    """One line for the terminal."""
    last = row["curve"][-1]
    scores = "  ".join(
        f"{task}@{n} {s['accuracy']:.3f}" for task, by in last["tasks"].items() for n, s in by.items()
    )
    way = " ".join(
        f"{list(s.values())[-1]['accuracy']:.2f}" for p in row["curve"] for s in list(p["tasks"].values())[:1]
    )
    return (
        f"{row['world']:10s} {row['name']:24s} seed {row['seed']} {row['steps']} steps {last['cpu_s']:.0f} s  "
        f"{scores}  [{way}]  loss {last.get('loss', float('nan')):.3f} rank {last['rank']:.0f}"
    )


if __name__ == "__main__":
    main()
