from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss

from jepa.errors import UserError
from jepa.probes.evaluation.calibration import apply_isotonic, fit_isotonic, fit_platt, fit_temperature
from jepa.probes.evaluation.conformal import conformal_report, tag_report
from jepa.probes.evaluation.metrics import brier, calibration_error, classification_report, group_bootstrap


def test_temperature_is_recovered() -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(20000, 4, generator=generator) * 1.5
    targets = torch.multinomial(honest.softmax(-1), 1, generator=generator).squeeze(1)
    assert fit_temperature(honest * 3, targets) == pytest.approx(3, rel=0.05)
    assert fit_temperature(honest / 2, targets) == pytest.approx(0.5, rel=0.05)


def test_platt_recovers_scale_and_offset_and_survives_separable_data() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(20000, generator=generator) * 2
    happened = torch.rand(20000, generator=generator) < torch.sigmoid(0.5 * scores - 1)
    scale, offset = fit_platt(scores, happened)
    assert scale == pytest.approx(0.5, abs=0.05) and offset == pytest.approx(-1, abs=0.08)
    scale, offset = fit_platt(torch.tensor([-1.0, 1.0]), torch.tensor([0, 1]))
    assert np.isfinite([scale, offset]).all() and scale > 0


def test_platt_ignores_samples_without_weight() -> None:
    scores, happened = torch.tensor([-2.0, -1.0, 1.0, 2.0, 3.0]), torch.tensor([0, 1, 0, 1, 0])
    weight = torch.tensor([1.0, 1, 1, 1, 0])
    assert fit_platt(scores, happened, weight) == pytest.approx(fit_platt(scores[:4], happened[:4]), abs=1e-4)


def test_calibration_error_of_known_forecasts() -> None:
    p = np.array([0.2] * 100 + [0.8] * 100)
    exact = np.array([1] * 20 + [0] * 80 + [1] * 80 + [0] * 20)
    assert calibration_error(p, exact, bins=2) == pytest.approx(0)
    assert calibration_error(p, 1 - exact, bins=2) == pytest.approx(0.6)
    assert brier(p, exact) == pytest.approx(brier_score_loss(exact, p))


def test_group_bootstrap_is_wider_when_samples_hang_together() -> None:
    rng = np.random.default_rng(0)
    per_group = rng.integers(0, 2, 20)
    values = np.repeat(per_group, 30).astype(float)
    together = group_bootstrap(values, [str(i // 30) for i in range(600)])
    apart = group_bootstrap(values, [str(i) for i in range(600)])
    assert together[0] < values.mean() < together[1]
    assert (together[1] - together[0]) > 3 * (apart[1] - apart[0])
    assert group_bootstrap(values, ["a"] * 600) == (values.mean(), values.mean())


def test_report_of_a_known_confusion() -> None:
    p = np.array([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.3, 0.7, 0.0], [0.2, 0.8, 0.0]])
    report = classification_report(p, np.array([0, 0, 1, 1]), ["a", "a", "b", "b"])
    assert report["accuracy"] == 0.75 and report["class_mean"] == 0.75
    assert report["confusion"] == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert report["per_group"] == {"a": 0.5, "b": 1.0}
    assert report["macro_auc"] is None  # class 2 never occurs, so no average over classes exists


def test_log_loss_and_brier_of_a_known_forecast() -> None:
    p = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    report = classification_report(p, np.array([0, 2]), ["a", "b"])
    assert report["log_loss"] == pytest.approx(-(np.log(0.5) + np.log(0.1)) / 2)
    assert report["brier"] == pytest.approx((0.25 + 2 * 0.25**2 + 0.1**2 + 0.8**2 + 0.9**2) / 2)


def test_isotonic_maps_correct_a_distortion_that_one_temperature_cannot() -> None:
    generator = torch.Generator().manual_seed(0)
    honest = (torch.randn(20000, 3, generator=generator) * 1.5).softmax(-1)
    targets = torch.multinomial(honest, 1, generator=generator).squeeze(1)
    skewed = honest.clone()
    skewed[:, 0] = skewed[:, 0] ** 3  # one class is made too small
    skewed /= skewed.sum(-1, keepdim=True)
    maps = fit_isotonic(skewed[:10000], targets[:10000])
    assert maps.shape == (3, 101) and (maps.diff(dim=1) >= 0).all()
    p = apply_isotonic(skewed[10000:], maps)
    torch.testing.assert_close(p.sum(-1), torch.ones(10000))
    after = (p.log().gather(1, targets[10000:, None])).mean()
    warm = (skewed.log() / fit_temperature(skewed.log()[:10000], targets[:10000])).log_softmax(-1)
    assert after > warm[10000:].gather(1, targets[10000:, None]).mean() + 0.02
    assert apply_isotonic(torch.tensor([[0.0, 0.0, 1.0]]), maps).isfinite().all()


def groups_of(rng: np.random.Generator, count: int, each: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    p = rng.dirichlet(np.ones(4) * 0.7, count * each)
    targets = np.array([rng.choice(4, p=row) for row in p])
    return p, targets, [str(i // each) for i in range(count * each)]


def test_conformal_sets_hold_the_truth_as_promised() -> None:
    p, targets, groups = groups_of(np.random.default_rng(0), 100, 20)
    low, high = conformal_report(p, targets, groups, [0.7, 0.9])
    assert low["coverage"] == pytest.approx(0.7, abs=0.03) and high["coverage"] == pytest.approx(
        0.9, abs=0.03
    )
    assert low["mean_size"] < high["mean_size"] and low["answered"] > high["answered"]
    assert high["lowest_group_coverage"] < high["coverage"]


def test_overconfident_forecasts_still_get_sets_that_hold() -> None:
    p, targets, groups = groups_of(np.random.default_rng(1), 60, 20)
    boast = p**4 / (p**4).sum(1, keepdims=True)
    (report,) = conformal_report(boast, targets, groups, [0.9])
    assert report["coverage"] == pytest.approx(0.9, abs=0.03)


def test_sets_are_calibrated_on_other_groups_only() -> None:
    # One group of five whose forecasts are all wrong: were a sample of it to calibrate another, a fifth of the known
    # samples would be hopeless, and sets at 0.9 would grow until they held.
    p, targets, groups = groups_of(np.random.default_rng(2), 5, 100)
    p[-100:] = np.eye(4)[(targets[-100:] + 1) % 4]
    order = np.random.default_rng(3).permutation(500)
    (report,) = conformal_report(p[order], targets[order], [groups[i] for i in order], [0.9])
    assert report["lowest_group_coverage"] == 0


def test_too_few_samples_or_groups_for_sets_are_refused() -> None:
    p, targets, _ = groups_of(np.random.default_rng(0), 1, 12)
    with pytest.raises(UserError, match="one group"):
        conformal_report(p, targets, ["a"] * 12, [0.9])
    with pytest.raises(UserError, match=r"coverage of 0\.99"):
        conformal_report(p, targets, [str(i % 4) for i in range(12)], [0.99])


def tagged(rng: np.random.Generator, groups: int, each: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    p = rng.beta(0.4, 1.0, (groups * each, 5))
    return p, rng.random(p.shape) < p, [str(i // each) for i in range(len(p))]


def test_sets_of_tags_have_the_nominal_coverage_and_no_more_than_needed() -> None:
    p, tags, groups = tagged(np.random.default_rng(0), 40, 12)
    low, high = tag_report(
        p**2, tags, groups, [0.7, 0.9]
    )  # made too small: a threshold of 0.5 would miss most
    assert low["recall"] == pytest.approx(0.7, abs=0.05) and high["recall"] == pytest.approx(0.9, abs=0.04)
    assert low["mean_size"] < high["mean_size"] < 5 and low["precision"] > high["precision"]
    assert low["lowest_group_recall"] < low["recall"]
    assert low["videos"] == tags.any(1).sum() < len(tags)  # a video without a tag has none to miss


def test_sets_of_tags_are_calibrated_on_other_groups_only() -> None:
    p, tags, groups = tagged(np.random.default_rng(1), 5, 40)
    p[-40:] = np.where(tags[-40:], 0.0, 1.0)  # one group whose forecasts are all wrong
    order = np.random.default_rng(2).permutation(200)
    (report,) = tag_report(p[order], tags[order], [groups[i] for i in order], [0.8])
    assert report["lowest_group_recall"] == 0
    with pytest.raises(UserError, match="one group"):
        tag_report(p, tags, ["a"] * 200, [0.8])
