"""A command's keys, read from the source text of its dataclasses: importing them would import torch, which takes
seconds, and a typo should be refused at once.

What the text does not settle, such as the choices of `objective=`, is left to `jepa.fields`, which imports the
classes. A test compares the two for every command.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jepa.fields import show_default

_PLAIN = {"str", "int", "float", "bool", "None"}


class StaticKey(NamedTuple):
    """One key. `open`: it may have keys below it that the text does not show."""

    name: str
    default: str
    meaning: str
    open: bool


class UnsettledError(Exception):
    """The source text does not settle a value or a class."""


class _Instance:
    """An object in a default, which is only counted."""


def static_keys(module: str, cls: str) -> list[StaticKey]:
    """All keys of a dataclass, nested ones with dots, in order.

    Args:
        module: of this package.
        cls: name of a dataclass in it.

    Raises:
        UnsettledError: the text does not settle them.

    Example:
        >>> [key.name for key in static_keys("jepa.toyworld.config", "ToyWorldConfig")][:2]
        ['out', 'videos']
    """
    return list(_keys(module, cls, ""))


def _keys(module: str, cls: str, prefix: str) -> Iterator[StaticKey]:
    for owner, annotation, value, doc in _fields(module, cls).values():
        name = prefix + str(annotation[0])
        factory = _factory(value)
        if isinstance(value, ast.Call) and any(word.arg in ("metadata", "init") for word in value.keywords):
            # A choice: its names are known to the registry alone, its default may be shown.
            yield StaticKey(name, "", doc, open=True)
            if isinstance(factory, ast.Name):
                yield from _keys(*_find_class(owner, factory.id), f"{name}.")
        elif (nested := _nested(owner, annotation[1])) is not None:
            yield from _keys(*nested, f"{name}.")
        else:
            default = "required" if value is None else show_default(_default(owner, value))
            yield StaticKey(
                name, "required" if default == "???" else default, doc, not _is_plain(annotation[1])
            )


def _fields(module: str, cls: str) -> dict[str, tuple[str, tuple[str, ast.expr], ast.expr | None, str]]:
    """Name -> (module, (name, annotation), default, doc line) of every field, those of base classes first."""
    home, node = _class(module, cls)
    found: dict[str, Any] = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            found |= _fields(*_find_class(home, base.id))
        else:
            raise UnsettledError(ast.unparse(base))
    following = [*node.body[1:], ast.Pass()]
    for field, after in zip(node.body, following, strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = after.value if isinstance(after, ast.Expr) else None
            doc = " ".join(str(text.value).split()) if isinstance(text, ast.Constant) else ""
            found[field.target.id] = home, (field.target.id, field.annotation), field.value, doc
    return found


@functools.cache
def _tree(module: str) -> ast.Module:
    path = Path(__file__).parent.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not module.startswith("jepa") or not path.is_file():
        raise UnsettledError(module)
    return ast.parse(path.read_text(encoding="utf-8"))


def _find_class(module: str, name: str) -> tuple[str, str]:
    """The module that defines a class, and its name there, through imports; lazy packages list theirs as imports."""
    return (module, name) if _defined(module, name) else _imported(module, name)


def _defined(module: str, name: str) -> bool:
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in _tree(module).body)


def _imported(module: str, name: str) -> tuple[str, str]:
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "jepa":
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find_class(node.module, alias.name)
    raise UnsettledError(f"{module}.{name}")


def _class(module: str, name: str) -> tuple[str, ast.ClassDef]:
    home, name = _find_class(module, name)
    (node,) = (n for n in _tree(home).body if isinstance(n, ast.ClassDef) and n.name == name)
    return home, node


def _nested(module: str, annotation: ast.expr) -> tuple[str, str] | None:
    """The dataclass that an annotation names."""
    if not isinstance(annotation, ast.Name) or annotation.id in _PLAIN:
        return None
    try:
        home, node = _class(module, annotation.id)
    except UnsettledError:
        return None
    return (home, node.name) if any("dataclass" in ast.unparse(d) for d in node.decorator_list) else None


def _is_plain(annotation: ast.expr) -> bool:
    if isinstance(annotation, ast.BinOp):
        return _is_plain(annotation.left) and _is_plain(annotation.right)
    return ast.unparse(annotation) in _PLAIN


def _factory(value: ast.expr | None) -> ast.expr | None:
    if isinstance(value, ast.Call):
        return next((word.value for word in value.keywords if word.arg == "default_factory"), None)
    return None


def _default(module: str, value: ast.expr) -> Any:
    factory = _factory(value)
    if isinstance(factory, ast.Lambda):
        return _evaluate(module, factory.body)
    if isinstance(factory, ast.Name) and factory.id in ("list", "dict", "tuple"):
        return {"list": [], "dict": {}, "tuple": ()}[factory.id]
    if factory is not None:
        raise UnsettledError(ast.unparse(factory))
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "path_key":
        return _evaluate(module, value.args[0]) if value.args else "???"
    return _evaluate(module, value)


def _evaluate(module: str, node: ast.expr) -> Any:
    """The value of a literal, of arithmetic on numbers, or of a constant by name."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_evaluate(module, entry) for entry in node.elts]
    if isinstance(node, ast.BinOp | ast.UnaryOp) and not any(
        not isinstance(n, ast.Constant | ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop)
        for n in ast.walk(node)
    ):
        return eval(compile(ast.Expression(node), "<default>", "eval"), {"__builtins__": {}})
    if isinstance(node, ast.Name):
        return _constant(module, node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in ("list", "tuple") and len(node.args) == 1:
            return list(_evaluate(module, node.args[0]))
        return _Instance()
    raise UnsettledError(ast.unparse(node))


def _constant(module: str, name: str) -> Any:
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in node.targets
        ):
            return _evaluate(module, node.value)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("jepa"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _constant(node.module, alias.name)
    raise UnsettledError(f"{module}.{name}")
