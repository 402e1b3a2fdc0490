"""Windows that a head did not assess, from its scores to the document, its check and the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa.errors import UserError
from jepa.signals import SignalsDocument, WindowScores, verify
from jepa.signals.detect.detector import DetectorSet
from jepa.signals.document.hash_chain import seal

CALM, OMEN, RED, BLUE = (20, 20, 20), (20, 200, 20), (220, 20, 20), (10, 10, 230)


@pytest.fixture
def hidden(make_video: Callable[..., Path]) -> Path:
    """An omen, then blue from 2.0 to 4.0 s, in which nothing can be seen, then red."""
    return make_video("hidden.mp4", [CALM] * 10 + [OMEN] * 10 + [BLUE] * 20 + [RED] * 20)


@pytest.fixture
def document(document_of: Any, hidden: Path, tmp_path: Path, shy_detector: Any) -> SignalsDocument:
    return document_of(hidden, tmp_path / "out", [shy_detector])


def test_a_null_opens_no_span_and_settles_no_forecast(document: SignalsDocument) -> None:
    (red,) = (track for track in document.tracks.observed if track.label == "red")
    ends = document.tracks.window_end_ms
    nulls = [end for end, p in zip(ends, red.p, strict=True) if p is None]
    assert nulls == list(range(2000, 4000, 100))
    # Red is seen from 4 s on, right after the gap: it may have begun inside, so it confirms nothing.
    (span,) = document.observed
    assert (span.label, span.start_ms) == ("red", 4000)
    assert document.anticipated and all(item.issued_at_ms < 2000 for item in document.anticipated)
    assert {item.resolution.status for item in document.anticipated} == {"open"}


def test_the_document_says_which_times_were_left_out_and_why(document: SignalsDocument) -> None:
    now, ahead = (item for item in document.not_assessed if item.head is not None)
    assert (now.head, ahead.head) == ("now", "ahead")
    assert now.why == "Outside the domain of now."
    assert now.spans_ms == [(2000, 4000)]
    assert now.fraction == pytest.approx(20 / len(document.tracks.window_end_ms), abs=1e-6)
    distances = {track.head: track.distance for track in document.tracks.domain}
    assert max(distances["now"]) > 0.5 > min(distances["now"])


def test_a_video_outside_from_end_to_end_gives_no_signal_at_all(
    document_of: Any, make_video: Any, tmp_path: Path, shy_detector: Any
) -> None:
    video = make_video("blue.mp4", [BLUE] * 15 + [(30, 30, 240)] * 15)
    document = document_of(video, tmp_path / "out", [shy_detector])
    assert document.observed == [] and document.anticipated == []
    assert all(segment.tags == [] and segment.cats == [] for segment in document.ads.segments)
    assert not any(item.verdict == "allow" for item in document.ads.breaks)
    assert {item.fraction for item in document.not_assessed if item.head} == {1.0}
    page = next((tmp_path / "out").glob("*/report.html")).read_text()
    assert "Outside the domain of now." in page


def test_the_check_works_it_out_again(
    folder_of: Any, hidden: Path, tmp_path: Path, policy_file: Path, shy_detector: Any, detector: Any
) -> None:
    path = folder_of(hidden, tmp_path / "out", [shy_detector]) / "signals.json"
    found = verify(path, policy_file, video=hidden, detectors=shy_detector, every=True)
    assert found.sound and found.replayed > 20
    # Without `every`, the start of the gap is among the windows that are scored again.
    shy_detector.windows = 0
    assert verify(path, policy_file, video=hidden, detectors=shy_detector).sound
    assert shy_detector.windows >= 3
    blind = type(shy_detector)()
    blind.score = lambda clips: shy_detector.score([clip * 0 for clip in clips])
    faults = verify(path, policy_file, video=hidden, detectors=blind).faults
    assert any("distance of now at 2000 ms" in fault for fault in faults)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw["tracks"]["observed"][0]["p"].__setitem__(20, 0.1), "null elsewhere than outside"),
        (
            lambda raw: raw["tracks"]["domain"][0]["distance"].__setitem__(0, 0.9),
            "null elsewhere than outside",
        ),
        (lambda raw: raw["tracks"]["domain"].clear(), "are not those that have a domain"),
        (lambda raw: raw["not_assessed"][0].__setitem__("spans_ms", []), "times of head now"),
        (lambda raw: raw["not_assessed"].pop(0), "times of head now"),
        (
            lambda raw: raw["anticipated"][0]["resolution"].__setitem__("status", "refuted"),
            "no head observed red in all of its horizon",
        ),
    ],
)
def test_a_document_that_hides_what_was_left_out_is_refused(
    document: SignalsDocument, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    raw = json.loads(document.model_dump_json(by_alias=True))
    del raw["log"]
    assert seal(raw).asset == document.asset
    change(raw)
    with pytest.raises(UserError, match=message):
        seal(raw)


def test_a_head_assesses_a_window_or_it_does_not(detector: Any) -> None:
    import torch

    detector.score = lambda clips: WindowScores(np.array([[np.nan, 0.5]]), np.zeros((1, 1, 3)))
    with pytest.raises(ValueError, match="head now gives NaN for some of its labels"):
        DetectorSet.of(detector).score([torch.zeros(1, 3, 4, 8, 8), torch.zeros(1, 3, 2, 8, 8)])
