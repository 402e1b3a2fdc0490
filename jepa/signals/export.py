"""Exports of a document for other systems: OpenRTB 2.6, VMAP 1.0.1 and CSV; and the registry of exports.

OpenRTB and VMAP hold only the breaks that the policy allows.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jepa.errors import UserError
from jepa.files import write_json, write_text
from jepa.signals.document import taxonomy
from jepa.signals.document.objects import Break, Segment, SignalsDocument

_VMAP = "http://www.iab.net/videosuite/vmap"
_OURS = "urn:jepa:signals:1"

Export = Callable[[SignalsDocument], Any]
_EXPORTS: dict[str, Export] = {}


def register_export(name: str, function: Export) -> None:
    """Adds a file that `jepa signals` writes beside each document.

    Args:
        name: the file's name, such as "markers.edl".
        function: makes its content from a document: a text, or lists and dicts that become JSON.

    Raises:
        UserError: the name is taken, or is no plain file name.

    Example:
        >>> register_export("count.txt", lambda document: str(len(document.ads.breaks)))
        >>> "count.txt" in list_exports()
        True
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"the export's name {name!r} may hold letters, digits, '.', '_' and '-' only.")
    if name in ("signals.json", "report.html") or _EXPORTS.get(name, function) is not function:
        raise UserError(f"a file called {name} is written already. Choose another name.")
    _EXPORTS[name] = function


def list_exports() -> list[str]:
    """The files that are written beside each document, in the order of their registration."""
    return list(_EXPORTS)


def write_exports(folder: str | Path, document: SignalsDocument) -> None:
    """Writes every registered export of a document into a folder."""
    for name, function in _EXPORTS.items():
        content = function(document)
        if isinstance(content, str):
            write_text(Path(folder) / name, content)
        else:
            write_json(Path(folder) / name, content)


def allowed_breaks(document: SignalsDocument) -> list[Break]:
    """The breaks whose verdict is allow, in order of time."""
    return [item for item in document.ads.breaks if item.verdict == "allow"]


def openrtb(document: SignalsDocument) -> list[dict[str, Any]]:
    """One OpenRTB 2.6 bid request per allowed break, with the categories of the scene that it interrupts or, for
    pre-roll, precedes.

    `cattax` and `segtax` are 9, Content Taxonomy 3.1, since the default of `cattax` is a deprecated taxonomy.
    A causal document has nothing on the scene after the break, because it has not been observed.
    """
    segments = {segment.scene: segment for segment in document.ads.segments}
    requests = []
    for item in allowed_breaks(document):
        before = [scene for scene in document.timeline.scenes if scene.start_ms < item.at_ms]
        after = [scene for scene in document.timeline.scenes if scene.end_ms > item.at_ms]
        scenes = [("before", segments[before[-1].id])] if before and before[-1].id in segments else []
        if not document.run.causal and after and after[0].id in segments:
            scenes.append(("after", segments[after[0].id]))
        cats = scenes[0][1].cats if scenes else []
        requests.append(
            {
                "id": f"{document.asset.id}-{item.id}",
                "imp": [
                    {
                        "id": item.id,
                        "video": {
                            "mimes": ["video/mp4"],
                            "plcmt": 1,
                            # 0 means pre-roll.
                            "startdelay": max(1, round(item.at_ms / 1000)) if item.at_ms else 0,
                            "podid": item.id,
                        },
                    }
                ],
                "site": {
                    "content": {
                        "id": document.asset.id,
                        "len": round(document.asset.duration_ms / 1000),
                        "context": 1,
                        "cattax": taxonomy.CATTAX,
                        "cat": [cat.id for cat in cats],
                        "data": [_data(document, side, segment) for side, segment in scenes],
                    }
                },
            }
        )
    return requests


def _data(document: SignalsDocument, side: str, segment: Segment) -> dict[str, Any]:
    return {
        "id": f"jepa-{side}",
        "segment": [{"id": cat.id, "name": cat.path[-1], "value": f"{cat.p:.2f}"} for cat in segment.cats],
        "ext": {
            "segtax": taxonomy.CATTAX,
            "jepa": {
                "side": side,
                "scene": segment.scene,
                "run": document.run.run_id,
                "log": document.log.hash,
            },
        },
    }


def vmap(document: SignalsDocument) -> str:
    """VMAP 1.0.1 with one linear AdBreak per allowed break; score and decision stand in an extension of our
    own.

    The ad sources are for the ad server to fill in.
    """
    ElementTree.register_namespace("vmap", _VMAP)
    ElementTree.register_namespace("jepa", _OURS)
    root = ElementTree.Element(f"{{{_VMAP}}}VMAP", {"version": "1.0"})
    for item in allowed_breaks(document):
        offset = clock(item.at_ms) if item.at_ms else "start"  # VMAP's word for pre-roll
        attributes = {"timeOffset": offset, "breakType": "linear", "breakId": item.id}
        node = ElementTree.SubElement(root, f"{{{_VMAP}}}AdBreak", attributes)
        extensions = ElementTree.SubElement(node, f"{{{_VMAP}}}Extensions")
        extension = ElementTree.SubElement(extensions, f"{{{_VMAP}}}Extension", {"type": "jepa.signals"})
        attributes = {"score": f"{item.score:.4f}", "decision": item.decision, "log": document.log.hash}
        ElementTree.SubElement(extension, f"{{{_OURS}}}Break", attributes)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def clock(milliseconds: int) -> str:
    """Milliseconds as VMAP's hh:mm:ss.mmm."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:03d}"


def table(document: SignalsDocument) -> str:
    """Everything with a time, one line each, as CSV: for spreadsheets and editing tools."""
    rows: list[list[Any]] = []
    for shot in document.timeline.shots:
        rows.append(["shot", shot.id, shot.start_ms, shot.end_ms, shot.kind, "", "", "", ""])
    for scene in document.timeline.scenes:
        rows.append(["scene", scene.id, scene.start_ms, scene.end_ms, "", "", "", "", ""])
    decided = {decision.subject: decision for decision in document.decisions}
    for span in document.observed:
        rows.append(["observed", span.id, span.start_ms, span.end_ms, span.label, span.cat, span.p, "", ""])
    for forecast in document.anticipated:
        p = next(point.p for point in forecast.curve if point.within_ms == forecast.horizon_ms)
        start, end = forecast.issued_at_ms, forecast.issued_at_ms + forecast.horizon_ms
        status = forecast.resolution.status
        rows.append(["anticipated", forecast.id, start, end, forecast.label, forecast.cat, p, status, ""])
    for item in document.ads.breaks:
        rows.append(["break", item.id, item.at_ms, item.at_ms, "+".join(item.boundary_types), "", "", "", ""])
    for row in rows:
        if row[1] in decided:
            row[8] = decided[row[1]].action
    rows.sort(key=lambda row: (row[2], row[0]))
    header = ["kind", "id", "start_ms", "end_ms", "label", "cat", "p", "status", "action"]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(
        [header, *([_cell(value) for value in row] for row in rows)]
    )
    return out.getvalue()


def _cell(value: Any) -> Any:
    # A label that begins like a formula must not become one when a spreadsheet opens the file.
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


register_export("openrtb.json", openrtb)
register_export("breaks.vmap.xml", vmap)
register_export("timeline.csv", table)
