"""Recall and lead at fixed false alarms per hour, against cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from jepa.probes.evaluation.alarms import (
    Recording,
    Sweep,
    forecast_recording,
    observed_recording,
    recall_at_false_alarms,
    sweep,
)


def video(scores: list[float], onsets: list[float], group: str = "a", end_s: float = 100.0) -> Recording:
    """Windows at 0, 1, 2, ... s; an alarm says "within 3 s"."""
    return forecast_recording(
        np.arange(len(scores), dtype=float), np.array(scores), onsets, 3.0, end_s, group
    )


def judge(videos: list[Recording], threshold: float) -> Sweep:
    return sweep(videos, np.array([threshold]), hold_s=3.0)


def test_an_alarm_stands_for_its_horizon() -> None:
    scores = [
        0.0,
        0.9,
        0.9,
        0.9,
        0.9,
        0.0,
        0.9,
    ]  # raised at 1 and at 4; what is high at 6 belongs to the second
    assert judge([video(scores, [])], 0.5).false_alarms.tolist() == [2]
    assert judge([video(scores, [])], 0.95).false_alarms.tolist() == [0]


def test_leads_and_false_alarms_are_those_counted_by_hand() -> None:
    # Alarms at 1 (fits the onset at 3.5, lead 2.5) and at 6 (nothing within 3 s: false); the onset at 12 is missed.
    scores = [0.1, 0.9, 0.9, 0.1, 0.1, 0.1, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    counts = judge([video(scores, [3.5, 12.0])], 0.5)
    assert counts.false_alarms[0] == 1
    assert counts.leads_s[0, 0] == pytest.approx(2.5) and np.isnan(counts.leads_s[0, 1])


@pytest.mark.parametrize(
    ("onset", "found"),
    [(4.0, True), (4.01, False), (1.0, False), (1.01, True)],  # the alarm is raised at 1 s and stands for 3 s
)
def test_an_alarm_fits_what_starts_after_it_and_within_the_horizon(onset: float, found: bool) -> None:
    counts = judge([video([0.1, 0.9, 0.1, 0.1, 0.1], [onset])], 0.5)
    assert np.isfinite(counts.leads_s[0, 0]) == found and counts.false_alarms[0] == (0 if found else 1)


def test_what_the_record_does_not_show_is_not_judged() -> None:
    late = video([0.1] * 8 + [0.9], [], end_s=10.0)  # the alarm at 8 s speaks of times up to 11 s
    assert judge([late], 0.5).false_alarms[0] == 0
    assert judge([video([0.1] * 8 + [0.9], [], end_s=11.0)], 0.5).false_alarms[0] == 1


def test_onsets_before_the_first_window_are_no_events() -> None:
    assert judge([video([0.9, 0.9], [0.0])], 0.5).leads_s.size == 0


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
    assert row["threshold"] is None and row["recall"] is None


def test_a_constant_forecast_pays_an_alarm_per_horizon() -> None:
    flat = video([0.3] * 31, [15.5], end_s=100.0)
    counts = judge([flat], 0.3)  # at 0, 3, ... 30: eleven alarms, that at 15 fits
    assert counts.false_alarms[0] == 10 and counts.leads_s.tolist() == [[0.5]]


def test_an_observed_event_is_found_while_it_goes_on_and_late_alarms_have_negative_leads() -> None:
    scores = np.array([0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.9, 0.1])
    seen = observed_recording(np.arange(8.0), scores, [(1.5, 4.0), (4.5, 5.5)], "a")
    counts = judge([seen], 0.5)  # at 2 the first goes on; at 6 nothing does
    assert counts.false_alarms[0] == 1
    assert counts.leads_s[0, 0] == pytest.approx(-0.5) and np.isnan(counts.leads_s[0, 1])


def test_every_threshold_of_a_sweep_gives_what_it_gives_alone() -> None:
    rng = np.random.default_rng(0)
    videos = [video(list(rng.random(40).round(2)), [9.5, 21.2], group=str(i)) for i in range(3)]
    thresholds = np.array([0.9, 0.6, 0.3])
    together = sweep(videos, thresholds, 3.0)
    for number, threshold in enumerate(thresholds):
        alone = judge(videos, threshold)
        assert alone.false_alarms[0] == together.false_alarms[number]
        np.testing.assert_array_equal(alone.leads_s[0], together.leads_s[number])
