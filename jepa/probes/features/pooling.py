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


def pool_changes(tokens: Tensor, time_slots: int) -> Tensor:
    """Mean, mean change and largest change of a spatial position: [B, N, D] -> [B, 3 D].

    A position's change is the mean absolute difference between its neighbouring time steps. The mean over positions
    hides an event that fills a small part of the picture; the largest one keeps it, and weighs it above the movement of
    the camera, which all positions have in common.

    Args:
        tokens: in the order (layers,) time, height, width.
        time_slots: time steps of the grid, t; with several layers, t times their number.

    Example:
        >>> pool_changes(torch.tensor([[[1.0], [0.0], [3.0], [0.0]]]), time_slots=2).tolist()
        [[1.0, 1.0, 2.0]]
    """
    values = tokens.float().unflatten(1, (time_slots, -1))
    change = values.diff(dim=1).abs().mean(1) if time_slots > 1 else torch.zeros_like(values[:, 0])
    return torch.cat([values.mean((1, 2)), change.mean(1), change.amax(1)], dim=-1)
