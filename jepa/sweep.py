"""`--multirun` sweeps: every combination of the swept values as a job of its own, started by a launcher.

    jepa pretrain -m optim.lr=1e-3,5e-4 train.seed=0,1 data.root=videos/ out=runs/lr hydra/launcher=joblib

The values are Hydra's sweeps: `a=1,2`, `a=choice(x,y)`, `a=range(1,4)`. Of a key that names a file, whose value may
hold commas, only `choice(...)` is one. Each job gets an `out` of its own, named for its values. The launchers are named
as Hydra's plugins are, and call joblib and submitit themselves: basic (one after the other, in this process), joblib,
submitit_local and submitit_slurm; `hydra.launcher.KEY=VALUE` goes to them.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jepa.config import compose_config, to_dataclass
from jepa.errors import UserError, require
from jepa.fields import find_field, is_path
from jepa.overrides import parse

LAUNCHERS = ("basic", "joblib", "submitit_local", "submitit_slurm")
# submitit's names for what every cluster has; anything else gets the cluster's prefix, as in Hydra's plugin.
_COMMON = {"timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "name"}
_FILES = {".npz", ".npy", ".json", ".jsonl", ".html", ".md", ".safetensors", ".parquet"}


class Job(NamedTuple):
    """One command line of a sweep. Calling it runs the command and returns its exit code."""

    name: str
    overrides: tuple[str, ...]
    config_dir: str | None
    values: str
    """the swept values, such as `optim.lr=0.001,train.seed=0`"""
    main: Callable[[list[str]], int]
    """runs a command line; a function of a module, since other processes import it by name"""

    def __call__(self) -> int:
        """Runs the command, in this process."""
        flags = ["--config-dir", self.config_dir] if self.config_dir else []
        try:
            return self.main([self.name, *flags, *self.overrides])
        except SystemExit as stop:  # the trainer leaves this way after SIGTERM
            return stop.code if isinstance(stop.code, int) else 1

    def checkpoint(self) -> Any:
        """What submitit submits again when the cluster takes the machine back: the same command, which resumes."""
        return require("submitit", "cluster").helpers.DelayedSubmission(self)


def plan(
    name: str,
    cls: type,
    overrides: Sequence[str],
    main: Callable[[list[str]], int],
    config_dir: str | None = None,
) -> list[Job]:
    """The jobs of a sweep, each checked as if it were started alone.

    Raises:
        UserError: an override is refused, or two jobs would write to the same `out`.
    """
    axes = [_values(cls, text) for text in overrides]
    jobs: list[Job] = []
    for combination in itertools.product(*axes):
        swept = [text for text, axis in zip(combination, axes, strict=True) if len(axis) > 1]
        jobs.append(Job(name, combination, config_dir, ",".join(swept), main))
    jobs = [_with_own_out(job, cls) if len(jobs) > 1 else job for job in jobs]
    outs: Counter[str] = Counter()
    for job in jobs:
        config = to_dataclass(name, compose_config(name, cls, list(job.overrides), config_dir))
        outs[str(getattr(config, "out", None) or job.values)] += 1
    shared = [out for out, count in outs.items() if count > 1]
    if shared:
        raise UserError(
            f"{outs[shared[0]]} jobs of this sweep would write to out={shared[0]}; sweep each value once."
        )
    return jobs


def launch(jobs: Sequence[Job], launcher: str = "basic", options: dict[str, Any] | None = None) -> int:
    """Runs the jobs and returns the first exit code that is not 0, or 0.

    Args:
        jobs: what `plan` returned.
        launcher: one of LAUNCHERS.
        options: what the launcher takes: joblib's `n_jobs`; submitit's `timeout_min`, `gpus_per_node`, `partition` ...

    Raises:
        UserError: the launcher is unknown, not installed, or does not take an option.
    """
    options = dict(options or {})
    if launcher not in LAUNCHERS:
        raise UserError(f"hydra/launcher={launcher} is unknown; choose one of {', '.join(LAUNCHERS)}.")
    if launcher == "basic":
        if options:
            raise UserError("hydra/launcher=basic takes no options; use joblib or submitit_slurm.")
        codes = _one_by_one(jobs)
    elif launcher == "joblib":
        joblib = require("joblib", "cluster")
        try:
            codes = joblib.Parallel(**{"n_jobs": -1, **options})(joblib.delayed(job)() for job in jobs)
        except TypeError as error:
            raise UserError(f"joblib does not take these options: {error}.") from error
    else:
        codes = _submit(jobs, launcher.removeprefix("submitit_"), options)
    failed = [job.values for job, code in zip(jobs, codes, strict=False) if code]
    print(f"jepa: {len(codes) - len(failed)} of {len(jobs)} jobs done", file=sys.stderr)
    for values in failed:
        print(f"jepa: failed: {values}", file=sys.stderr)
    return next((code for code in codes if code), 0)


def split_hydra(overrides: Sequence[str]) -> tuple[list[str], str, dict[str, Any]]:
    """(overrides of the command, launcher, options of the launcher).

    Raises:
        UserError: another key of Hydra's own, which has no meaning here.
    """
    rest: list[str] = []
    launcher, options = "basic", {}
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key == "hydra/launcher":
            launcher = value
        elif key.startswith("hydra.launcher."):
            options[key.removeprefix("hydra.launcher.")] = parse(text.lstrip("+")).value()
        elif key.startswith(("hydra.", "hydra/")):
            raise UserError(
                f"{key} is not supported. Of Hydra's own keys there are hydra/launcher={'|'.join(LAUNCHERS)} and "
                "hydra.launcher.KEY=VALUE; each job's folder is named for its values, below out."
            )
        else:
            rest.append(text)
    return rest, launcher, options


def _values(cls: type, text: str) -> list[str]:
    """The overrides that a sweep stands for; one that is no sweep stands for itself."""
    key, _, value = text.partition("=")
    found = find_field(cls, key.lstrip("+"), {}) if not text.startswith("~") and "=" in text else None
    if text.startswith("~") or (found and is_path(found[1]) and not value.startswith("choice(")):
        return [text]
    override = parse(text)
    if not override.is_sweep_override():
        return [text]
    if "glob(" in value:
        raise UserError(f"{text}: glob is not supported in a sweep; list the values, {key}=A,B.")
    if found and is_path(found[1]):  # taken literally, so without the quotes
        return [f"{key}={getattr(item, 'text', item)}" for item in override.sweep_iterator()]
    if not any(sign in value for sign in "()[]{}'\""):  # as written: 1.10 stays 1.10
        return [f"{key}={item.strip()}" for item in value.split(",")]
    return [f"{key}={item}" for item in override.sweep_string_iterator()]


def _with_own_out(job: Job, cls: type) -> Job:
    if find_field(cls, "out", {}) is None or "out=" in job.values:
        return job
    given = [text for text in job.overrides if text.startswith("out=")]
    if not given:
        raise UserError("A sweep needs out=FOLDER; each job writes to a folder of its own below it.")
    folder = job.values.replace("/", "_").replace("'", "")
    if len(folder) > 200:  # file systems allow 255 bytes
        folder = folder[:180] + "-" + hashlib.sha256(folder.encode()).hexdigest()[:12]
    base = Path(given[-1].partition("=")[2])
    own = base.with_name(f"{base.stem}-{folder}{base.suffix}") if base.suffix in _FILES else base / folder
    rest = tuple(text for text in job.overrides if not text.startswith("out="))
    return job._replace(overrides=(*rest, f"out={own}"))


def _one_by_one(jobs: Sequence[Job]) -> list[int]:
    codes: list[int] = []
    for number, job in enumerate(jobs, 1):
        print(f"jepa: job {number} of {len(jobs)}: {job.values}", file=sys.stderr)
        codes.append(job())
        if codes[-1] in (130, 143):  # whoever stops one job of a sweep stops the sweep
            break
    return codes


def _submit(jobs: Sequence[Job], cluster: str, options: dict[str, Any]) -> list[int]:
    submitit = require("submitit", "cluster")
    executor = submitit.AutoExecutor(folder=options.pop("submitit_folder", ".submitit/%j"), cluster=cluster)
    named = {key if key in _COMMON else f"{cluster}_{key}": value for key, value in options.items()}
    try:
        executor.update_parameters(**named)
    except (NameError, ValueError) as error:
        raise UserError(f"submitit does not take these options: {error}.") from error
    with executor.batch():  # one job array
        started = [executor.submit(job) for job in jobs]
    print(f"jepa: submitted {', '.join(job.job_id for job in started)}", file=sys.stderr)
    codes = []
    for job in started:
        try:
            codes.append(job.result())
        except submitit.core.utils.UncompletedJobError as error:
            print(f"jepa: job {job.job_id} did not end: {error}", file=sys.stderr)
            codes.append(1)
    return codes
