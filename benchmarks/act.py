"""Success of planning in the four toy environments, beside baselines; results in act.md.

    python benchmarks/act.py out=DIR                collect, train three seeds of each task, evaluate all
    python benchmarks/act.py out=DIR tasks=reach seeds=1 episodes=20
    python benchmarks/act.py out=DIR figure=act.png arms=               the energy landscape of one action

Everything is resumed: data sets, runs and finished evaluations in DIR are kept. Settings were chosen on episodes from
seed 10000 on; what is reported is from seed 20000 on, which nothing else draws.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from jepa import act, cli
from jepa.data.trajectories import Trajectory
from jepa.data.trajectory_layouts import read_trajectories
from jepa.data.trajectory_windows import TrajectoryDataset, WindowConfig
from jepa.files import write_json
from jepa.models.action import WorldModel, load_world_model
from jepa.models.action.plan import energy_landscape
from jepa.toyworld.envs.collect import make


@dataclass(frozen=True)
class Task:
    """What differs between the tasks."""

    episodes: int
    steps: int
    plan: dict[str, float]
    action_dim: int = 2
    env: str = ""
    """environment and models, where the name of the task is not that of its environment"""


TASKS = {
    "reach": Task(200, 300, {"horizon": 10, "execute": 3, "max_steps": 30}),
    "push": Task(300, 600, {"horizon": 8, "execute": 3, "max_steps": 40}),
    "push_subgoal": Task(
        300, 600, {"horizon": 6, "execute": 2, "subgoal_steps": 12, "max_steps": 40}, env="push"
    ),
    "rooms": Task(
        200,
        300,
        {
            "horizon": 18,
            "execute": 6,
            "correlation": 0.9,
            "samples": 256,
            "elites": 10,
            "path_weight": 0.1,
            "max_steps": 50,
        },
    ),
    "rooms_subgoal": Task(
        200,
        300,
        {"horizon": 10, "execute": 3, "correlation": 0.8, "subgoal_steps": 15, "max_steps": 50},
        env="rooms",
    ),
    "tower": Task(
        300, 500, {"horizon": 8, "execute": 2, "subgoal_steps": 10, "max_steps": 40, "path_weight": 0.5}, 3
    ),
}
ARMS = ("planning", "cloning", "random", "greedy", "oracle")
CLONING_STEPS, CLONING_AHEAD = 400, 10


def main(arguments: list[str]) -> None:
    options = dict(text.split("=", 1) for text in arguments)
    out = Path(options["out"])
    tasks = options.get("tasks", ",".join(TASKS)).split(",")
    arms = [arm for arm in options.get("arms", ",".join(ARMS)).split(",") if arm]
    seeds, episodes = int(options.get("seeds", 3)), int(options.get("episodes", 100))
    torch.set_num_threads(1)
    for name in tasks:
        for arm in arms:
            for seed in range(seeds if arm in ("planning", "cloning") else 1):
                evaluate(out, name, arm, seed, episodes)
    print(table(out, tasks))
    if "figure" in options:
        landscape(out / "reach" / "model0", Path(options["figure"]))


def evaluate(out: Path, name: str, arm: str, seed: int, episodes: int) -> None:
    """One arm with one seed; kept in a file."""
    file = out / name / "results" / f"{arm}{seed}.json"
    if file.exists():
        return
    task, start = TASKS[name], time.process_time()
    env = task.env or name
    folder = out / env
    if arm in ("planning", "cloning"):
        train(folder, env, seed)
    trained = time.process_time()
    if arm == "planning":
        config = act.PlanConfig(model=str(folder / f"model{seed}"), env=env, **task.plan)
        policy = act.PlanningPolicy(act.make_controller(config), config.subgoal_steps)
    else:
        policy = act.SimplePolicy(baseline(folder, arm, seed))
    first = act.EVALUATION_SEED + seed * episodes  # other starts and goals for each training seed
    seeds = range(first, first + episodes)
    found = act.run_episodes(lambda: make(env), policy, seeds, int(task.plan["max_steps"]))
    rows = {
        "success": [episode.success for episode in found],
        "distance": [round(episode.distance, 3) for episode in found],
        "steps": [episode.steps for episode in found],
        "cpu_s": {"train": round(trained - start, 1), "act": round(time.process_time() - trained, 1)},
    }
    write_json(file, rows)
    print(f"{name} {arm} seed {seed}: {np.mean(rows['success']):.2f} {rows['cpu_s']}", flush=True)


def train(folder: Path, name: str, seed: int) -> None:
    """Data set and world model, by the commands that a user types."""
    task, model = TASKS[name], folder / f"model{seed}"
    if (model / "world_model.safetensors").exists():
        return
    collect = [
        "collect",
        f"env={name}",
        f"out={folder / 'data'}",
        f"episodes={task.episodes}",
        "steps=40",
        "seed=1",
    ]
    run = [f"data.root={folder / 'data'}", f"out={folder / f'run{seed}'}", f"train.seed={seed}"]
    sizes = [f"train.steps={task.steps}", f"objective.action_dim={task.action_dim}"]
    export = ["export", f"run={folder / f'run{seed}'}", f"out={model}", "weights=context"]
    for command in (collect, ["pretrain", "recipe=act_small", *run, *sizes], export):
        if cli.main(command):
            raise SystemExit(f"jepa {' '.join(command)} failed")


def baseline(folder: Path, arm: str, seed: int):
    """A function (environment, image, info) -> action."""
    random = np.random.default_rng(seed)
    if arm == "random":
        return lambda env, image, info: random.uniform(-1, 1, env.action_space.shape)
    if arm == "oracle":
        return lambda env, image, info: env.unwrapped.expert_action()
    if arm == "greedy":
        return lambda env, image, info: greedy(env.unwrapped, info["goal"], random)
    return cloned(folder, seed)


def greedy(env, goal: np.ndarray, random: np.random.Generator, candidates: int = 16) -> np.ndarray:
    """Of random actions, the one whose true next image is nearest to the goal's in pixels: one step, true dynamics."""
    actions = random.uniform(-1, 1, (candidates, *env.action_space.shape))
    images = [env.image_of(env.advance(env.truth, action)) for action in actions]
    errors = [np.square(image.astype(np.float32) - goal).mean() for image in images]
    return actions[int(np.argmin(errors))]


def cloned(folder: Path, seed: int):
    """Goal-conditioned behaviour cloning on the same data and the same frozen tokens: (frame, frame up to ten steps
    later) -> the first action between them, by an MLP, squared error."""
    world = load_world_model(folder / f"model{seed}")
    torch.manual_seed(seed)
    items: list[Trajectory] = read_trajectories(folder / "data")
    data = TrajectoryDataset(items, WindowConfig(4, 4.0, 64, "recorded", 4096), seed)
    data.encode = lambda frames: tokens_of(world, frames)
    found = [data.aligned(number) for number in range(len(items))]
    tokens = torch.stack([one.tokens for one in found])
    actions = torch.stack([one.actions for one in found])
    net = nn.Sequential(
        nn.Linear(2 * tokens.shape[-1], 256), nn.LayerNorm(256), nn.GELU(), nn.Linear(256, 128), nn.GELU(),
        nn.Linear(128, actions.shape[-1]),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-3)
    for _ in range(CLONING_STEPS):
        which = torch.randint(len(tokens), (256,))
        now = torch.randint(actions.shape[1], (256,))
        goal = (now + torch.randint(1, CLONING_AHEAD + 1, (256,))).clamp(max=actions.shape[1])
        predicted = net(torch.cat([tokens[which, now], tokens[which, goal]], dim=1))
        loss = (predicted - actions[which, now]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def policy(env, image, info) -> np.ndarray:
        pair = act.as_tensor([image, info["goal"]])
        return net(tokens_of(world, pair).flatten()[None])[0].numpy()

    return policy


@torch.no_grad()
def tokens_of(world: WorldModel, frames: torch.Tensor) -> torch.Tensor:
    """The standardised tokens [T, N * D] that the projector reads."""
    projector = world.projector
    assert projector is not None
    tokens = world.encoder(world.encoder.preprocess(frames).transpose(0, 1).unsqueeze(2))
    return (tokens.flatten(1) - projector.mean) * projector.scale


def landscape(model: Path, file: Path) -> None:
    """Energy of one action from the middle of the table, for three goals, beside start and goal."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    world, env = load_world_model(model), make("reach").unwrapped
    start, goals = np.array([2.0, 2.0]), np.array([[2.4, 2.0], [1.2, 3.2], [3.6, 0.4]])
    figure, axes = pyplot.subplots(2, 3, figsize=(8, 5.2), layout="constrained")
    for column, goal in enumerate(goals):
        pair = act.as_tensor([env.image_of(start), env.image_of(goal)])
        values, energies = energy_landscape(world, *pair, distance="l2")
        axes[0, column].imshow(np.minimum(env.image_of(start), env.image_of(goal)))
        axes[0, column].set_title("start (middle) and goal", fontsize=9)
        axes[0, column].axis("off")
        edge = float(values[-1])
        axes[1, column].imshow(
            energies.T, origin="lower", extent=(-edge, edge, -edge, edge), cmap="viridis_r"
        )
        offset = (goal - start) / 0.4
        aim = offset / max(1.0, np.abs(offset).max())
        axes[1, column].plot(*aim, "r+", markersize=12)
        axes[1, column].set_xlabel("action along x")
        axes[1, column].set_ylabel("action along y")
    figure.savefig(file, dpi=80)


def table(out: Path, tasks: list[str]) -> str:
    """Markdown: success of each arm with its interval over all episodes, and each seed's."""
    lines = ["| task | " + " | ".join(ARMS) + " | planning, each seed |", "|---" * (len(ARMS) + 2) + "|"]
    for name in tasks:
        cells, each = [], ""
        for arm in ARMS:
            files = sorted((out / name / "results").glob(f"{arm}[0-9].json"))
            hits = [json.loads(file.read_text())["success"] for file in files]
            if not hits:
                cells.append("-")
                continue
            rate, low, high = act.success_rate([act.Episode(0, hit) for one in hits for hit in one])
            cells.append(f"{rate:.2f} ({low:.2f} to {high:.2f})")
            if arm == "planning":
                each = ", ".join(f"{np.mean(one):.2f}" for one in hits)
        lines.append(f"| {name} | {' | '.join(cells)} | {each} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
