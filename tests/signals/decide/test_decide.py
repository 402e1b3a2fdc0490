"""Decisions: rule, value, threshold and margin; what is not assessed is not safe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa.signals.export import openrtb, vmap
from jepa.signals.policy import read_policy


def test_decisions_state_rule_value_threshold_and_margin(
    document_of: Any, policy_file: Path, video: Path, tmp_path: Path
) -> None:
    document = document_of(video, tmp_path / "out")
    by_subject = {item.subject: item for item in document.decisions}
    held = by_subject["b1"]
    assert (held.action, held.rule, held.basis) == ("hold", "risk_after.I4GWl6 >= 0.50", "anticipated")
    assert held.value == pytest.approx(0.795, abs=0.01)
    assert held.margin == pytest.approx(held.value - 0.5)
    assert held.automated == "partially" and held.review is not None and held.review.queue == "ads"
    moved = by_subject["b2"]
    assert (moved.action, moved.basis, moved.to) == ("move", "observed", "b5")
    allowed = by_subject["b5"]
    assert allowed.action == "allow" and allowed.margin < 0 and allowed.automated == "fully"
    removed = by_subject["o1"]
    assert (removed.action, removed.human) == ("remove", "required") and removed.review is not None
    assert by_subject["a1"].action == "review"
    assert {item.policy_sha256 for item in document.decisions} == {read_policy(policy_file).sha256()}


def test_looking_up_what_comes_after_needs_no_forecast(
    document_of: Any, policy_file: Path, video: Path, tmp_path: Path
) -> None:
    """Where the future is on disk it is looked up: the break before red is held, the decoy's is not."""
    document = document_of(video, tmp_path / "out", causal=False)
    verdicts = {item.at_ms: item for item in document.ads.breaks}
    assert verdicts[1500].verdict == "hold" and verdicts[1500].after.source == "observed"
    assert verdicts[5300].verdict != "hold"
    assert document.run.causal is False


def test_what_nobody_assessed_is_not_safe(
    document_of: Any, policy_file: Path, video: Path, tmp_path: Path
) -> None:
    policy_file.write_text(
        policy_file.read_text().replace(
            "signal: risk_before, category: red", "signal: risk_before, category: avbNf2"
        )
    )
    document = document_of(video, tmp_path / "out")
    blind = [item for item in document.decisions if item.basis == "not_assessed"]
    assert blind and all(item.action == "review" and item.value is None for item in blind)
    assert not any(item.verdict == "allow" for item in document.ads.breaks)
    assert any(item.what.startswith("avbNf2") for item in document.not_assessed)


@pytest.mark.parametrize(
    ("first", "causal", "verdict"),
    [((20, 20, 20), False, "allow"), ((220, 20, 20), False, "hold"), ((20, 20, 20), True, "review")],
)
def test_pre_roll_is_judged_by_what_follows_alone(
    document_of: Any, policy_file: Path, make_video: Callable[..., Path], tmp_path: Path,
    first: tuple[int, int, int], causal: bool, verdict: str,
) -> None:  # fmt: skip
    """Before the first frame nothing was shown; live, nobody can know what follows, and a person decides."""
    policy_file.write_text(
        policy_file.read_text().replace("{min_score: -1.0", "{pre_roll: true, min_score: 0.25")
    )
    document = document_of(make_video("one shot.mp4", [first] * 12), tmp_path / "out", causal=causal)
    item = document.ads.breaks[0]
    assert (item.at_ms, item.boundary_types, item.verdict) == (0, ["start"], verdict)
    requests = openrtb(document)
    assert [request["imp"][0]["video"]["startdelay"] for request in requests] == [0] * (verdict == "allow")
    assert ('timeOffset="start"' in vmap(document)) == (verdict == "allow")
