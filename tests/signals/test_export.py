"""Exports that other systems can read, and one that is added from outside."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from jepa.errors import UserError
from jepa.signals import export, register_export
from jepa.signals.document.objects import SignalsDocument
from jepa.signals.document.schema import parse_document


@pytest.fixture
def document(raw_document: str) -> SignalsDocument:
    return parse_document(raw_document, "story")


def test_openrtb_carries_allowed_breaks_only(document: SignalsDocument) -> None:
    requests = export.openrtb(document)
    allowed = [item for item in document.ads.breaks if item.verdict == "allow"]
    assert len(requests) == len(allowed) == 1
    video, content = requests[0]["imp"][0]["video"], requests[0]["site"]["content"]
    assert video["startdelay"] == round(allowed[0].at_ms / 1000) and video["plcmt"] == 1
    assert content["cattax"] == 9 and content["len"] == 9
    assert content["data"][0]["ext"]["segtax"] == 9 and content["data"][0]["ext"]["jepa"]["side"] == "before"
    assert all(isinstance(item["value"], str) for item in content["data"][0]["segment"])
    assert len(content["data"]) == 1  # a causal document holds nothing of what comes after


def test_vmap_is_schema_like_and_leaves_held_breaks_out(document: SignalsDocument) -> None:
    root = ElementTree.fromstring(export.vmap(document))
    space = "{http://www.iab.net/videosuite/vmap}"
    assert root.tag == f"{space}VMAP" and root.attrib == {"version": "1.0"}
    (node,) = root
    assert node.tag == f"{space}AdBreak"
    assert node.attrib == {"timeOffset": "00:00:06.100", "breakType": "linear", "breakId": "b5"}
    assert {child.tag for child in node} <= {
        f"{space}AdSource",
        f"{space}TrackingEvents",
        f"{space}Extensions",
    }


@pytest.mark.parametrize(
    ("milliseconds", "text"), [(0, "00:00:00.000"), (66_130, "00:01:06.130"), (36_000_999, "10:00:00.999")]
)
def test_clock(milliseconds: int, text: str) -> None:
    assert export.clock(milliseconds) == text


def test_table_holds_everything_with_a_time(document: SignalsDocument) -> None:
    rows = list(csv.DictReader(io.StringIO(export.table(document))))
    kinds = {
        kind: sum(row["kind"] == kind for row in rows)
        for kind in ("shot", "observed", "anticipated", "break")
    }
    assert kinds == {"shot": 7, "observed": 1, "anticipated": 3, "break": 6}
    assert [int(row["start_ms"]) for row in rows] == sorted(int(row["start_ms"]) for row in rows)
    assert export._cell("=1+1") == "'=1+1" and export._cell("calm") == "calm"


def test_an_export_is_added_from_outside(
    folder_of: Any, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_EXPORTS", dict(export._EXPORTS))
    register_export("breaks.txt", lambda document: "".join(f"{b.at_ms}\n" for b in document.ads.breaks))
    register_export("counts.json", lambda document: {"observed": len(document.observed)})
    folder = folder_of(video, tmp_path / "out")
    assert (folder / "breaks.txt").read_text().splitlines()[0] == "1500"
    assert json.loads((folder / "counts.json").read_text()) == {"observed": 1}
    assert (folder / "openrtb.json").exists()
    for name in ("signals.json", "openrtb.json"):
        with pytest.raises(UserError, match="written already"):
            register_export(name, str)
    with pytest.raises(UserError, match="may hold letters"):
        register_export("../up.txt", str)
