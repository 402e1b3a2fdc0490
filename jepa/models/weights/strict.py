"""Building modules around loaded tensors, with every key accounted for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from jepa.errors import UserError

Module = TypeVar("Module", bound=nn.Module)
_MAX_NAMED = 24


def build_strictly(make: Callable[[], Module], state: dict[str, Tensor], source: str) -> Module:
    """Builds a module on the meta device and makes `state` its parameters, without copying a tensor.

    Args:
        make: builds the module.
        state: tensors by parameter name.
        source: where they come from, for the message.

    Raises:
        UserError: keys are missing, unexpected or misshapen, or a tensor is not of floating point; all are
            named.
    """
    with torch.device("meta"):
        module = make()
    expected = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "misshapen": [
            f"{name} is {list(state[name].shape)} instead of {shape}"
            for name, shape in expected.items()
            if name in state and list(state[name].shape) != shape
        ],
        "not floating point": [name for name in state if not state[name].is_floating_point()],
    }
    problems = [f"{label}: {_listed(names)}" for label, names in found.items() if names]
    if problems:
        raise UserError(
            f"the weights in {source} do not fit the {type(module).__name__} that they were read as; "
            f"{'; '.join(problems)}. Nothing was loaded: name the architecture that they were saved from, or "
            f"get the file again."
        )
    module.load_state_dict(state, assign=True)
    return module.eval()


def _listed(names: list[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


# Fields of stored configs as exports of schema jepa.encoder/1 name them: the new name, and the new value of an old one.
# `level_layers` counted blocks from 0, `output_layers` counts depths, of which 0 is the patch embedding.
_RENAMED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "level_layers": ("output_layers", lambda layers: [layer + 1 for layer in layers]),
    "levels": ("target_layers", lambda count: count),
}


def from_document(kind: type, fields: dict[str, Any]) -> Any:
    """Makes a config dataclass from JSON data; lists become tuples, fields of older versions get their new names.

    Raises:
        UserError: a field is missing or unknown.
    """
    for old, (new, convert) in _RENAMED.items():
        if old in fields and new not in fields:
            fields = {name: value for name, value in fields.items() if name != old} | {
                new: convert(fields[old])
            }
    known = {field.name for field in dataclasses.fields(kind)}
    if set(fields) != known:
        raise UserError(
            f"a stored {kind.__name__} does not fit this version: missing {sorted(known - set(fields))}, "
            f"unknown {sorted(set(fields) - known)}."
        )
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    )
