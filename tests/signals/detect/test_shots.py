"""Shots, scenes, fades and pauses of pictures whose boundaries are known."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch

from jepa.signals.detect.shots import ShotFinder, reduce_frame


def picture(colour: tuple[int, int, int], shift: int = 0) -> np.ndarray:
    """A textured frame that moves by `shift` pixels."""
    base = np.random.default_rng(1).integers(0, 40, (48, 64, 3))
    frame = np.roll(np.clip(base + np.array(colour), 0, 255), shift, axis=1).astype(np.uint8)
    return reduce_frame(torch.from_numpy(frame).permute(2, 0, 1))


def timeline(parts: list[tuple[int, tuple[int, int, int], int]], fps: int = 25) -> ShotFinder:
    maker, index = ShotFinder(Fraction(fps)), 0
    for count, colour, speed in parts:
        for i in range(count):
            maker.push(picture(colour, speed * i), index / fps)
            index += 1
    return maker


RED, BLUE, GREEN = (200, 120, 20), (20, 20, 200), (20, 180, 20)


def test_cuts_are_found_to_the_frame_and_shots_cover_the_video() -> None:
    shots, scenes = timeline([(40, RED, 1), (30, BLUE, 1), (50, GREEN, 1)]).shots_and_scenes(4800)
    assert [(shot.start_frame, shot.end_frame, shot.kind) for shot in shots] == [
        (0, 40, "start"), (40, 70, "cut"), (70, 120, "cut"),
    ]  # fmt: skip
    assert [(shot.start_ms, shot.end_ms) for shot in shots] == [(0, 1600), (1600, 2800), (2800, 4800)]
    assert [scene.shots for scene in scenes] == [["s1"], ["s2"], ["s3"]]


def test_shot_and_counter_shot_are_one_scene() -> None:
    parts = [(30, RED, 1), (30, BLUE, 1), (30, RED, 1), (30, BLUE, 1), (40, GREEN, 1)]
    shots, scenes = timeline(parts).shots_and_scenes(6400)
    assert len(shots) == 5
    assert [scene.shots for scene in scenes] == [["s1"], ["s2", "s3", "s4"], ["s5"]]
    assert (
        scenes[1].visual_change is not None
        and scenes[1].visual_change > 0.9
        and scenes[2].visual_change is None
    )


def test_a_fade_through_black_is_one_boundary() -> None:
    maker, index = ShotFinder(Fraction(25)), 0
    levels = (
        [1.0] * 40 + [1 - i / 15 for i in range(15)] + [0.0] * 8 + [i / 15 for i in range(15)] + [1.0] * 40
    )
    for i, level in enumerate(levels):
        colour = RED if i < 59 else GREEN
        image = (picture(colour, i).astype(float) * level).astype(np.uint8)
        maker.push(image, index / 25)
        index += 1
    shots, _ = maker.shots_and_scenes(round(index * 40))
    assert len(shots) == 2 and shots[1].kind == "fade"
    assert 50 <= shots[1].start_frame <= 68


def test_a_fade_that_no_frame_shows_at_its_blackest_is_a_boundary_and_a_dark_shot_is_none() -> None:
    rng = np.random.default_rng(0)
    one, two = (rng.integers(150, 250, (24, 24, 3)).astype(np.float32) for _ in range(2))
    gains = [0.9, 0.7, 0.5, 0.3, 0.1]
    down, up = [one * g for g in gains], [two * g for g in gains[::-1]]
    frames = [one] * 24 + down + up + [two] * 24
    night = [one] * 24 + down + [one * 0.1] * 30 + up + [two] * 24
    flash = [one] * 24 + [one * 0.6, one * 0.1, one * 0.6] + [one] * 24
    dusk = [one * 0.35] * 24 + [one * g for g in (0.25, 0.14, 0.14, 0.14, 0.25)] + [one * 0.35] * 24
    insert = [one] * 24 + [one * 0.1] * 12 + [two] * 24
    for pictures, expected in ((frames, [28]), (night, []), (flash, []), (dusk, []), (insert, [])):
        maker = ShotFinder(Fraction(12))
        for i, picture in enumerate(pictures):
            maker.push(picture.astype(np.uint8), i / 12)
        fades = [cut.frame for cut in maker.cuts() if cut.kind == "fade"]
        assert len(fades) == len(expected) and all(
            abs(a - b) <= 1 for a, b in zip(fades, expected, strict=True)
        )
    assert [cut.frame for cut in maker.cuts()] == [0, 24, 36]  # of the last: both cuts are kept


def test_hard_steps_into_black_and_back_are_one_boundary_and_black_at_the_start_is_none() -> None:
    parts = [(20, (-60, -60, -60), 0), (50, RED, 1), (30, (-60, -60, -60), 0), (50, GREEN, 1)]
    shots, _ = timeline(parts).shots_and_scenes(6000)
    assert [(shot.start_frame, shot.kind) for shot in shots] == [(0, "start"), (85, "fade")]


def test_pauses_are_where_motion_stops() -> None:
    maker = timeline([(60, RED, 3), (40, RED, 0), (60, RED, 3)])
    (pause,) = maker.pauses(0.6, 400, 6400)
    assert 2400 <= pause.start_ms <= 3200 and 3800 <= pause.end_ms <= 4400
    assert timeline([(100, RED, 3)]).pauses(0.6, 400, 4000) == []
