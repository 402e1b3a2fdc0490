"""The IAB Content Taxonomy 3.1 and its four risk levels, as published by IAB Tech Lab (CC BY 3.0, see
assets/NOTICE).

Ids are strings and case-sensitive: `I4GWl6` is a category, `I4GWI6` is a misprint that circulates.
"""

from __future__ import annotations

import csv
import difflib
import functools
import hashlib
from importlib import resources
from typing import NamedTuple

from jepa.errors import UserError

VERSION = "3.1"
CATTAX = 9  # the number of Content Taxonomy 3.1 in AdCOM's list, as OpenRTB's `cattax` and `segtax` want it
SENSITIVE_TOPICS = "v9i3On"
RISK_ORDER = ("bsr004", "bsr003", "bsr002", "bsr001")  # low < medium < high < floor
RISK_NAMES = {"bsr001": "floor", "bsr002": "high", "bsr003": "medium", "bsr004": "low"}


class Category(NamedTuple):
    """One row: `path` lists the names from tier 1 down to this row; `special` marks privacy-sensitive data
    (SCD)."""

    id: str
    name: str
    parent: str | None
    path: tuple[str, ...]
    special: bool


@functools.cache
def _source() -> bytes:
    return resources.files("jepa.signals").joinpath("assets/iab-content-3.1.tsv").read_bytes()


@functools.cache
def categories() -> dict[str, Category]:
    """All 704 rows by id."""
    lines = _source().decode("utf-8").splitlines()[1:]
    rows = {row["id"]: row for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)}
    table = {}
    for key, row in rows.items():
        path, at = [row["name"]], row["parent"]
        while at:
            path.append(rows[at]["name"])
            at = rows[at]["parent"]
        names = tuple(row["tiers"].split(" > ")) if row["tiers"] else tuple(reversed(path))
        table[key] = Category(key, row["name"], row["parent"] or None, names, row["scd"] == "1")
    return table


def sha256() -> str:
    """Hex SHA-256 of the vendored table."""
    return hashlib.sha256(_source()).hexdigest()


def is_sensitive(identifier: str) -> bool:
    """Whether a category is one of the eleven brand-safety rows under Sensitive Topics."""
    return categories()[identifier].parent == SENSITIVE_TOPICS


def near_misses(identifier: str) -> list[str]:
    """Up to three ids that `identifier` may have been meant to be, with their names."""
    lowered = {key.lower(): key for key in categories()}
    close = difflib.get_close_matches(identifier.lower(), lowered, n=3, cutoff=0.6)
    return [f"{lowered[key]} ({categories()[lowered[key]].name})" for key in close]


def lookup(identifier: str) -> Category:
    """The row with this id.

    Raises:
        UserError: no such id; names similar ones.

    Example:
        >>> lookup("497").path
        ('Sports', 'Equine Sports', 'Horse Racing')
    """
    found = categories().get(identifier)
    if found is None:
        near = near_misses(identifier)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UserError(
            f"{identifier!r} is not an id of the IAB Content Taxonomy {VERSION}; ids are "
            f"case-sensitive.{hint}"
        )
    return found
