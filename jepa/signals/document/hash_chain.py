"""The hash chain (SHA-256): change one number in a document and the link that covers it no longer fits.

Every object of a document is one link, in the order in which things became known: a forecast enters the chain
when it is issued, its resolution is a later link of its own. Each folder of results also has `chain.jsonl`,
one line per document, so a document that was altered and sealed anew is found too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from jepa.errors import UserError
from jepa.files import write_text
from jepa.signals.document.invariants import violations
from jepa.signals.document.objects import SignalsDocument
from jepa.signals.document.schema import explain, parse_document

GENESIS = "0" * 64
CHAIN_FILE = "chain.jsonl"
_TIMELINE = {
    "shots": "shot", "scenes": "scene", "pauses": "pause", "silences": "silence", "speech": "speech",
}  # fmt: skip


class Link(NamedTuple):
    """An object on its way into the chain: `time_ms` is when it became known, -1 before the video starts."""

    time_ms: int
    kind: str
    id: str
    body: Any


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and shortest round-trip floats, as UTF-8: equal values, equal bytes.

    Raises:
        ValueError: NaN or infinity.

    Example:
        >>> canonical({"b": 1, "a": 0.5})
        b'{"a":0.5,"b":1}'
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def digest(value: Any) -> str:
    """Hex SHA-256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def link_hash(previous: str, kind: str, identifier: str, body: Any) -> str:
    """The hash of one link: SHA-256 over the previous hash's hex digits, then the canonical JSON."""
    content = canonical({"kind": kind, "id": identifier, "body": body})
    return hashlib.sha256(previous.encode("ascii") + content).hexdigest()


def links(raw: dict[str, Any]) -> list[Link]:
    """All objects of a document given as plain JSON, in the order in which they became known.

    Raises:
        KeyError, TypeError: the document lacks a part that the schema requires.
    """
    return sorted(_unordered(raw), key=lambda link: link.time_ms)


def _unordered(raw: dict[str, Any]) -> Iterator[Link]:
    # sorted() is stable, so this order decides between objects of the same instant.
    end = raw["asset"]["duration_ms"]
    yield Link(-1, "schema", "schema", raw["schema"])
    yield Link(-1, "asset", raw["asset"]["id"], raw["asset"])
    yield Link(-1, "run", raw["run"]["run_id"], raw["run"])
    for body in raw["calibrations"]:
        yield Link(-1, "calibration", body["id"], body)
    for body in raw["taxonomies"]:
        yield Link(-1, "taxonomy", body["key"], body)
    for part in ("not_assessed", "notices"):
        yield Link(-1, part, part, raw[part])
    timeline = raw["timeline"]
    for part, kind in _TIMELINE.items():
        for body in timeline[part] or []:
            yield Link(body["end_ms"], kind, body["id"], body)
    # A list that is null and one that is empty have no links; this one tells them apart.
    assessed = [part for part in _TIMELINE if timeline[part] is not None]
    yield Link(end, "sound", "sound", {"sound": timeline["sound"], "assessed": assessed})
    for body in raw["evidence"]:
        yield Link(body["end_ms"], "evidence", body["id"], body)
    for body in raw["observed"]:
        yield Link(body["end_ms"], "observed", body["id"], body)
    for body in raw["anticipated"]:
        issued = {key: value for key, value in body.items() if key != "resolution"}
        yield Link(body["issued_at_ms"], "anticipated", body["id"], issued)
        yield Link(_resolved_ms(body, end), "resolution", body["id"], body["resolution"])
    yield Link(end, "tracks", "tracks", raw["tracks"])
    for body in raw["ads"]["segments"]:
        yield Link(end, "segment", body["scene"], body)
    for body in raw["ads"]["breaks"]:
        yield Link(end, "break", body["id"], body)
    for body in raw["decisions"]:
        yield Link(end, "decision", body["id"], body)


def _resolved_ms(forecast: dict[str, Any], end: int) -> int:
    resolution = forecast["resolution"]
    if resolution["status"] == "confirmed":
        return resolution["onset_ms"]
    if resolution["status"] == "refuted":
        return forecast["issued_at_ms"] + forecast["horizon_ms"]
    return end


def seal(parts: dict[str, Any]) -> SignalsDocument:
    """Adds the chain to a finished document and checks the complete document.

    Args:
        parts: the document as plain JSON values, without `log`.

    Raises:
        UserError: an invariant does not hold. That is a fault of the code that made the parts.
    """
    # Through JSON and back, so that the chain covers what a reader will see: tuples are lists, keys are
    # strings.
    raw = json.loads(canonical(parts))
    entries: list[dict[str, Any]] = []
    previous, head = GENESIS, GENESIS
    for seq, link in enumerate(links(raw), start=1):
        previous, head = head, link_hash(head, link.kind, link.id, link.body)
        entries.append({"seq": seq, "kind": link.kind, "id": link.id, "hash": head})
    raw["log"] = {"seq": len(entries), "prev": previous, "hash": head, "entries": entries}
    try:
        document = SignalsDocument.model_validate_json(canonical(raw))
    except ValidationError as error:
        raise UserError(f"the document cannot be sealed: {'; '.join(explain(error))}.") from error
    found = violations(document)
    if found:
        raise UserError(f"the document cannot be sealed: {'; '.join(found)}.")
    return document


def chain_faults(raw: dict[str, Any]) -> list[str]:
    """Every link that does not fit, as sentences that name the object; `raw` is the document as plain
    JSON."""
    try:
        objects = {(link.kind, link.id): link.body for link in links(raw)}
        order = [(link.kind, link.id) for link in links(raw)]
        log, entries = raw["log"], raw["log"]["entries"]
        found = list(_entry_faults(objects, entries))
        logged = [(entry["kind"], entry["id"]) for entry in entries]
        found += [
            f"{kind} {name} is not in the log" for kind, name in order if (kind, name) not in set(logged)
        ]
        if not found and logged != order:
            found.append("the log's entries are not in the order in which things became known")
        hashes = [GENESIS, GENESIS, *(entry["hash"] for entry in entries)]
        if (log["seq"], log["prev"], log["hash"]) != (len(entries), hashes[-2], hashes[-1]):
            found.append("the log's seq, prev or hash is not that of its last entry")
        return found
    except (KeyError, TypeError, AttributeError) as error:
        return [f"the log cannot be followed: the document lacks {error}"]


def _entry_faults(objects: dict[tuple[str, str], Any], entries: list[dict[str, Any]]) -> Iterator[str]:
    previous = GENESIS
    for position, entry in enumerate(entries, start=1):
        key, name = (entry["kind"], entry["id"]), f"{entry['kind']} {entry['id']}"
        if entry["seq"] != position:
            yield f"log entry {position} ({name}) has the number {entry['seq']}"
        if key not in objects:
            yield f"{name} is in the log and not in the document"
        elif entry["hash"] != link_hash(previous, *key, objects[key]):
            yield f"{name} does not fit its hash: it, or the log around entry {position}, was changed"
        previous = entry["hash"]


def read_document(path: str | Path) -> SignalsDocument:
    """Reads a document and checks fields, invariants and the hash chain.

    Raises:
        UserError: the file is missing, is not a valid document, or was changed after it was sealed.

    Example:
        >>> read_document("out/clip-1a2b3c4d/signals.json").asset.duration_ms    # doctest: +SKIP
        45000
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Give the path of a signals.json.") from error
    document = parse_document(text, str(path))
    faults = chain_faults(json.loads(text))
    if faults:
        raise UserError(f"{path} was changed after it was sealed: {'; '.join(faults)}.")
    return document


def read_chain(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's chain file, oldest first; none if there is no such file.

    Raises:
        UserError: a line is not JSON.
    """
    path = folder / CHAIN_FILE
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}. Restore it from a copy, or process the folder anew."
        ) from error


def append_chain(folder: Path, document: str, head: str) -> None:
    """Adds a document's last hash to the folder's chain file; earlier lines never change."""
    lines = read_chain(folder)
    previous = lines[-1]["hash"] if lines else GENESIS
    body = {"document": document, "head": head}
    lines.append(
        {
            "seq": len(lines) + 1,
            **body,
            "prev": previous,
            "hash": link_hash(previous, "document", document, body),
        }
    )
    write_text(folder / CHAIN_FILE, "".join(json.dumps(line) + "\n" for line in lines))


def folder_faults(folder: Path, heads: dict[str, str]) -> list[str]:
    """Checks the folder's chain, and each document's last hash (`heads`, by document id) against its latest
    line."""
    previous, latest, found = GENESIS, {}, []
    for position, line in enumerate(read_chain(folder), start=1):
        if set(line) != {"seq", "document", "head", "prev", "hash"}:
            found.append(f"{CHAIN_FILE} line {position} does not have the fields of a chain line")
            continue
        body = {"document": line["document"], "head": line["head"]}
        expected = link_hash(previous, "document", line["document"], body)
        if (line["seq"], line["prev"], line["hash"]) != (position, previous, expected):
            found.append(f"{CHAIN_FILE} line {position} ({line['document']}) does not fit the chain")
        previous, latest[line["document"]] = line["hash"], line["head"]
    for name, head in heads.items():
        if name not in latest:
            found.append(f"{name} is not in {CHAIN_FILE}")
        elif latest[name] != head:
            found.append(f"{name} is not the document that {CHAIN_FILE} recorded: it was sealed anew")
    return found
