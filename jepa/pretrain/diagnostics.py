"""Is it learning? A falling loss does not say: targets that no longer differ are the easiest to predict.

Plain functions of features, guesses and masks, each the textbook form of its name; `watch.py` decides what to look at.
"""

from __future__ import annotations

import torch


def rank_me(features: torch.Tensor, eps: float = 1e-7) -> float:
    """Effective rank of features [N, D], between 1 and min(N, D): exp of the entropy of the singular values.

    Source: RankMe, arXiv 2210.02885, equation 1.
    """
    return effective_rank(torch.linalg.svdvals(features.float()), eps)


def effective_rank(values: torch.Tensor, eps: float = 1e-7) -> float:
    """Exp of the entropy of non-negative values [K] after division by their sum: K when all are equal, 1 for one."""
    share = values / values.sum().clamp_min(eps) + eps
    return float(torch.exp(-(share * share.log()).sum()))


def lidar(views: torch.Tensor, delta: float = 1e-4, eps: float = 1e-8) -> float:
    """LiDAR: how many directions tell samples apart by more than the views of one sample differ.

    The effective rank of S_w^-1/2 S_b S_w^-1/2, where S_b is the scatter of the samples' means and S_w that of the
    views around their sample's mean, plus delta on the diagonal. It has the eigenvalues of L^-1 S_b L^-T with
    S_w = L L^T, which is what is computed. Directions that no view agrees on still have eigenvalues near 1 / q, so
    figures compare only at equal n, q and D.

    Args:
        views: features [n, q, D] of q >= 2 views of each of n samples.
        delta: keeps S_w invertible.
        eps: added to each share before the logarithm.

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


def spread_per_dimension(features: torch.Tensor) -> torch.Tensor:
    """Standard deviation [D] of features [N, D]: the quantity that VICReg (arXiv 2105.04906) keeps above 1."""
    return features.float().std(0)


def spread_across_clips(tokens: torch.Tensor) -> float:
    """Standard deviation of clip-mean features over a batch, [B, N, D] -> averaged over D. Zero means collapse."""
    return float(tokens.float().mean(1).std(0).mean())


def spread_across_time(tokens: torch.Tensor, moments: int) -> float:
    """Standard deviation of features over the moments of a clip, at each place, averaged.

    An encoder that keeps only what is constant in a clip has little of it (slow features, arXiv 2211.10831).

    Args:
        tokens: [B, t*h*w, D] in the order time, height, width.
        moments: t.
    """
    batch, count, width = tokens.shape
    return float(tokens.float().view(batch, moments, count // moments, width).std(1).mean())


def varying_share(targets: torch.Tensor) -> float:
    """Share of the mean square of targets [..., E] that differs between tokens: 1 - |mean|^2 / mean of |t|^2.

    Needs no comparison with earlier steps: layer-normed targets have mean square 1, so this is 0 for targets that are
    all alike and 1 for targets whose mean is zero.
    """
    flat = targets.float().flatten(0, -2)
    return float(1 - flat.mean(0).square().sum() / flat.square().sum(1).mean().clamp_min(1e-12))


def unexplained_share(guess: torch.Tensor, target: torch.Tensor) -> float:
    """Squared error of guesses [..., E] over that of the best constant guess, the mean target per channel.

    1 is what predicting the mean scores, 0 is perfect (one minus R squared, all channels pooled). NaN when the targets
    are all alike, since then there is nothing to explain.
    """
    guess, target = guess.float().flatten(0, -2), target.float().flatten(0, -2)
    total = (target - target.mean(0)).square().sum()
    return float((guess - target).square().sum() / total) if total > 0 else float("nan")


def unexplained_per_slot(
    guess: torch.Tensor, target: torch.Tensor, index: torch.Tensor, grid: tuple[int, int, int]
) -> torch.Tensor:
    """Unexplained share [t] of the hidden tokens in each time slot; NaN where a slot has none.

    The variance is that of all hidden tokens, so that slots compare on one scale; weighted with their numbers of
    tokens, the slots average to `unexplained_share`.

    Args:
        guess: [B, M, E].
        target: what should have been guessed, [B, M, E].
        index: the hidden tokens' places in the grid, [B, M].
        grid: tokens along time, height, width.
    """
    flat = target.float().flatten(0, 1)
    variance = (flat - flat.mean(0)).square().sum(1).mean()
    error = (guess.float() - target.float()).square().sum(-1).flatten()
    slot = index.flatten() // (grid[1] * grid[2])
    counts = torch.bincount(slot, minlength=grid[0])
    return torch.bincount(slot, error, minlength=grid[0]) / counts / variance


def slot_shares(index: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Share [t] of the tokens of each time slot that index [B, K] names, averaged over the batch."""
    places = grid[1] * grid[2]
    counts = torch.bincount(index.flatten() // places, minlength=grid[0])
    return counts / (index.shape[0] * places)
