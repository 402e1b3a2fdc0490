"""Recall and lead at fixed false alarms per hour, against cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from jepa.probes.evaluation.alarms import (
    Recording,
    alarms,
    count_alarms,
    forecast_recording,
    recall_at_false_alarms,
)


def video(scores: list[float], onsets: list[float], group: str = "a", end_s: float = 100.0) -> Recording:
    """Windows at 0, 1, 2, ... s; an alarm says "within 3 s"."""
    return forecast_recording(np.arange(len(scores), dtype=float), np.array(scores), onsets, 3.0, end_s, group)


def test_an_alarm_stands_for_its_horizon() -> None:
    scores = [0.0, 0.9, 0.9, 0.9, 0.9, 0.0, 0.9]
    assert alarms(video(scores, []), 0.5, hold_s=3.0).tolist() == [1.0, 4.0]
    assert alarms(video(scores, []), 0.95, hold_s=3.0).tolist() == []


def test_leads_and_false_alarms_are_those_counted_by_hand() -> None:
    # Alarms at 1 (fits the onset at 3.5, lead 2.5) and at 6 (nothing within 3 s: false); the onset at 12 is missed.
    scores = [0.1, 0.9, 0.9, 0.1, 0.1, 0.1, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    counts = count_alarms([video(scores, [3.5, 12.0])], 0.5, hold_s=3.0)
    assert counts.false_alarms == 1
    assert counts.leads_s[0] == pytest.approx(2.5) and np.isnan(counts.leads_s[1])


@pytest.mark.parametrize(
    ("onset", "found"),
    [(4.0, True), (4.01, False), (1.0, False), (1.01, True)],  # the alarm is raised at 1 s and stands for 3 s
)
def test_an_alarm_fits_what_starts_after_it_and_within_the_horizon(onset: float, found: bool) -> None:
    counts = count_alarms([video([0.1, 0.9, 0.1, 0.1, 0.1], [onset])], 0.5, hold_s=3.0)
    assert np.isfinite(counts.leads_s[0]) == found and counts.false_alarms == (0 if found else 1)


def test_what_the_record_does_not_show_is_not_judged() -> None:
    late = video([0.1] * 8 + [0.9], [], end_s=10.0)  # the alarm at 8 s speaks of times up to 11 s
    assert count_alarms([late], 0.5, hold_s=3.0).false_alarms == 0
    assert count_alarms([video([0.1] * 8 + [0.9], [], end_s=11.0)], 0.5, hold_s=3.0).false_alarms == 1


def test_onsets_before_the_first_window_are_no_events() -> None:
    assert count_alarms([video([0.9, 0.9], [0.0])], 0.5, hold_s=3.0).leads_s == []


def test_the_operating_points_of_two_videos_in_an_hour() -> None:
    # By hand: 0.9 finds the first onset; 0.7 both, at one false alarm; 0.5 nothing more, at two false alarms.
    one = video([0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.7, 0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 0.1], [2.0])
    two = video([0.1, 0.1, 0.7, 0.1, 0.1], [4.0], group="b")
    none, single, many = recall_at_false_alarms([one, two], 1.0, 3.0, rates_per_hour=[0.0, 1.0, 60.0])
    assert (none["recall"], none["threshold"], none["median_lead_s"]) == (0.5, 0.9, 1.0)
    assert (single["recall"], single["threshold"], single["false_alarms"]) == (1.0, 0.7, 1)
    assert single["median_lead_s"] == pytest.approx(1.5) and single["interval"] == [1.0, 1.0]
    assert (many["recall"], many["threshold"], many["per_hour"]) == (1.0, 0.7, 1.0)


def test_a_rate_that_nothing_reaches_has_no_threshold() -> None:
    (row,) = recall_at_false_alarms([video([0.5] * 5, [])], 1.0, 3.0, rates_per_hour=[0.0])
    assert row["threshold"] is None and row["recall"] == 0.0


def test_a_constant_forecast_pays_an_alarm_per_horizon() -> None:
    flat = video([0.3] * 31, [15.5], end_s=100.0)
    counts = count_alarms([flat], 0.3, hold_s=3.0)  # at 0, 3, ... 30: eleven alarms, that at 15 fits
    assert counts.false_alarms == 10 and counts.leads_s == [0.5]
