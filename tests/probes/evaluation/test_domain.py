"""The domain check keeps its promise on groups, and puts other data outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import jepa
from jepa.probes.evaluation.domain import describe, fit_domain


def grouped(seed: int, groups: int, each: int = 6, features: int = 12) -> tuple[torch.Tensor, list[str]]:
    """Windows of videos: each group has an offset of its own, which its windows share."""
    rng = np.random.default_rng(seed)
    offset = rng.normal(size=(groups, 1, features))
    vectors = (offset + 0.3 * rng.normal(size=(groups, each, features))).reshape(-1, features)
    return torch.from_numpy(vectors).float(), [str(i) for i in range(groups) for _ in range(each)]


def test_windows_of_further_groups_are_inside_at_the_promised_rate() -> None:
    rates = []
    for seed in range(12):
        vectors, names = grouped(seed, 150)
        domain = fit_domain(vectors, names, np.arange(300), np.arange(300, 900), alpha=0.1)
        assert domain is not None and domain.metadata["groups"] == 100 and domain.metadata["promised"]
        further, _ = grouped(1000 + seed, 200)
        rates.append(float(domain.score(further).inside.float().mean()))
        assert 0.8 < domain.metadata["measured"]["inside"] <= 1.0
    # P(outside) <= alpha on average over calibration sets, and not much below it.
    assert 0.87 < np.mean(rates) < 0.94


def test_other_data_and_constant_input_are_outside() -> None:
    vectors, names = grouped(0, 100)
    domain = fit_domain(vectors, names, np.arange(300), np.arange(300, 600))
    assert domain is not None
    shifted = vectors[:50] + 6.0
    assert not domain.score(shifted).inside.any()
    assert not domain.score(torch.full((3, 12), 50.0)).inside.any()


def test_the_verdict_is_that_of_the_p_value() -> None:
    vectors, names = grouped(3, 80)
    domain = fit_domain(vectors, names, np.arange(240), np.arange(240, 480), alpha=0.1)
    assert domain is not None
    found = domain.score(torch.cat([vectors * factor for factor in (0.5, 1.0, 1.3, 1.6, 3.0)]))
    assert torch.equal(found.inside, found.p > 0.1)
    assert 0 < found.inside.sum() < len(found.inside)
    order = found.distance.argsort()
    assert (found.p[order].diff() <= 0).all()


def test_few_groups_promise_less_and_very_few_nothing() -> None:
    vectors, names = grouped(0, 60)
    some = fit_domain(vectors, names, np.arange(240), np.arange(240, 360))
    assert some is not None and some.metadata["promised"]
    assert some.metadata["alpha"] == pytest.approx(1 / 21)
    few = fit_domain(vectors, names, np.arange(330), np.arange(330, 360))
    assert few is not None and not few.metadata["promised"]
    assert "nothing is promised" in describe(few)
    assert fit_domain(vectors, names, np.arange(4), np.arange(240, 360)) is None
    assert "No domain check" in describe(None)


def test_a_feature_that_never_varies_is_harmless() -> None:
    vectors, names = grouped(0, 60)
    vectors[:, 0] = 1.0
    domain = fit_domain(vectors, names, np.arange(240), np.arange(240, 360))
    assert domain is not None and domain.score(vectors).inside.float().mean() > 0.8


def test_a_saved_probe_keeps_its_check(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = ["left", "right"] * 60
    features = rng.normal(size=(120, 6)) + np.array([[2.0 * (label == "left")] for label in labels])
    _, probe = jepa.probes.fit(features, labels, heads=("ridge",))
    loaded = jepa.load_probe(probe.save(tmp_path))
    query = torch.from_numpy(np.concatenate([features[:20], features[:5] + 40])).float()
    found, before = loaded.predict(query), probe.predict(query)
    assert torch.equal(found.domain_p, before.domain_p) and torch.equal(found.distance, before.distance)
    assert found.in_domain[:20].float().mean() > 0.8 and not found.in_domain[20:].any()
    loaded.add_domain(None)
    assert jepa.load_probe(loaded.save(tmp_path)).predict(query).in_domain is None
