"""Choosing a device: `auto` becomes a CUDA device where there is one, else the CPU."""

from __future__ import annotations

import torch

from jepa.errors import UserError


def choose_device(name: str, key: str = "device", local_rank: int | None = None) -> torch.device:
    """Resolves the value of a device key.

    Args:
        name: auto, cpu, cuda or cuda:N.
        key: the configuration key it came from, for the message.
        local_rank: number of this process on its node, if several train together; each takes one CUDA device.

    Raises:
        UserError: the name is no device, or there is no such device.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"{key}={name!r} is not a device; use auto, cpu, cuda or cuda:N.") from error
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise UserError(f"{key}={name} needs a CUDA device, and PyTorch sees none; use {key}=cpu.")
    if local_rank is None:
        return device
    count = torch.cuda.device_count()
    if device.index is not None or local_rank >= count:
        raise UserError(
            f"Process {local_rank} of this node has no CUDA device of its own: there are {count}, and {key}={name}. "
            f"Start at most {count} processes per node, with {key}=auto."
        )
    return torch.device("cuda", local_rank)
