"""Dissolves: found with their middle, and not confused with motion, light, fades and cuts."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import cv2
import numpy as np
import pytest

from jepa.signals.detect.dissolves import DissolveFinder
from jepa.signals.detect.shots import ShotFinder

FPS = 24


def texture(seed: int, level: int = 128) -> np.ndarray:
    """A soft picture of its own, BGR."""
    noise = np.random.default_rng(seed).normal(level, 60, (96, 96, 3)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 3) * 4 - 3 * level


def blend(one: np.ndarray, two: np.ndarray, frames: int) -> list[np.ndarray]:
    return [one + (two - one) * (i + 1) / (frames + 1) for i in range(frames)]


def found(pictures: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    finder = DissolveFinder(Fraction(FPS))
    spans = [finder.push(np.clip(picture, 0, 255).astype(np.uint8)) for picture in pictures]
    return [span for span in spans if span is not None]


@pytest.mark.parametrize("length", [14, 24, 48])
def test_a_dissolve_is_found_with_its_middle(length: int) -> None:
    one, two = texture(1), texture(2)
    (span,) = found([one] * 30 + blend(one, two, length) + [two] * 30)
    assert abs(sum(span) / 2 - (29.5 + length / 2)) <= 1


def test_motion_light_fades_and_cuts_are_no_dissolves() -> None:
    one, two = texture(1), texture(2)
    pan = [np.roll(one, round(i * 0.7), axis=1) for i in range(80)]
    zoom = [cv2.resize(one[: 96 - i // 2, : 96 - i // 2], (96, 96)) for i in range(60)]
    dimmed = [one] * 30 + blend(one, one * 0.4, 20) + [one * 0.4] * 30
    black = one * 0
    faded = [one] * 30 + blend(one, black, 12) + [black] * 4 + blend(black, two, 12) + [two] * 30
    cut = [one] * 40 + [two] * 40
    slow = [one] * 30 + blend(one, two, 40 * FPS) + [two] * 30
    for pictures in (pan, zoom, dimmed, faded, cut, slow, [one] * 60):
        assert found(pictures) == []


def test_each_boundary_keeps_its_kind_and_scenes_end_where_editors_end_them() -> None:
    """One look throughout, so that only the kind of boundary can end a scene."""
    one, two = texture(1), texture(2)
    black = one * 0
    pictures = (
        [one] * 40 + blend(one, two, 16) + [two] * 40  # dissolve
        + blend(two, black, 12) + [black] * 4 + blend(black, one, 12) + [one] * 40  # fade
        + [two] * 40  # cut
    )  # fmt: skip
    maker = ShotFinder(Fraction(FPS))
    for i, picture in enumerate(pictures):
        maker.push(np.clip(picture, 0, 255).astype(np.uint8), i / FPS)
    shots, scenes = maker.shots_and_scenes(round(len(pictures) * 1000 / FPS))
    assert [shot.kind for shot in shots] == ["start", "dissolve", "fade", "cut"]
    assert [scene.shots for scene in scenes] == [["s1"], ["s2"], ["s3", "s4"]]
    # A faded-in shot is represented by how it looks once it is there, not by its darkness.
    assert shots[0].visual_change is None
    assert all(shot.visual_change is not None and shot.visual_change < 0.2 for shot in shots[1:])
