"""Is it collapsing? A falling loss says nothing: targets that no longer differ are the easiest to predict."""

from __future__ import annotations

import torch


def rank_me(features: torch.Tensor, eps: float = 1e-7) -> float:
    """Effective rank of features [N, D], between 1 and min(N, D): exp of the entropy of the singular values.

    Source: RankMe, arXiv 2210.02885, equation 1.
    """
    values = torch.linalg.svdvals(features.float())
    share = values / values.sum().clamp_min(eps) + eps
    return float(torch.exp(-(share * share.log()).sum()))


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
