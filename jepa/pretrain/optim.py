"""AdamW and its schedules: learning rate, weight decay and EMA momentum of a step."""

from __future__ import annotations

import torch
from torch import nn

from jepa.pretrain.config import OptimConfig
from jepa.pretrain.schedules import SCHEDULES, linear, warmup_cosine


def make_optimizer(objective: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, norms) are not decayed.

    The moments exist from the start, at zero, as it would make them in the first step: every checkpoint then holds the
    same names, whatever has had a gradient so far.
    """
    parameters = [p for p in objective.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "decayed": True},
        {"params": [p for p in parameters if p.ndim <= 1], "decayed": False, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=(config.betas[0], config.betas[1]),
        weight_decay=config.weight_decay,
        fused=True,
    )
    for p in parameters:
        optimizer.state[p] = {
            "step": torch.zeros((), dtype=torch.float32, device=p.device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
    return optimizer


def set_rates(
    optimizer: torch.optim.Optimizer, optim: OptimConfig, step: int, steps: int
) -> dict[str, float]:
    """Sets learning rate and weight decay of a step, counted from 0; returns them and the EMA momentum for the log."""
    lr = SCHEDULES[optim.schedule](step, steps, optim.warmup_steps, optim.lr, optim.final_lr)
    decay = optim.weight_decay
    if optim.final_weight_decay is not None:
        decay = warmup_cosine(step, steps, 0, decay, optim.final_weight_decay)
    for group in optimizer.param_groups:
        group["lr"] = lr
        if group["decayed"]:
            group["weight_decay"] = decay
    return {"lr": lr, "weight_decay": decay, "ema": linear(step, steps, *optim.ema)}
