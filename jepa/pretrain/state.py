"""What a run consists of: the networks, the optimizer and the counts that a checkpoint holds, and how they begin."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jepa.data import BadVideo, BadVideoLog
from jepa.errors import UserError
from jepa.models import VideoEncoder
from jepa.pretrain.checkpoint import load_tensors, newest_checkpoint
from jepa.pretrain.config import DataConfig, OptimConfig, PretrainConfig
from jepa.pretrain.distributed import World, save_compute, spread
from jepa.pretrain.factory import build_learner
from jepa.pretrain.monitor import Watch
from jepa.pretrain.schedules import SCHEDULES, linear, warmup_cosine
from jepa.pretrain.target_encoder import build_teacher


class State:
    """All that changes during a run: learner, teacher, optimizer and a few counts.

    Args:
        config: of the run.
        world: the processes.
        fingerprint: of the list of videos.
        precision: bf16 or fp32.

    Attributes:
        learner: the trained networks and their loss.
        model: what to call instead, so that gradients are averaged over the processes.
        teacher: says what is right, or None.
    """

    def __init__(self, config: PretrainConfig, world: World, fingerprint: str, precision: str) -> None:
        self.learner = build_learner(config).to(world.device)
        self.learner.average, self.learner.ranks = world.average, world.size
        self.teacher = build_teacher(config, self.learner)
        if self.teacher and self.teacher.principal:
            self.teacher.principal.average = world.mean
        target = self.teacher.encoder if self.teacher else None
        save_compute(
            [self.learner, *([target] if target else [])], config.train.recompute, config.train.compile
        )
        self.model = spread(world, config.train.strategy, self.learner, target)
        self.optimizer = make_optimizer(self.learner, config.optim)
        self.world, self.precision = world, precision
        self.bad_videos = BadVideoLog(config.data.max_bad_share)
        self.watch = Watch(config.watch)
        self.identity = {"config": asdict(config), "data": fingerprint}
        self.finished = 0  # steps
        self._unseen: list[BadVideo] = []
        self._samples = 0

    @property
    def encoder(self) -> VideoEncoder:
        """The encoder that an export would hold: the average where there is one."""
        if self.teacher is None or self.teacher.leader is None:
            return self.learner.encoder
        return self.teacher.encoder

    def note_bad(self, events: list[BadVideo], samples: int) -> None:
        """Takes note of one batch of this process; `samples` is that of all processes."""
        self._unseen += events
        self._samples += samples

    def count_bad(self) -> list[BadVideo]:
        """Brings the notes of all processes together; returns the videos that were not bad before.

        Raises:
            TooManyBadVideosError: their share is above its limit.
        """
        events = [event for part in self.world.gather(self._unseen) for event in part]
        samples, self._unseen, self._samples = self._samples, [], 0
        return self.bad_videos.count(sorted(events, key=lambda event: event.index), samples)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Live tensors by name, whole or sharded: what a checkpoint holds, and what it is read into."""
        found = {f"learner.{name}": value for name, value in self.learner.state_dict().items()}
        if self.teacher is not None and self.teacher.leader is not None:
            found |= {f"target.{name}": value for name, value in self.teacher.encoder.state_dict().items()}
        if self.teacher is not None and self.teacher.principal is not None:
            kept = self.teacher.principal.state_dict()
            found |= {f"principal.{name}": value for name, value in kept.items()}
        for name, parameter in self.learner.named_parameters():
            for kind, value in self.optimizer.state[parameter].items():
                found[f"optimizer.{name}.{kind}"] = value
        return found

    def facts(self, skipped: int) -> dict[str, Any]:
        """Plain values that a checkpoint holds beside the tensors."""
        return {
            "precision": self.precision,
            "skipped": skipped,
            "processes": self.world.size,
            "bad_videos": self.bad_videos.state_dict(),
            "watch": self.watch.state_dict(),
            **self.identity,
        }

    def load(self, path: Path, facts: dict[str, Any]) -> None:
        """Takes over a saved state whole."""
        load_tensors(path, self.tensors())
        self.bad_videos.load_state_dict(facts["bad_videos"])
        self.watch.load_state_dict(facts["watch"])
        self.finished = facts["step"]

    def begin_from(self, run: Path) -> None:
        """Takes over weights, target and optimizer state of another run, at step 0.

        Raises:
            UserError: that run has no whole checkpoint, or other networks.
        """
        path, _, _ = newest_checkpoint(run)
        if path is None:
            raise UserError(
                f"train.init_from={run} holds no checkpoint; give the folder that was out= of another "
                "`jepa pretrain`."
            )
        load_tensors(path, self.tensors())


def make_optimizer(learner: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, norms) are not decayed.

    Its averages exist from the start, at zero, as it would make them in the first step: every checkpoint then holds
    the same names, whatever has had a gradient so far.
    """
    parameters = [p for p in learner.parameters() if p.requires_grad]
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


def set_rates(optimizer: torch.optim.Optimizer, config: PretrainConfig, step: int) -> dict[str, float]:
    """Sets what the schedules say for a step, counted from 0, and returns it for the journal."""
    optim, steps = config.optim, config.train.steps
    lr = SCHEDULES[optim.schedule](step, steps, optim.warmup_steps, optim.lr, optim.final_lr)
    decay = optim.weight_decay
    if optim.final_weight_decay is not None:
        decay = warmup_cosine(step, steps, 0, decay, optim.final_weight_decay)
    for group in optimizer.param_groups:
        group["lr"] = lr
        if group["decayed"]:
            group["weight_decay"] = decay
    return {"lr": lr, "weight_decay": decay, "ema": linear(step, steps, *optim.ema)}


def choose_precision(config: PretrainConfig, device: torch.device) -> str:
    """Resolves `auto`; the answer is kept in the checkpoint, so that a run never changes precision half-way."""
    if config.train.precision != "auto":
        return config.train.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def count_passes(config: PretrainConfig, world: World) -> int:
    """Passes that each process makes in one step.

    Raises:
        UserError: the batch does not divide.
    """
    train = config.train
    share, rest = divmod(train.batch_size, world.size)
    if rest:
        raise UserError(
            f"train.batch_size={train.batch_size} clips cannot be divided among {world.size} processes; use a multiple "
            f"of {world.size}."
        )
    passes, rest = divmod(share, train.micro_batch or share)
    if rest:
        raise UserError(
            f"Each of {world.size} processes has {share} of the train.batch_size={train.batch_size} clips, which "
            f"train.micro_batch={train.micro_batch} does not divide; choose a divisor of {share}."
        )
    return passes


# What may differ between two starts of one run: none of these changes a weight, but for rounding where the batch is
# cut otherwise or compiled. More steps stretch the schedules.
_MAY_CHANGE = {
    "out", "data.root", "data.workers", "data.max_bad_share", "train.steps", "train.save_every", "train.keep",
    "train.log_every", "train.device", "train.max_skipped", "train.micro_batch", "train.strategy", "train.recompute",
    "train.compile", "train.timeout_s", "train.init_from",
}  # fmt: skip


def check_same_run(saved: dict[str, Any], config: PretrainConfig, fingerprint: str, out: Path) -> None:
    """Raises UserError when a run folder is asked to go on with other settings or other videos."""
    # A key that is younger than the run had the value that is now its default.
    defaults = flatten(asdict(PretrainConfig(data=DataConfig(root="any"))))
    before, now = defaults | flatten(saved["config"]), flatten(asdict(config))
    changed = [
        f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
        and key not in _MAY_CHANGE
        and not key.startswith(("wandb.", "watch."))
        and not (key.startswith("data.mix.") and key.endswith(".root"))
    ]
    if changed:
        raise UserError(
            f"The run in {out} was started with other settings ({'; '.join(changed)}). Continue it with the old ones, "
            "or give a new folder as out=."
        )
    if saved["data"] != fingerprint:
        raise UserError(
            f"The run in {out} was started on another list of videos, so it cannot be continued exactly. Restore the "
            "videos, or give a new folder as out=."
        )


def check_same_everywhere(world: World, fingerprint: str, root: str) -> None:
    """Raises UserError when the processes do not see the same videos."""
    seen = world.gather((fingerprint, platform.node()))
    odd = sorted({node for other, node in seen if other != seen[0][0]})
    if odd:
        raise UserError(
            f"The list of videos in {root} is another one on {', '.join(odd)} than on {seen[0][1]}, so the processes "
            "would not train on one batch. Give all nodes the same files."
        )


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists -> {"train.steps": 2000, "masks.0.kind": "slots", ...}."""
    if isinstance(tree, (list, tuple)):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
