"""Callbacks of the trainer: what happens on log steps and saves besides training.

`Callback` has all methods, doing nothing. On log steps `on_log` runs on every process, and what it returns goes into
metrics.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jepa.models import VideoEncoder

if TYPE_CHECKING:
    from jepa.pretrain.trainer import StepMetrics, Trainer


class Callback:
    """Does nothing; override what you need.

    Example:
        >>> class StopAt(Callback):
        ...     def on_step(self, trainer, metrics):
        ...         if metrics.step == 100:
        ...             trainer.stop()
    """

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step of this start, after a checkpoint was loaded."""

    def on_step(self, trainer: Trainer, metrics: StepMetrics) -> None:
        """After each optimizer step. Reading a tensor of `metrics` waits for the device."""

    def on_log(self, trainer: Trainer, metrics: StepMetrics) -> dict[str, float]:
        """On log steps; returns numbers for the log."""
        return {}

    def on_save(self, trainer: Trainer) -> None:
        """After a checkpoint was started."""

    def on_end(self, trainer: Trainer) -> None:
        """When the run is over or was stopped."""


class MonitorCallback(Callback):
    """Diagnostics and warnings on log steps, see `jepa.pretrain.monitor`."""

    def on_log(self, trainer: Trainer, metrics: StepMetrics) -> dict[str, float]:
        """Measures the last micro-batch of the step."""
        batch = metrics.last
        row = trainer.state.monitor.measure(trainer.objective, batch.video, batch.targets, batch.masks)
        last = metrics.step == trainer.config.train.steps
        for sentence in trainer.state.monitor.warnings(metrics.step, row, last):
            trainer.logger.warn(metrics.step, sentence)
        return row


class OnlineProbe(Callback):
    """Calls a function with the encoder that an export would hold, on log steps.

    Args:
        probe: (finished steps, encoder) -> numbers for the log.
    """

    def __init__(self, probe: Callable[[int, VideoEncoder], dict[str, float]]) -> None:
        self.probe = probe

    def on_log(self, trainer: Trainer, metrics: StepMetrics) -> dict[str, float]:
        """Asks the probe."""
        return self.probe(metrics.step, trainer.encoder)
