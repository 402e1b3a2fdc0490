"""Configs as JSON: reading those of older versions, and the form that fingerprints are taken of."""

from __future__ import annotations

import dataclasses
from typing import Any

from jepa.errors import UserError

# What exports of schema jepa.encoder/1 call a field, its name now, and what to add to an old value to get a new one:
# `level_layers` counted blocks from 0, `output_layers` counts depths, of which 0 is the patch embedding.
_RENAMED = {"level_layers": ("output_layers", 1), "levels": ("target_layers", 0)}


def from_document(kind: type, fields: dict[str, Any]) -> Any:
    """Makes a config dataclass from JSON data; lists become tuples, fields of older versions get their new names.

    Raises:
        UserError: a field is missing or unknown.

    Example:
        >>> from jepa.models import EncoderConfig
        >>> stored = in_first_schema(EncoderConfig(48, 4, 2, 96, output_layers=(2, 4)))
        >>> from_document(EncoderConfig, stored).output_layers
        (2, 4)
    """
    for old, (new, step) in _RENAMED.items():
        if old in fields and new not in fields:
            fields = {**fields, new: _shifted(fields[old], step)}
            del fields[old]
    known = {field.name for field in dataclasses.fields(kind)}
    if set(fields) != known:
        raise UserError(
            f"a stored {kind.__name__} does not fit this version: missing {sorted(known - set(fields))}, "
            f"unknown {sorted(set(fields) - known)}."
        )
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    )


def in_first_schema(config: Any) -> dict[str, Any]:
    """A config's fields under their first names, for fingerprints, which must not change when a field is renamed.

    Example:
        >>> from jepa.models import EncoderConfig
        >>> in_first_schema(EncoderConfig(48, 4, 2, 96, output_layers=(2, 4)))["level_layers"]
        (1, 3)
    """
    fields = dataclasses.asdict(config)
    for old, (new, step) in _RENAMED.items():
        if new in fields:
            fields[old] = _shifted(fields.pop(new), -step)
    return fields


def _shifted(value: Any, step: int) -> Any:
    return type(value)(one + step for one in value) if isinstance(value, (list, tuple)) else value + step
