"""What every step came to, known on all processes alike, without making the device wait.

Whether a step is finite is decided on the device, before the optimizer runs: a NaN never reaches a weight. The host
reads the verdict one step late, while the next step computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from jepa.files import atomic_path
from jepa.masking import Mask
from jepa.pretrain.distributed import World

_KEPT = 20  # batches, 1 MB and more each; the first ones say most


class Piece(NamedTuple):
    """What brings a pass of one process back. It is held until the verdict, so nothing large of the device is in it."""

    batch: dict[str, Any]
    """as the loader gave it"""
    masks: Sequence[Mask]


class Verdict(NamedTuple):
    """One step as all processes know it."""

    step: int
    numbers: dict[str, float]
    """means over the processes, and `grad_norm`"""
    skipped: bool
    stop: bool
    kept: Path | None
    """where the batch of a skipped step lies"""


class Guard:
    """Judges steps.

    Args:
        world: the processes.
        run: the run folder, for the batches of skipped steps.
        skipped: steps skipped in a row so far.
    """

    def __init__(self, world: World, run: Path, skipped: int = 0) -> None:
        self.world, self.run, self.skipped = world, run, skipped
        self._late: list[tuple[int, list[str], torch.Tensor, Any, list[Piece]]] = []

    def judge(
        self,
        step: int,
        losses: dict[str, torch.Tensor],
        grad_norm: torch.Tensor,
        stop: bool,
        pieces: list[Piece],
    ) -> torch.Tensor:
        """Whether the step must be skipped: a scalar on the device, 1 or 0, as AdamW takes it for `found_inf`.

        Args:
            step: finished steps, this one included.
            losses: scalars of this process, `loss` among them.
            grad_norm: of the gradient that all processes share.
            stop: this process was asked to stop.
            pieces: what this process saw in the step.
        """
        # Made on the device: a copy from the host would wait for all that the device has still to do.
        values = self.world.mean(torch.stack([*losses.values(), torch.full_like(grad_norm, float(stop))]))
        bad = ~torch.isfinite(values[list(losses).index("loss")] + grad_norm)
        report = torch.cat([values, grad_norm[None], bad[None]])
        arrived = None
        if report.is_cuda:
            report = report.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._late.append((step, [*losses, "stop", "grad_norm", "skipped"], report, arrived, pieces))
        return bad.to(torch.float32)

    def verdicts(self, last: bool = False) -> list[Verdict]:
        """The steps judged since the last call, but for the newest, which may not be finished; with `last`, all.

        Raises:
            OSError: a batch could not be kept.
        """
        ready = self._late if last else self._late[:-1]
        self._late = [] if last else self._late[-1:]
        found = []
        for step, names, report, arrived, pieces in ready:
            if arrived is not None:
                arrived.synchronize()
            numbers = dict(zip(names, report.tolist(), strict=True))
            skipped, stop = bool(numbers.pop("skipped")), numbers.pop("stop") > 0
            self.skipped = self.skipped + 1 if skipped else 0
            kept = self._keep(step, numbers, pieces) if skipped else None
            found.append(Verdict(step, numbers, skipped, stop, kept))
        return found

    def _keep(self, step: int, numbers: dict[str, float], pieces: list[Piece]) -> Path | None:
        """Each process writes its own part: which of them brought the NaN is not known from the sum."""
        folder = self.run / "nonfinite"
        path = folder / f"step_{step:08d}_rank{self.world.rank:04d}.pt"
        if len(list(folder.glob(f"*_rank{self.world.rank:04d}.pt"))) >= _KEPT:
            return None
        content = {
            "step": step,
            "numbers": numbers,
            "index": [piece.batch["index"] for piece in pieces],
            "video": [piece.batch["video"] for piece in pieces],
            "masks": [[(m.context.cpu(), m.target.cpu()) for m in piece.masks] for piece in pieces],
        }
        with atomic_path(path) as partial:
            torch.save(content, partial)
        return path
