"""Commands and their configurations: dataclasses, merged with recipes and Hydra overrides.

Each command is a dataclass beside a function in some room; `COMMANDS` registers them. A configuration is made of the
dataclass's defaults, then a recipe (YAML, with Hydra's defaults lists), then the overrides of the command line. Every
mistake becomes one paragraph with the remedy.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jepa.errors import UserError, require
from jepa.fields import choice_name, choices, choose, describe_keys, find_field, unknown_key, without_none
from jepa.overrides import read_value

if TYPE_CHECKING:
    from omegaconf import DictConfig


class Command(NamedTuple):
    """Where a command lives: imported only when it is called, so that `jepa --help` is instant."""

    module: str
    config: str
    function: str
    summary: str
    bare: str = ""  # the key that a word without = stands for, if any
    many: str = ""  # the key that may be given several times, if any
    extra: str = ""  # what installs everything that the command needs, if the base install does not
    needs: tuple[str, ...] = ("hydra",)  # modules of that extra without which it cannot start
    example: str = ""  # a line to paste, for --help


COMMANDS = {
    "toyworld": Command(
        "jepa.toyworld.write",
        "ToyWorldConfig",
        "run",
        "make the built-in world",
        extra="toyworld",
        example="jepa toyworld out=world videos=40 seed=0",
        needs=("hydra", "pymunk"),
    ),
    "collect": Command(
        "jepa.toyworld.envs.collect",
        "CollectConfig",
        "run",
        "trajectories of a toy environment: videos, states, actions",
        extra="act",
        example="jepa collect env=push out=DIR",
    ),
    "pretrain": Command(
        "jepa.pretrain",
        "PretrainConfig",
        "train",
        "train an encoder; the same command continues it",
        extra="train",
        example="jepa pretrain recipe=small data.root=videos/ out=runs/a",
        needs=("hydra", "rich"),
    ),
    "export": Command(
        "jepa.pretrain.export",
        "ExportConfig",
        "run",
        "an encoder that others can load",
        extra="train",
        example="jepa export run=runs/a out=encoders/a",
    ),
    "report": Command(
        "jepa.pretrain.report",
        "ReportConfig",
        "run",
        "one page about a run, or several: is it learning?",
        bare="run",
        many="run",
        extra="train",
        example="jepa report runs/a runs/b out=report.html",
        needs=("hydra", "jinja2"),
    ),
    "probe": Command(
        "jepa.probes",
        "ProbeConfig",
        "run",
        "train and test a probe on a frozen encoder",
        extra="probes",
        example="jepa probe task=classify encoder=encoders/a data.root=labels.csv out=probes/a",
        needs=("hydra", "rich", "sklearn", "scipy", "jinja2"),
    ),
    "embed": Command(
        "jepa.probes.embed",
        "EmbedConfig",
        "run",
        "features or one vector of every video, as one file",
        extra="probes",
        example="jepa embed encoder=encoders/a data.root=videos/ out=vectors.npz",
    ),
    "signals": Command(
        "jepa.signals.command",
        "SignalsConfig",
        "run",
        "a video in; a document, exports and a report out",
        bare="video",
        extra="signals",
        example="jepa signals clip.mp4",
        needs=("hydra", "pydantic", "sklearn", "scipy", "jinja2"),
    ),
    "verify": Command(
        "jepa.signals.verify_command",
        "VerifyConfig",
        "run",
        "check a signals document and replay it",
        bare="path",
        extra="signals",
        example="jepa verify clip.signals",
        needs=("hydra", "pydantic"),
    ),
    "plan": Command(
        "jepa.act",
        "PlanConfig",
        "run",
        "act in an environment with a trained world model",
        extra="act",
        example="jepa plan model=DIR env=push out=DIR",
    ),
    "shard": Command(
        "jepa.data.shards",
        "ShardConfig",
        "run",
        "pack many small videos into a few large files",
        extra="cli",
        example="jepa shard data.root=videos/ out=shards",
    ),
    "bench": Command(
        "jepa.bench",
        "BenchConfig",
        "run",
        "how fast training, decoding, probing and signals are here",
        extra="cli",
        example="jepa bench what=decode data.root=videos/",
        needs=("hydra", "rich"),
    ),
    "doctor": Command(
        "jepa.doctor",
        "DoctorConfig",
        "run",
        "what works on this machine; data.root=... reads a data set",
        extra="cli",
        example="jepa doctor",
        needs=("hydra", "rich"),
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


def recipes(command: str = "pretrain", folder: str | None = None) -> list[str]:
    """Names that `recipe=` takes for a command: the package's own, and those of `--config-dir`."""
    folders = [configs_folder() / command / "recipe"]
    folders += [Path(folder), Path(folder) / "recipe"] if folder else []
    return sorted({path.stem for searched in folders for path in searched.glob("*.yaml")})


def compose_config(name: str, cls: type, overrides: list[str], config_dir: str | None = None) -> DictConfig:
    """Defaults, then the recipe if one is named, then the overrides.

    Args:
        name: the command.
        cls: its dataclass.
        overrides: `key=value`, `++key=value`, `+key=value` (a new entry of a dict), `~key` (back to the default,
            whatever the recipe sets), `recipe=NAME` or `recipe=FILE.yaml`. Text is kept as it was written; the name of
            a file or folder is taken literally, whatever signs it holds.
        config_dir: a folder with recipes of one's own, searched before the package's.

    Raises:
        UserError: a key does not exist, a value has the wrong type, or a recipe is unknown.

    Example:
        >>> from jepa.toyworld import ToyWorldConfig
        >>> compose_config("toyworld", ToyWorldConfig, ["out=2026_11_28", "videos=3"]).out
        '2026_11_28'
    """
    require("hydra", COMMANDS[name].extra if name in COMMANDS else "train")
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    # In `jepa bench` the recipe is a key like others: it belongs to the run that is timed.
    key = r"(?!)" if find_field(cls, "recipe", {}) else r"\+?recipe="
    given = [text for text in overrides if not re.match(key, text)]
    named = [text.partition("=")[2] for text in overrides if re.match(key, text)]
    recipe = _load_recipe(name, named[-1], config_dir) if named else {}
    dropped = [text[1:].partition("=")[0] for text in given if text.startswith("~")]
    # `objective=NAME` picks a dataclass, and its keys exist only then; so choices come first.
    chosen, recipe = _choose(cls, recipe, [text for text in given if not text.startswith("~")], name, dropped)
    config = OmegaConf.structured(cls)
    for key, chosen_class in chosen.items():
        OmegaConf.update(config, key, OmegaConf.structured(chosen_class), merge=False)
    try:
        for key in dropped:
            if find_field(cls, key, chosen) is None:
                raise UserError(_no_such_key(name, cls, chosen, key))
            _forget(recipe, key.split("."))
        config.merge_with(OmegaConf.create(recipe))
        for text in given:
            if not text.startswith("~") and text.partition("=")[0].lstrip("+") not in chosen:
                _override(config, name, cls, chosen, text)
    except OmegaConfBaseException as error:
        raise UserError(_explain(error, name, cls, chosen)) from error
    return config


def to_dataclass(name: str, config: DictConfig) -> Any:
    """Checks that every required key is there and builds the dataclass, whose own checks run then.

    Raises:
        UserError: a required key is missing, or a value is refused.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        keys = " ".join(f"{key}=..." for key in missing)
        raise UserError(f"`jepa {name}` needs {keys}; `jepa {name} --help` says what each key means.")
    try:
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(_first_line(error)) from error


def to_yaml(cls: type, config: DictConfig) -> str:
    """The configuration as YAML with the name of every choice; `--cfg job` prints it and `recipe=` reads it."""
    from omegaconf import OmegaConf

    saved = OmegaConf.to_container(config)
    for key, field in choice_keys(cls).items():
        *parents, last = key.split(".")
        holder: Any = saved
        for part in parents:
            holder = holder[part]
        node = OmegaConf.select(config, key)
        holder[last] = {
            "name": choice_name(field, typing.cast(type, OmegaConf.get_type(node))),
            **holder[last],
        }
    return OmegaConf.to_yaml(OmegaConf.create(saved))


def choice_keys(cls: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> field of every choice of a command, but not of choices inside choices."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if choices(field):
            found[prefix + field.name] = field
        elif dataclasses.is_dataclass(hints[field.name]):
            found |= choice_keys(typing.cast(type, hints[field.name]), f"{prefix}{field.name}.")
    return found


def chosen_classes(cls: type, overrides: list[str]) -> dict[str, type]:
    """The dataclasses that `objective=NAME` and its like pick among `overrides`, by key.

    Raises:
        UserError: no choice has that name.
    """
    fields = choice_keys(cls)
    picked: dict[str, type] = {}
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key in fields:
            picked[key] = choose(fields[key], value, key[: -len(fields[key].name)])
    return picked


def _choose(
    cls: type, recipe: dict[str, Any], given: list[str], name: str, dropped: list[str]
) -> tuple[dict[str, type], dict[str, Any]]:
    """The chosen dataclass of every choice, and the recipe without names and without keys of what was not chosen."""
    picked = chosen_classes(cls, given)
    chosen: dict[str, type] = {}
    for key, field in choice_keys(cls).items():
        *parents, last = key.split(".")
        holder: Any = recipe
        for part in parents:
            holder = holder.get(part, {})
        stated = holder.get(last, {})
        stated = {"name": stated} if isinstance(stated, str) else dict(stated)
        from_recipe = choose(field, None if key in dropped else stated.pop("name", None), key[: -len(last)])
        chosen[key] = picked.get(key, from_recipe)
        if last in holder:
            # A recipe's keys belong to the objective that the recipe is for.
            holder[last] = stated if chosen[key] is from_recipe else {}
    return chosen, recipe


def _forget(recipe: dict[str, Any], parts: list[str]) -> None:
    for part in parts[:-1]:
        recipe = recipe.get(part, {})
    recipe.pop(parts[-1], None)


def _load_recipe(name: str, recipe: str, config_dir: str | None) -> dict[str, Any]:
    """A recipe by name or by file, with the recipes that its defaults list names, as a plain dict.

    Raises:
        UserError: there is none of that name, or it cannot be read.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    own = configs_folder().resolve() / name / "recipe"
    folders = [*([Path(config_dir), Path(config_dir) / "recipe"] if config_dir else []), own]
    if recipe.endswith((".yaml", ".yml")):
        path = Path(recipe).absolute()
        if not path.is_file():
            raise UserError(f"recipe={recipe}: there is no such file.")
    else:
        found = [folder / f"{recipe}.yaml" for folder in folders if (folder / f"{recipe}.yaml").is_file()]
        if not found:
            names = ", ".join(recipes(name, config_dir))
            known = f"The recipes are {names}" if names else f"`jepa {name}` comes with none"
            raise UserError(f"There is no recipe {recipe!r}. {known}; a file is recipe=PATH.yaml.")
        path = found[0].absolute()
    try:
        with initialize_config_dir(str(path.parent), version_base="1.3"):
            # So that a defaults list in a recipe of one's own may name a recipe of the package.
            search = f"hydra.searchpath=['file://{own}']"
            config = compose(path.stem, overrides=[search] if own.is_dir() else [])
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"recipe={recipe} cannot be read: {_first_line(error)}") from error


def _override(config: DictConfig, name: str, cls: type, chosen: Mapping[str, type], text: str) -> None:
    """Applies one `key=value` to the configuration.

    Raises:
        UserError: the key does not exist, or a single plus stands before one that exists already.
    """
    from omegaconf import OmegaConf

    written, equals, value = text.partition("=")
    key = written.lstrip("+")
    found = find_field(cls, key, chosen) if equals and key else None
    if found is None:
        raise UserError(_no_such_key(name, cls, chosen, key))
    if written == f"+{key}" and not _inside_a_dict(cls, key, chosen):
        raise UserError(f"+{key} would add a key, and `jepa {name}` has {key} already; write {key}={value}.")
    OmegaConf.update(config, key, read_value(key, value, *found), merge=True)


def _inside_a_dict(cls: type, key: str, chosen: Mapping[str, type]) -> bool:
    parent = find_field(cls, key.rpartition(".")[0], chosen) if "." in key else None
    return parent is not None and typing.get_origin(without_none(parent[0])) is dict


def _no_such_key(name: str, cls: type, chosen: Mapping[str, type], key: str) -> str:
    # Keys of a choice that was not picked are known as well: the hint then names the choice.
    for choice, field in choice_keys(cls).items():
        for other, known in choices(field).items():
            if (
                known is not chosen.get(choice)
                and find_field(cls, key, {**chosen, choice: known}) is not None
            ):
                return f"`jepa {name}` has {key} only with {choice}={other}."
    sentence = unknown_key(key, [known for known, _, _ in describe_keys(cls, chosen=chosen)])
    return sentence.replace("There is", f"`jepa {name}` has", 1) + f" `jepa {name} --help` lists the keys."


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _explain(error: Exception, name: str, cls: type, chosen: Mapping[str, type]) -> str:
    detail = _first_line(error).rstrip(".")
    key = re.sub(r"\[(\d+)\]", r".\1", str(getattr(error, "full_key", None) or ""))
    if key and find_field(cls, key, chosen) is None:
        return _no_such_key(name, cls, chosen, key)
    where = f"{key}: " if key else ""
    return f"`jepa {name}` cannot use what was given: {where}{detail}. `jepa {name} --help` lists the keys."
