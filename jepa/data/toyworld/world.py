"""Random access to a world: plan, scene and frames of video `i`, without touching any other video."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jepa.data.toyworld.backdrop import Backdrop, camera_path, flicker
from jepa.data.toyworld.chance import balanced, chance
from jepa.data.toyworld.config import ToyWorldConfig
from jepa.data.toyworld.families import MODULES
from jepa.data.toyworld.render import Canvas
from jepa.data.toyworld.scene import COLOURS, Plan, Scene, Setting

_STRIPE = ("train",) * 7 + ("val",) + ("test",) * 2


class World:
    """All videos of one configuration, addressed by number; nothing is kept between calls.

    Args:
        config: the knobs; checked.

    Raises:
        UserError: if a knob is outside its limits.
    """

    def __init__(self, config: ToyWorldConfig) -> None:
        config.check()
        self.config = config

    def plan(self, index: int) -> Plan:
        """What video `index` will hold, in microseconds: nothing is simulated."""
        config = self.config
        place = index % len(_STRIPE)
        split = _STRIPE[place]
        position = index // len(_STRIPE) * _STRIPE.count(split) + place - _STRIPE.index(split)
        module = MODULES[config.family]
        outcome = module.OUTCOMES[balanced(config.seed, _STRIPE.index(split), position, len(module.OUTCOMES))]
        rng = chance(config.seed, index, "plan")
        return Plan(
            index=index,
            family=config.family,
            outcome=outcome,
            split=split,
            group=f"{index:06d}",
            colour=list(COLOURS)[rng.integers(len(COLOURS))],
            shape=module.SHAPES[rng.integers(len(module.SHAPES))],
            tasks=module.tasks(outcome),
        )

    def scene(self, index: int) -> Scene:
        """What happens in video `index`, simulated but not rendered."""
        plan = self.plan(index)
        seed = self.config.seed
        setting = Setting(self.config, plan, chance(seed, index, "scene"), chance(seed, index, "distractor"))
        scene: Scene = MODULES[plan.family].build(setting)
        return scene

    def frames(self, index: int) -> Iterator[np.ndarray]:
        """The rendered frames of video `index`, uint8 [H, W, 3], before compression."""
        config, scene = self.config, self.scene(index)
        backdrop = Backdrop(config, index, scene.side)
        canvas = Canvas(config.width_px, config.height_px, backdrop.light)
        for number, (parts, camera) in enumerate(zip(scene.frames, camera_path(config, index), strict=True)):
            canvas.image[:] = backdrop.seen_by(camera)
            canvas.paint(parts, camera)
            noise = flicker(config, index, number)
            image = canvas.image if noise is None else canvas.image + noise
            yield (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
