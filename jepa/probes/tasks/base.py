"""Probe tasks: the `Task` interface, its registry, and the run that all tasks go through.

    read -> encode -> split -> cross-validate -> compare -> write

A task defines what to read, which targets heads learn, and the content of its results and of a saved probe. Everything
else is here. A new task is one file with a subclass of `Task` under `register_task`.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jepa.data.manifest import Item
from jepa.errors import UserError, require
from jepa.files import write_json
from jepa.probes.config import ProbeConfig
from jepa.probes.data.splits import Fold, make_folds
from jepa.probes.evaluation.domain import describe
from jepa.probes.evaluation.problem import Problem
from jepa.probes.evaluation.results import table_console
from jepa.probes.features.build import (
    ENCODER,
    Encoded,
    encode_samples,
    load_frozen_encoder,
    make_extractors,
)
from jepa.probes.features.encode import Extractor
from jepa.probes.heads.base import get_head, list_heads
from jepa.probes.saved import (
    Probe,
    calibration_metadata,
    data_metadata,
    encoder_metadata,
    today,
    window_metadata,
)

if TYPE_CHECKING:
    from jepa.models import Encoder

RESULTS_SCHEMA = "jepa.probe.results/2"
RESULTS_FILE = "results.json"


class Task(ABC):
    """One kind of probe. A new instance serves one run.

    Args:
        config: the probe's.
    """

    name: ClassVar[str]
    probe: ClassVar[type[Probe]]
    """what a saved probe of the task opens as"""

    def __init__(self, config: ProbeConfig) -> None:
        self.config = config
        self.started = self.encoded_at = time.perf_counter()

    @property
    def kinds(self) -> list[str]:
        """The heads of `heads.kinds`."""
        return list(self.config.heads.kinds)

    def check(self) -> None:
        """Refuses settings that the task cannot use.

        Raises:
            UserError: names the key.
        """
        config = self.config
        config.check()
        config.refuse_unknown("heads.kinds", config.heads.kinds, list_heads())
        config.refuse_unknown("protocols", config.protocols, ())
        config.refuse_unused(
            calibration=config.calibration != "temperature", features__augment=config.features.augment != 0
        )

    @abstractmethod
    def read(self, encoder: Encoder) -> Sequence[Item]:
        """The samples to encode: videos or parts of them."""

    def extractors(self, encoder: Encoder) -> list[Extractor]:
        """The encoder first, then its baselines."""
        return make_extractors(self.config, encoder)

    def split(self, samples: Sequence[Item]) -> list[Fold]:
        """Folds over samples, by their groups."""
        data = self.config.data
        return make_folds(
            [s.label for s in samples],
            [s.group for s in samples],
            [s.split for s in samples],
            data.folds,
            data.val_fraction,
            self.config.split_seed,
        )

    @abstractmethod
    def problems(self, encoded: Encoded) -> list[Problem]:
        """What heads learn, with baselines that have no weights evaluated already."""

    def evaluate(self, problem: Problem, encoded: Encoded) -> None:
        """Cross-validates every head on every feature set."""
        problem.evaluate_all(self.kinds, self.config.heads, self.config.seeds)

    @abstractmethod
    def tables(self, problems: Sequence[Problem], encoded: Encoded) -> dict[str, Any]:
        """The task's entries of results.json."""

    @abstractmethod
    def probes(
        self, problems: Sequence[Problem], encoded: Encoded, results: dict[str, Any]
    ) -> dict[str, Probe]:
        """The probes to save, by folder name; `probe` is the task's own."""

    @abstractmethod
    def show(self, console: Any, results: dict[str, Any], encoded: Encoded) -> None:
        """Prints the results."""

    def common_metadata(
        self, problems: Sequence[Problem], encoded: Encoded, results: dict[str, Any]
    ) -> dict[str, Any]:
        """Metadata of a saved probe of any task: its input, and which samples trained, calibrated and tested it.

        The saved heads are those of the first fold.
        """
        train, val, test = (
            [problem.samples[i] for problem in problems for i in getattr(problem.folds[0], part)]
            for part in ("train", "val", "test")
        )
        return {
            **window_metadata(encoded.tokens),
            "encoder": results["encoder"],
            "data": results["data"],
            "trained_on": data_metadata("train", train),
            "calibration": calibration_metadata(val),
            "tested_on": data_metadata("test", test),
        }


_TASKS: dict[str, type[Task]] = {}
_BUILT_IN = {
    "classify": "jepa.probes.tasks.classify",
    "anticipate": "jepa.probes.tasks.anticipate.task",
    "describe": "jepa.probes.tasks.describe.task",
}


def register_task(cls: type[Task]) -> type[Task]:
    """Makes a task known under its `name`, for `task=` and saved probes. A class decorator.

    Raises:
        UserError: another task has that name.
    """
    known = _TASKS.get(cls.name, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__) or (
        cls.name in _BUILT_IN and not cls.__module__.startswith("jepa.")
    ):
        raise UserError(f"There is a task {cls.name!r} already. Choose another name.")
    _TASKS[cls.name] = cls
    return cls


def list_tasks() -> list[str]:
    """Names that `task=` takes.

    Example:
        >>> list_tasks()[:3]
        ['classify', 'anticipate', 'describe']
    """
    return list(dict.fromkeys([*_BUILT_IN, *_TASKS]))


def get_task(name: str) -> type[Task]:
    """A registered task.

    Raises:
        UserError: there is none of that name.

    Example:
        >>> from jepa.probes.tasks.base import get_task
        >>> get_task("classify").probe.task
        'classify'
    """
    if name not in _TASKS and name in _BUILT_IN:
        importlib.import_module(_BUILT_IN[name])
    if name not in _TASKS:
        raise UserError(f"task={name!r} is unknown; it may be {', '.join(list_tasks())}.")
    return _TASKS[name]


def run(config: ProbeConfig) -> dict[str, Any]:
    """`jepa probe`: trains and tests the heads, prints the tables, writes OUT/results.json and OUT/probe.

    Returns:
        The content of results.json.

    Raises:
        UserError: the data, the split or the config cannot be used.
    """
    require("sklearn", "probes")  # before anything is encoded
    task = get_task(config.task)(config)
    task.check()
    encoder = load_frozen_encoder(config.encoder)
    samples = task.read(encoder)
    encoded = encode_samples(config, samples, task.extractors(encoder))
    task.encoded_at = time.perf_counter()
    problems = task.problems(encoded)
    for problem in problems:
        task.evaluate(problem, encoded)
    # The last problem's windows are those that the probe will read: evenly over each video.
    domain = None if config.features.layers else problems[-1].domain(ENCODER)
    results = {
        "schema": RESULTS_SCHEMA,
        "task": config.task,
        "created": today(),
        "config": dataclasses.asdict(config),
        "data": data_metadata(Path(config.data.root).name, encoded.samples),
        "encoder": encoder_metadata(encoder, encoded.tokens.sha256, config.encoder),
        "excluded": [dataclasses.asdict(bad) for bad in encoded.report.bad],
        **task.tables(problems, encoded),
        "domain": None if domain is None else domain.metadata,
        "decoded_videos": encoded.report.decoded,
        "int8_error": encoded.report.int8_error,
    }
    ended = time.perf_counter()
    results["seconds"] = {"features": task.encoded_at - task.started, "heads": ended - task.encoded_at}
    write_json(Path(config.out) / RESULTS_FILE, results)
    console = table_console()
    if config.features.layers:
        console.print(
            f"No probe is saved: it would be given the encoder's last tokens, and features.layers="
            f"{list(config.features.layers)} trained the heads on others.",
            markup=False,
        )
    else:
        for folder, probe in task.probes(problems, encoded, results).items():
            probe.add_domain(domain)
            probe.save(Path(config.out) / folder)
        console.print(describe(domain), markup=False)
    task.show(console, results, encoded)
    return results


def heads_for(kinds: Sequence[str], classes: bool) -> list[str]:
    """Those of some heads that can be fitted to class numbers, or to any targets.

    Example:
        >>> from jepa.probes.tasks.base import heads_for
        >>> heads_for(["linear", "ridge"], classes=False)
        ['linear']
    """
    return [kind for kind in kinds if classes or not get_head(kind).classes_only]
