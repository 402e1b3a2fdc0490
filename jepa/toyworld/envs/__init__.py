"""The toy world as environments of gymnasium: reach, push, two rooms, tower; importing this registers them.

    import gymnasium, jepa.toyworld.envs
    env = gymnasium.make("jepa/Push-v0")

It needs gymnasium and pymunk (`pip install 'jepa-video[act]'`).
"""

from jepa.errors import require

require("gymnasium", "act")

import gymnasium  # noqa: E402

from jepa.toyworld.envs.base import ToyEnv  # noqa: E402
from jepa.toyworld.envs.push import PushEnv  # noqa: E402
from jepa.toyworld.envs.reach import ReachEnv  # noqa: E402
from jepa.toyworld.envs.rooms import TwoRoomsEnv  # noqa: E402
from jepa.toyworld.envs.tower import TowerEnv  # noqa: E402

__all__ = ["ENVIRONMENTS", "PushEnv", "ReachEnv", "ToyEnv", "TowerEnv", "TwoRoomsEnv"]

ENVIRONMENTS: dict[str, tuple[type[ToyEnv], int]] = {
    "jepa/Reach-v0": (ReachEnv, 30),
    "jepa/Push-v0": (PushEnv, 40),
    "jepa/TwoRooms-v0": (TwoRoomsEnv, 50),
    "jepa/Tower-v0": (TowerEnv, 50),
}
"""Registered id -> class, and the actions after which an episode is cut off."""

for _name, (_cls, _limit) in ENVIRONMENTS.items():
    if _name not in gymnasium.registry:
        gymnasium.register(
            id=_name, entry_point=f"{_cls.__module__}:{_cls.__name__}", max_episode_steps=_limit
        )
