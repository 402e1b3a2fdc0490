"""Detection metrics against scikit-learn, and their intervals against resampling by hand."""

from __future__ import annotations

import numpy as np
import pytest

from jepa.probes.evaluation.detection import detection_report, ranking_metrics

metrics = pytest.importorskip("sklearn.metrics")


def scores_with_ties(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    happened = rng.integers(0, 2, count)
    return np.round(rng.random(count) + 0.3 * happened, 1), happened


@pytest.mark.parametrize("seed", range(5))
def test_every_weighting_gives_what_scikit_learn_gives(seed: int) -> None:
    scores, happened = scores_with_ties(seed)
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(scores))).astype(float)
    ours = ranking_metrics(scores, happened, weights)
    for draw, weight in enumerate(weights):
        assert ours["auc"][draw] == pytest.approx(
            metrics.roc_auc_score(happened, scores, sample_weight=weight)
        )
        expected = metrics.average_precision_score(happened, scores, sample_weight=weight)
        assert ours["average_precision"][draw] == pytest.approx(expected)
        precision, recall, _ = metrics.precision_recall_curve(happened, scores, sample_weight=weight)
        assert ours["precision_at_recall"][draw] == pytest.approx(precision[recall >= 0.9 - 1e-12].max())


def test_the_interval_is_that_of_resampled_groups() -> None:
    scores, happened = scores_with_ties(7, 80)
    groups = [str(i // 8) for i in range(80)]
    report = detection_report(scores, happened, groups, draws=2000)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(2000):
        rows = np.concatenate([np.arange(8) + 8 * g for g in rng.integers(0, 10, 10)])
        drawn.append(metrics.roc_auc_score(happened[rows], scores[rows]))
    assert report["auc_interval"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)
    low, high = report["ece_interval"]
    assert 0 <= low <= high and low <= report["auc_interval"][1] <= 1
    assert report["prevalence"] == pytest.approx(happened.mean())


def test_one_outcome_alone_has_no_ranking() -> None:
    report = detection_report(np.array([0.2, 0.9]), np.zeros(2), ["a", "b"])
    assert report["auc"] is None and report["average_precision_interval"] is None


def test_a_constant_finds_nothing_better_than_the_prevalence() -> None:
    report = detection_report(np.full(10, 0.3), np.r_[np.ones(3), np.zeros(7)], [str(i) for i in range(10)])
    assert report["auc"] == 0.5 and report["average_precision"] == pytest.approx(0.3)
    assert report["precision_at_recall"] == pytest.approx(0.3) and report["ece"] == pytest.approx(
        0.0, abs=0.8
    )
