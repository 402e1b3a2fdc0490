"""Cutting and resizing in the decoder's planes against doing it on the RGB picture."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from jepa.data.crops import Box, Cut, coded_box, random_box
from jepa.data.dataset import ClipDataset, TrainClipConfig
from jepa.data.manifest import Item
from jepa.data.transforms import crop_resize
from jepa.data.video.info import upright
from jepa.data.video.limits import LimitsConfig
from jepa.data.video.reader import open_video
from jepa.errors import UserError

FILES = [
    "plain.mp4", "opengop.mp4", "plain.avi", "vp9.webm", "deep.mp4", "tall.mp4", "wide.mp4", "full709.mp4", "sharp.mp4",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(clips, write_video):
    if not (clips / "sharp.mp4").exists():
        write_video(clips / "sharp.mp4", count=4, pix_fmt="yuv444p")
        write_video(clips / "square56.mp4", count=2, size=(56, 56))
        tags = {"colorspace": "bt709", "color_range": "pc"}
        write_video(clips / "full709.mp4", count=4, options=tags)
    return clips


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [24, 48, 90])
def test_both_ways_show_the_same_picture(files, name, size):
    shifted = []
    for index in range(4):
        cut = Cut((0.3, 1.0), (0.75, 1.35), 0.5, 1, index, size)
        with open_video(files / name) as video:
            fast = video.frames_at([0.0, 0.1], cut=cut)
            exact = video.frames_at(
                [0.0, 0.1],
                each=lambda f: crop_resize(f, cut.box(*f.shape[-2:]), size, cut.flip),  # noqa: B023
            )
        assert fast.data.shape == exact.data.shape == (2, 3, size, size)
        assert torch.equal(fast.times, exact.times)
        difference = (fast.data.float() - exact.data.float()).abs().mean()
        assert difference < 2, (index, difference)
        shifted.append((fast.data.flip(-1).float() - exact.data.float()).abs().mean())
    assert max(shifted) > 5  # the test picture would show it


def test_widths_that_ffmpeg_converts_wrongly_are_right(files):
    for size in (*range(5, 66, 3), 56, 72, 88, 136):
        # The whole picture, a square one, so that no scaling happens where the sizes are equal.
        cut = Cut((1.0, 1.0), (1.0, 1.0), 0.0, 0, size, size)
        with open_video(files / f"square{size}.mp4" if size == 56 else files / "plain.mp4") as video:
            fast = video.frames_at([0.0], cut=cut).data
            exact = video.frames_at(
                [0.0],
                each=lambda f: crop_resize(f, cut.box(*f.shape[-2:]), size),  # noqa: B023
            ).data
        assert (fast.float() - exact.float()).abs().mean() < 3, size


def test_every_orientation_finds_its_box():
    # Every pixel states its own coordinates, so the right part is known exactly.
    coded = np.stack(np.meshgrid(np.arange(20), np.arange(30), indexing="ij"), -1)
    coded = np.concatenate([coded, np.zeros((20, 30, 1), int)], -1)
    for orientation in itertools.product((False, True), repeat=3):
        shown = upright(coded, orientation)
        size = (shown.shape[1], shown.shape[0])
        box = Box(2, 6, 8, 4)
        position = coded_box(box, size, (30, 20), orientation)
        part = coded[
            position.top : position.top + position.height, position.left : position.left + position.width
        ]
        assert np.array_equal(upright(part, orientation), shown[2:10, 6:10]), orientation


def test_pixels_that_are_not_square_widen_the_box():
    assert coded_box(Box(10, 40, 20, 60), (200, 64), (100, 64), (False, False, False)) == Box(10, 20, 20, 30)
    for box in (Box(0, 0, 64, 200), Box(63, 199, 1, 1)):
        position = coded_box(box, (200, 64), (100, 64), (False, False, False))
        assert (
            position.left + position.width <= 100
            and position.top + position.height <= 64
            and min(position[2:]) >= 1
        )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (1, 90), (101, 67)])
def test_boxes_are_even_and_inside_even_where_the_frame_is_tiny(height, width):
    for index in range(100):
        box = random_box(height, width, (0.1, 1.0), (0.5, 2.0), 0, index)
        assert box.top % 2 == box.left % 2 == 0
        assert 1 <= box.height <= height - box.top and 1 <= box.width <= width - box.left
        assert (box.height % 2 == 0 or box.height == 1) and (box.width % 2 == 0 or box.width == 1)


def test_other_readers_and_a_child_cut_alike(clips):
    cut = Cut((0.3, 1.0), (0.75, 1.35), 1.0, 3, 5, 40)
    for name in ("plain.mp4", "tall.mp4", "wide.mp4"):
        with open_video(clips / name) as video:
            expected = video.frames_at([0.0, 0.1, 0.1], cut=cut).data
        with open_video(clips / name, limits=LimitsConfig(isolate=True)) as video:
            assert torch.equal(video.frames_at([0.0, 0.1, 0.1], cut=cut).data, expected)
            assert video.frames_at([0.1]).data.shape[1] == 3  # whole frames again afterwards
        for backend in ("torchcodec", "decord"):
            try:
                video = open_video(clips / name, backend=backend)
            except UserError:
                continue  # that reader is not installed
            with video:
                found = video.frames_at([0.0, 0.1, 0.1], cut=cut).data
            assert (found.float() - expected.float()).abs().mean() < 4, (name, backend)


def test_the_setting_chooses_and_evaluation_is_always_exact(clips):
    def sample(**changes):
        config = TrainClipConfig(num_frames=2, crop_px=32, **changes)
        return ClipDataset([Item(str(clips / "plain.mp4"))], config, seed=1)[3]["video"]

    fast, exact = sample(), sample(resize="exact")
    assert not torch.equal(fast, exact) and (fast.float() - exact.float()).abs().mean() < 5
    with pytest.raises(UserError, match="resize='best'"):
        sample(resize="best")


def test_a_cut_and_a_function_are_not_both_taken(clips):
    cut = Cut((1.0, 1.0), (1.0, 1.0), 0.0, 0, 0, 8)
    with open_video(clips / "plain.mp4") as video, pytest.raises(UserError, match="not both"):
        video.frames_at([0.0], each=lambda f: f, cut=cut)
