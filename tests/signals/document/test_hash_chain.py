"""The hash chain: what it covers, in which order, and what a change to it looks like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jepa.signals.document.hash_chain import GENESIS, canonical, chain_faults, link_hash, read_document


def test_round_trip_and_chain(raw_document: str, tmp_path: Path) -> None:
    path = tmp_path / "signals.json"
    path.write_text(raw_document)
    document = read_document(path)
    assert document.model_dump(mode="json", by_alias=True) == json.loads(raw_document)
    first = document.log.entries[0]
    assert first.hash == link_hash(GENESIS, "schema", "schema", "jepa.signals/3")
    order = [(entry.kind, entry.id) for entry in document.log.entries]
    assert order.index(("anticipated", "a1")) < order.index(("resolution", "a1"))
    assert order.index(("resolution", "a1")) < order.index(("anticipated", "a2"))


def test_canonical_json_is_one_to_one() -> None:
    assert canonical({"b": 1, "a": [0.1, "\u00e9"]}) == '{"a":[0.1,"\u00e9"],"b":1}'.encode()
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    assert canonical({"a": 0.1}) != canonical({"a": 0.1000001})
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("inf"))


def test_removed_and_added_objects_are_named(raw_document: str) -> None:
    raw = json.loads(raw_document)
    gone = raw["anticipated"].pop(1)
    assert any(gone["id"] in fault for fault in chain_faults(raw))
    raw["anticipated"].insert(1, gone)
    assert chain_faults(raw) == []
    raw["evidence"].append(raw["evidence"][0] | {"id": "e99"})
    assert any("evidence e99 is not in the log" in fault for fault in chain_faults(raw))
