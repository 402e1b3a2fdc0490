"""When forecasts are issued and what their outcome is, against hand-worked cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jepa.signals.decide.forecasts import ForecastTracker, resolve, statistics_of
from jepa.signals.document.objects import Observed
from jepa.signals.policy import ForecastRule


def issues(scores: list[float], happening: list[bool] | None = None, step: int = 500) -> list[int]:
    tracker = ForecastTracker(0, 1, ForecastRule(issue_at=0.5, rearm_at=0.3, horizon_ms=2000))
    found = [
        tracker.push(row, row * step, np.array([p / 2, p]), bool(happening and happening[row]))
        for row, p in enumerate(scores)
    ]
    return [issue.issued_at_ms for issue in found if issue is not None]


def test_a_forecast_is_issued_once_and_again_after_the_dip_or_the_horizon() -> None:
    assert issues([0.2, 0.6, 0.7, 0.4, 0.6]) == [500]
    assert issues([0.2, 0.6, 0.7, 0.2, 0.6]) == [500, 2000]
    assert issues([0.6] * 9) == [0, 2000, 4000]


def test_what_is_happening_cannot_be_forespan() -> None:
    assert issues([0.6, 0.6, 0.6], [True, True, True]) == []
    assert issues([0.6] * 8, [False, False, True, True, True, True, True, False]) == [0, 3500]


def test_a_window_that_was_not_assessed_issues_nothing_and_arms_nothing() -> None:
    missing = float("nan")
    assert issues([missing, missing]) == []
    assert issues([0.6, missing, 0.6]) == [0]  # a dip to below 0.3 would have armed it
    assert issues([0.6, missing, missing, missing, 0.6]) == [0, 2000]  # the first one's horizon is over


def span(start_ms: int, label: str = "fall") -> Observed:
    return Observed(
        id=f"o{start_ms}", head="h", label=label, cat=None, start_ms=start_ms, end_ms=start_ms + 100, p=0.9,
        peak_ms=start_ms, calibration=None, evidence=[],
    )  # fmt: skip


def test_resolution_by_hand() -> None:
    def outcome_of(issued: int, *onsets: Observed, observable: bool = True) -> tuple[str, int | None]:
        outcome = resolve("fall", issued, 3000, onsets, observable, 10_000)
        return outcome.status, outcome.lead_ms

    assert outcome_of(1000, span(3500), span(2500)) == ("confirmed", 1500)
    assert outcome_of(1000, span(4000)) == ("confirmed", 3000)
    assert outcome_of(1000, span(4001)) == ("refuted", None)
    assert outcome_of(1000, span(1000)) == ("refuted", None)  # it had begun already
    assert outcome_of(1000, span(2000, "fire")) == ("refuted", None)
    assert outcome_of(7000) == ("refuted", None)
    assert outcome_of(7001) == ("expired", None)
    assert outcome_of(1000, observable=False) == ("open", None)


def test_the_summary_counts_expired_as_false_alarms() -> None:
    class Forecast:
        def __init__(self, status: str, lead: int | None = None) -> None:
            self.resolution = type("R", (), {"status": status, "lead_ms": lead})

    log: list[Any] = [
        Forecast("confirmed", 1000),
        Forecast("confirmed", 3000),
        Forecast("refuted"),
        Forecast("expired"),
    ]
    summary = statistics_of(log, 1_800_000)
    assert summary["precision"] == pytest.approx(2 / 3)
    assert summary["median_lead_ms"] == 2000
    assert summary["false_alarms_per_hour"] == 4
    assert statistics_of([], 1000)["precision"] is None
