"""Collecting data sets of trajectories from the toy environments: `jepa collect env=push out=DIR`.

A policy alternates between stretches of random motion and of the noisy scripted policy, which takes up a new goal when
it has reached one; so the data hold both what the task needs and much that it does not. Every episode is a function of
(seed, episode): its task is drawn from a stream of its own, which no evaluation draws from.

A folder holds `videos/NNNNNN.mp4`, `motion/NNNNNN.npz` and `trajectories.csv` (see `jepa.data.trajectories`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import gymnasium
import numpy as np

from jepa import rng
from jepa.data.trajectories import MANIFEST, write_manifest
from jepa.errors import UserError
from jepa.fields import path_key
from jepa.files import atomic_path
from jepa.toyworld.envs import ENVIRONMENTS, ToyEnv
from jepa.toyworld.envs.base import ACTION_S
from jepa.toyworld.mp4 import write_mp4

BEHAVIOURS = ("mixed", "random", "scripted")
NAMES = {
    "reach": "jepa/Reach-v0",
    "push": "jepa/Push-v0",
    "rooms": "jepa/TwoRooms-v0",
    "tower": "jepa/Tower-v0",
}
_STREAM = 0x636F6C6C  # "coll": keeps collected episodes apart from all that a test draws by a plain seed


@dataclass
class CollectConfig:
    """Which environment, and how many episodes of which policy."""

    out: str = path_key("???")
    """folder to write; a stopped run is continued by the same call"""
    env: str = "reach"
    """reach, push, rooms or tower"""
    episodes: int = 300
    """trajectories; a finished folder grows when more are requested"""
    steps: int = 40
    """actions in an episode; the video has one frame more"""
    behaviour: str = "mixed"
    """random: stretches of random motion; scripted: a policy on the true state, with noise; mixed: both in turn"""
    noise: float = 0.4
    """standard deviation of the noise on scripted actions, which go from -1 to 1"""
    size_px: int = 64
    """height and width of the images"""
    seed: int = 0
    """random seed"""
    crf: int = 12
    """H.264 quality; 0 is lossless"""

    def __post_init__(self) -> None:
        if self.env not in NAMES:
            raise UserError(f"env={self.env!r} is unknown; choose one of {', '.join(NAMES)}.")
        if self.behaviour not in BEHAVIOURS:
            raise UserError(
                f"behaviour={self.behaviour!r} is unknown; choose one of {', '.join(BEHAVIOURS)}."
            )
        for name in ("episodes", "steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} has to be at least 1.")
        if self.size_px % 2:
            raise UserError(f"size_px={self.size_px} has to be even, for the video.")


class MixedPolicy:
    """Random and scripted stretches in turn.

    Args:
        env: acted in.
        random: source of every choice.
        policy: mixed, random or scripted.
        noise: standard deviation of the noise on scripted actions.
    """

    def __init__(self, env: ToyEnv, random: np.random.Generator, policy: str, noise: float) -> None:
        self.env, self.random, self.policy, self.noise = env, random, policy, noise
        self._left, self._scripted = 0, False
        self._course = np.zeros(len(env.action_names))

    def __call__(self) -> np.ndarray:
        """The next action, in [-1, 1]."""
        if self._left == 0:
            self._begin_stretch()
        self._left -= 1
        if self._scripted:
            if self.env.solved(self.env.distance()):
                self._new_goal()
            action = self.env.expert_action()
            # The fingers keep their meaning: noise is for the motion.
            action[:2] += self.noise * self.random.standard_normal(2)
        else:
            action = self._course + 0.25 * self.random.standard_normal(len(self._course))
        return np.clip(action, -1.0, 1.0)

    def _begin_stretch(self) -> None:
        self._scripted = self.policy == "scripted" or (self.policy == "mixed" and self.random.random() < 0.5)
        self._left = int(self.random.integers(6, 16) if self._scripted else self.random.integers(2, 8))
        self._course = self.random.uniform(-1.0, 1.0, self._course.shape)
        if self._scripted:
            self._new_goal()

    def _new_goal(self) -> None:
        _, goal = self.env.sample_task(self.random)
        self.env.set_state(self.env.truth, goal)


def collect(config: CollectConfig) -> Path:
    """Writes the episodes that the folder does not hold yet, then the manifest.

    Returns:
        The folder.

    Raises:
        UserError: the environment or the behaviour is unknown.

    Example:
        >>> import tempfile
        >>> folder = collect(CollectConfig(out=tempfile.mkdtemp(), episodes=1, steps=3))
        >>> sorted(path.name for path in folder.iterdir())
        ['motion', 'trajectories.csv', 'videos']
    """
    out = Path(config.out)
    name, rows = NAMES[config.env], []
    for episode in range(config.episodes):
        video, motion = f"videos/{episode:06d}.mp4", f"motion/{episode:06d}.npz"
        if not ((out / video).exists() and (out / motion).exists()):
            images, states, actions = play(config, ENVIRONMENTS[name][0](config.size_px), episode)
            with atomic_path(out / video) as partial:
                write_mp4(partial, images, Fraction(1) / Fraction(ACTION_S), config.crf)
            times = np.arange(len(images)) * ACTION_S
            with atomic_path(out / motion) as partial, open(partial, "wb") as handle:
                np.savez(handle, states=states, actions=actions, state_times=times, action_times=times[:-1])
        rows.append((video, motion))
    write_manifest(out / MANIFEST, rows)
    return out


def play(config: CollectConfig, env: ToyEnv, episode: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """One episode: images [T + 1], the hand's states [T + 1, S] and the actions [T, A] between them."""
    random = rng.generator([config.seed, _STREAM], [0, episode, 0, 0])
    start, goal = env.sample_task(random)
    image, info = env.reset(seed=0, options={"state": start, "goal": goal})
    policy = MixedPolicy(env, random, config.behaviour, config.noise)
    images, states, actions = [image], [info["state"]], []
    for _ in range(config.steps):
        actions.append(policy().astype(np.float32))
        image, _, _, _, info = env.step(actions[-1])
        images.append(image)
        states.append(info["state"])
    return images, np.stack(states), np.stack(actions)


def run(config: CollectConfig) -> Path:
    """`jepa collect`: `collect`, and a line that says so."""
    out = collect(config)
    print(f"wrote {out}: {config.episodes} trajectories of {config.steps} actions of {NAMES[config.env]}")
    return out


def make(env: str, size_px: int = 64) -> gymnasium.Env[np.ndarray, np.ndarray]:
    """An environment by its short name (reach, push, rooms, tower) or by its id in gymnasium.

    Raises:
        UserError: there is none of that name.
    """
    name = NAMES.get(env, env)
    try:
        return gymnasium.make(name, size_px=size_px) if name in ENVIRONMENTS else gymnasium.make(name)
    except gymnasium.error.Error as error:
        raise UserError(
            f"env={env} cannot be made: {error}. Choose one of {', '.join(NAMES)}, or an id that gymnasium knows."
        ) from error
