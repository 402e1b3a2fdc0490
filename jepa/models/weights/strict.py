"""Building modules around loaded tensors, with every key accounted for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

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
