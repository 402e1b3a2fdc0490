"""What people read of a document: reasons of a break in words, sound in one sentence, heads that left windows out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jepa.signals import words
from jepa.signals.document.objects import Factor, SignalsDocument


@pytest.fixture
def document(raw_document: str) -> SignalsDocument:
    return SignalsDocument.model_validate(json.loads(raw_document), strict=False)


def with_factors(document: SignalsDocument, **parts: float) -> Any:
    factors = [Factor(name=name, value=1.0, weight=part, part=part) for name, part in parts.items()]
    return document.ads.breaks[0].model_copy(update={"factors": factors})


def test_reasons_come_strongest_first_and_trifles_are_left_out(document: SignalsDocument) -> None:
    item = with_factors(
        document, cut=0.2, visual_change=0.35, risk_after=-0.4, still_before=0.01, risk_near=-0.02
    )
    assert words.reasons_for(item) == (
        "For it: what follows looks different, a cut to the next shot. Against it: a risk after it."
    )
    assert words.reasons_for(with_factors(document, cut=0.0)) == "Nothing speaks for it."


def test_every_factor_of_a_policy_has_words() -> None:
    from jepa.signals.policy import Weights

    assert set(words.FACTORS) == set(Weights.model_fields)


def test_heads_that_left_the_same_out_for_the_same_reason_share_a_sentence(document: SignalsDocument) -> None:
    entry = document.not_assessed[0]
    entries = [
        entry.model_copy(update={"head": "now", "fraction": 0.25, "why": "The picture is drawn."}),
        entry.model_copy(update={"head": "a", "fraction": 1.0, "why": "Outside its domain."}),
        entry.model_copy(update={"head": "b", "fraction": 1.0, "why": "Outside its domain."}),
    ]
    assert words.left_out(document.model_copy(update={"not_assessed": entries})) == [
        "a and b assessed none of this video: outside its domain.",
        "now assessed all but 25 % of this video: the picture is drawn.",
    ]


def test_what_nobody_heard_is_said(document: SignalsDocument) -> None:
    assert words.sound(document).startswith("Sound was not assessed. ")
