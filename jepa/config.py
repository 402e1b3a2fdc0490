"""Commands and their configurations: dataclasses, checked and merged by Hydra, documented by their own doc lines.

Each command is a dataclass beside a function in some room. This file registers them, merges `key=value` overrides and
recipes (`configs/pretrain/recipe/*.yaml`), and turns every mistake into one paragraph with the remedy.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
import itertools
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jepa.errors import UserError


class Command(NamedTuple):
    """Where a command lives: imported only when it is called, so that `jepa --help` is instant."""

    module: str
    config: str
    function: str
    summary: str
    bare: str = ""  # the key that a word without = stands for, if any
    many: str = ""  # the key that may be given several times, if any


COMMANDS = {
    "toyworld": Command("jepa.toyworld", "ToyWorldConfig", "write_world", "make the built-in world"),
    "pretrain": Command(
        "jepa.pretrain.trainer", "PretrainConfig", "run", "train an encoder; the same command continues it"
    ),
    "export": Command("jepa.pretrain.export", "ExportConfig", "run", "an encoder that others can load"),
    "report": Command(
        "jepa.pretrain.report",
        "ReportConfig",
        "run",
        "one page about a run, or several: is it learning?",
        many="run",
    ),
    "probe": Command("jepa.probes", "ProbeConfig", "run", "train and test a probe on a frozen encoder"),
    "embed": Command(
        "jepa.probes.embed", "EmbedConfig", "run", "features or one vector of every video, as one file"
    ),
    "signals": Command(
        "jepa.signals.command", "SignalsConfig", "run", "a video in; a document, exports and a report out"
    ),
    "verify": Command(
        "jepa.signals.verify_command", "VerifyConfig", "run", "check a signals document and replay it", "path"
    ),
    "shard": Command(
        "jepa.data.shards", "ShardConfig", "run", "pack many small videos into a few large files"
    ),
    "bench": Command(
        "jepa.bench", "BenchConfig", "run", "how fast training, decoding, probing and signals are here"
    ),
    "doctor": Command(
        "jepa.doctor", "DoctorConfig", "run", "what works on this machine; data=... reads a data set"
    ),
}


def config_class(command: Command) -> type:
    """The dataclass of a command; imports its room."""
    return getattr(importlib.import_module(command.module), command.config)


def configs_folder() -> Path:
    """The folder of recipes: inside an installed package, else at the top of the checkout."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def recipes() -> list[str]:
    """Names that `recipe=` takes."""
    return sorted(path.stem for path in (configs_folder() / "pretrain" / "recipe").glob("*.yaml"))


def compose_config(name: str, cls: type, overrides: list[str]) -> DictConfig:
    """Defaults, then the recipe if one is named (`recipe=NAME`), then the overrides.

    Raises:
        UserError: a key does not exist, a value has the wrong type, or a recipe is unknown.
    """
    store = ConfigStore.instance()
    store.store(name=f"jepa_{name}", node=cls)
    # Hydra wants a plus where a group is not in the defaults list; nobody who names a recipe should have to know.
    overrides = [f"+{text}" if text.startswith("recipe=") else text for text in overrides]
    try:
        # Only a command's own folder: Hydra takes every folder beside a recipe's for a group, and `policy=FILE` for
        # the choice of one.
        folder = configs_folder().resolve() / name
        start = (
            initialize_config_dir(str(folder), version_base="1.3")
            if folder.is_dir()
            else initialize(config_path=None, version_base="1.3")
        )
        with start:
            return compose(f"jepa_{name}", overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error, name, cls)) from error


def to_dataclass(name: str, config: DictConfig) -> Any:
    """Checks that every required key is there and builds the dataclass, whose own checks run then.

    Raises:
        UserError: a required key is missing, or a value is refused.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        keys = " ".join(f"{key}=..." for key in missing)
        raise UserError(f"`jepa {name}` needs {keys}; `jepa {name} --help` says what each key means.")
    try:
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(_first_line(error)) from error


def describe_keys(cls: type, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, default, meaning) of every field, nested ones with dots; the meaning is the string under the field."""
    docs = _doc_lines(cls)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from describe_keys(typing.cast(type, hints[field.name]), f"{prefix}{field.name}.")
            continue
        factory = field.default_factory
        default = factory() if factory is not dataclasses.MISSING else field.default
        shown = "required" if default == "???" else _show(default)
        yield prefix + field.name, shown, docs.get(field.name, "")


def _show(value: Any) -> str:
    if isinstance(value, list) and value and dataclasses.is_dataclass(value[0]):
        return f"[{len(value)} entries]"
    if isinstance(value, tuple):
        value = list(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _doc_lines(cls: type) -> dict[str, str]:
    """The string literals that follow the fields, of the class and those it inherits from."""
    docs: dict[str, str] = {}
    for owner in reversed(cls.__mro__[:-1]):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        body = typing.cast(ast.ClassDef, node).body
        for field, after in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                docs[typing.cast(ast.Name, field.target).id] = " ".join(ast.literal_eval(after.value).split())
    return docs


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _explain(error: Exception, name: str, cls: type) -> str:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    detail = _first_line(cause or error).rstrip(".")
    key = getattr(cause, "full_key", None)
    known = [k for k, _, _ in describe_keys(cls)]
    if key and key not in known and "not in" in detail:
        close = difflib.get_close_matches(key, known, n=3, cutoff=0.75)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        return f"`jepa {name}` has no key {key!r}. {hint}`jepa {name} --help` lists the keys."
    if "recipe/" in detail:
        return f"There is no such recipe ({detail}). The recipes are {', '.join(recipes())}."
    where = f"{key}: " if key else ""
    return f"`jepa {name}` cannot use what was given: {where}{detail}. `jepa {name} --help` lists the keys."
