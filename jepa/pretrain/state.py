"""The state of a run: objective, target encoder, optimizer and counts; all that a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from jepa.data import BadVideo, BadVideoLog
from jepa.errors import UserError
from jepa.fields import to_dict
from jepa.pretrain.checkpoint import load_tensors, newest_checkpoint
from jepa.pretrain.config import PretrainConfig
from jepa.pretrain.distributed import (
    DistContext,
    apply_activation_checkpointing,
    compile_blocks,
    parallelize,
)
from jepa.pretrain.monitor import Monitor
from jepa.pretrain.objectives import Objective
from jepa.pretrain.optim import make_optimizer


class TrainState:
    """All that changes during a run.

    Args:
        config: of the run.
        objective: moved to the device and wrapped for the processes.
        context: the processes.
        fingerprint: of the list of videos.
        precision: bf16 or fp32.

    Attributes:
        objective: the trained networks and their loss.
        model: what to call instead, so that gradients are averaged over the processes.
        step: finished optimizer steps.
    """

    def __init__(
        self,
        config: PretrainConfig,
        objective: Objective,
        context: DistContext,
        fingerprint: str,
        precision: str,
    ) -> None:
        self.objective = objective.to(context.device)
        target = self.objective.target
        target_encoder = target.target_encoder.encoder if target and target.target_encoder else None
        modules = [self.objective, *([target_encoder] if target_encoder else [])]
        apply_activation_checkpointing(modules, config.train.activation_checkpointing)
        if config.train.compile:
            compile_blocks(modules)
        self.model = parallelize(context, config.train.strategy, self.objective, target_encoder)
        self.optimizer = make_optimizer(self.objective, config.optim)
        self.context, self.precision = context, precision
        self.bad_videos = BadVideoLog(config.data.max_bad_fraction)
        self.monitor = Monitor(config.monitor)
        self.identity = {"config": to_dict(config), "data": fingerprint}
        self.step = 0
        self._uncounted: list[BadVideo] = []
        self._samples = 0

    def note_bad(self, events: list[BadVideo], samples: int) -> None:
        """Keeps the unreadable videos of one micro-batch; `samples` is that of all processes."""
        self._uncounted += events
        self._samples += samples

    def count_bad(self) -> list[BadVideo]:
        """Merges the notes of all processes; returns the videos that were not bad before.

        Raises:
            TooManyBadVideosError: their fraction is above its limit.
        """
        events = [event for part in self.context.gather(self._uncounted) for event in part]
        samples, self._uncounted, self._samples = self._samples, [], 0
        return self.bad_videos.count(sorted(events, key=lambda event: event.index), samples)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Live tensors by name, full or sharded: what a checkpoint holds, and what it is read into."""
        # The prefixes are the format of checkpoints since version 0.1, whatever the classes are called.
        found = {f"learner.{name}": value for name, value in self.objective.state_dict().items()}
        found |= self.objective.target_tensors()
        for name, parameter in self.objective.named_parameters():
            for kind, value in self.optimizer.state[parameter].items():
                found[f"optimizer.{name}.{kind}"] = value
        return found

    def values(self, skipped: int) -> dict[str, Any]:
        """Plain values that a checkpoint holds beside the tensors."""
        return {
            "precision": self.precision,
            "skipped": skipped,
            "processes": self.context.size,
            "bad_videos": self.bad_videos.state_dict(),
            "monitor": self.monitor.state_dict(),
            **self.identity,
        }

    def load(self, path: Path, values: dict[str, Any]) -> None:
        """Restores a saved state."""
        load_tensors(path, self.tensors())
        self.bad_videos.load_state_dict(values["bad_videos"])
        self.monitor.load_state_dict(values["monitor"] if "monitor" in values else values["watch"])
        self.step = values["step"]

    def begin_from(self, run: Path) -> None:
        """Takes over weights, target encoder and optimizer state of another run, at step 0.

        Raises:
            UserError: that run has no complete checkpoint, or other networks.
        """
        path, _, _ = newest_checkpoint(run)
        if path is None:
            raise UserError(
                f"train.init_from={run} holds no checkpoint; give the folder that was out= of another "
                "`jepa pretrain`."
            )
        load_tensors(path, self.tensors())
