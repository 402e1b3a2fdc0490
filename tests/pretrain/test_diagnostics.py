"""Every diagnostic against its textbook form, written out in NumPy or known in closed form."""

import math

import numpy as np
import pytest
import torch

from jepa.masking import MaskConfig, sample_masks
from jepa.pretrain import diagnostics


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def entropy_rank(values):
    fraction = np.asarray(values, dtype=np.float64)
    fraction = fraction[fraction > 0] / fraction.sum()
    return math.exp(-(fraction * np.log(fraction)).sum())


def test_rank_me_is_the_exponential_entropy_of_the_singular_values():
    features = draw(60, 12) @ torch.diag(2.0 ** -torch.arange(12.0))
    expected = entropy_rank(np.linalg.svd(features.double().numpy(), compute_uv=False))
    assert diagnostics.rank_me(features) == pytest.approx(expected, rel=1e-4)
    assert diagnostics.rank_me(draw(500, 1) @ draw(1, 32)) == pytest.approx(1, abs=0.01)
    assert diagnostics.rank_me(torch.eye(32).repeat(10, 1)) == pytest.approx(32, rel=1e-3)


def test_effective_rank_of_equal_values_is_their_number():
    assert diagnostics.effective_rank(torch.full((7,), 3.0)) == pytest.approx(7, rel=1e-4)
    assert diagnostics.effective_rank(torch.tensor([1.0, 1.0, 0.0, 0.0])) == pytest.approx(2, rel=1e-4)


def numpy_lidar(views, delta):
    """Equations 1 and 2 with the inverse square root written out."""
    views = views.double().numpy()
    samples, count, width = views.shape
    means = views.mean(1)
    between, within = np.zeros((width, width)), delta * np.eye(width)
    for i in range(samples):
        gap = means[i] - means.mean(0)
        between += np.outer(gap, gap) / samples
        for j in range(count):
            gap = views[i, j] - means[i]
            within += np.outer(gap, gap) / (samples * count)
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    return entropy_rank(np.clip(np.linalg.eigvalsh(root @ between @ root), 0, None))


@pytest.mark.parametrize("delta", [1e-4, 0.1])
def test_lidar_is_the_rank_of_the_whitened_scatter_between_samples(delta):
    views = draw(40, 1, 6) * torch.tensor([3.0, 2, 1, 1, 0.1, 0]) + 0.3 * draw(40, 5, 6, seed=1)
    assert diagnostics.lidar(views, delta) == pytest.approx(numpy_lidar(views, delta), rel=1e-3)


def test_lidar_counts_directions_of_signal_where_rank_me_counts_noise():
    signal = torch.zeros(400, 1, 16)
    signal[..., :4] = 10 * draw(400, 1, 4)
    views = signal + draw(400, 8, 16, seed=1)  # 4 directions that samples differ in, noise in all 16
    assert 4 <= diagnostics.lidar(views) < 5
    assert diagnostics.rank_me(views.flatten(0, 1)) > 8
    assert diagnostics.lidar(torch.ones(20, 3, 4)) == pytest.approx(1, abs=0.01)


def test_covariance_spectrum_matches_numpy():
    features = draw(50, 8) @ draw(8, 8, seed=1) + 5
    expected = np.linalg.eigvalsh(np.cov(features.double().numpy().T))[::-1]
    assert np.allclose(diagnostics.covariance_spectrum(features), expected, rtol=1e-3, atol=1e-4)
    fewer = diagnostics.covariance_spectrum(features[:3])
    assert fewer.shape == (3,) and fewer[2] < 1e-3 * fewer[0]  # three points span a plane


def test_std_per_dimension_matches_numpy():
    features = draw(50, 8) * torch.arange(8.0)
    assert np.allclose(diagnostics.std_per_dimension(features), features.numpy().std(0, ddof=1), rtol=1e-4)


def test_varying_fraction_is_zero_for_equal_targets_and_one_without_a_mean():
    assert diagnostics.varying_fraction(torch.full((3, 5, 4), 2.0)) == pytest.approx(0, abs=1e-6)
    balanced = torch.cat([draw(2, 5, 4), -draw(2, 5, 4)])
    assert diagnostics.varying_fraction(balanced) == pytest.approx(1, abs=1e-6)
    targets = draw(9, 4) + 1
    of_squares = targets.var(0, unbiased=False).sum() / targets.square().mean(0).sum()
    assert diagnostics.varying_fraction(targets) == pytest.approx(of_squares.item(), rel=1e-4)


def test_explained_variance_is_zero_for_the_mean_and_r_squared_else():
    target = draw(3, 20, 6) + 4
    mean = target.mean((0, 1)).expand_as(target)
    assert diagnostics.explained_variance(mean, target) == pytest.approx(0, abs=1e-5)
    assert diagnostics.explained_variance(target, target) == 1
    half = mean + 0.5 * (target - mean)
    assert diagnostics.explained_variance(half, target) == pytest.approx(0.75, rel=1e-4)
    assert diagnostics.explained_variance(mean + 10, target) < -50
    assert math.isnan(diagnostics.explained_variance(mean, torch.ones_like(target)))


def test_explained_per_time_step_finds_the_step_that_is_predicted_badly():
    grid = (4, 2, 3)
    index = torch.tensor([[0, 5, 6, 12], [1, 7, 8, 13]])  # time steps 0, 0, 1, 2 and 0, 1, 1, 2
    target = draw(2, 4, 5)
    prediction = target.clone()
    prediction[:, 3] += 1.0  # an error of 1 in each of 5 channels, in time step 2 alone
    variance = (target.flatten(0, 1) - target.mean((0, 1))).square().sum(1).mean()
    steps = diagnostics.explained_per_time_step(prediction, target, index, grid)
    assert steps[:3].tolist() == pytest.approx([1, 1, 1 - (5 / variance).item()], rel=1e-4)
    assert steps[3].isnan()
    whole = diagnostics.explained_variance(prediction, target)
    assert (steps[:3] * torch.tensor([3, 3, 2]) / 8).sum().item() == pytest.approx(whole, rel=1e-4)


def test_token_fractions_of_masks_per_time_step():
    grid = (4, 2, 3)
    mask = sample_masks(MaskConfig("future", 0.5), grid, 0, range(3))
    assert diagnostics.token_fraction_per_time_step(mask.context, grid).tolist() == [1, 1, 0, 0]
    assert diagnostics.token_fraction_per_time_step(mask.target, grid).tolist() == [0, 0, 1, 1]
    mask = sample_masks(MaskConfig("blocks", 0.5), grid, 0, range(3))
    assert diagnostics.token_fraction_per_time_step(mask.target, grid).tolist() == [0.5] * 4


def test_standard_deviations_across_clips_and_across_time_are_separate():
    constant_in_time = torch.randn(4, 1, 8).expand(4, 6, 8)  # 3 time steps of 2 positions
    assert diagnostics.std_across_time(constant_in_time, 3) == pytest.approx(0, abs=1e-6)
    assert diagnostics.std_across_clips(constant_in_time) > 0.3
    same_clip = torch.randn(1, 6, 8).expand(4, 6, 8)
    assert diagnostics.std_across_clips(same_clip) == pytest.approx(0, abs=1e-6)
    assert diagnostics.std_across_time(same_clip, 3) > 0.3


@pytest.mark.filterwarnings("error")
def test_a_batch_of_one_clip_has_no_standard_deviation_and_no_warning():
    assert math.isnan(diagnostics.std_across_clips(torch.randn(1, 6, 8)))
