"""Saving a run so that it cannot be lost, and finding the newest state that is whole.

A checkpoint is one file, `checkpoints/step_00001000.pt`, written beside and renamed. It holds tensors and plain values
only, so it is read with `weights_only=True`. Together with law 1 (every random choice is a function of the seed and
the sample index) weights, optimizer and the step number are the whole state of a run.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from jepa.errors import UserError
from jepa.files import atomic_path

_PATTERN = "step_*.pt"


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the state after `step` finished steps lies."""
    return run / "checkpoints" / f"step_{step:08d}.pt"


def save_checkpoint(run: Path, state: dict[str, Any], keep: int) -> Path:
    """Writes the state after `state["step"]` steps, then drops all but the newest `keep` checkpoints.

    Raises:
        OSError: the disk is full or gone; earlier checkpoints are untouched.
    """
    path = checkpoint_path(run, state["step"])
    with atomic_path(path) as partial:
        torch.save(state, partial)
    for old in sorted(path.parent.glob(_PATTERN))[:-keep]:
        old.unlink()
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads one checkpoint onto the CPU.

    Raises:
        UserError: the file is truncated, damaged or not a checkpoint.
    """
    try:
        # A truncated archive lacks its directory; the CRC check finds flipped bits, which torch.load does not.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
        reason = f"its part {damaged!r} fails its checksum"
    except (zipfile.BadZipFile, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(
        f"The checkpoint {path} cannot be read: {reason}. Remove it to go on from an earlier one."
    )


def newest_checkpoint(run: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole state in a run folder, and one sentence for each newer file that had to be passed over."""
    problems: list[str] = []
    for path in sorted((run / "checkpoints").glob(_PATTERN), reverse=True):
        try:
            return load_checkpoint(path), problems
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(f"No checkpoint in {run / 'checkpoints'} is readable. {' '.join(problems)}")
    return None, problems
