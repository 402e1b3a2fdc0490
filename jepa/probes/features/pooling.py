"""Pooling: one vector per clip from its tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def pool_stats(tokens: Tensor, time_slots: int) -> Tensor:
    """Mean, standard deviation and temporal change over tokens: [B, N, D] -> [B, 3 D].

    The last part is the mean absolute difference of a spatial position between neighbouring time steps. It lets a
    linear head see motion that a mean hides.

    Args:
        tokens: in the order (layers,) time, height, width.
        time_slots: time steps of the grid, t; with several layers, t times their number.

    Example:
        >>> pool_stats(torch.tensor([[[1.0], [3.0]]]), time_slots=2).tolist()
        [[2.0, 1.0, 2.0]]
    """
    values = tokens.float()
    slots = values.unflatten(1, (time_slots, -1))
    change = slots.diff(dim=1).abs().mean(dim=(1, 2)) if time_slots > 1 else torch.zeros_like(values[:, 0])
    return torch.cat([values.mean(1), values.std(1, correction=0), change], dim=-1)
