"""The vendored IAB Content Taxonomy."""

from __future__ import annotations

import pytest

from jepa.errors import UserError
from jepa.signals.document import taxonomy


def test_taxonomy_is_the_published_one() -> None:
    table = taxonomy.categories()
    assert len(table) == 704
    assert sum(row.parent is None for row in table.values()) == 37
    assert sum(row.special for row in table.values()) == 63
    assert sum(taxonomy.is_sensitive(name) for name in table) == 11
    assert table["I4GWl6"].path == ("Sensitive Topics", "Death, Injury, or Military Conflict")
    assert table["497"].path == ("Sports", "Equine Sports", "Horse Racing")
    assert all(row.parent is None or row.parent in table for row in table.values())
    with pytest.raises(UserError, match="I4GWl6"):
        taxonomy.lookup("I4GWI6")
