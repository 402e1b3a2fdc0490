"""Crops and resizing on bytes, against float references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from jepa.data import crops, transforms
from jepa.data.crops import Box


def noise(*shape):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def test_boxes_are_distributed_as_those_of_torchvision():
    torch.manual_seed(0)
    boxes = [crops.random_box(240, 320, (0.3, 1.0), (0.75, 1.35), 1, i) for i in range(2000)]
    area = np.array([b.height * b.width for b in boxes]) / (240 * 320)
    ratio = np.array([b.width / b.height for b in boxes])
    reference = [
        RandomResizedCrop.get_params(torch.empty(3, 240, 320), [0.3, 1.0], [0.75, 1.35]) for _ in range(2000)
    ]
    fraction = np.array([h * w for _, _, h, w in reference]) / (240 * 320)
    assert area.min() > 0.29 and area.max() <= 1.0
    assert np.quantile(area, [0.1, 0.5, 0.9]) == pytest.approx(
        np.quantile(fraction, [0.1, 0.5, 0.9]), abs=0.04
    )
    assert ratio.min() > 0.73 and ratio.max() < 1.37
    assert all(
        b.top >= 0 and b.left >= 0 and b.top + b.height <= 240 and b.left + b.width <= 320 for b in boxes
    )
    assert len({b.top for b in boxes}) > 50 and len({b.left for b in boxes}) > 50
    assert boxes[5] == crops.random_box(240, 320, (0.3, 1.0), (0.75, 1.35), 1, 5)


def test_a_ribbon_gets_the_middle():
    assert crops.random_box(10, 1000, (0.9, 1.0), (0.75, 1.35), 0, 0) == Box(0, 492, 10, 14)


def test_flips_occur_with_the_given_probability():
    assert np.mean([crops.random_flip(0.25, 0, i) for i in range(4000)]) == pytest.approx(0.25, abs=0.03)
    assert not any(crops.random_flip(0.0, 0, i) for i in range(100))


@pytest.mark.parametrize("size", [(32, 32), (200, 160), (90, 41)])
def test_resizing_bytes_equals_resizing_floats(size):
    frame = noise(3, 96, 128)
    exact = tv.resize(frame.double(), list(size), antialias=True).round().clamp(0, 255)
    assert (transforms.resize(frame, size).double() - exact).abs().max() <= 1
    strided = frame.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(transforms.resize(strided, size), transforms.resize(frame, size))


def test_cropping_is_cropping_then_resizing_then_mirroring():
    frame = noise(3, 60, 80)
    out = transforms.crop_resize(frame, Box(10, 20, 40, 30), 24, flip=True)
    expected = transforms.resize(frame[:, 10:50, 20:50].contiguous(), (24, 24)).flip(-1)
    assert torch.equal(out, expected)


def test_the_centre_crop_is_central():
    frame = torch.zeros(3, 64, 128, dtype=torch.uint8)
    frame[:, :, 32:96] = 255
    out = transforms.center_crop(frame, 64, 64)
    assert out.shape == (3, 64, 64) and (out == 255).all()
    assert transforms.center_crop(frame, 80, 64).shape == (3, 64, 64)
    assert transforms.center_crop(noise(2, 3, 100, 50), 40, 40).shape == (2, 3, 40, 40)


def test_normalising_is_the_textbook_form():
    video = noise(2, 3, 4, 5, 6)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (video.double() / 255 - torch.tensor(mean).view(3, 1, 1, 1)) / torch.tensor(std).view(
        3, 1, 1, 1
    )
    assert torch.allclose(transforms.normalise(video, mean, std).double(), expected, atol=2e-6)
    assert transforms.normalise(video[0], mean, std, torch.bfloat16).dtype == torch.bfloat16


def on_a_device(frame, size):
    """What torchvision does to bytes where there is no kernel for bytes: float, interpolate, round."""
    out = torch.nn.functional.interpolate(
        frame[None].float(), size, mode="bilinear", antialias=True, align_corners=False
    )
    return out[0].round().clamp(0, 255).to(torch.uint8)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    height=st.integers(4, 90), width=st.integers(4, 90), size=st.integers(4, 80), seed=st.integers(0, 10**6),
    flip=st.booleans(),
)  # fmt: skip
def test_float_devices_give_the_numbers_of_the_byte_path(height, width, size, seed, flip):
    frame = noise(3, height, width)
    box = crops.random_box(height, width, (0.3, 1.0), (0.75, 1.35), seed, 0)
    here = transforms.crop_resize(frame, box, size, flip)
    cut = frame[:, box.top : box.top + box.height, box.left : box.left + box.width]
    there = on_a_device(cut, (size, size))
    there = there.flip(-1) if flip else there
    assert here.shape == (3, size, size) and (here.int() - there.int()).abs().max() <= 1
    # A batch of frames is cut as its frames are, one by one.
    pair = torch.stack([frame, frame.flip(-2)])
    assert torch.equal(transforms.crop_resize(pair, box, size, flip)[0], here)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("seed", range(8))
def test_a_gpu_gives_the_same_numbers(seed):
    frames = noise(2, 3, 96, 128)
    box = crops.random_box(96, 128, (0.3, 1.0), (0.75, 1.35), seed, 0)
    for transform in (
        lambda f: transforms.crop_resize(f, box, 64, bool(seed % 2)),
        lambda f: transforms.center_crop(f, 72, 64),
        lambda f: transforms.resize(f, (50 + seed, 70)),
    ):
        here, there = (transform(f).cpu().int() for f in (frames, frames.cuda()))
        assert here.shape == there.shape and (here - there).abs().max() <= 1
    video = noise(1, 3, 4, 8, 8)
    assert torch.allclose(transforms.normalise(video), transforms.normalise(video.cuda()).cpu(), atol=1e-6)
