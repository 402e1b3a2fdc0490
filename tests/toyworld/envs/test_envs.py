from __future__ import annotations

import numpy as np
import pytest

from jepa.errors import UserError

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("pymunk")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from jepa.toyworld.envs import ENVIRONMENTS, PushEnv, ReachEnv, TowerEnv, TwoRoomsEnv  # noqa: E402
from jepa.toyworld.envs.collect import CollectConfig, collect, make  # noqa: E402

EACH = pytest.mark.parametrize("name", ENVIRONMENTS)


@EACH
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_passes_the_checker_of_gymnasium(name) -> None:
    check_env(gymnasium.make(name).unwrapped, skip_render_check=True)


@EACH
def test_an_episode_is_a_function_of_the_seed_and_the_actions(name) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 3))
    runs = []
    for _ in range(2):
        env = ENVIRONMENTS[name][0]()
        image, info = env.reset(seed=5)
        images = [image, info["goal"]]
        for action in actions:
            image, *_ = env.step(action[: len(env.action_names)])
            images.append(image)
        runs.append((np.stack(images), env.get_state()))
    assert np.array_equal(runs[0][0], runs[1][0]) and np.array_equal(runs[0][1], runs[1][1])


@EACH
def test_the_scripted_policy_solves_what_random_actions_do_not(name) -> None:
    cls, limit = ENVIRONMENTS[name]
    solved = {"scripted": 0, "random": 0}
    random = np.random.default_rng(0)
    for seed in range(8):
        for policy in solved:
            env = cls(32)
            env.reset(seed=seed)
            for _ in range(limit):
                action = (
                    env.expert_action()
                    if policy == "scripted"
                    else random.uniform(-1, 1, env.action_space.shape)
                )
                _, reward, ended, _, info = env.step(action)
                assert reward == -info["distance"]
                if ended:
                    solved[policy] += 1
                    break
    assert solved["scripted"] >= 7 and solved["random"] <= 2


def test_the_rim_and_the_wall_stop_the_hand() -> None:
    for env, start, action, axis in (
        (ReachEnv(), [0.5, 2.0], [-1.0, 0.0], 0),
        (TwoRoomsEnv(), [1.2, 1.0], [1.0, 0.0], 0),
    ):
        env.reset(seed=0, options={"state": np.array(start)})
        for _ in range(12):
            env.step(np.array(action))
        limit = 0.25 if isinstance(env, ReachEnv) else 2.0 - 0.15 - 0.25
        assert abs(env.truth[axis] - limit) < 0.05 and abs(env.truth[1] - start[1]) < 0.05


def test_through_the_door() -> None:
    env = TwoRoomsEnv()
    env.reset(seed=0, options={"state": np.array([1.2, 3.0])})
    for _ in range(5):
        env.step(np.array([1.0, 0.0]))
    assert env.truth[0] > 2.5


def test_a_block_moves_when_it_is_pushed_and_only_then() -> None:
    env = PushEnv()
    env.reset(seed=0, options={"state": np.array([1.0, 2.0, 2.0, 2.0, 0.0])})
    env.step(np.array([-1.0, 0.0]))
    assert env.truth[2:4] == pytest.approx([2.0, 2.0])
    for _ in range(4):
        env.step(np.array([1.0, 0.0]))
    assert env.truth[2] > 2.3 and env.truth[3] == pytest.approx(2.0, abs=0.1)


def test_the_tower_stands_when_the_sub_goals_are_met_in_turn() -> None:
    env = TowerEnv()
    env.reset(seed=1)
    images = [env.image_of(truth) for truth in env.subgoals()]
    assert len(images) == 3 and np.array_equal(images[-1], env.reset(seed=1)[1]["goal"])
    for _ in range(30):
        *_, ended, _, _ = env.step(env.expert_action())
        if ended:
            break
    red, green = env.truth[4:6], env.truth[7:9]
    assert ended and red[1] - green[1] == pytest.approx(0.7, abs=0.05) and env.truth[3] == -1


def test_mistakes_are_named() -> None:
    env = ReachEnv()
    env.reset(seed=0)
    with pytest.raises(UserError, match="2 finite numbers"):
        env.step(np.array([np.nan, 0.0]))
    with pytest.raises(UserError, match="options state and goal"):
        env.reset(options={"sate": 1})
    with pytest.raises(UserError, match="2 finite numbers"):
        env.set_state(np.zeros(3))
    with pytest.raises(UserError, match="reach, push, rooms, tower"):
        make("jepa/Raech-v0")
    with pytest.raises(UserError, match="env='raech'"):
        CollectConfig(out="x", env="raech")


def test_collected_episodes_do_not_depend_on_how_many_there_are(tmp_path) -> None:
    few = collect(CollectConfig(out=str(tmp_path / "few"), env="push", episodes=1, steps=6))
    many = collect(CollectConfig(out=str(tmp_path / "many"), env="push", episodes=2, steps=6))
    for name in ("videos/000000.mp4", "motion/000000.npz"):
        assert (few / name).read_bytes() == (many / name).read_bytes()
    one, two = (np.load(many / f"motion/00000{k}.npz")["actions"] for k in range(2))
    assert one.shape == (6, 2) and not np.array_equal(one, two) and np.abs(one).max() <= 1
