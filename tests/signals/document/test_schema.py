"""Each invariant refuses a document that breaks it and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jepa.signals
from jepa.errors import UserError
from jepa.signals import json_schema
from jepa.signals.document.hash_chain import seal
from jepa.signals.document.objects import SignalsDocument
from jepa.signals.document.schema import parse_document


@pytest.fixture
def raw(raw_document: str) -> dict[str, Any]:
    return json.loads(raw_document)


def at(*path: Any) -> Callable[[dict[str, Any], Any], None]:
    def put(raw: dict[str, Any], value: Any) -> None:
        for step in path[:-1]:
            raw = raw[step]
        raw[path[-1]] = value

    return put


CASES: list[tuple[str, Callable[[dict[str, Any], Any], None], Any, str]] = [
    ("unknown field", at("asset", "colour"), "red", "asset.colour"),
    ("unknown field deep down", at("ads", "breaks", 0, "factors", 0, "note"), 1, "ads.breaks.0.factors.0.note"),
    ("missing schema id", at("schema"), "other/1", "schema"),
    ("number as text", at("observed", 0, "start_ms"), "2100", "start_ms"),
    ("probability above one", at("observed", 0, "p"), 1.2, "observed.0.p"),
    ("fractional ms", at("observed", 0, "start_ms"), 2100.5, "start_ms"),
    ("end before start", at("observed", 0, "end_ms"), 2000, "not after start_ms"),
    ("span outside the video", at("observed", 0, "end_ms"), 99999, "after the video"),
    ("id twice", at("evidence", 1, "id"), "e1", "used 2 times"),
    ("shots with a hole", at("timeline", "shots", 1, "start_ms"), 1501, "does not begin where"),
    ("scene without its shots", at("timeline", "scenes", 0, "shots"), ["s2"], "scene"),
    ("tracks of other length", at("tracks", "observed", 0, "p"), [0.5], "1 values for"),
    ("track of a label nobody knows", at("tracks", "observed", 0, "label"), "blue", "not a label of head"),
    ("track that falls with the horizon", at("tracks", "anticipated", 0, "p", 3), 1.0, "less likely"),
    ("windows out of order", at("tracks", "window_end_ms", 1), 0, "does not increase"),
    ("cat in the wrong case", at("observed", 0, "cat"), "i4gwl6", "not an id of the IAB"),
    ("cat as misprinted elsewhere", at("observed", 0, "cat"), "I4GWI6", "not an id of the IAB"),
    ("forecast from later frames", at("anticipated", 0, "context_ms"), [1200, 1600], "out of order"),
    ("evidence later than the forecast", at("anticipated", 0, "evidence"), ["e3"], "later than what"),
    ("falling curve", at("anticipated", 0, "curve", 2, "p"), 0.1, "curve falls"),
    ("horizon off the curve", at("anticipated", 0, "horizon_ms"), 1100, "not on its curve"),
    ("lead that is no difference", at("anticipated", 0, "resolution", "lead_ms"), 700, "not onset minus issue"),
    ("confirmed by nothing", at("anticipated", 0, "resolution", "by"), "o9", "no observed onset"),
    ("refuted though it came", at("anticipated", 0, "resolution"),
     {"status": "refuted", "by": None, "onset_ms": None, "lead_ms": None}, "yet o1 confirms it"),
    ("refuted though time ran out", at("anticipated", 2, "resolution", "status"), "refuted", "that is expired"),
    ("expired though time was left", at("anticipated", 1, "resolution", "status"), "expired", "that is refuted"),
    ("sum that does not add up", at("ads", "breaks", 0, "score"), 0.5, "the score says 0.5"),
    ("part that is no product", at("ads", "breaks", 0, "factors", 1, "part"), 0.2, "factor dissolve"),
    ("factor counted twice", at("ads", "breaks", 0, "factors", 1, "name"), "fade", "factor fade is listed 2 times"),
    ("factor that looked ahead", at("ads", "breaks", 0, "factors", 4, "name"), "still_after", "causal run looked"),
    ("scene that ends otherwise than its shots", at("timeline", "scenes", 0, "visual_change"), 0.123, "visual_change"),
    ("looked up in a causal run", at("ads", "breaks", 0, "after", "source"), "observed", "causal run looked"),
    ("forecast issued after the break", at("ads", "breaks", 0, "after", "forecast"), "a2", "issued after it"),
    ("verdict unlike the decision", at("ads", "breaks", 0, "verdict"), "allow", "does not say allow"),
    ("margin", at("decisions", 0, "margin"), 0.5, "margin 0.5 is not"),
    ("removal on a forecast", at("decisions", 1, "action"), "remove", "may not remove"),
    ("forecast called observed", at("decisions", 1, "basis"), "observed", "claims the basis observed"),
    ("removal without a person", at("decisions", 0, "review"), None, "without a person"),
    ("subject that is not there", at("decisions", 0, "subject"), "o7", "no subject o7"),
    ("value of what nobody assessed", at("decisions", 4, "basis"), "not_assessed", "exactly when nothing"),
    ("head twice", at("run", "detectors", 0, "heads", 1, "id"), "now", "the head now is listed 2 times"),
    ("head that anticipates without horizons", at("run", "detectors", 0, "heads", 1, "horizons_ms"), [],
     "horizons exactly when it anticipates"),
    ("category of another label", at("run", "detectors", 0, "heads", 0, "categories"), {"blue": "483"},
     "blue is not one of its labels"),
    ("category that is not in the taxonomy", at("run", "detectors", 0, "heads", 0, "categories"), {"red": "i4gwl6"},
     "is not in the taxonomy"),
    ("base rates of another label", at("run", "detectors", 0, "heads", 1, "base_rates"), {"blue": [0.1, 0.2, 0.3]},
     "base rates of blue do not fit"),
    ("calibration that is not there", at("observed", 0, "calibration"), "cal-9", "no calibration cal-9"),
    ("floor as the mildest level", at("taxonomies", 1, "order"), ["bsr001", "bsr004", "bsr003", "bsr002"],
     "order of risk"),
    ("category with another path", at("ads", "segments", 2, "cats", 0, "path"), ["Sports"], "not in the taxonomy"),
    ("suitability outside Sensitive Topics", at("ads", "segments", 2, "suitability", 0, "category"), "483",
     "not a Sensitive Topics"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("put", "value", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_broken_invariants_are_refused_when_read_and_when_written(
    raw: dict[str, Any], put: Callable[[dict[str, Any], Any], None], value: Any, message: str
) -> None:
    put(raw, value)
    with pytest.raises(UserError, match=r"is not a valid jepa\.signals/3 document") as error:
        parse_document(json.dumps(raw), "doc")
    assert message in str(error.value)
    del raw["log"]
    with pytest.raises(UserError) as error:
        seal(raw)
    assert message in str(error.value)


def test_nan_is_refused(raw: dict[str, Any]) -> None:
    raw["ads"]["breaks"][0]["score"] = float("nan")
    with pytest.raises(UserError):
        parse_document(json.dumps(raw), "doc")


def test_a_human_may_confirm(raw: dict[str, Any]) -> None:
    raw["observed"], raw["decisions"] = [], []
    raw["ads"]["breaks"], raw["ads"]["segments"] = [], []
    raw["anticipated"][0]["resolution"]["by"] = "human:reviewer-7"
    del raw["log"]
    assert seal(raw).anticipated[0].resolution.lead_ms == 600


def test_json_schema_forbids_unknown_fields_everywhere() -> None:
    schema = json_schema()
    assert schema["$id"] == "jepa.signals/3"
    objects = [schema, *schema["$defs"].values()]
    assert all(item["additionalProperties"] is False for item in objects if item.get("type") == "object")
    assert set(schema["required"]) >= {"schema", "asset", "observed", "anticipated", "log"}
    assert "schema_id" not in schema["properties"]
    published = Path(jepa.signals.__file__).parent / "assets/jepa.signals-3.schema.json"
    assert json.loads(published.read_text()) == schema


def test_documents_cannot_be_changed_in_memory(raw_document: str) -> None:
    document = SignalsDocument.model_validate_json(raw_document)
    with pytest.raises(ValueError, match="frozen"):
        document.asset.name = "other"  # type: ignore[misc]


def test_a_document_of_an_older_version_is_refused_with_the_remedy(raw: dict[str, Any]) -> None:
    raw["schema"] = "jepa.signals/1"
    with pytest.raises(
        UserError, match=r"jepa\.signals/1 document.*Run `jepa signals` again with this version"
    ):
        parse_document(json.dumps(raw), "doc")


def test_no_field_of_the_schema_is_one_that_nothing_fills(raw_document: str) -> None:
    """Fields wait for the code that fills them, not the other way round."""
    names = {name for part in json_schema()["$defs"].values() for name in part.get("properties", {})}
    assert not names & {"guarantee", "appeal", "box", "delta_p", "level", "spread", "parameters"}
