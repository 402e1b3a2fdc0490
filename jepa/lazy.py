"""Lazy names of a package, as in Scientific Python's SPEC 1: loaded on first use, and known to type checkers.

A package lists its names once, as imports for type checkers, and calls `attach`:

    if TYPE_CHECKING:
        from jepa.models.registry import create_model as create_model

    attach(globals())
"""

from __future__ import annotations

import ast
import importlib
from typing import Any

from jepa.errors import require


def attach(package: dict[str, Any], extra: str | None = None) -> None:
    """Gives a package `__all__`, `__dir__` and a `__getattr__` that loads the names under `if TYPE_CHECKING:`.

    Args:
        package: `globals()` of its `__init__`.
        extra: the extra of `jepa-video` to name where a module that its parts import is not installed.
    """
    name = package["__name__"]
    homes = _homes(package["__loader__"].get_source(name))

    def load(attribute: str) -> Any:
        if attribute not in homes:
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        home = homes[attribute]
        try:
            value = importlib.import_module(f"{home}.{attribute}" if home == name else home)
        except ModuleNotFoundError as error:
            if extra is None or error.name is None or error.name.partition(".")[0] == "jepa":
                raise
            require(error.name, extra)  # raises, and names what to install
            raise
        package[attribute] = value if home == name else getattr(value, attribute)
        return package[attribute]

    package["__all__"] = list(homes)
    package["__getattr__"] = load
    package["__dir__"] = lambda: sorted({*package, *homes})


def _homes(source: str) -> dict[str, str]:
    """Name -> module of every import under `if TYPE_CHECKING:`."""
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
