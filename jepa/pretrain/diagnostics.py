"""Collapse diagnostics: RankMe, LiDAR, covariance spectrum, variance, unexplained variance of the predictions.

A falling loss does not say that an encoder learns: targets that no longer differ are the easiest to predict. Plain
functions, each the textbook form of its name; `monitor.py` decides what to measure.
"""

from __future__ import annotations

import torch


def evenly_spaced(rows: torch.Tensor, most: int) -> torch.Tensor:
    """At most `most` of the rows, evenly spaced."""
    return rows if len(rows) <= most else rows[torch.linspace(0, len(rows) - 1, most).long()]


def rank_me(features: torch.Tensor, eps: float = 1e-7) -> float:
    """Effective rank of features [N, D], between 1 and min(N, D): exp of the entropy of the singular values.

    Source: RankMe, arXiv 2210.02885, equation 1.
    """
    return effective_rank(torch.linalg.svdvals(features.float()), eps)


def effective_rank(values: torch.Tensor, eps: float = 1e-7) -> float:
    """Exp of the entropy of non-negative values [K] after division by their sum: K when all are equal, 1 for one."""
    fraction = values / values.sum().clamp_min(eps) + eps
    return float(torch.exp(-(fraction * fraction.log()).sum()))


def lidar(views: torch.Tensor, delta: float = 1e-4, eps: float = 1e-8) -> float:
    """LiDAR: the number of directions in which samples differ by more than the views of one sample.

    The effective rank of S_w^-1/2 S_b S_w^-1/2, where S_b is the scatter of the samples' means and S_w that of the
    views around their sample's mean, plus delta on the diagonal. It has the eigenvalues of L^-1 S_b L^-T with
    S_w = L L^T, which is what is computed. Directions that no view agrees on still have eigenvalues near 1 / q, so
    figures compare only at equal n, q and D.

    Args:
        views: features [n, q, D] of q >= 2 views of each of n samples.
        delta: keeps S_w invertible.
        eps: added to each fraction before the logarithm.

    Source: LiDAR, arXiv 2312.04000, equations 1 and 2.
    """
    views = views.float()
    samples, count, width = views.shape
    means = views.mean(1, keepdim=True)
    inside = (views - means).reshape(-1, width)
    apart = (means - means.mean(0)).reshape(-1, width)
    within = inside.T @ inside / (samples * count)
    within.diagonal().add_(delta)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(within), apart.T / samples**0.5, upper=False)
    return effective_rank(torch.linalg.svdvals(half).square(), eps)


def covariance_spectrum(features: torch.Tensor) -> torch.Tensor:
    """Eigenvalues [min(N, D)] of the covariance of features [N, D], largest first, with N - 1 as the denominator."""
    centred = features.float() - features.float().mean(0)
    return torch.linalg.svdvals(centred).square() / max(1, features.shape[0] - 1)


def std_per_dimension(features: torch.Tensor) -> torch.Tensor:
    """Standard deviation [D] of features [N, D]: the quantity that VICReg (arXiv 2105.04906) keeps above 1."""
    return features.float().std(0)


def std_across_clips(tokens: torch.Tensor) -> float:
    """Standard deviation of clip-mean features over a batch, [B, N, D] -> averaged over D. Zero means collapse."""
    return float(tokens.float().mean(1).std(0).mean())


def std_across_time(tokens: torch.Tensor, time_steps: int) -> float:
    """Standard deviation of features over the time steps of a clip, at each spatial position, averaged.

    An encoder that keeps only what is constant in a clip has little of it (slow features, arXiv 2211.10831).

    Args:
        tokens: [B, t*h*w, D] in the order time, height, width.
        time_steps: t.
    """
    batch, count, width = tokens.shape
    return float(tokens.float().view(batch, time_steps, count // time_steps, width).std(1).mean())


def varying_fraction(targets: torch.Tensor) -> float:
    """Fraction of the mean square of targets [..., E] that differs between tokens: 1 - |mean|^2 / mean of |t|^2.

    Needs no comparison with earlier steps: layer-normed targets have mean square 1, so this is 0 for targets that are
    all alike and 1 for targets whose mean is zero.
    """
    flat = targets.float().flatten(0, -2)
    return float(1 - flat.mean(0).square().sum() / flat.square().sum(1).mean().clamp_min(1e-12))


def unexplained_variance(prediction: torch.Tensor, target: torch.Tensor) -> float:
    """Squared error of predictions [..., E] over that of the best constant prediction, the mean target per channel.

    1 is what predicting the mean scores, 0 is perfect (one minus R squared, all channels pooled). NaN when the targets
    are all alike, since then there is nothing to explain.
    """
    prediction, target = prediction.float().flatten(0, -2), target.float().flatten(0, -2)
    total = (target - target.mean(0)).square().sum()
    return float((prediction - target).square().sum() / total) if total > 0 else float("nan")


def unexplained_per_time_step(
    prediction: torch.Tensor, target: torch.Tensor, index: torch.Tensor, grid: tuple[int, int, int]
) -> torch.Tensor:
    """Unexplained variance [t] of the target tokens in each time step; NaN where a step has none.

    The variance is that of all target tokens, so that time steps compare on one scale; weighted with their numbers of
    tokens, the time steps average to `unexplained_variance`.

    Args:
        prediction: [B, M, E].
        target: what should be predicted, [B, M, E].
        index: the target tokens' positions in the grid, [B, M].
        grid: tokens along time, height, width.
    """
    flat = target.float().flatten(0, 1)
    variance = (flat - flat.mean(0)).square().sum(1).mean()
    error = (prediction.float() - target.float()).square().sum(-1).flatten()
    time_step = index.flatten() // (grid[1] * grid[2])
    counts = torch.bincount(time_step, minlength=grid[0])
    return torch.bincount(time_step, error, minlength=grid[0]) / counts / variance


def time_step_fractions(index: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Fraction [t] of the tokens of each time step that index [B, K] names, averaged over the batch."""
    per_step = grid[1] * grid[2]
    counts = torch.bincount(index.flatten() // per_step, minlength=grid[0])
    return counts / (index.shape[0] * per_step)
