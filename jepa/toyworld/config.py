"""Configuration of the toy world: every key, its unit and its limits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from fractions import Fraction

from jepa.errors import UserError
from jepa.fields import path_key

VERSION = 3
"""Raised whenever the same keys would give other video bytes: a folder is never continued by other code."""

BACKGROUNDS = ("plain", "varied")
CAMERAS = ("still", "varied", "moving")

_STORED_AS = {"temporal_noise": "flicker", "precursor_s": "omen_s"}
"""Keys whose name in `world.json` is the one they had when the first worlds were written."""


@dataclass
class ToyWorldConfig:
    """One world. Video `i` is a function of these keys and `i`, never of how many videos are made.

    Raises:
        UserError: a value is outside its limits; the message names the key, the value and the limits.

    Example:
        >>> ToyWorldConfig(out="", duration_s=2.0, fps=12.0).num_frames
        24
    """

    out: str = path_key()
    """folder to write; a stopped run is continued by the same call"""
    videos: int = 400
    """how many videos; a finished world can be extended by asking for more"""
    seed: int = 0
    """random seed: another seed, another world of the same kind"""
    family: str = "motion"
    """an event family, the mix "events" of all of them, or "film": several shots with cuts, fades and dissolves"""
    part: str = "standard"
    """"standard" (train, val and test), "combinations", "physics", "rare", "surprise", or "all" but the rare"""
    duration_s: float = 2.0
    """length of a video, up to 60 s; an event takes 2 or 3, plain motion 0.5"""
    fps: float = 16.0
    """frames per second, 8 to 30"""
    width_px: int = 128
    """frame width, even, at least the height"""
    height_px: int = 128
    """frame height, even, at least 64"""
    background: str = "plain"
    """static background, "plain": the same in every video; "varied": different between videos"""
    temporal_noise: float = 0.0
    """strength, 0 to 1, of noise drawn anew in every frame (unpredictable): blotches and grain"""
    camera: str = "still"
    """"still"; "varied": another position and zoom in each video; "moving": pans and zooms"""
    distractors: int = 1
    """grey moving objects that no label is about"""
    occluders: int = 0
    """posts in front of the scene"""
    precursor_s: float = 1.5
    """longest time, in seconds, by which the visible signs of an event precede it"""
    clarity: float = 0.6
    """how clearly the precursor shows, 0 to 1: at 0 an event and its decoy look alike until the event time"""
    crf: int = 18
    """H.264 quality, 0 (lossless) to 51 (worst)"""
    workers: int = 0
    """processes that render; 0 renders in this one"""

    def __post_init__(self) -> None:
        """Refuses values outside their limits; `jepa.toyworld.World` checks what depends on the event families."""
        choices = {
            "background": (self.background, BACKGROUNDS),
            "camera": (self.camera, CAMERAS),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise UserError(f"{name}={value!r} is not known; choose one of {', '.join(allowed)}.")
        limits = {
            "videos": (self.videos, 1, 10**9),
            "seed": (self.seed, 0, 2**63 - 1),
            "duration_s": (self.duration_s, 0.5, 60),
            "fps": (self.fps, 8, 30),
            "height_px": (self.height_px, 64, 1024),
            "width_px": (self.width_px, self.height_px, 2048),
            "temporal_noise": (self.temporal_noise, 0, 1),
            "distractors": (self.distractors, 0, 8),
            "occluders": (self.occluders, 0, 4),
            "precursor_s": (self.precursor_s, 0.2, 10),
            "clarity": (self.clarity, 0, 1),
            "crf": (self.crf, 0, 51),
            "workers": (self.workers, 0, 1024),
        }
        for name, (number, low, high) in limits.items():
            if not low <= number <= high:
                raise UserError(f"{name}={number} is outside its limits, {low} to {high}.")
        if self.width_px % 2 or self.height_px % 2:
            raise UserError(
                f"a frame of {self.width_px}x{self.height_px} px is refused: H.264 halves colour "
                "planes; choose an even width_px and height_px."
            )

    @property
    def rate(self) -> Fraction:
        """Frames per second as the exact fraction that the file states."""
        return Fraction(self.fps).limit_denominator(1001)

    @property
    def num_frames(self) -> int:
        """Frames in a video."""
        return max(1, round(self.duration_s * self.rate))

    def identity(self) -> dict[str, object]:
        """The keys that decide what a video looks like, as `world.json` stores them, with the version of the code."""
        keys = dataclasses.asdict(self)
        # 8 and 8.0 frames per second are one world, and JSON would write them differently.
        keys |= {
            f.name: float(keys[f.name]) for f in dataclasses.fields(self) if isinstance(f.default, float)
        }
        for name in ("out", "videos", "workers"):
            del keys[name]
        return {"version": VERSION} | {_STORED_AS.get(name, name): value for name, value in keys.items()}

    def fingerprint(self) -> str:
        """A short hash of `identity`: two folders with the same one hold videos of the same world."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
