"""Does the watch call every collapse, and no healthy run?

    python benchmarks/collapse.py train WORLD OUT RECIPE CAUSE SEED STEPS   one run -> OUT/RECIPE_CAUSE_SEED.jsonl
    python benchmarks/collapse.py table OUT                                 what Monitor says of all rows in OUT

WORLD is the demo's: `jepa toyworld out=WORLD videos=1600 seed=0 temporal_noise=0.6 distractors=0 width_px=96
height_px=96 fps=12`. It is decoded once and kept in memory as uint8; everything else is
jepa's own parts in the trainer's order.
RECIPE is `demo` (configs/pretrain/recipe/demo.yaml, with 16 clips a step that are hidden once each) or
`default` (the settings of `jepa pretrain` with a small model).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from jepa.config import COMMANDS, compose_config, config_class, to_dataclass
from jepa.data import normalise, open_video
from jepa.data.sampling import ORDER
from jepa.data.transforms import crop_resize, random_box, random_flip
from jepa.masking import sample_masks
from jepa.pretrain.config import PretrainConfig
from jepa.pretrain.factory import build_objective
from jepa.pretrain.monitor import Monitor, MonitorConfig
from jepa.pretrain.optim import make_optimizer, set_rates
from jepa.pretrain.target_encoder import build_teacher
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
    keys = [f"data.root={world}", "out=unused", f"train.seed={seed}", *RECIPES[recipe]]
    keys += {
        "pixels": ["objective.target=pixels"],
        "no_stop": ["objective.target_encoder=none"],
        "ema_0": ["optim.ema=[0,0]"],
        "lr_x50": [f"optim.lr={50 * LR[recipe]}"],
    }.get(cause, [])
    command = COMMANDS["pretrain"]
    return to_dataclass("pretrain", compose_config("pretrain", config_class(command), keys))


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


def batches(
    videos: torch.Tensor, config: PretrainConfig, steps: int
) -> Iterator[tuple[torch.Tensor, list[int]]]:
    data, size = config.data, config.train.batch_size
    for step in range(steps):
        clips = []
        for index in range(step * size, (step + 1) * size):
            visit, position = divmod(index, len(videos))
            video = videos[permuted(position, len(videos), config.train.seed, visit, ORDER)]
            box = random_box(*video.shape[-2:], data.scale, data.ratio, config.train.seed, index)
            flip = random_flip(data.hflip, config.train.seed, index)
            clips.append(crop_resize(video.transpose(0, 1), box, data.crop_px, flip).transpose(0, 1))
        yield torch.stack(clips), list(range(step * size, (step + 1) * size))


def train(world: Path, out: Path, recipe: str, cause: str, seed: int, steps: int) -> None:
    """The trainer's steps in the trainer's order; schedules run over the recipe's own length."""
    torch.set_num_threads(1)
    config = settings(world, recipe, cause, seed)
    learner = build_objective(config)
    teacher = build_teacher(config, learner)
    optimizer = make_optimizer(learner, config.optim)
    watch, looking, start = Monitor(MonitorConfig()), 0.0, time.process_time()
    out.mkdir(parents=True, exist_ok=True)
    with open(out / f"{recipe}_{cause}_{seed}.jsonl", "w") as file:
        for step, (clips, index) in enumerate(batches(decoded(world, config), config, steps)):
            video = normalise(clips, config.data.mean, config.data.std)
            grid = learner.encoder.grid_of(video)
            masks = [
                sample_masks(mask, grid, seed, index, stream) for stream, mask in enumerate(config.masks)
            ]
            rates = set_rates(optimizer, config, step)
            targets = None if teacher is None else teacher.targets(video)
            losses = learner(video, targets, masks, step / config.train.steps)
            losses["loss"].backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(learner.parameters(), config.optim.clip_grad)
            optimizer.step()
            if teacher is not None:
                teacher.follow(rates["ema"])
            optimizer.zero_grad(set_to_none=True)
            if (step + 1) % 25 == 0 or step == 0:
                before = time.process_time()
                row = watch.look(learner, teacher, video, masks, targets)
                looking += (look := time.process_time() - before)
                per_step = (time.process_time() - start - looking) / (step + 1)
                row |= {
                    "step": step + 1,
                    "loss": losses["loss"].item(),
                    "grad_norm": grad_norm.item(),
                    **rates,
                }
                file.write(json.dumps(row | {"look_s": look, "step_s": per_step}) + "\n")
                file.flush()


def table(out: Path, log_every: int = 50) -> None:
    """Replays `Monitor.warnings` on the rows that a run with `train.log_every=50` would have written."""
    print(
        "| recipe | run | seed | steps | lowest rank | lowest variation | called at step | the first sentence |"
    )
    print("|---|---|---|---|---|---|---|---|")
    cost: dict[str, list[float]] = {}
    for path in sorted(out.glob("*.jsonl"), key=order):
        recipe, _, rest = path.stem.partition("_")
        cause, _, seed = rest.rpartition("_")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        cost.setdefault(recipe, []).extend(row["look_s"] / (log_every * row["step_s"]) for row in rows[1:])
        watch, said = Monitor(MonitorConfig()), []
        rows = [row for row in rows if row["step"] % log_every == 0]
        for row in rows:
            said += [(row["step"], sentence) for sentence in watch.warnings(row["step"], row)]
        lowest = []
        for name in ("rank", "target_varies"):
            highest, share = 0.0, 1.0
            for row in rows:
                highest = max(highest, row[name])
                share = min(share, row[name] / highest)
            lowest.append(f"{share:.3f}")
        first = f"{said[0][0]} | {said[0][1].partition('. ')[0]}" if said else "never | "
        print(f"| {recipe} | {cause} | {seed} | {rows[-1]['step']} | {' | '.join(lowest)} | {first} |")
    for recipe, shares in cost.items():
        print(
            f"{recipe}: a look costs {100 * statistics.median(shares):.1f} % of {log_every} steps (median, CPU time)"
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
