"""Reading and checking a signals document, and its JSON Schema (2020-12)."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from jepa.errors import UserError
from jepa.signals.document.invariants import violations
from jepa.signals.document.objects import SCHEMA_ID, SignalsDocument


def parse_document(text: str | bytes, name: str) -> SignalsDocument:
    """Reads a document and checks every field and every invariant.

    Args:
        text: the JSON.
        name: what to call it in an error, usually its path.

    Raises:
        UserError: not JSON, not this schema, or an invariant is broken; the message lists what and where.
    """
    try:
        document = SignalsDocument.model_validate_json(text)
    except ValidationError as error:
        older = _older_version(text)
        if older is not None:
            raise UserError(
                f"{name} is a {older} document, and this version reads {SCHEMA_ID} only. Run `jepa signals` again with "
                "this version; the old document can be verified with the version that `run.tool` in it names."
            ) from error
        raise UserError(
            f"{name} is not a valid {SCHEMA_ID} document: {'; '.join(explain(error))}."
        ) from error
    found = violations(document)
    if found:
        raise UserError(f"{name} is not a valid {SCHEMA_ID} document: {'; '.join(found)}.")
    return document


def _older_version(text: str | bytes) -> str | None:
    """The schema of a document of another version of this library; None for anything else."""
    try:
        stated = json.loads(text).get("schema")
    except (ValueError, AttributeError):
        return None
    known = isinstance(stated, str) and stated.startswith("jepa.signals/") and stated != SCHEMA_ID
    return stated if known else None


def explain(error: ValidationError) -> list[str]:
    """One line per problem: where it is and what is wrong."""
    return [
        f"{'.'.join(str(step) for step in problem['loc']) or 'document'}: "
        f"{problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors()
    ]


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the document, for readers in other languages; invariants are prose there.

    Example:
        >>> json_schema()["$id"]
        'jepa.signals/3'
    """
    schema = SignalsDocument.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **schema}
