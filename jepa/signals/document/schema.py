"""The document `jepa.signals/1`: what was observed, what was foreseen, what was decided, and on which
evidence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from jepa.errors import UserError
from jepa.signals.document.invariants import violations
from jepa.signals.document.objects import (
    Ads,
    Anticipated,
    Asset,
    Calibration,
    Decision,
    Evidence,
    Log,
    NotAssessed,
    Observed,
    Part,
    Run,
    Taxonomy,
    Text,
    Timeline,
    Tracks,
)

SCHEMA_ID = "jepa.signals/1"


class SignalsDocument(Part):
    """One video, one document."""

    schema_id: Annotated[Literal["jepa.signals/1"], Field(alias="schema")]
    asset: Asset
    run: Run
    calibrations: list[Calibration]
    taxonomies: list[Taxonomy]
    not_assessed: list[NotAssessed]
    notices: list[Text]
    timeline: Timeline
    tracks: Tracks
    observed: list[Observed]
    anticipated: list[Anticipated]
    ads: Ads
    decisions: list[Decision]
    evidence: list[Evidence]
    log: Log

    model_config = ConfigDict(populate_by_name=True)

    @model_validator(mode="after")
    def _hold_together(self) -> SignalsDocument:
        found = violations(self)
        if found:
            raise ValueError("; ".join(found))
        return self


def parse_document(text: str | bytes, name: str) -> SignalsDocument:
    """Reads a document and checks every field and every invariant.

    Args:
        text: the JSON.
        name: what to call it in an error, usually its path.

    Raises:
        UserError: not JSON, not this schema, or an invariant is broken; the message lists what and where.
    """
    try:
        return SignalsDocument.model_validate_json(text)
    except ValidationError as error:
        raise UserError(
            f"{name} is not a valid {SCHEMA_ID} document: {'; '.join(explain(error))}."
        ) from error


def explain(error: ValidationError) -> list[str]:
    """One line per problem: where it is and what is wrong."""
    return [
        f"{'.'.join(str(step) for step in problem['loc']) or 'document'}: "
        f"{problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors()
    ]


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the document, for readers in other languages; invariants are prose
    there."""
    schema = SignalsDocument.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **schema}
