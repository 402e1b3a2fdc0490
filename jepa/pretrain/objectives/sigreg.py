"""SIGReg: regularises features towards an isotropic Gaussian, which prevents collapse without a target encoder.

A distribution is the standard Gaussian exactly if all its one-dimensional projections are (Cramer and Wold). Each step
draws directions, projects the features on them, and measures with the Epps-Pulley statistic how far the empirical
characteristic function of each projection is from that of N(0, 1).

Source: LeJEPA, arXiv 2511.08544, section 4 and algorithm 1.
"""

from __future__ import annotations

import hashlib
import struct

import torch
from torch import Tensor, nn

from jepa.pretrain.distributed import mean_over_processes, num_processes

KNOTS = 17
REACH = 3.0


def epps_pulley(samples: Tensor) -> Tensor:
    """N times the integral over t of |mean exp(i t x) - exp(-t^2 / 2)|^2 exp(-t^2 / 2), one value per column.

    The integral goes from -3 to 3 by the trapezoid rule; the integrand is even, so 17 knots from 0 on are enough.

    Args:
        samples: [N, M] float32: N samples of M variables on each process; the statistic is that of all processes.

    Returns:
        [M]; sqrt(2 pi) (1 - 1 / sqrt 3) = 1.06 on average for samples of N(0, 1); for others it grows with N.
    """
    knots = torch.linspace(0.0, REACH, KNOTS, device=samples.device, dtype=samples.dtype)
    gauss = (-0.5 * knots.square()).exp()
    weights = torch.full_like(knots, 2.0 * REACH / (KNOTS - 1))
    weights[[0, -1]] *= 0.5
    angles = samples.unsqueeze(-1) * knots
    real, imaginary = mean_over_processes(torch.stack([angles.cos().mean(0), angles.sin().mean(0)]))
    gap = (real - gauss).square() + imaginary.square()
    return gap @ (weights * gauss) * (len(samples) * num_processes())


class SIGReg(nn.Module):
    """The mean Epps-Pulley statistic over random directions.

    The directions are a function of (seed, progress): a resumed run draws the same ones, and so does every process.

    Args:
        slices: directions of a step.
        seed: the run's seed.
    """

    def __init__(self, slices: int = 1024, seed: int = 0) -> None:
        super().__init__()
        self.slices, self.seed = slices, seed

    def forward(self, features: Tensor, progress: float) -> Tensor:
        """Features [N, D] -> a scalar, float32; `progress` identifies the step."""
        directions = torch.randn(
            features.shape[-1],
            self.slices,
            device=features.device,
            generator=self.generator(progress, features.device),
        )
        # Half precision would lose the small differences that the statistic is made of.
        with torch.autocast(features.device.type, enabled=False):
            projections = features.float() @ (directions / directions.norm(dim=0))
            return epps_pulley(projections).mean()

    def generator(self, progress: float, device: torch.device) -> torch.Generator:
        """A generator that depends on (seed, progress) alone."""
        key = hashlib.blake2b(struct.pack("<qd", self.seed, progress), digest_size=8).digest()
        return torch.Generator(device=device).manual_seed(int.from_bytes(key, "little") >> 1)
