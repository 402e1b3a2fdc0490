from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss

from jepa.probes.calibrate import fit_platt, fit_temperature
from jepa.probes.metrics import brier, calibration_error, classification_report, group_bootstrap


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
