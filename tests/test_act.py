from __future__ import annotations

import numpy as np
import pytest

from jepa import act
from jepa.errors import UserError

pytest.importorskip("gymnasium")
pytest.importorskip("pymunk")

from jepa.toyworld.envs import ReachEnv, TowerEnv


class Dying(ReachEnv):
    """Fails on the third action of the episode with seed 1."""

    def reset(self, *, seed=None, options=None):
        self.left = 2 if seed == 1 else 1000
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the simulator is gone")
        return super().step(action)


def expert() -> act.SimplePolicy:
    return act.SimplePolicy(lambda env, image, info: env.expert_action())


def test_an_environment_that_fails_ends_its_own_episode_only() -> None:
    episodes = act.run_episodes(Dying, expert(), [0, 1, 2], max_steps=20)
    assert [episode.success for episode in episodes] == [True, False, True]
    assert episodes[1].failure == "RuntimeError: the simulator is gone" and episodes[1].steps == 3


def test_episodes_end_at_the_goal_or_at_the_limit_and_keep_images() -> None:
    idle = act.SimplePolicy(lambda env, image, info: np.zeros(2))
    episodes = act.run_episodes(ReachEnv, idle, [0, 1], max_steps=5, keep_images=1)
    assert [episode.steps for episode in episodes] == [5, 5] and not any(e.success for e in episodes)
    assert len(episodes[0].images) == 2 + 5 and not episodes[1].images


def test_success_has_a_wilson_interval() -> None:
    rate, low, high = act.success_rate([act.Episode(0, success=True)] * 10)
    assert rate == high == 1.0 and low == pytest.approx(0.7225, abs=1e-3)
    with pytest.raises(UserError, match="no episodes"):
        act.success_rate([])


def test_images_of_several_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="one size"):
        act.as_tensor([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 9, 3), np.uint8)])


class Recorder:
    """Stands in for a controller and remembers its goals."""

    def __init__(self) -> None:
        from types import SimpleNamespace

        self.world = SimpleNamespace(predictor=SimpleNamespace(config=SimpleNamespace(state_dim=0)))
        self.goals, self.selected = [], []

    def set_goals(self, images) -> None:
        self.goals.append(images)

    def act(self, images, states):
        import torch

        return torch.zeros(len(images), 3)

    def select(self, rows) -> None:
        self.selected.append(list(rows))


def test_sub_goals_follow_one_another() -> None:
    recorder = Recorder()
    policy = act.PlanningPolicy(recorder, subgoal_steps=2)
    act.run_episodes(TowerEnv, policy, [0], max_steps=7)
    env = TowerEnv()
    env.reset(seed=0)
    images = [env.image_of(truth) for truth in env.subgoals()]
    shown = [goal[0].permute(1, 2, 0).numpy() for goal in recorder.goals]
    assert all(np.array_equal(a, b) for a, b in zip(shown, [*images, images[-1]], strict=True))


def test_a_gif_shows_goal_and_episode(tmp_path) -> None:
    image = pytest.importorskip("PIL.Image")
    episodes = act.run_episodes(ReachEnv, expert(), [0, 1], max_steps=20, keep_images=2)
    act.write_gif(tmp_path / "a.gif", [episode.images for episode in episodes])
    with image.open(tmp_path / "a.gif") as found:
        assert found.n_frames == max(e.steps for e in episodes) + 1 and found.size == (2 * 64 * 3, 130 * 3)
