"""Distributed training: process groups, DDP, FSDP2, activation checkpointing and torch.compile, all in this module.

`init_distributed` finds out how this process was started; a `DistContext` then answers what one process and many do
differently. Models stay as they are: everything here wraps them from outside.
"""

from __future__ import annotations

import os
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import PrefixStore, rendezvous
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from jepa.device import choose_device
from jepa.errors import UserError
from jepa.models import Predictor, VideoEncoder
from jepa.models.encoder import PatchEmbed
from jepa.models.layers import Block

ACTIVATION_CHECKPOINTING = ("none", "selective", "full")
STRATEGIES = ("ddp", "fsdp")


@dataclass(frozen=True)
class DistContext:
    """The processes of a run, from the view of one of them. The default is a process on its own."""

    device: torch.device
    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None
    saving: dist.ProcessGroup | None = None
    """a group of its own for the thread that saves, whose messages must not mix with those of the steps"""

    @property
    def is_main(self) -> bool:
        """Whether this process writes and logs."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in order of rank, on each of them. Waits for all."""
        if self.size == 1:
            return [value]
        everything: list[Any] = [None] * self.size
        dist.all_gather_object(everything, value)
        return everything

    def barrier(self) -> None:
        """Returns when all processes have come here."""
        if self.size > 1:
            dist.barrier()


def num_processes() -> int:
    """Processes of the default group; 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """All-reduce: mean of a tensor over the processes, in place, without gradient; bit-identical on all of them."""
    if (size := num_processes()) > 1:
        dist.all_reduce(values)
        values /= size
    return values


def mean_over_processes(values: torch.Tensor) -> torch.Tensor:
    """All-reduce: mean over the processes, for statistics inside a loss; gradients flow to every process."""
    return values if num_processes() == 1 else _Average.apply(values, num_processes())


class _Average(torch.autograd.Function):
    """A mean over processes. Every process's loss depends on every process's values, so gradients are averaged too;
    together with the averaging of gradients over processes this is the gradient of the mean loss."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, size: int) -> torch.Tensor:
        ctx.size = size
        total = values.clone()
        dist.all_reduce(total)
        return total / size

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total / ctx.size, None


@contextmanager
def init_distributed(device: str, timeout_s: float) -> Iterator[DistContext]:
    """Joins the process group that `torchrun` announced; without one, this process trains alone.

    A group that the caller has made already is used and stays.

    Args:
        device: auto, cpu, cuda or cuda:N.
        timeout_s: how long to wait for the others, at the start and in every exchange.

    Raises:
        UserError: several processes were announced and no group can be formed, or the device does not exist.
    """
    size = _announced_processes()
    if size == 1:
        yield DistContext(choose_device(device, "train.device"))
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    mine = choose_device(device, "train.device", local)
    if mine.type == "cuda":
        torch.cuda.set_device(mine)
    backend = "cpu:gloo,cuda:nccl" if mine.type == "cuda" else "gloo"
    made = not dist.is_initialized()
    try:
        if made:
            _form_group(backend, rank, size, timedelta(seconds=timeout_s))
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"WORLD_SIZE={size} announces {size} processes, but no process group came about at {where}: "
            f"{str(error).splitlines()[0]} Start all of them with torchrun, or unset WORLD_SIZE to train in one "
            "process."
        ) from error
    try:
        saving = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        if not isinstance(saving, dist.ProcessGroup):
            raise RuntimeError("This process is not part of its own process group.")
        yield DistContext(mine, rank, size, init_device_mesh(mine.type, (size,)), saving)
    finally:
        if made:
            dist.destroy_process_group()


def _form_group(backend: str, rank: int, size: int, timeout: timedelta) -> None:
    """The default process group, in an unused part of the store.

    torchrun keeps its store when it restarts the processes. A process that is back early would find there the addresses
    of the ones that died, and spend the restart on calling them.
    """
    store, _, _ = next(rendezvous("env://", rank, size, timeout=timeout))
    fresh = PrefixStore(f"start_{agree_on_start(store, rank, size, timeout.total_seconds())}", store)
    dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=timeout)


def agree_on_start(store: dist.Store, rank: int, size: int, timeout_s: float) -> str:
    """A name for this start that all of its processes share, and that no earlier start left in the store.

    Each process writes a new random word. The first one answers each word with its own until all have acknowledged
    that, so an answer cannot be an old one.
    """
    word, deadline = uuid.uuid4().hex, time.monotonic() + timeout_s
    store.set(f"jepa/here/{rank}", word)
    missing = set(range(1, size))
    while True:
        if rank == 0:
            for other in sorted(missing):
                if store.check([f"jepa/here/{other}"]):
                    store.set(f"jepa/answer/{other}", store.get(f"jepa/here/{other}").decode() + " " + word)
            missing = {
                other
                for other in missing
                if not store.check([f"jepa/known/{other}"])
                or store.get(f"jepa/known/{other}").decode() != word
            }
            if not missing:
                return word
        elif store.check([f"jepa/answer/{rank}"]):
            mine, main = store.get(f"jepa/answer/{rank}").decode().split()
            if mine == word:
                store.set(f"jepa/known/{rank}", main)
                return main
        if time.monotonic() > deadline:
            who = f"processes {sorted(missing)}" if rank == 0 else "process 0"
            raise RuntimeError(f"{who} did not answer within {timeout_s:g} s.")
        time.sleep(0.02)


def _announced_processes() -> int:
    """How many processes the environment speaks of; refuses the ways in which N copies would do the same work."""
    env = os.environ
    if "WORLD_SIZE" not in env:
        if "TORCHELASTIC_RUN_ID" in env:
            raise UserError(
                "torchrun started this process (TORCHELASTIC_RUN_ID is set), but WORLD_SIZE is missing, so it cannot "
                "find the others. Do not unset torchrun's variables."
            )
        tasks = env.get("SLURM_STEP_NUM_TASKS", "1")
        if tasks != "1":
            raise UserError(
                f"srun started {tasks} tasks without a process group, and each would train the same model. Let srun "
                "start one torchrun per node, as scripts/slurm/pretrain.sbatch does."
            )
        return 1
    try:
        size = int(env["WORLD_SIZE"])
    except ValueError:
        size = 0
    if size < 1:
        raise UserError(f"WORLD_SIZE={env['WORLD_SIZE']!r} is not a number of processes; unset it.")
    absent = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not env.get(name)]
    if size > 1 and absent:
        raise UserError(
            f"WORLD_SIZE={size} announces {size} processes that cannot find one another, since the environment lacks "
            f"{', '.join(absent)}; each would train the same model. Start them with torchrun, or unset WORLD_SIZE to "
            "train in one process."
        )
    return size


def apply_activation_checkpointing(modules: list[nn.Module], mode: str) -> None:
    """Lets blocks recompute activations in the backward pass instead of storing them, in place; names stay.

    Args:
        modules: what holds the blocks; those without gradient have nothing to store.
        mode: none; selective: all but the results of matrix products and attention; full: all inside a block.
    """
    if mode == "none":
        return
    # Not a fixed list of names: backends bring their own attention operators.
    kept = [
        op
        for name in dir(torch.ops.aten)
        if name in ("mm", "addmm", "bmm", "baddbmm") or name.startswith("_scaled_dot_product_")
        if not name.endswith("backward")
        for op in [getattr(getattr(torch.ops.aten, name), "default", None)]
        if op is not None
    ]
    more: dict[str, Any] = (
        {"context_fn": partial(create_selective_checkpoint_contexts, kept)} if mode == "selective" else {}
    )
    for block in _blocks(modules):
        if any(p.requires_grad for p in block.parameters()):
            # There is no dropout, so the random state need not be kept.
            block.forward = partial(  # type: ignore[method-assign]
                checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False, **more
            )


def compile_blocks(modules: list[nn.Module]) -> None:
    """torch.compile for each block on its own: blocks of one shape share their code, so it is fast to start."""
    for block in _blocks(modules):
        block.compile()


def parallelize(
    context: DistContext, strategy: str, objective: nn.Module, target_encoder: VideoEncoder | None
) -> nn.Module:
    """Wraps the objective for DDP or FSDP2; call what is returned, so that gradients are averaged over the processes.

    FSDP2 replaces parameters by shards: look them up afterwards, and make the optimizer then.

    Args:
        context: the processes.
        strategy: ddp: every process holds everything; fsdp: weights, gradients and optimizer state are sharded.
        objective: the trained part.
        target_encoder: sharded alike, so that the EMA is taken shard by shard; None without one.
    """
    if context.size == 1:
        return objective
    if strategy == "ddp":
        return DistributedDataParallel(
            objective,
            device_ids=[context.device] if context.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            # Only a tokenizer for images stays without gradient in a step of clips, and the other way round.
            find_unused_parameters=any(
                "_img" in name or "img_" in name for name, _ in objective.named_parameters()
            ),
        )
    warnings.filterwarnings(
        "ignore", message="FSDP2-wrapped module"
    )  # it is about in-place changes; we make none
    roots = [root for root in objective.children() if isinstance(root, (VideoEncoder, Predictor))]
    for root in [*roots, *([target_encoder] if target_encoder is not None else [])]:
        for part in list(root.modules()):
            if isinstance(part, (Block, PatchEmbed)):
                fully_shard(part, mesh=context.mesh)
        # Also at the root: what is left gathered after a forward pass is no shard that the target could follow.
        fully_shard(root, mesh=context.mesh, reshard_after_forward=True)
        if isinstance(root, VideoEncoder):
            register_fsdp_forward_method(root, "features")
    fully_shard(objective, mesh=context.mesh, reshard_after_forward=True)
    return objective


@contextmanager
def no_sync(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """While enabled, backward passes add gradients up locally (gradient accumulation) instead of averaging them."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(not enabled)
        yield
    elif isinstance(model, DistributedDataParallel) and enabled:
        with model.no_sync():
            yield
    else:
        yield


def clip_gradient(objective: nn.Module, limit: float) -> torch.Tensor:
    """Scales the gradient down to the norm `limit` and returns the norm before, over all shards.

    Stays on the device and waits for nothing.
    """
    parameters = [p for p in objective.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def _blocks(modules: list[nn.Module]) -> list[Block]:
    return [part for module in modules for part in module.modules() if isinstance(part, Block)]
