"""The non-finite guard: skips steps whose loss or gradient is NaN or infinite, without a host sync.

Whether a step is finite is decided on the device, before the optimizer runs: a NaN never reaches a weight. The host
reads the status one step late, while the next step computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from jepa.files import atomic_path
from jepa.masking import Mask
from jepa.pretrain.distributed import DistContext, all_reduce_mean

_KEPT = 20  # batches, 1 MB and more each; the first ones say most


class MicroBatch(NamedTuple):
    """What reproduces a micro-step of one process; held until the status is read, so it needs no device memory."""

    batch: dict[str, Any]
    """as the loader gave it"""
    masks: Sequence[Mask]


class StepStatus(NamedTuple):
    """One optimizer step, the same on all processes."""

    step: int
    numbers: dict[str, float]
    """means over the processes, and `grad_norm`"""
    skipped: bool
    stop: bool
    kept: Path | None
    """where the batch of a skipped step was written"""


class NonFiniteGuard:
    """Finds non-finite steps and keeps their batches.

    Args:
        context: the processes.
        run: the run folder, for the batches of skipped steps; None keeps none.
        skipped: steps skipped in a row so far.
    """

    def __init__(self, context: DistContext, run: Path | None, skipped: int = 0) -> None:
        self.context, self.run, self.skipped = context, run, skipped
        self._late: list[tuple[int, list[str], torch.Tensor, Any, list[MicroBatch]]] = []

    def check(
        self,
        step: int,
        losses: dict[str, torch.Tensor],
        grad_norm: torch.Tensor,
        stop: bool,
        micro_batches: list[MicroBatch],
    ) -> torch.Tensor:
        """Whether the step must be skipped: a scalar on the device, 1 or 0, as AdamW takes it for `found_inf`.

        Args:
            step: finished steps, this one included.
            losses: scalars of this process, `loss` among them.
            grad_norm: of the gradient that all processes share.
            stop: this process received a signal to stop.
            micro_batches: the input of this process in the step.
        """
        # Made on the device: a copy from the host would wait for all that the device has still to do.
        values = all_reduce_mean(torch.stack([*losses.values(), torch.full_like(grad_norm, float(stop))]))
        bad = ~torch.isfinite(values[list(losses).index("loss")] + grad_norm)
        report = torch.cat([values, grad_norm[None], bad[None]])
        arrived = None
        if report.is_cuda:
            report = report.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._late.append((step, [*losses, "stop", "grad_norm", "skipped"], report, arrived, micro_batches))
        return bad.to(torch.float32)

    def statuses(self, last: bool = False) -> list[StepStatus]:
        """The steps checked since the last call, but for the newest, which may not be finished; with `last`, all.

        Raises:
            OSError: a batch could not be kept.
        """
        ready = self._late if last else self._late[:-1]
        self._late = [] if last else self._late[-1:]
        found = []
        for step, names, report, arrived, micro_batches in ready:
            if arrived is not None:
                arrived.synchronize()
            numbers = dict(zip(names, report.tolist(), strict=True))
            skipped, stop = bool(numbers.pop("skipped")), numbers.pop("stop") > 0
            self.skipped = self.skipped + 1 if skipped else 0
            kept = self._keep(step, numbers, micro_batches) if skipped else None
            found.append(StepStatus(step, numbers, skipped, stop, kept))
        return found

    def _keep(self, step: int, numbers: dict[str, float], micro_batches: list[MicroBatch]) -> Path | None:
        """Each process writes its own part: the sum does not tell which of them had the NaN."""
        if self.run is None:
            return None
        folder = self.run / "nonfinite"
        path = folder / f"step_{step:08d}_rank{self.context.rank:04d}.pt"
        if len(list(folder.glob(f"*_rank{self.context.rank:04d}.pt"))) >= _KEPT:
            return None
        content = {
            "step": step,
            "numbers": numbers,
            "index": [micro.batch["index"] for micro in micro_batches],
            "video": [micro.batch["video"] for micro in micro_batches],
            "masks": [[(m.context.cpu(), m.target.cpu()) for m in micro.masks] for micro in micro_batches],
        }
        with atomic_path(path) as partial:
            torch.save(content, partial)
        return path
