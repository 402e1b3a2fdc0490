"""Diagnostics of representation collapse: RankMe, LiDAR, covariance spectra, standard deviations, explained variance.

A falling loss does not show learning: targets that no longer differ are the easiest to predict. These are plain
functions of features, predictions and masks, each the textbook form of its name; `monitor.py` calls them.
"""

from __future__ import annotations

import torch


def rank_me(features: torch.Tensor, eps: float = 1e-7) -> float:
    """Effective rank of features [N, D], between 1 and min(N, D): exp of the entropy of the singular values.

    Source: RankMe, arXiv 2210.02885, equation 1.

    Example:
        >>> round(rank_me(torch.eye(4)), 3)
        4.0
    """
    return effective_rank(torch.linalg.svdvals(features.float()), eps)


def effective_rank(values: torch.Tensor, eps: float = 1e-7) -> float:
    """Exp of the entropy of non-negative values [K] after division by their sum: K when all are equal, 1 for one."""
    p = values / values.sum().clamp_min(eps) + eps
    return float(torch.exp(-(p * p.log()).sum()))


def lidar(views: torch.Tensor, delta: float = 1e-4, eps: float = 1e-8) -> float:
    """LiDAR: effective rank of the linear discriminant directions between samples.

    The effective rank of S_w^-1/2 S_b S_w^-1/2, where S_b is the scatter of the samples' means and S_w that of the
    views around their sample's mean, plus delta on the diagonal. It has the eigenvalues of L^-1 S_b L^-T with
    S_w = L L^T, which is what is computed. Directions without agreement between views still have eigenvalues near
    1 / q, so values compare only at equal n, q and D.

    Args:
        views: features [n, q, D] of q >= 2 views of each of n samples.
        delta: keeps S_w invertible.
        eps: added to each normalised eigenvalue before the logarithm.

    Source: LiDAR, arXiv 2312.04000, equations 1 and 2.
    """
    views = views.float()
    samples, count, width = views.shape
    means = views.mean(1, keepdim=True)
    inside = (views - means).reshape(-1, width)
    between = (means - means.mean(0)).reshape(-1, width)
    within = inside.T @ inside / (samples * count)
    within.diagonal().add_(delta)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(within), between.T / samples**0.5, upper=False)
    return effective_rank(torch.linalg.svdvals(half).square(), eps)


def covariance_spectrum(features: torch.Tensor) -> torch.Tensor:
    """Eigenvalues [min(N, D)] of the covariance of features [N, D], largest first, with N - 1 as the denominator."""
    centred = features.float() - features.float().mean(0)
    return torch.linalg.svdvals(centred).square() / max(1, features.shape[0] - 1)


def std_per_dimension(features: torch.Tensor) -> torch.Tensor:
    """Standard deviation [D] of features [N, D]: the quantity that VICReg (arXiv 2105.04906) keeps above 1."""
    return features.float().std(0)


def std_across_clips(tokens: torch.Tensor) -> float:
    """Standard deviation of clip-mean features over a batch, [B, N, D] -> averaged over D. Zero means collapse.

    NaN for a single clip.

    Example:
        >>> std_across_clips(torch.ones(4, 6, 8))
        0.0
    """
    return float(tokens.float().mean(1).std(0).mean()) if len(tokens) > 1 else float("nan")


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

    Example:
        >>> varying_fraction(torch.ones(2, 3, 4)), varying_fraction(torch.tensor([[-1.0], [1.0]]))
        (0.0, 1.0)
    """
    flat = targets.float().flatten(0, -2)
    return float(1 - flat.mean(0).square().sum() / flat.square().sum(1).mean().clamp_min(1e-12))


def explained_variance(prediction: torch.Tensor, target: torch.Tensor) -> float:
    """R squared of predictions [..., E], all channels pooled: 0 for the mean target per channel, 1 for perfect.

    NaN when the targets are all alike, since then there is nothing to explain.

    Example:
        >>> explained_variance(torch.zeros(2, 1), torch.tensor([[-1.0], [1.0]]))
        0.0
    """
    prediction, target = prediction.float().flatten(0, -2), target.float().flatten(0, -2)
    total = (target - target.mean(0)).square().sum()
    return float(1 - (prediction - target).square().sum() / total) if total > 0 else float("nan")


def explained_per_time_step(
    prediction: torch.Tensor, target: torch.Tensor, index: torch.Tensor, grid: tuple[int, int, int]
) -> torch.Tensor:
    """Explained variance [t] of the target tokens in each time step; NaN where a time step has none.

    The variance is that of all target tokens, so that time steps compare on one scale; weighted with their numbers of
    tokens, they average to `explained_variance`.

    Args:
        prediction: [B, M, E].
        target: [B, M, E].
        index: the target tokens' ids in the grid, [B, M].
        grid: tokens along time, height, width.
    """
    flat = target.float().flatten(0, 1)
    variance = (flat - flat.mean(0)).square().sum(1).mean()
    error = (prediction.float() - target.float()).square().sum(-1).flatten()
    step = index.flatten() // (grid[1] * grid[2])
    counts = torch.bincount(step, minlength=grid[0])
    return 1 - torch.bincount(step, error, minlength=grid[0]) / counts / variance


def token_fraction_per_time_step(index: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Fraction [t] of the tokens of each time step that index [B, K] names, averaged over the batch.

    Example:
        >>> token_fraction_per_time_step(torch.tensor([[0, 1, 2]]), (2, 1, 2))
        tensor([1.0000, 0.5000])
    """
    positions = grid[1] * grid[2]
    counts = torch.bincount(index.flatten() // positions, minlength=grid[0])
    return counts / (index.shape[0] * positions)


def evenly_spaced(rows: torch.Tensor, most: int) -> torch.Tensor:
    """At most `most` of the rows, evenly spaced.

    Example:
        >>> evenly_spaced(torch.arange(5), 3)
        tensor([0, 2, 4])
    """
    return rows if len(rows) <= most else rows[torch.linspace(0, len(rows) - 1, most).long()]
