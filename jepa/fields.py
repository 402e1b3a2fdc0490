"""Configuration dataclasses: their keys, doc lines, choices and saved form. Needs nothing but the standard library.

A field is a *choice* when its metadata names the dataclasses that it may hold:

    objective: Any = field(default_factory=MaskedPredictionConfig, metadata={"choices": OBJECTIVES})

`choices` is a dict, name -> dataclass, or a callable that returns one (so that names registered from outside appear).
Annotate the field as Any, or as a dataclass that all choices derive from. On the command line `objective=NAME` picks
the dataclass and `objective.key=value` sets a key of it.

The saved form (`config.yaml` of a run, and recipes) is a plain dict: the keys of a choice with its `name` first,
`objective: {name: masked_prediction, target: latents, ...}`. Without a name, the default choice is meant. `to_dict`
writes it and `from_dict` reads it; no dataclass that is a choice may have a key called `name`.

A field whose default is `path_key(...)` names a file or folder: the command line takes its value literally.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jepa.errors import UserError

# What a key's part was called in earlier versions, for the hint beside "no such key".
_RENAMED = {
    "data": "data.root",
    "max_bad_share": "max_bad_fraction",
    "bad_limit": "max_bad_fraction",
    "val_share": "val_fraction",
    "watch": "monitor",
    "recompute": "activation_checkpointing",
    "hidden": "ratio",
    "levels": "target_layers",
    "deep": "multi_layer",
    "changes": "temporally_centred",
    "components": "pca_components",
    "teacher": "target_encoder",
    "teacher_from": "target_encoder_from",
    "predict": "target",
    "truth": "annotations",
    "flicker": "temporal_noise",
    "omen_s": "precursor_s",
    "context_s": "window_s",
}

# Keys of earlier versions that have no successor, and what to do instead.
_GONE = {
    "data.mode": "Pretraining always takes random windows; `jepa probe` and `jepa embed` take fixed ones.",
}


def path_key(default: Any = dataclasses.MISSING) -> Any:
    """The default of a field that names a file or folder, or a list of them; "???" makes the key a required one.

    Example:
        >>> @dataclasses.dataclass
        ... class Config:
        ...     out: str = path_key("???")
        >>> is_path(dataclasses.fields(Config)[0])
        True
    """
    # dataclasses.field is typed by its default, and None or "???" would narrow the annotation of the key.
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"path": True})
    return dataclasses.field(default=default, metadata={"path": True})


def is_path(field: dataclasses.Field[Any]) -> bool:
    """Whether a field names a file or folder."""
    return bool(field.metadata.get("path"))


def choices(field: dataclasses.Field[Any]) -> dict[str, type]:
    """Name -> dataclass of a field that is a choice; empty for any other field.

    Raises:
        UserError: a dataclass among the choices has a key called `name`, which the saved form needs.
    """
    table = field.metadata.get("choices", {})
    table = dict(table() if callable(table) else table)
    for name, cls in table.items():
        if any(inner.name == "name" for inner in dataclasses.fields(cls)):
            raise UserError(
                f"{field.name}={name}: {cls.__name__} has a key `name`, which stands for the choice itself."
            )
    return table


def choose(field: dataclasses.Field[Any], name: str | None, prefix: str = "") -> type:
    """The dataclass that `name` stands for; None stands for the default.

    Raises:
        UserError: no choice has that name.
    """
    if name is None:
        return type(default_of(field))
    table = choices(field)
    if name not in table:
        close = difflib.get_close_matches(str(name), table, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"{prefix}{field.name}={name} is unknown.{hint} The choices are {', '.join(table)}.")
    return table[name]


def choice_name(field: dataclasses.Field[Any], cls: type) -> str:
    """The name under which `cls` is a choice of this field.

    Raises:
        UserError: it is registered under no name, so that no file could name it.
    """
    for name, known in choices(field).items():
        if known is cls:
            return name
    raise UserError(
        f"{field.name} holds a {cls.__name__}, which is not registered under a name; register it first."
    )


def default_of(field: dataclasses.Field[Any]) -> Any:
    """A field's default value; MISSING where it has none."""
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def hint_of(cls: type, name: str) -> Any:
    """The annotation of one field, resolved."""
    return typing.get_type_hints(cls)[name]


def to_dict(config: Any) -> dict[str, Any]:
    """The saved form of a configuration: plain dicts, lists and scalars, with the name of every choice.

    Example:
        >>> @dataclasses.dataclass
        ... class Near:
        ...     radius: float = 1.0
        >>> @dataclasses.dataclass
        ... class Config:
        ...     rule: Any = dataclasses.field(default_factory=Near, metadata={"choices": {"near": Near}})
        >>> to_dict(Config())
        {'rule': {'name': 'near', 'radius': 1.0}}
        >>> from_dict(Config, {"rule": {"name": "near", "radius": 2.0}})
        Config(rule=Near(radius=2.0))
    """
    saved: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        saved[field.name] = _plain(value)
        if choices(field):
            saved[field.name] = {"name": choice_name(field, type(value)), **saved[field.name]}
    return saved


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def from_dict(cls: type, saved: Mapping[str, Any], prefix: str = "") -> Any:
    """Builds the dataclass from its saved form; keys that are absent take their defaults.

    Raises:
        UserError: a key does not exist, a choice is unknown, or the dataclass refuses a value.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in saved.items():
        if key not in fields:
            raise UserError(unknown_key(prefix + key, [prefix + name for name in fields]))
        if choices(fields[key]) and isinstance(value, Mapping):
            inner = dict(value)
            chosen = choose(fields[key], inner.pop("name", None), prefix)
            values[key] = from_dict(chosen, inner, f"{prefix}{key}.")
        else:
            values[key] = _typed(hints[key], value, f"{prefix}{key}.")
    return cls(**values)


def _typed(hint: Any, value: Any, prefix: str) -> Any:
    hint = without_none(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(typing.cast(type, hint), value, prefix)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is list and isinstance(value, list):
        return [_typed(inner[0], item, f"{prefix}{number}.") for number, item in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return {key: _typed(inner[1], item, f"{prefix}{key}.") for key, item in value.items()}
    return tuple(value) if origin is tuple and isinstance(value, list | tuple) else value


def without_none(hint: Any) -> Any:
    """`X | None` -> `X`; anything else as it is."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        return parts[0] if len(parts) == 1 else hint
    return hint


def find_field(cls: type, key: str, chosen: Mapping[str, type]) -> tuple[Any, dataclasses.Field[Any]] | None:
    """(annotation, field) of a dotted key, or None where there is no such key.

    Args:
        cls: the command's dataclass.
        key: such as `data.mix.0.root`; numbers go into lists, any word into a dict.
        chosen: dotted key of a choice -> the dataclass that was chosen, where it is not the default.
    """
    current: Any = cls
    field: dataclasses.Field[Any] | None = None
    path: list[str] = []
    for part in key.split("."):
        path.append(part)
        current = without_none(current)
        if typing.get_origin(current) in (list, tuple) and part.isdigit():
            current = typing.get_args(current)[0]
        elif typing.get_origin(current) is dict:
            current = typing.get_args(current)[1]
        elif dataclasses.is_dataclass(current):
            fields = {inner.name: inner for inner in dataclasses.fields(current)}
            if part not in fields:
                return None
            field = fields[part]
            current = hint_of(typing.cast(type, current), part)
            if choices(field):
                current = chosen.get(".".join(path)) or type(default_of(field))
        else:
            return None
    assert field is not None
    return current, field


def describe_keys(
    cls: type, prefix: str = "", chosen: Mapping[str, type] | None = None
) -> Iterator[tuple[str, str, str]]:
    """(key, default, meaning) of every field, nested ones with dots; the meaning is the string under the field.

    A choice has a line of its own and then the keys of the dataclass that is chosen.
    """
    docs = _doc_lines(cls)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        key = prefix + field.name
        default = default_of(field)
        if table := choices(field):
            inner = (chosen or {}).get(key) or type(default)
            names = f"one of {', '.join(table)}"
            meaning = docs.get(field.name, "")
            yield key, choice_name(field, inner), f"{meaning}; {names}" if meaning else names
            yield from describe_keys(inner, f"{key}.", chosen)
        elif dataclasses.is_dataclass(hints[field.name]):
            yield from describe_keys(typing.cast(type, hints[field.name]), f"{key}.", chosen)
        else:
            yield (
                key,
                "required" if default in ("???", dataclasses.MISSING) else show_default(default),
                docs.get(field.name, ""),
            )


def unknown_key(key: str, known: Iterable[str]) -> str:
    """One sentence that names a key that does not exist and those that may have been meant."""
    known = list(known)
    if key in _GONE:
        return f"There is no key {key!r}. {_GONE[key]}"
    parts = [_RENAMED.get(part, part) for part in key.split(".")]
    renamed = [".".join(parts)] if ".".join(parts) != key and ".".join(parts) in known else []
    leaf = key.rpartition(".")[2]
    same_leaf = [other for other in known if other.rpartition(".")[2] == _RENAMED.get(leaf, leaf)]
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.75)
    close = list(dict.fromkeys(renamed or same_leaf[:3] or near))
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"There is no key {key!r}.{hint}"


def show_default(value: Any) -> str:
    """A default as `--help` shows it.

    Example:
        >>> show_default(None), show_default(True), show_default((1, 2))
        ('null', 'true', '[1, 2]')
    """
    plain = (str, int, float, bool, list, tuple, dict, type(None))
    if isinstance(value, list) and value and not isinstance(value[0], plain):
        return f"[{len(value)} entries]"
    if isinstance(value, tuple):
        value = list(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _doc_lines(cls: type) -> dict[str, str]:
    """The string literals that follow the fields, of the class and those it inherits from."""
    docs: dict[str, str] = {}
    for owner in reversed(cls.__mro__[:-1]):
        try:
            (node,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        except (OSError, TypeError):  # a class typed into an interpreter has no source to read
            continue
        body = typing.cast(ast.ClassDef, node).body
        for field, after in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                docs[typing.cast(ast.Name, field.target).id] = " ".join(ast.literal_eval(after.value).split())
    return docs
