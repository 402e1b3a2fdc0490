"""Representation collapse: does the monitor warn of every collapse, and of no healthy run?

    python benchmarks/collapse.py train WORLD OUT RECIPE CAUSE SEED STEPS   one run -> OUT/RECIPE_CAUSE_SEED.jsonl
    python benchmarks/collapse.py table OUT                                 the monitor's warnings for all rows in OUT

WORLD is the demo's: `jepa toyworld out=WORLD videos=1600 seed=0 temporal_noise=0.6 distractors=0 width_px=96
height_px=96 fps=12`. It is decoded once and kept in memory as uint8; the steps are
`Trainer.train_step`. RECIPE is `demo` (configs/pretrain/recipe/demo.yaml, with 16 clips a step, one mask each) or
`default` (the settings of `jepa pretrain` with a small model).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import torch

from jepa.config import compose_config, to_dataclass
from jepa.data import Item, Stream, open_video
from jepa.data.sampling import ORDER
from jepa.data.transforms import crop_resize, random_box, random_flip
from jepa.pretrain import Callback, PretrainConfig, StepMetrics, Trainer
from jepa.pretrain.monitor import Monitor, MonitorConfig
from jepa.rng import permuted

SMALL = ("model.name=vit_nano", "data.crop_px=64", "data.fps=4", "model.predictor_dim=128", "model.predictor_depth=2",
         "model.predictor_heads=4")  # fmt: skip
DEMO = ("recipe=demo", "train.batch_size=16", "masks=[{kind:temporal,ratio:0.5}]")
RECIPES: dict[str, tuple[str, ...]] = {"demo": DEMO, "default": SMALL}
LR = {"demo": 1e-3, "default": 5e-4}
CAUSES = {
    "healthy": "as the recipe says",
    "pixels": "healthy: the recipe with pixels as targets",
    "no_stop": "EMA 0 and no stop-gradient: the trained encoder makes its own targets",
    "ema_0": "EMA 0, but with the stop-gradient",
    "lr_x50": "50 times the learning rate",
}


def settings(world: Path, recipe: str, cause: str, seed: int) -> PretrainConfig:
    keys = [
        f"data.root={world}",
        "out=unused",
        "data.workers=0",
        "train.device=cpu",
        f"train.seed={seed}",
        *RECIPES[recipe],
    ]
    keys += {
        "pixels": ["objective.target=pixels"],
        "no_stop": ["objective.target_encoder=none"],
        "ema_0": ["optim.ema=[0,0]"],
        "lr_x50": [f"optim.lr={50 * LR[recipe]}"],
    }.get(cause, [])
    config = to_dataclass("pretrain", compose_config("pretrain", PretrainConfig, keys))
    config.out = ""  # no run folder
    return config


def decoded(world: Path, config: PretrainConfig) -> torch.Tensor:
    """All videos as uint8 [V, C, T, H, W] at the recipe's frame rate; kept beside the world."""
    kept = world / "decoded.pt"
    if not kept.exists():
        clips = []
        for path in sorted((world / "videos").glob("*.mp4")):
            with open_video(path) as video:
                frames = video.frames_at([i / config.data.fps for i in range(config.data.num_frames)])
            clips.append(torch.as_tensor(frames.data).transpose(0, 1))
        torch.save(torch.stack(clips), kept)
    return torch.load(kept, weights_only=True)


class DecodedClips(torch.utils.data.Dataset[dict[str, Any]]):
    """Samples of a run by their number: order, crop and flip as in `jepa pretrain`, pixels from memory."""

    def __init__(self, videos: torch.Tensor, config: PretrainConfig) -> None:
        self.videos, self.config = videos, config

    def __getitem__(self, index: int) -> dict[str, Any]:
        data, seed = self.config.data, self.config.train.seed
        epoch, position = divmod(index, len(self.videos))
        number = permuted(position, len(self.videos), seed, epoch, ORDER)
        video = self.videos[number]
        box = random_box(*video.shape[-2:], data.scale, data.ratio, seed, index)
        flip = random_flip(data.hflip, seed, index)
        clip = crop_resize(video.transpose(0, 1), box, data.crop_px, flip).transpose(0, 1)
        times = torch.arange(clip.shape[1], dtype=torch.float64) / data.fps
        return {"video": clip, "times": times, "index": index, "item": number, "clip": 0, "bad": []}


class Measure(Callback):
    """Writes what the monitor measures on step 1 and every 25 steps, with its cost beside that of the steps."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.measuring, self.start = file, 0.0, time.process_time()

    def on_step(self, trainer: Trainer, metrics: StepMetrics) -> None:
        """Measures the batch of the step."""
        if metrics.step % 25 and metrics.step != 1:
            return
        before, last = time.process_time(), metrics.last
        row = trainer.state.monitor.measure(trainer.objective, last.video, last.targets, last.masks)
        cost = time.process_time() - before
        self.measuring += cost
        per_step = (time.process_time() - self.start - self.measuring) / metrics.step
        row |= {
            "step": metrics.step,
            "loss": metrics.losses["loss"].item(),
            "grad_norm": metrics.grad_norm.item(),
        }
        row |= metrics.rates | {"measure_s": cost, "step_s": per_step}
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()


def train(world: Path, out: Path, recipe: str, cause: str, seed: int, steps: int) -> None:
    """Some steps of the trainer; schedules run over the recipe's own length."""
    torch.set_num_threads(1)
    config = settings(world, recipe, cause, seed)
    videos = decoded(world, config)
    items = [Item(str(number)) for number in range(len(videos))]
    stream = Stream(DecodedClips(videos, config), items, "", config.train.batch_size)
    trainer = Trainer(config, dataset=stream)
    batches = trainer.batches()
    out.mkdir(parents=True, exist_ok=True)
    with open(out / f"{recipe}_{cause}_{seed}.jsonl", "w") as file:
        measure = Measure(file)
        for _ in range(steps):
            measure.on_step(trainer, trainer.train_step(islice(batches, trainer.micro_steps)))


def table(out: Path, log_every: int = 50) -> None:
    """Replays `Monitor.warnings` on the rows that a run with `train.log_every=50` would have written."""
    print(
        "| recipe | run | seed | steps | lowest rank | lowest variation | warning at step | first warning |"
    )
    print("|---|---|---|---|---|---|---|---|")
    cost: dict[str, list[float]] = {}
    for path in sorted(out.glob("*.jsonl"), key=order):
        recipe, _, rest = path.stem.partition("_")
        cause, _, seed = rest.rpartition("_")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        cost.setdefault(recipe, []).extend(row["measure_s"] / (log_every * row["step_s"]) for row in rows[1:])
        monitor, warnings = Monitor(MonitorConfig()), []
        rows = [row for row in rows if row["step"] % log_every == 0]
        for row in rows:
            warnings += [(row["step"], sentence) for sentence in monitor.warnings(row["step"], row)]
        lowest = []
        for name in ("rank", "target_varies"):
            highest, fraction = 0.0, 1.0
            for row in rows:
                highest = max(highest, row[name])
                fraction = min(fraction, row[name] / highest)
            lowest.append(f"{fraction:.3f}")
        first = f"{warnings[0][0]} | {warnings[0][1].partition('. ')[0]}" if warnings else "never | "
        print(f"| {recipe} | {cause} | {seed} | {rows[-1]['step']} | {' | '.join(lowest)} | {first} |")
    for recipe, fractions in cost.items():
        print(
            f"{recipe}: measuring costs {100 * statistics.median(fractions):.1f} % of {log_every} steps "
            "(median, CPU time)"
        )


def order(path: Path) -> tuple[str, int, str]:
    cause = path.stem.partition("_")[2].rpartition("_")[0]
    return path.stem.partition("_")[0], list(CAUSES).index(cause), path.stem


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "train":
        train(Path(rest[0]), Path(rest[1]), rest[2], rest[3], int(rest[4]), int(rest[5]))
    else:
        table(Path(rest[0]))
