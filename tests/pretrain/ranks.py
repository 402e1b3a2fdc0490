"""Runs under torchrun for test_parallel.py: several tiny trainings in the same two processes, one after the other.

python -m torch.distributed.run --nproc-per-node=2 ranks.py VIDEOS FOLDER
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from jepa.config import COMMANDS, compose_config, config_class, to_dataclass
from jepa.pretrain import trainer
from jepa.pretrain.distributed import (
    DistContext,
    all_reduce_mean,
    clip_gradient,
    init_distributed,
    mean_over_processes,
)
from jepa.pretrain.objectives import MaskedPrediction
from tests.pretrain.conftest import PRINCIPAL, TINY, TWENTY


def train(videos, out, *keys):
    keys = [f"data.root={videos}", f"out={out}", *TINY, *TWENTY, "train.timeout_s=60", *keys]
    config = to_dataclass("pretrain", compose_config("pretrain", config_class(COMMANDS["pretrain"]), keys))
    return trainer.train(config)


def poison_second_rank(world_rank: int) -> None:
    """Step 3 is non-finite, and only one process sees why."""
    real, calls = MaskedPrediction.make_targets, []

    def targets(self, video):
        calls.append(1)
        return real(self, video) * (float("nan") if world_rank == 1 and len(calls) == 3 else 1.0)

    MaskedPrediction.make_targets = targets
    return real


def measure_average(context: DistContext) -> dict[str, torch.Tensor]:
    """Gradient of a loss on global statistics, as a step would take it."""
    torch.manual_seed(0)
    layer, samples = nn.Linear(3, 2), torch.randn(8, 3)
    mine = samples.chunk(context.size)[context.rank]
    mean = mean_over_processes(layer(mine).mean(0))
    (mean.square().sum() + (1 + context.rank) * mean.sum()).backward()
    return {name: all_reduce_mean(p.grad) for name, p in layer.named_parameters()}


def main(videos: str, folder: Path) -> None:
    dist.init_process_group("gloo")  # torchrun's store serves one meeting of a process
    with init_distributed("cpu", 60) as context:
        rank = context.rank
        average = measure_average(context)
        seen = context.gather(rank)
        layer = nn.Linear(2, 2)
        layer.weight.grad, layer.bias.grad = torch.full((2, 2), 3.0), torch.zeros(2)
        norm = clip_gradient(layer, 1.0)
        if context.is_main:
            torch.save(
                {"average": average, "seen": seen, "norm": norm, "clipped": layer.weight.grad},
                folder / "parts.pt",
            )
    for strategy in ("ddp", "fsdp"):
        how = f"train.strategy={strategy}"
        train(videos, folder / strategy, how)
        train(videos, folder / f"{strategy}_passes", how, "train.micro_batch=2", "train.steps=6")
        train(
            videos, folder / f"{strategy}_principal", how, "train.micro_batch=2", "train.steps=6", *PRINCIPAL
        )
        train(videos, folder / f"one_then_{strategy}", how)  # goes on where one process stopped
        real = poison_second_rank(rank)
        train(videos, folder / f"{strategy}_nan", how, "train.steps=6", "train.save_every=1")
        MaskedPrediction.make_targets = real
    train(
        videos, folder / "fsdp_all", "train.strategy=fsdp", "train.activation_checkpointing=selective",
        "train.micro_batch=1", "train.steps=6", "objective.target_layers=[0,-1]",
    )  # fmt: skip
    for strategy in ("ddp", "fsdp"):
        train(
            videos, folder / f"{strategy}_sigreg", f"train.strategy={strategy}", "train.steps=6",
            "objective.target_encoder=none", "objective.sigreg.weight=0.1", "objective.sigreg.slices=16",
            "train.micro_batch=null",
        )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
