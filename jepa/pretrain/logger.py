"""The logger: `metrics.jsonl`, a progress bar, and Weights & Biases (wandb) when configured.

Warnings go to `events.jsonl` beside it, one object a line: `{"step": 200, "kind": "warning", "text": "..."}`.
`jepa report` draws both files.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from jepa.errors import UserError
from jepa.files import write_text


@dataclass
class WandbConfig:
    """Weights & Biases; off unless a project is named."""

    project: str | None = None
    """project to log to; null sends nothing anywhere"""
    entity: str | None = None
    """team or user; null for the account's default"""
    name: str | None = None
    """name of the run; null for the folder's name"""
    mode: str | None = None
    """online, offline to keep the run on disk and send it later with `wandb sync`, or disabled; null takes the
    environment variable WANDB_MODE, else online"""


class Logger:
    """Writes a row per logged step and shows progress; a context manager, so that everything is closed on any exit.

    Args:
        run: the run folder.
        steps: length of the run.
        start: finished steps of an earlier start; later rows of both files are dropped: they come again.
        wandb: where else to log.
        settings: the resolved configuration, for Weights & Biases.
    """

    def __init__(
        self, run: Path, steps: int, start: int, wandb: WandbConfig, settings: dict[str, Any]
    ) -> None:
        self.path, self.events = run / "metrics.jsonl", run / "events.jsonl"
        for path in (self.path, self.events):
            _forget_rows_after(path, start)
        self.console = Console(stderr=True, quiet=not logging.getLogger("jepa").isEnabledFor(logging.WARNING))
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:.0f} clips/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task(
            "train", total=steps, completed=start, loss=float("nan"), speed=0.0
        )
        self._steps, self._since = steps, (start, time.monotonic())
        self._wandb = self._start_wandb(run, wandb, settings) if wandb.project else None

    def __enter__(self) -> Logger:
        self._file = open(self.path, "a", encoding="utf-8")
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)

    def info(self, sentence: str) -> None:
        """Prints one line above the progress bar."""
        self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def warn(self, step: int, sentence: str) -> None:
        """Warns that something is wrong after `step` finished steps, and keeps it in `events.jsonl`."""
        self.info(f"warning: {sentence}")
        # Opened for each event: there are few, and a run without any leaves no empty file.
        with open(self.events, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": "warning", "text": sentence}) + "\n")
        if self._wandb is not None:
            self._wandb.alert(title=f"jepa: warning at step {step}", text=sentence)

    def log(self, step: int, row: dict[str, float], clips_per_step: int) -> None:
        """Records the numbers after `step` finished steps; adds clips per second since the last row."""
        before, then = self._since
        self._since = (step, time.monotonic())
        speed = (step - before) * clips_per_step / max(1e-9, self._since[1] - then)
        row = {"step": step, **row, "clips_per_s": round(speed, 2)}
        # NaN is not JSON, and the row of a failed step has to be readable.
        clean = {
            key: value if value == value and abs(value) != float("inf") else None
            for key, value in row.items()
        }
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()
        self._progress.update(self._task, completed=step, loss=row["loss"], speed=speed)
        if not self.console.is_terminal:
            left = (self._steps - step) * clips_per_step / max(1e-9, speed)
            self.info(
                f"step {step}/{self._steps}  loss {row['loss']:.4f}  {speed:.0f} clips/s  {left:.0f} s left"
            )
        if self._wandb is not None:
            self._wandb.log(clean, step=step)

    @staticmethod
    def _start_wandb(run: Path, config: WandbConfig, settings: dict[str, Any]) -> Any:
        from jepa.errors import require

        wandb = require("wandb", "train")
        # The id is the folder's, so that a continued run continues there too.
        identity = run / "wandb_id.txt"
        if not identity.exists():
            write_text(identity, secrets.token_hex(4))
        mode = config.mode or os.environ.get("WANDB_MODE") or "online"
        if mode == "online" and not (wandb.api.api_key or os.environ.get("WANDB_API_KEY")):
            raise UserError(
                "wandb.project is set, but Weights & Biases has no account here. Run `wandb login`, set "
                "WANDB_API_KEY, or use wandb.mode=offline."
            )
        return wandb.init(
            project=config.project,
            entity=config.entity,
            name=config.name or run.name,
            id=identity.read_text(encoding="utf-8"),
            resume="allow",
            mode=mode,
            dir=str(run),
            config=settings,
            settings=wandb.Settings(silent=True) if not sys.stderr.isatty() else None,
        )


class NullLogger:
    """The logger of a process that is not the main one: writes nothing."""

    def info(self, sentence: str) -> None:
        """Nothing."""

    def warn(self, step: int, sentence: str) -> None:
        """Nothing."""

    def log(self, step: int, row: dict[str, float], clips_per_step: int) -> None:
        """Nothing."""


class ConsoleLogger(NullLogger):
    """The logger of a run from Python without a folder: a line on stderr per log step, and no file."""

    def info(self, sentence: str) -> None:
        """Prints one line."""
        print(sentence, file=sys.stderr, flush=True)

    def warn(self, step: int, sentence: str) -> None:
        """Prints a warning."""
        self.info(f"warning: {sentence}")

    def log(self, step: int, row: dict[str, float], clips_per_step: int) -> None:
        """Prints the loss."""
        self.info(f"step {step}  loss {row['loss']:.4f}")


def _forget_rows_after(path: Path, start: int) -> None:
    if path.exists():
        rows = path.read_text(encoding="utf-8").splitlines()
        write_text(path, "".join(f"{row}\n" for row in rows if _step_of(row) <= start))


def _step_of(row: str) -> float:
    """The step of a row; a line cut short by a kill counts as the future."""
    try:
        return json.loads(row)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
