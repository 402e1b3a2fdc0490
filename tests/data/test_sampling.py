"""Choices as pure functions: the same whatever was drawn before, and distributed as they should be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa import rng
from jepa.data import sampling as clips
from jepa.data.crops import Cut
from jepa.data.dataset import ClipDataset, TrainClipConfig
from jepa.data.manifest import Item
from jepa.errors import UserError, VideoError


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_shuffling_is_a_permutation(size, seed, epoch):
    assert sorted(rng.permuted(p, size, seed, epoch, clips.ORDER) for p in range(size)) == list(range(size))


def test_shuffling_mixes():
    size, epochs = 64, 400
    orders = np.array(
        [[rng.permuted(p, size, 5, e, clips.ORDER) for p in range(size)] for e in range(epochs)]
    )
    # Where position 0 goes is uniform: chi-square with 63 degrees of freedom has mean 63 and standard deviation 11.
    for position in (0, 1, 31, 63):
        counts = np.bincount(orders[:, position], minlength=size)
        assert ((counts - epochs / size) ** 2 / (epochs / size)).sum() < 63 + 5 * 11.3
    # Neighbours do not stay neighbours: |difference| of two random positions has mean (n + 1) / 3.
    assert np.abs(np.diff(orders, axis=1)).mean() == pytest.approx((size + 1) / 3, rel=0.03)


def test_draws_are_uniform_and_independent_of_each_other():
    a = np.array([rng.uniforms(1, i, clips.CROP, 4) for i in range(4000)])
    b = np.array([rng.uniforms(1, i, clips.FLIP, 4) for i in range(4000)])
    assert a.min() >= 0 and a.max() < 1
    assert a.mean(0) == pytest.approx([0.5] * 4, abs=0.02) and a.var(0) == pytest.approx(
        [1 / 12] * 4, abs=0.004
    )
    for x, y in ((a[:, 0], b[:, 0]), (a[:-1, 0], a[1:, 0]), (a[:, 0], a[:, 1])):
        assert abs(np.corrcoef(x, y)[0, 1]) < 0.06


def test_draws_are_the_documented_philox_stream():
    # The Random123 generator NumPy ships: any other source of bits would change every run ever made.
    words = np.random.Philox(key=[7, 9], counter=[0, 0, 0, clips.CROP]).random_raw(2)
    assert rng.uniforms(7, 9, clips.CROP, 2) == [float(w >> np.uint64(11)) / 2**53 for w in words]


@pytest.mark.parametrize(
    ("position", "expected"),
    [(0.0, [1.0, 1.25, 1.5, 1.75]), (1.0, [4.0, 4.25, 4.5, 4.75]), (0.5, [2.5, 2.75, 3.0, 3.25])],
)
def test_a_window_is_inside_its_part(position, expected):
    assert clips.clip_times(1.0, 5.0, 4, 4.0, position) == pytest.approx(expected)


def test_policies_for_short_videos():
    def times(short):
        return clips.clip_times(10.0, 10.5, 4, 4.0, 0.7, short)

    assert times("hold") == pytest.approx([10.0, 10.25, 10.498, 10.498])
    assert times("loop") == pytest.approx([10.0, 10.25, 10.0, 10.25])
    assert times("stretch") == pytest.approx([10.0, 10.125, 10.25, 10.375])
    with pytest.raises(UserError, match="short='pad'"):
        times("pad")


def test_jitter_moves_frames_within_half_a_step():
    shifts = clips.frame_jitter(3, 4, 1000, 0.5)
    assert (
        min(shifts) >= -0.25
        and max(shifts) < 0.25
        and np.std(shifts) == pytest.approx(0.5 / 12**0.5, rel=0.1)
    )
    assert clips.frame_jitter(3, 4, 8, 0.0) is None
    moved = clips.clip_times(0.0, 10.0, 8, 2.0, 0.5, jitter=shifts[:8])
    plain = clips.clip_times(0.0, 10.0, 8, 2.0, 0.5)
    assert np.abs(np.subtract(moved, plain)).max() <= 0.125


def test_windows_of_one_visit_do_not_share_their_ground():
    positions = [clips.window_position(0, 40 + k, k, 4) for k in range(4)]
    assert all(k / 4 <= p < (k + 1) / 4 for k, p in enumerate(positions))
    assert [clips.centre_position(k, 3) for k in range(3)] == [0.0, 0.5, 1.0] and clips.centre_position(
        0, 1
    ) == 0.5


def test_the_choices_of_a_seed_are_frozen():
    """Constants of the first published version: a run that it began goes on with the same clips."""
    dataset = ClipDataset([Item(f"{n}.mp4") for n in range(7)], TrainClipConfig(), seed=7)
    assert [dataset.item_of(i) for i in range(14)] == [0, 5, 3, 2, 1, 4, 6, 2, 6, 1, 4, 0, 3, 5]
    assert dataset.item_of(10**9) == 5 and [dataset.item_of(3, attempt) for attempt in (1, 2, 3)] == [6, 2, 3]
    positions = [clips.window_position(7, i, i % 2, 2) for i in (0, 1, 12345)]
    assert positions == pytest.approx([0.475063854167, 0.931918960085, 0.627456990083], abs=1e-12)
    jitter = clips.frame_jitter(7, 5, 3, 0.5)
    assert jitter == pytest.approx([-0.100249258227, -0.139435870679, 0.19852044775], abs=1e-12)
    cuts = [Cut((0.3, 1.0), (0.75, 1.35), 0.5, 7, i, 32) for i in range(8)]
    assert [tuple(cut.box(64, 96)) for cut in cuts[:2]] == [(0, 12, 48, 60), (6, 42, 44, 46)]
    assert [cut.flip for cut in cuts] == [True, False, False, False, False, True, True, True]


def test_a_part_is_cut_to_what_the_video_holds():
    assert clips.segment_bounds("a.mp4", None, None, 0.5, 2.0) == (0.5, 2.0)
    assert clips.segment_bounds("a.mp4", 0.0, 9.0, 0.5, 2.0) == (0.5, 2.0)
    assert clips.segment_bounds("a.mp4", 1.0, 1.5, 0.5, 2.0) == (1.0, 1.5)
    assert clips.segment_bounds("a.mp4", None, None, 0.0, 0.0) == (0.0, 0.0)
    with pytest.raises(VideoError, match=r"part from 3 to 4 s is outside the video, .* from 0.5 to 2 s"):
        clips.segment_bounds("a.mp4", 3.0, 4.0, 0.5, 2.0)
