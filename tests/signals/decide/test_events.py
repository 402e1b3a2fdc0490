"""Spans: runs of high scores with two thresholds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa.errors import UserError
from jepa.signals.decide.events import Run, SpanTracker, check_horizons
from jepa.signals.policy import Policy, SpanRule


def runs(scores: list[float], start: float = 0.6, end: float = 0.4) -> list[Run]:
    tracker = SpanTracker(SpanRule(start_at=start, end_at=end))
    for row, p in enumerate(scores):
        tracker.push(row, p)
    return tracker.runs()


def test_two_thresholds_make_one_run_of_a_trembling_score() -> None:
    assert runs([0.1, 0.65, 0.45, 0.7, 0.5, 0.3, 0.5]) == [Run(1, 4, 3)]
    assert runs([0.1, 0.65, 0.45, 0.7, 0.5, 0.3, 0.6]) == [Run(1, 4, 3), Run(6, 6, 6)]
    assert runs([0.5, 0.5]) == []


def test_a_window_that_was_not_assessed_ends_a_run_and_opens_none() -> None:
    missing = float("nan")
    assert runs([missing, 0.7, 0.5, missing, 0.5, missing, 0.7]) == [Run(1, 2, 1), Run(6, 6, 6)]
    assert runs([missing] * 3) == []


@given(st.lists(st.floats(0, 1), max_size=60))
def test_runs_are_separate_and_hold_their_peak(scores: list[float]) -> None:
    found = runs(scores)
    for run in found:
        inside = scores[run.first : run.last + 1]
        assert scores[run.first] >= 0.6 and min(inside) >= 0.4
        assert scores[run.peak] == max(inside)
    for one, two in itertools.pairwise(found):
        assert min(scores[one.last + 1 : two.first]) < 0.4
    covered = {row for run in found for row in range(run.first, run.last + 1)}
    assert all(row in covered for row, p in enumerate(scores) if p >= 0.6)


def test_a_horizon_that_no_detector_gives_is_refused_before_any_video() -> None:
    policy = Policy.model_validate({"policy": "p", "version": "1", "about": "x"})
    check_horizons(policy, [1000, 3000])
    check_horizons(policy, [])  # nothing is forecast, so nothing can be wrong
    with pytest.raises(UserError, match=r"forecast.horizon_ms=3000.*500, 1000 ms"):
        check_horizons(policy, [500, 1000])
