"""Strict loading: modules built around loaded tensors with every key accounted for, and names without wrappers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from jepa.errors import UserError

Module = TypeVar("Module", bound=nn.Module)
_MAX_NAMED = 24
_WRAPPERS = re.compile(r"(^|\.)(?:(?:_orig_mod|module|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.)+")


def build_strictly(make: Callable[[], Module], state: dict[str, Tensor], source: str) -> Module:
    """Builds a module on the meta device and makes `state` its parameters, without copying a tensor.

    Args:
        make: builds the module.
        state: tensors by parameter name.
        source: where they come from, for the message.

    Raises:
        UserError: keys are missing, unexpected or misshapen, or a tensor is not of floating point; all are
            named.

    Example:
        >>> state = nn.Linear(2, 3).state_dict()
        >>> build_strictly(lambda: nn.Linear(2, 3), state, "a file").weight is not None
        True
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


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside the wrappers of `torch.compile`, DistributedDataParallel and DataParallel.

    Example:
        >>> inner = nn.Linear(2, 2)
        >>> unwrapped(torch.compile(nn.DataParallel(inner))) is inner
        True
    """
    while True:
        if isinstance(inner := getattr(module, "_orig_mod", None), nn.Module) or (
            isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel))
            and isinstance(inner := module.module, nn.Module)
        ):
            module = inner
        else:
            return module


def clean_names(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """A state dict without what wrappers put into its names, such as `_orig_mod.` and `module.`.

    Raises:
        UserError: two tensors get the same name.

    Example:
        >>> list(clean_names({"module._orig_mod.blocks.0._orig_mod.weight": torch.zeros(1)}, "a file"))
        ['blocks.0.weight']
    """
    cleaned = {_WRAPPERS.sub(r"\1", name): tensor for name, tensor in state.items()}
    if len(cleaned) != len(state):
        raise UserError(
            f"{source} holds weights whose names differ only by a wrapper's prefix; save one of them."
        )
    return cleaned
