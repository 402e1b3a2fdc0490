"""Random access to the toy world: plan, ground truth and frames of video `i`, without touching any other video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from jepa.errors import UserError
from jepa.toyworld.backdrop import Backdrop, camera_path, temporal_noise
from jepa.toyworld.config import ToyWorldConfig
from jepa.toyworld.families import EVENTS, FAMILIES, SURPRISES, UNDER_GRAVITY
from jepa.toyworld.nuisance import distractors, occluders
from jepa.toyworld.plan import SPLIT_CYCLES, ShotPlan, VideoPlan, plan_video
from jepa.toyworld.random_streams import stream
from jepa.toyworld.render import Canvas, unit
from jepa.toyworld.scene import Setting
from jepa.toyworld.truth import SimulatedShot, truth_of

_ATTEMPTS = 60  # draws until physics gives the planned outcome; two are usual


class World:
    """All videos of one configuration, addressed by number; nothing is kept between calls.

    Args:
        config: the keys.

    Raises:
        UserError: two keys do not go together.

    Example:
        >>> world = World(ToyWorldConfig(out="", family="motion"))
        >>> world.plan(999_999).split
        'test'
        >>> next(world.frames(0)).shape
        (128, 128, 3)
    """

    def __init__(self, config: ToyWorldConfig) -> None:
        _check_family(config)
        self.config = config

    def plan(self, index: int) -> VideoPlan:
        """What video `index` will hold, labels included; nothing is simulated.

        Raises:
            UserError: if `index` is negative.
        """
        if index < 0:
            raise UserError(f"video {index} does not exist; videos are numbered from 0.")
        return plan_video(self.config, index)

    def simulate(self, index: int) -> list[SimulatedShot]:
        """The shots of video `index`, simulated but not rendered."""
        return [self._simulate(shot) for shot in self.plan(index).shots]

    def truth(self, index: int) -> dict[str, object]:
        """The ground truth of video `index`, as its JSON file holds it; nothing is rendered."""
        return truth_of(self.config, self.plan(index), self.simulate(index))

    def frames(self, index: int) -> Iterator[np.ndarray]:
        """The rendered frames of video `index`, uint8 [H, W, 3], before compression."""
        return self.render(index, self.simulate(index))

    def render(
        self, index: int, shots: list[SimulatedShot], numbers: Iterable[int] | None = None
    ) -> Iterator[np.ndarray]:
        """Frames of shots that are already simulated; `numbers` picks frames, and no other is rendered."""
        renderers = [_ShotRenderer(self.config, shot) for shot in shots]
        for number in range(self.config.num_frames) if numbers is None else numbers:
            image = _compose(renderers, number)
            noise = temporal_noise(self.config, index, number)
            image = unit(image.copy() if noise is None else image + noise)
            image *= 255
            image += 0.5
            yield image.astype(np.uint8)

    def _simulate(self, plan: ShotPlan) -> SimulatedShot:
        config, event = self.config, plan.event
        for attempt in range(_ATTEMPTS):
            rng = stream(config.seed, plan.key, "scene", attempt)
            scene = FAMILIES[event.family].build(Setting(config, event, plan.num_frames, rng))
            if scene is not None:
                times = np.arange(plan.num_frames) / float(config.rate)
                behind, before = distractors(config, plan.key, scene.side, times), occluders(config, plan.key)
                frames = [[*low, *parts, *before] for low, parts in zip(behind, scene.frames, strict=True)]
                return SimulatedShot(plan, scene, frames, camera_path(config, plan.key, plan.num_frames))
        raise UserError(
            f"no {event.family} with outcome {event.outcome!r} came about in {_ATTEMPTS} attempts within "
            f"{plan.num_frames / float(config.rate):.1f} s; choose a longer duration_s, or clarity and precursor_s "
            "nearer their defaults."
        )


def _check_family(config: ToyWorldConfig) -> None:
    names = (*EVENTS, "motion")
    if config.family not in (*names, "events", "film"):
        raise UserError(
            f"family={config.family!r} is not known; choose events, film or one of {', '.join(names)}."
        )
    if config.part not in SPLIT_CYCLES:
        raise UserError(f"part={config.part!r} is not known; choose one of {', '.join(SPLIT_CYCLES)}.")
    if config.part in ("rare", "surprise", "all") and config.family not in ("events", "film"):
        raise UserError(f"part={config.part!r} mixes event families; choose family=events or film with it.")
    if config.part == "physics" and config.family not in ("events", "film", *UNDER_GRAVITY):
        raise UserError(
            f"family={config.family!r} has no gravity or friction to change; with part=physics choose events, film or "
            f"one of {', '.join(UNDER_GRAVITY)}."
        )
    used = {"events": (*EVENTS, *SURPRISES), "film": (*EVENTS, *SURPRISES)}.get(
        config.family, (config.family,)
    )
    least = max(FAMILIES[name].least_s for name in used)
    if config.duration_s < least:
        raise UserError(
            f"duration_s={config.duration_s} is too short for family={config.family!r}, whose events take {least} s; "
            "choose a longer one."
        )


class _ShotRenderer:
    """Renders one shot."""

    def __init__(self, config: ToyWorldConfig, shot: SimulatedShot) -> None:
        self.shot = shot
        self.backdrop = Backdrop(config, shot.plan.location, shot.scene.side)
        self.canvas = Canvas(config.width_px, config.height_px, self.backdrop.light)

    def covers(self, number: int) -> bool:
        """Whether frame `number` of the video shows this shot."""
        return self.shot.plan.start <= number < self.shot.plan.start + self.shot.plan.num_frames

    def frame(self, number: int) -> np.ndarray:
        """Frame `number` of the video, which must be one that this shot covers."""
        step = number - self.shot.plan.start
        camera = self.shot.cameras[step]
        self.canvas.image[:] = self.backdrop.seen_by(camera)
        self.canvas.paint(self.shot.frames[step], camera)
        return self.canvas.image


def _compose(renderers: list[_ShotRenderer], number: int) -> np.ndarray:
    """A frame of the video: of one shot, of two that dissolve, or darkened around a fade."""
    visible = [renderer for renderer in renderers if renderer.covers(number)]
    image = visible[-1].frame(number)
    if len(visible) == 2:
        plan = visible[1].shot.plan
        weight = (number - plan.start + 1) / (plan.entry_frames + 1)
        image = visible[0].frame(number) * np.float32(1 - weight) + image * np.float32(weight)
    for renderer in renderers:
        plan = renderer.shot.plan
        if plan.entry == "fade":
            half = plan.entry_frames / 2
            image = image * np.float32(min(1.0, abs(number + 0.5 - plan.start) / max(half, 1)))
    return image
