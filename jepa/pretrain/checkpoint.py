"""Checkpoints (torch.distributed.checkpoint): saved in the background, renamed when complete, verified when read.

A checkpoint is a folder, `checkpoints/step_00001000/`: tensors as torch.distributed.checkpoint writes them, one file
for each process, and `state.json` with all plain values and the SHA-256 of every file. It is written under another
name in the background, by all processes, and renamed when it is complete. Tensors can be read by any number of
processes, sharded or not. Together with law 1 (every random choice is a function of the seed and the sample index)
weights, optimizer and the step number are the complete state of a run.
"""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from jepa.errors import UserError
from jepa.files import sha256_file, sync_folder, write_text
from jepa.pretrain.distributed import DistContext

FORMAT = 1
_PATTERN = "step_????????"
_PARTIAL = ".partial"


def checkpoint_path(run: Path, step: int) -> Path:
    """Path of the checkpoint after `step` finished steps."""
    return run / "checkpoints" / f"step_{step:08d}"


class CheckpointWriter:
    """Writes checkpoints in the background; a context manager, so that a started save is finished on any exit.

    Args:
        run: the run folder.
        keep: newest checkpoints that stay.
        context: the processes.
    """

    def __init__(self, run: Path, keep: int, context: DistContext) -> None:
        self.run, self.keep, self.context = run, keep, context
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._pending: Future[None] | None = None
        if context.is_main:
            _remove_leftovers(run)
        context.barrier()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error, that error is what has to be reported.
        failed = kind is not None and not issubclass(kind, SystemExit)
        try:
            with suppress(RuntimeError) if failed else nullcontext():
                self.wait()
        finally:
            self._thread.shutdown(wait=False)

    def save(self, step: int, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Copies the tensors to memory and returns; the files are written behind the next steps.

        Args:
            step: finished steps.
            tensors: by name; shards and full tensors alike.
            values: plain values.

        Raises:
            RuntimeError: the save before this one failed.
        """
        self.wait()
        final = checkpoint_path(self.run, step)
        partial = final.with_name(f".{final.name}{_PARTIAL}")
        _silence()
        written = dcp.async_save(
            tensors,
            storage_writer=dcp.FileSystemWriter(partial, sync_files=True),
            process_group=self.context.saving,
            no_dist=self.context.size == 1,
        )
        self._pending = self._thread.submit(self._seal, written, partial, final, {"step": step, **values})

    def wait(self) -> None:
        """Returns when the save under way, if any, is complete.

        Raises:
            RuntimeError: it failed; names the last good checkpoint.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except (OSError, RuntimeError, dcp.CheckpointException) as error:
            folder = self.run / "checkpoints"
            good = sorted(folder.glob(_PATTERN))
            raise RuntimeError(
                f"A checkpoint could not be written to {folder}: {_reason(error)}. "
                + (f"The last good one is {good[-1].name}. " if good else "There is no earlier one. ")
                + f"{shutil.disk_usage(folder).free / 1e9:.2f} GB are free there; make room and start the same command "
                "again."
            ) from error

    def _seal(self, written: Any, partial: Path, final: Path, values: dict[str, Any]) -> None:
        """Runs in a thread. Every process has written when the leader's future is done; the leader makes it count."""
        written.result()
        if not self.context.is_main:
            return
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(partial.iterdir())
        }
        # Plain ASCII: file names that are no UTF-8 survive as escapes.
        write_text(
            partial / "state.json", json.dumps({"format": FORMAT, **values, "files": files}, indent=1) + "\n"
        )
        if final.exists():  # a damaged one that was passed over
            _remove(final)
        partial.rename(final)
        sync_folder(final.parent)
        # A damaged one from further on must not push out a complete one.
        finished = sorted(path for path in final.parent.glob(_PATTERN) if path.name <= final.name)
        for old in finished[: -self.keep]:
            _remove(old)


def newest_checkpoint(run: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """The newest complete checkpoint of a run folder, its plain values, and one sentence for each that is damaged.

    Raises:
        UserError: there are checkpoints and none is complete, or they are of the time when each was one file.
    """
    problems: list[str] = []
    for path in sorted((run / "checkpoints").glob(_PATTERN), reverse=True):
        try:
            return path, read_values(path), problems
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(f"No checkpoint in {run / 'checkpoints'} is readable. {' '.join(problems)}")
    if old := sorted((run / "checkpoints").glob("step_*.pt")):
        raise UserError(
            f"{old[-1]} was saved by an earlier version of this library, which kept a run in one file, and cannot be "
            "continued. Export it with that version, or give a new folder as out=."
        )
    return None, {}, problems


def read_values(path: Path) -> dict[str, Any]:
    """The plain values of a checkpoint, after a look at every byte of it.

    Raises:
        UserError: a file is missing, cut short or damaged.
    """
    try:
        values = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise UserError(
                f"The checkpoint {path} has format {values['format']}; this version reads {FORMAT}. Use the version "
                f"that wrote it."
            )
        reason = _damage(path, values["files"])
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        reason = f"its state.json is missing or damaged ({_reason(error)})"
    if reason:
        raise UserError(
            f"The checkpoint {path} cannot be read: {reason}. Remove it to resume from an earlier one."
        )
    return values


def load_tensors(path: Path, into: dict[str, torch.Tensor]) -> None:
    """Fills live tensors, full or sharded, in place. Every name and every shape must match, both ways.

    Raises:
        UserError: the checkpoint holds other tensors.
    """
    stored = _Reader(path).tensors()
    missing, unexpected = sorted(into.keys() - stored.keys()), sorted(stored.keys() - into.keys())
    misshapen = [name for name in into if name in stored and into[name].shape != stored[name].size]
    if missing or unexpected or misshapen:
        raise UserError(
            f"The checkpoint {path} does not fit this model and objective: "
            + "; ".join(
                f"{word} {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}"
                for word, names in (
                    ("missing", missing),
                    ("unexpected", unexpected),
                    ("other shape:", misshapen),
                )
                if names
            )
            + ". Use the settings that it was made with."
        )
    _silence()
    # Every process reads what it needs by itself: there is nothing to agree on.
    dcp.load(into, storage_reader=_Reader(path), no_dist=True)


def read_tensors(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix`, unsharded, on the CPU, without it in their names."""
    stored = _Reader(path).tensors()
    into = {
        name: torch.empty(about.size, dtype=about.properties.dtype)
        for name, about in stored.items()
        if name.startswith(prefix)
    }
    _silence()
    dcp.load(into, storage_reader=_Reader(path), no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in into.items()}


class _Reader(dcp.FileSystemReader):
    """Reads tensors and nothing else: the index is a pickle, which could otherwise run code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with open(Path(self.path) / ".metadata", "rb") as file:
            metadata = _IndexUnpickler(file).load()
        objects = [
            name
            for name, about in metadata.state_dict_metadata.items()
            if not isinstance(about, TensorStorageMetadata)
        ]
        if objects:
            raise UserError(f"The checkpoint {self.path} was refused: {objects[0]} is not a tensor.")
        metadata.storage_meta.load_id = self.load_id
        return metadata

    def tensors(self) -> dict[str, TensorStorageMetadata]:
        """Size and type of each tensor by name."""
        return self.read_metadata().state_dict_metadata  # type: ignore[return-value]


_INDEX_MODULES = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties",
        "ChunkStorageMetadata", "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size", "float32", "float64", "float16", "bfloat16", "int64"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "WindowsPath", "Path"},
    "collections": {"OrderedDict"},
}  # fmt: skip


class _IndexUnpickler(pickle.Unpickler):
    """Builds the classes of an index and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        # Python 3.13 alone names the home of its paths; its checkpoints are read by every version.
        module = "pathlib" if module == "pathlib._local" else module
        if name not in _INDEX_MODULES.get(module, set()):
            raise UserError(
                f"A checkpoint's index was refused: it asks for {module}.{name}, which no index needs. Do not load "
                "checkpoints that others may have changed."
            )
        return super().find_class(module, name)


def _damage(path: Path, files: dict[str, dict[str, Any]]) -> str:
    """What is wrong with the files of a checkpoint, or nothing; sizes first, since they cost nothing."""
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            return f"its file {name} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"its file {name} has {file.stat().st_size} bytes instead of {expected['bytes']}"
    for name, expected in files.items():
        if sha256_file(path / name) != expected["sha256"]:
            return f"its file {name} fails its checksum"
    return ""


def _remove(path: Path) -> None:
    """Renames a folder before deleting it, so that a kill half-way leaves no partial checkpoint."""
    doomed = path.with_name(f".{path.name}.old{_PARTIAL}")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def _remove_leftovers(run: Path) -> None:
    for path in (run / "checkpoints").glob(f".*{_PARTIAL}"):
        shutil.rmtree(path)


def _reason(error: BaseException) -> str:
    """The first cause in words; DCP wraps the errors of each process in one, and torch.save hides a full disk."""
    where = ""
    if isinstance(error, dcp.CheckpointException):
        rank, (error, _) = next(iter(error.failures.items()))
        where = f"process {rank}: "
    while error.__context__ is not None:
        error = error.__context__
    return where + str(error).splitlines()[0] if str(error) else type(error).__name__


def _silence() -> None:
    """Without a process group PyTorch would warn at each save."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
