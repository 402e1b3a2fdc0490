"""Masks: the split into context and target, its determinism, and the statistics of each kind."""

import hashlib

import numpy as np
import pytest
import torch

from jepa import masking
from jepa.errors import UserError
from jepa.masking import MaskConfig, register_mask_kind, sample_masks

GRID = (8, 14, 10)
KINDS = [
    MaskConfig("blocks", 0.6),
    MaskConfig("blocks", 0.8, block_scale=0.7),
    MaskConfig("temporal", 0.5),
    MaskConfig("tokens", 0.9),
    MaskConfig("future", 0.25),
    MaskConfig("window", 0.97, block_scale=0.2),
]


def step_counts(index, grid):
    """Mean number of a sample's tokens [B, K] in each time step, [t]."""
    return torch.bincount((index // (grid[1] * grid[2])).flatten(), minlength=grid[0]) / len(index)


def target_volume(mask, grid=GRID):
    volume = torch.zeros(len(mask.target), int(np.prod(grid)))
    volume.scatter_(1, mask.target, 1.0)
    return volume.view(-1, *grid)


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.kind}-{c.ratio}")
def test_context_and_target_split_all_tokens(config):
    mask = sample_masks(config, GRID, seed=3, indices=range(50))
    both = torch.cat(mask, dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(8 * 14 * 10).expand(50, -1))
    for part in mask:
        assert (part.diff(dim=1) > 0).all()
    assert mask.target.shape[1] / both.shape[1] == pytest.approx(config.ratio, abs=0.01)


def test_a_mask_depends_on_seed_stream_and_index_only():
    config = MaskConfig("blocks")
    alone = sample_masks(config, GRID, seed=3, indices=[41]).target[0]
    among_others = sample_masks(config, GRID, seed=3, indices=[7, 41, 2**40]).target[1]
    assert torch.equal(alone, among_others)
    for other in (
        dict(seed=4, indices=[41]),
        dict(seed=3, indices=[42]),
        dict(seed=3, indices=[41], stream=1),
    ):
        assert not torch.equal(alone, sample_masks(config, GRID, **other).target[0])


# Digests of the indices drawn by the first version: a run resumed with a newer one must see the same masks.
FROZEN = [
    (MaskConfig("blocks", 0.6), "c6be719c952f0270"),
    (MaskConfig("blocks", 0.8, block_scale=0.7), "16d83c450ce08a87"),
    (MaskConfig("temporal", 0.5), "dc4ed5b7cc23e190"),
    (MaskConfig("tokens", 0.95), "0cb0b3d40307017b"),
    (MaskConfig("tokens", 0.3), "77ddc6d5ae6ada7d"),
    (MaskConfig("future", 0.5), "c1f78d17263b23a1"),
    (MaskConfig("window", 0.97, block_scale=0.4), "6b765b0bb3d63e3b"),
    (MaskConfig("reference", 0.6), "e78fa4b70b31a435"),
]


@pytest.mark.parametrize(("config", "digest"), FROZEN, ids=lambda c: getattr(c, "kind", ""))
def test_the_masks_of_a_seed_never_change(config, digest):
    mask = sample_masks(config, (8, 12, 10), seed=7, indices=[0, 5, 2**40], stream=1)
    drawn = mask.context.numpy().tobytes() + b"|" + mask.target.numpy().tobytes()
    assert hashlib.sha256(drawn).hexdigest()[:16] == digest


def test_a_kind_is_added_from_outside(monkeypatch):
    monkeypatch.setattr(masking, "_KINDS", dict(masking._KINDS))

    @register_mask_kind("checkerboard")
    def checkerboard(target, config, rng):
        t, h, w = np.indices(target.shape)
        target[(t + h + w) % 2 == rng.integers(2)] = True

    mask = sample_masks(MaskConfig("checkerboard"), (2, 4, 4), seed=0, indices=range(8))
    assert mask.context.shape == mask.target.shape == (8, 16)
    assert len({tuple(row) for row in mask.target.tolist()}) == 2
    with pytest.raises(UserError, match="kind 'blocks' already"):
        register_mask_kind("blocks")(checkerboard)

    @register_mask_kind("uneven")
    def uneven(target, config, rng):
        target[0, : rng.integers(1, 4)] = True

    with pytest.raises(UserError, match="equally many for every sample"):
        sample_masks(MaskConfig("uneven"), (2, 4, 4), seed=0, indices=range(8))


def test_blocks_mask_the_same_positions_at_all_times():
    volume = target_volume(sample_masks(MaskConfig("blocks"), GRID, 0, range(20)))
    assert torch.equal(volume, volume[:, :1].expand_as(volume))


def test_temporal_masks_whole_time_steps_and_future_the_last_ones():
    temporal = target_volume(sample_masks(MaskConfig("temporal", 0.5), GRID, 0, range(20))).flatten(2)
    assert ((temporal == 0).all(-1) | (temporal == 1).all(-1)).all()
    assert (temporal[..., 0].sum(1) == 4).all()
    future = target_volume(sample_masks(MaskConfig("future", 0.25), GRID, 0, range(3)))
    assert (future[:, :6] == 0).all()
    assert (future[:, 6:] == 1).all()


@pytest.mark.parametrize("config", [*KINDS[:4], KINDS[5]], ids=lambda c: f"{c.kind}-{c.ratio}")
def test_no_time_step_and_no_side_of_the_frame_is_favoured(config):
    fraction = target_volume(sample_masks(config, GRID, seed=1, indices=range(3000))).mean(0)
    assert fraction.mean((1, 2)).numpy() == pytest.approx(config.ratio, rel=0.05)  # per time step
    # Rectangles reach the middle more often than the edge, but opposite edges must agree.
    for axis in (1, 2):
        profile = fraction.mean(dim=[d for d in range(3) if d != axis])
        assert profile.numpy() == pytest.approx(profile.flip(0).numpy(), abs=0.03)


@pytest.mark.parametrize("config", [*KINDS[:4], KINDS[5]], ids=lambda c: f"{c.kind}-{c.ratio}")
def test_context_and_target_are_even_over_time(config):
    mask = sample_masks(config, GRID, seed=2, indices=range(3000))
    for part in mask:
        fractions = step_counts(part, GRID)
        assert (fractions / fractions.sum()).numpy() == pytest.approx(1 / 8, rel=0.05)


def published_fractions(config, grid=(8, 16, 16), batch=24, batches=60):
    """Per cent of context and target tokens per time step, and the fraction of tokens in neither."""
    counts, sizes = torch.zeros(2, grid[0]), torch.zeros(2)
    for number in range(batches):
        mask = sample_masks(config, grid, 0, range(batch * number, batch * (number + 1)))
        for row, part in enumerate(mask):
            counts[row] += step_counts(part, grid)
            sizes[row] += part.shape[1]
    context, target = (100 * counts / sizes[:, None]).numpy()
    return context, target, 1 - sizes.sum().item() / (batches * np.prod(grid))


def test_the_reference_kind_starves_late_time_steps_as_published():
    """Measured with the published collator (16 frames of 256 px, 24 clips): context from 19.5 % down to 0.9 %."""
    context, target, wasted = published_fractions(MaskConfig("reference", block_scale=0.15, num_blocks=8))
    assert context == pytest.approx([19.5, 19.5, 19.4, 18.1, 13.2, 6.7, 2.8, 0.9], abs=0.8)
    assert target[[0, -2, -1]] == pytest.approx([16.2, 5.6, 1.4], abs=0.8)
    assert wasted == pytest.approx(0.27, abs=0.03)


def test_reference_blocks_have_one_size_and_last_over_time():
    config = MaskConfig("reference", block_scale=0.15, num_blocks=1)
    volume = target_volume(sample_masks(config, (4, 16, 16), 0, range(12)), (4, 16, 16))
    sizes = {tuple(int(covered.any(axis).sum()) for axis in (1, 0)) for covered in volume[:, 0].bool()}
    assert len(sizes) == 1
    ((h, w),) = sizes
    assert h * w == pytest.approx(0.15 * 256, rel=0.15)
    assert torch.equal(volume, volume[:, :1].expand_as(volume))  # equal counts: nothing was cut
    mask = sample_masks(MaskConfig("reference"), (4, 16, 16), 0, range(12))
    assert all((part.diff(dim=1) > 0).all() for part in mask)
    with pytest.raises(UserError, match="no context left"):
        sample_masks(MaskConfig("reference", block_scale=1.0), (4, 4, 4), 0, [0])


def test_a_window_keeps_tokens_of_one_rectangle_at_all_times():
    config = MaskConfig("window", 0.9, block_scale=0.25)
    seen = 1 - target_volume(sample_masks(config, GRID, 0, range(50)))
    for clip in seen.any(1):
        rows, columns = clip.any(1).nonzero(), clip.any(0).nonzero()
        assert (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1) <= 0.25 * 140 * 1.2
    assert (seen.flatten(2).sum(-1) > 0).all()
    with pytest.raises(UserError, match="rectangle holds"):
        sample_masks(MaskConfig("window", 0.5, block_scale=0.1), GRID, 0, [0])


def test_blocks_are_compact():
    """A target position of a block mask has far more target neighbours than one of a random mask."""

    def neighbours(volume):
        same = (volume[:, 0, :, 1:] * volume[:, 0, :, :-1]).sum() / volume[:, 0].sum()
        return same.item()

    blocks = neighbours(target_volume(sample_masks(MaskConfig("blocks", 0.5), GRID, 0, range(200))))
    tokens = neighbours(target_volume(sample_masks(MaskConfig("tokens", 0.5), GRID, 0, range(200))))
    assert blocks > 0.75 > 0.5 > tokens


def test_mistakes_are_named():
    with pytest.raises(UserError, match="kind='tubes'"):
        MaskConfig("tubes")
    with pytest.raises(UserError, match="slots is now called temporal"):
        MaskConfig("slots")
    with pytest.raises(UserError, match=r"ratio=1\.5"):
        MaskConfig(ratio=1.5)
    with pytest.raises(UserError, match="num_blocks=0"):
        MaskConfig(num_blocks=0)
    with pytest.raises(UserError, match="no target left"):
        sample_masks(MaskConfig("temporal", 0.2), (2, 4, 4), 0, [0])
