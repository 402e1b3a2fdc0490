"""Random access to a world: plan, truth and frames of video `i`, without touching any other video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from jepa.errors import UserError
from jepa.toyworld.backdrop import Backdrop, camera_path, flicker
from jepa.toyworld.chance import chance
from jepa.toyworld.config import ToyWorldConfig
from jepa.toyworld.extras import distractors, occluders
from jepa.toyworld.families import EVENTS, FAMILIES, SURPRISES, UNDER_GRAVITY
from jepa.toyworld.plan import STRIPES, Shot, VideoPlan, plan_video
from jepa.toyworld.render import Canvas, unit
from jepa.toyworld.scene import Setting
from jepa.toyworld.truth import Take, truth_of

_ATTEMPTS = 60  # draws until physics gives the planned outcome; two are usual


class World:
    """All videos of one configuration, addressed by number; nothing is kept between calls.

    Args:
        config: the knobs; checked.

    Raises:
        UserError: if a knob is outside its limits, or two knobs do not go together.
    """

    def __init__(self, config: ToyWorldConfig) -> None:
        config.check()
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

    def takes(self, index: int) -> list[Take]:
        """The shots of video `index`, simulated but not rendered."""
        return [self._take(shot) for shot in self.plan(index).shots]

    def truth(self, index: int) -> dict[str, object]:
        """What is true about video `index`, as its JSON file says it; nothing is rendered."""
        return truth_of(self.config, self.plan(index), self.takes(index))

    def frames(self, index: int) -> Iterator[np.ndarray]:
        """The rendered frames of video `index`, uint8 [H, W, 3], before compression."""
        return self.render(index, self.takes(index))

    def render(
        self, index: int, takes: list[Take], numbers: Iterable[int] | None = None
    ) -> Iterator[np.ndarray]:
        """The same from takes at hand; `numbers` picks frames, and no other is painted."""
        painters = [_Painter(self.config, take) for take in takes]
        for number in range(self.config.frames) if numbers is None else numbers:
            image = _mix(painters, number)
            noise = flicker(self.config, index, number)
            image = unit(image.copy() if noise is None else image + noise)
            image *= 255
            image += 0.5
            yield image.astype(np.uint8)

    def _take(self, shot: Shot) -> Take:
        config = self.config
        for attempt in range(_ATTEMPTS):
            rng = chance(config.seed, shot.key, "scene", attempt)
            scene = FAMILIES[shot.plan.family].build(Setting(config, shot.plan, shot.num_frames, rng))
            if scene is not None:
                times = np.arange(shot.num_frames) / float(config.rate)
                behind, before = distractors(config, shot.key, scene.side, times), occluders(config, shot.key)
                frames = [[*low, *parts, *before] for low, parts in zip(behind, scene.frames, strict=True)]
                return Take(shot, scene, frames, camera_path(config, shot.key, shot.num_frames))
        raise UserError(
            f"no {shot.plan.family} with outcome {shot.plan.outcome!r} came about in {_ATTEMPTS} attempts within "
            f"{shot.num_frames / float(config.rate):.1f} s; choose a longer duration_s, or clarity and omen_s nearer "
            "their defaults."
        )


def _check_family(config: ToyWorldConfig) -> None:
    names = (*EVENTS, "motion")
    if config.family not in (*names, "events", "film"):
        raise UserError(
            f"family={config.family!r} is not known; choose events, film or one of {', '.join(names)}."
        )
    if config.part not in STRIPES:
        raise UserError(f"part={config.part!r} is not known; choose one of {', '.join(STRIPES)}.")
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


class _Painter:
    """Paints one shot."""

    def __init__(self, config: ToyWorldConfig, take: Take) -> None:
        self.take = take
        self.backdrop = Backdrop(config, take.shot.place, take.scene.side)
        self.canvas = Canvas(config.width_px, config.height_px, self.backdrop.light)

    def frame(self, number: int) -> np.ndarray:
        """Frame `number` of the video, which must lie in this shot."""
        camera, parts = (
            self.take.cameras[number - self.take.shot.start],
            self.take.frames[number - self.take.shot.start],
        )
        self.canvas.image[:] = self.backdrop.seen_by(camera)
        self.canvas.paint(parts, camera)
        return self.canvas.image


def _mix(painters: list[_Painter], number: int) -> np.ndarray:
    """A frame of the video: of one shot, of two that dissolve, or darkened around a fade."""
    on = [p for p in painters if p.take.shot.start <= number < p.take.shot.start + p.take.shot.num_frames]
    image = on[-1].frame(number)
    if len(on) == 2:
        share = (number - on[1].take.shot.start + 1) / (on[1].take.shot.entry_frames + 1)
        image = on[0].frame(number) * np.float32(1 - share) + image * np.float32(share)
    for painter in painters:
        shot = painter.take.shot
        if shot.entry == "fade":
            half = shot.entry_frames / 2
            image = image * np.float32(min(1.0, abs(number + 0.5 - shot.start) / max(half, 1)))
    return image
