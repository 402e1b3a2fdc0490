"""Acting in environments with a world model, and measuring success: `jepa plan model=DIR env=NAME`.

Episodes run side by side, so that their plans are made in one batch. Each has a goal image and a limit of actions; an
environment that fails ends its own episode with a reason and no other. Starts and goals are functions of the seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from jepa.errors import UserError, require
from jepa.fields import path_key
from jepa.files import atomic_path, write_json
from jepa.models.action import load_world_model
from jepa.models.action.plan import Controller, ControllerConfig
from jepa.models.action.planners import PLANNERS, ActionLimits, CEMConfig

EVALUATION_SEED = 20_000
"""First seed of evaluation episodes: `jepa collect` draws from a stream of its own, so no training episode is among
them."""


class Policy(Protocol):
    """Acts in several episodes side by side."""

    def start(self, envs: Sequence[Any], infos: Sequence[dict[str, Any]]) -> None:
        """Begins new episodes, whose goal images are in `infos`."""

    def act(
        self, images: Sequence[np.ndarray], infos: Sequence[dict[str, Any]], live: Sequence[int]
    ) -> np.ndarray:
        """Actions [n, A] for the episodes `live`, which `images` and `infos` belong to."""


@dataclass
class Episode:
    """How one episode went."""

    seed: int
    success: bool = False
    steps: int = 0
    distance: float = math.nan
    """metres to the goal in the end, where the environment states it"""
    failure: str = ""
    """why the environment failed, if it did"""
    images: list[np.ndarray] = field(default_factory=list)


class PlanningPolicy:
    """A `Controller` as a policy; with sub-goals it goes on to the next one after so many actions.

    Args:
        controller: plans.
        subgoal_steps: actions for each sub-goal but the last, if the environment has `subgoals`; 0 uses the goal alone.
    """

    def __init__(self, controller: Controller, subgoal_steps: int = 0) -> None:
        self.controller, self.subgoal_steps = controller, subgoal_steps
        self._goals: list[list[np.ndarray]] = []
        self._live: list[int] = []
        self._done = 0

    def start(self, envs: Sequence[Any], infos: Sequence[dict[str, Any]]) -> None:
        """As `Policy.start`.

        Raises:
            UserError: an environment shows no goal image.
        """
        self._goals, self._done = [], 0
        for env, info in zip(envs, infos, strict=True):
            if "goal" not in info:
                raise UserError("This environment's info has no `goal` image, which planning needs.")
            inner = env.unwrapped
            images = [info["goal"]]
            if self.subgoal_steps and hasattr(inner, "subgoals"):
                images = [inner.image_of(truth) for truth in inner.subgoals()]
            self._goals.append(images)
        self._live = list(range(len(envs)))
        self._set_goals(0)

    def act(
        self, images: Sequence[np.ndarray], infos: Sequence[dict[str, Any]], live: Sequence[int]
    ) -> np.ndarray:
        """As `Policy.act`."""
        if list(live) != self._live:
            self.controller.select([self._live.index(number) for number in live])
            self._live = list(live)
        if self.subgoal_steps and self._done and self._done % self.subgoal_steps == 0:
            self._set_goals(self._done // self.subgoal_steps)
        self._done += 1
        states = None
        if self.controller.world.predictor.config.state_dim:
            states = torch.from_numpy(np.stack([info["state"] for info in infos]))
        return self.controller.act(as_tensor(images), states).cpu().numpy()

    def _set_goals(self, number: int) -> None:
        goals = [self._goals[k][min(number, len(self._goals[k]) - 1)] for k in self._live]
        self.controller.set_goals(as_tensor(goals))


class SimplePolicy:
    """A function (environment, image, info) -> action as a policy, for baselines.

    Args:
        function: gives the next action.
    """

    def __init__(self, function: Callable[[Any, np.ndarray, dict[str, Any]], np.ndarray]) -> None:
        self.function = function
        self._envs: Sequence[Any] = []

    def start(self, envs: Sequence[Any], infos: Sequence[dict[str, Any]]) -> None:
        """As `Policy.start`."""
        self._envs = envs

    def act(
        self, images: Sequence[np.ndarray], infos: Sequence[dict[str, Any]], live: Sequence[int]
    ) -> np.ndarray:
        """As `Policy.act`."""
        rows = zip(live, images, infos, strict=True)
        return np.stack([self.function(self._envs[number], image, info) for number, image, info in rows])


def as_tensor(images: Sequence[np.ndarray]) -> Tensor:
    """Images uint8 [H, W, 3] as a batch uint8 [B, 3, H, W].

    Raises:
        UserError: images of other types or of different sizes.
    """
    shapes = {image.shape for image in images}
    if len(shapes) != 1 or images[0].dtype != np.uint8 or images[0].ndim != 3:
        raise UserError(
            f"Images have to be uint8 [H, W, 3] of one size; these are {sorted(map(str, shapes))} of "
            f"{images[0].dtype}."
        )
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def run_episodes(
    make: Callable[[], Any], policy: Policy, seeds: Sequence[int], max_steps: int, keep_images: int = 0
) -> list[Episode]:
    """Runs one episode per seed, all side by side.

    Args:
        make: makes an environment.
        policy: acts in all of them.
        seeds: of the episodes' starts and goals.
        max_steps: actions in an episode, at most.
        keep_images: episodes, from the first, whose images are kept; the goal comes first.

    Raises:
        UserError: the policy cannot act in this environment.
    """
    envs = [make() for _ in seeds]
    episodes = [Episode(seed) for seed in seeds]
    first = [env.reset(seed=seed) for env, seed in zip(envs, seeds, strict=True)]
    images, infos = [image for image, _ in first], [info for _, info in first]
    for episode, image, info in list(zip(episodes, images, infos, strict=True))[:keep_images]:
        episode.images = [info["goal"], image]
    policy.start(envs, infos)
    live = list(range(len(envs)))
    while live:
        actions = policy.act([images[k] for k in live], [infos[k] for k in live], live)
        going_on = []
        for row, k in enumerate(live):
            episode = episodes[k]
            episode.steps += 1
            try:
                images[k], _, ended, cut, infos[k] = envs[k].step(actions[row])
            except Exception as error:  # noqa: BLE001 - an environment is foreign code; its failure is this episode's
                episode.failure = f"{type(error).__name__}: {error}"
                continue
            episode.success = bool(infos[k].get("success", ended))
            episode.distance = float(infos[k].get("distance", math.nan))
            if k < keep_images:
                episode.images.append(images[k])
            if not (ended or cut or episode.steps >= max_steps):
                going_on.append(k)
        live = going_on
    return episodes


def success_rate(episodes: Sequence[Episode]) -> tuple[float, float, float]:
    """Fraction of successes and its 95 % interval (Wilson, 1927).

    Example:
        >>> rate, low, high = success_rate([Episode(0, True)] * 95 + [Episode(1)] * 5)
        >>> rate, round(low, 2), round(high, 2)
        (0.95, 0.89, 0.98)
    """
    count, hits, z = len(episodes), sum(e.success for e in episodes), 1.959964
    if not count:
        raise UserError("there are no episodes to count.")
    middle = (hits + z * z / 2) / (count + z * z)
    half = z * math.sqrt(hits * (count - hits) / count + z * z / 4) / (count + z * z)
    return hits / count, max(0.0, middle - half), min(1.0, middle + half)


@dataclass
class PlanConfig:
    """Which model acts where, and how it plans."""

    model: str = path_key("???")
    """folder that `jepa export` wrote of a run with objective=action_prediction"""
    env: str = "reach"
    """reach, push, rooms, tower, or an id that gymnasium knows and whose info has a `goal` image"""
    episodes: int = 20
    """starts and goals"""
    seed: int = EVALUATION_SEED
    """of the first episode; the others follow"""
    planner: str = "cem"
    """cem, mppi or gradient"""
    samples: int = 128
    """candidates of an iteration"""
    iterations: int = 4
    """rounds of the planner"""
    elites: int = 12
    """best candidates of CEM"""
    correlation: float = 0.7
    """correlation of the noise of neighbouring actions"""
    horizon: int = 10
    """actions ahead"""
    execute: int = 3
    """actions taken before planning again"""
    path_weight: float = 0.5
    """weight of the mean distance along the way, beside that at the end"""
    subgoal_steps: int = 0
    """actions for each sub-goal image but the last, in environments that have some; 0 uses the goal alone"""
    max_steps: int = 40
    """actions in an episode, at most"""
    out: str = path_key("")
    """folder for episodes.json and a GIF of the first episodes; empty writes none"""

    def __post_init__(self) -> None:
        if self.planner not in PLANNERS:
            raise UserError(f"planner={self.planner!r} is unknown; choose one of {', '.join(PLANNERS)}.")
        if self.episodes < 1 or self.max_steps < 1:
            raise UserError(f"episodes={self.episodes} and max_steps={self.max_steps} have to be at least 1.")


def make_controller(config: PlanConfig) -> Controller:
    """The controller that a configuration describes, for actions in [-1, 1].

    Raises:
        UserError: the folder holds no world model, or its actions are not those of an environment.
    """
    world = load_world_model(config.model)
    settings: dict[str, Any] = {
        "samples": config.samples, "iterations": config.iterations, "correlation": config.correlation
    }  # fmt: skip
    if PLANNERS[config.planner] is CEMConfig:
        settings["elites"] = config.elites
    if world.config.action_mode != "recorded":
        raise UserError(
            f"{config.model} takes {world.config.action_mode} as actions, and environments take their own: train with "
            "objective.actions=recorded."
        )
    planning = ControllerConfig(
        PLANNERS[config.planner](**settings), config.horizon, config.execute, path_weight=config.path_weight
    )
    return Controller(world, planning, ActionLimits.symmetric(world.predictor.config.action_dim), config.seed)


def run(config: PlanConfig) -> list[Episode]:
    """`jepa plan`: acts in the episodes and prints the success rate with its interval.

    Raises:
        UserError: model, environment and settings do not go together.
    """
    from jepa.toyworld.envs.collect import make

    policy = PlanningPolicy(make_controller(config), config.subgoal_steps)
    stated = policy.controller.world.encoder.preprocessing
    size = stated.crop_px if stated is not None else 64
    seeds = range(config.seed, config.seed + config.episodes)
    episodes = run_episodes(lambda: make(config.env, size), policy, seeds, config.max_steps, keep_images=6)
    rate, low, high = success_rate(episodes)
    print(
        f"{config.env}: success {rate:.2f} (95 % interval {low:.2f} to {high:.2f}) of {len(episodes)} episodes"
    )
    for episode in episodes:
        if episode.failure:
            print(f"episode {episode.seed} ended early: {episode.failure}")
    if config.out:
        _write(Path(config.out), config, episodes)
    return episodes


def _write(out: Path, config: PlanConfig, episodes: Sequence[Episode]) -> None:
    rows = []
    for episode in episodes:
        row = {k: v for k, v in asdict(episode).items() if k != "images"}
        row["distance"] = None if math.isnan(episode.distance) else round(episode.distance, 4)
        rows.append(row)
    write_json(out / "episodes.json", {"config": json.loads(json.dumps(asdict(config))), "episodes": rows})
    write_gif(out / "episodes.gif", [episode.images for episode in episodes if episode.images])


def write_gif(path: Path, episodes: Sequence[Sequence[np.ndarray]], scale: int = 3) -> None:
    """Episodes side by side as an animation, goals above, each holding its last image until all are over.

    Args:
        path: the file.
        episodes: images uint8 [H, W, 3], the goal first.
        scale: how much larger than the images.

    Raises:
        UserError: Pillow is not installed.
    """
    image = require("PIL.Image", "probes")
    length = max(len(images) for images in episodes)
    frames = []
    for step in range(1, length):
        row = [
            np.concatenate([images[0], np.full_like(images[0][:2], 255), images[min(step, len(images) - 1)]])
            for images in episodes
        ]
        frame = image.fromarray(np.concatenate(row, axis=1))
        frames.append(frame.resize((frame.width * scale, frame.height * scale), 0))
    with atomic_path(path) as partial:
        frames[0].save(partial, save_all=True, append_images=frames[1:], duration=250, loop=0)
