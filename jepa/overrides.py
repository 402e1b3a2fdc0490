"""Hydra overrides (`key=value`): a value is read by the type of its key.

Hydra's grammar would read `out=2026_11_28` as a number and `video=a,b.mp4` as a sweep. Here the type of the key
decides: text stays as it was written, and a key that names a file or folder takes whatever signs a file name may hold.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from jepa.errors import UserError
from jepa.fields import is_path, without_none


def read_value(key: str, text: str, hint: Any, field: dataclasses.Field[Any]) -> Any:
    """The value that `text` stands for, given the annotation of its key.

    Raises:
        UserError: an empty path, or a value that Hydra's grammar does not read.
    """
    if is_path(field):
        return _path(key, text, hint, field)
    plain = without_none(hint)
    if plain is str:
        return _text(text, optional=plain is not hint)
    # In [1.10, 2] the elements of a list of strings are strings, too; anything quoted is left to the grammar.
    if typing.get_origin(plain) is list and typing.get_args(plain) == (str,) and _is_plain_list(text):
        return [item.strip() for item in text[1:-1].split(",") if item.strip()]
    override = parse(f"{key}={text}")
    if override.is_sweep_override():
        raise UserError(
            f"{key}={text} is a sweep over several values; add --multirun (-m) to run each of them."
        )
    return override.value()


def parse(text: str) -> Any:
    """Hydra's reading of one override.

    Raises:
        UserError: the grammar does not allow it.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{text} cannot be read: {reason}. Quote text with special signs, key=\"'...'\"."
        ) from error


def _is_plain_list(text: str) -> bool:
    return (
        text.startswith("[") and text.endswith("]") and not any(sign in text[1:-1] for sign in "'\"[]{}()$")
    )


def _path(key: str, text: str, hint: Any, field: dataclasses.Field[Any]) -> Any:
    default = field.default
    # A required key, or one with a name for its default, has no meaning for "nothing".
    if not text.strip() and default != "":
        remedy = f"write {key}=null for none" if default is None else "name one"
        raise UserError(f"{key}= is empty, and it stands for a file or folder; {remedy}.")
    if text == "null" and default is None:
        return None
    if hint is Any or typing.get_origin(without_none(hint)) is list:
        # Several paths are a list in brackets; quotes protect commas in it.
        if text.startswith("[") and text.endswith("]"):
            return [str(item) for item in parse(f"{key}={text}").value()]
        return [_literal(text)]
    return _literal(text)


def _literal(text: str) -> str:
    return text.replace("${", "\\${")  # OmegaConf would look up what stands in ${...}


def _text(text: str, optional: bool) -> str | None:
    if optional and text == "null":
        return None
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].replace(f"\\{text[0]}", text[0])
    return text
