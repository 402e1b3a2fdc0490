"""A policy is data: typos are named, forbidden actions refused, decisions printed with their margin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa.errors import UserError
from jepa.signals import analyse as pipeline
from jepa.signals.detect.detector import Signal
from jepa.signals.detect.risks import watch_for
from jepa.signals.document.hash_chain import read_document
from jepa.signals.policy import Policy, read_policy

EXAMPLES = sorted((Path(__file__).parents[2] / "configs/policy").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    assert read_policy(path).rules


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("min_score:", "min_scor:", "breaks.min_scor is not a key of a policy; did you mean min_score"),
        ("at_least: 0.6, action: remove", "atleast: 0.6, action: remove", "did you mean at_least"),
        ("rules:", "ruls:", "ruls is not a key of a policy; did you mean rules"),
        ("I4GWl6, risk", "I4GWI6, risk", "Did you mean I4GWl6"),
        ("category: red", "category: redd", "neither a label of this policy nor an IAB id; did you mean red"),
        ("issue_at: 0.5", "issue_at: 1.5", "forecast.issue_at"),
        ("issue_at: 0.5", "issue_at: 0.1", "would always fire"),
        ("action: hold", "action: remove", "a forecast may not remove"),
        ("action: review", "action: label", "a forecast may not label"),
        ("action: remove, queue: people", "action: remove", "needs a person"),
        ("signal: risk_after", "signal: p", "a break is judged by risk_before or risk_after"),
        ("id: seen", "id: after", "used more than once"),
        ("version:", "policy: twice\nversion:", "appears twice"),
        ("about:", "about: [", "not valid YAML"),
        ("action: hold", "action: skip", "skip is what layout does"),
    ],
)
def test_mistakes_are_named(policy_file: Path, old: str, new: str, said: str) -> None:
    text = policy_file.read_text()
    assert old in text
    policy_file.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        read_policy(policy_file)
    assert said in str(error.value) and str(policy_file) in str(error.value)


@pytest.mark.parametrize("text", ["", "- 1\n", "!!python/object/apply:os.system [ls]\n"])
def test_what_is_no_policy_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(UserError):
        read_policy(path)
    with pytest.raises(UserError, match="cannot read the policy"):
        read_policy(tmp_path / "missing.yaml")


def test_the_hash_is_of_the_meaning(policy_file: Path) -> None:
    first = read_policy(policy_file).sha256()
    policy_file.write_text("# a comment\n" + policy_file.read_text())
    assert read_policy(policy_file).sha256() == first
    policy_file.write_text(policy_file.read_text().replace("0.5", "0.51", 1))
    assert read_policy(policy_file).sha256() != first


def decisions(scorer: Any, policy_file: Path, video: Path, out: Path, **more: Any) -> Any:
    config = pipeline.SignalsConfig(str(video), "none", str(policy_file), str(out), stride_ms=100, **more)
    pipeline.process(config, [video], read_policy(policy_file), scorer)
    return read_document(next(out.glob("*/signals.json")))


def test_decisions_say_rule_value_threshold_and_margin(
    scorer: Any, policy_file: Path, video: Path, tmp_path: Path
) -> None:
    document = decisions(scorer, policy_file, video, tmp_path / "out")
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
    scorer: Any, policy_file: Path, video: Path, tmp_path: Path
) -> None:
    """Where the future is on disk it is looked up: the break before red is held, the decoy's is not."""
    document = decisions(scorer, policy_file, video, tmp_path / "out", causal=False)
    verdicts = {item.at_ms: item for item in document.ads.breaks}
    assert verdicts[1500].verdict == "hold" and verdicts[1500].after.source == "observed"
    assert verdicts[5300].verdict != "hold"
    assert document.run.causal is False


def test_what_nobody_assessed_is_not_safe(
    scorer: Any, policy_file: Path, video: Path, tmp_path: Path
) -> None:
    policy_file.write_text(
        policy_file.read_text().replace(
            "signal: risk_before, category: red", "signal: risk_before, category: avbNf2"
        )
    )
    document = decisions(scorer, policy_file, video, tmp_path / "out")
    blind = [item for item in document.decisions if item.basis == "not_assessed"]
    assert blind and all(item.action == "review" and item.value is None for item in blind)
    assert not any(item.verdict == "allow" for item in document.ads.breaks)
    assert any(item.what.startswith("avbNf2") for item in document.not_assessed)


def test_a_horizon_that_no_probe_gives_is_refused(
    scorer: Any, policy_file: Path, video: Path, tmp_path: Path
) -> None:
    policy_file.write_text(policy_file.read_text().replace("horizon_ms: 1000", "horizon_ms: 1500"))
    with pytest.raises(UserError, match=r"forecast.horizon_ms=1500.*500, 1000, 2000"):
        decisions(scorer, policy_file, video, tmp_path / "out")


def test_forecasts_cannot_be_made_to_remove() -> None:
    rule = {"id": "r", "subject": "anticipated", "signal": "p", "at_least": 0.1, "reason": "x", "queue": "q"}
    for action in ("remove", "label", "demote"):
        with pytest.raises(ValueError, match="may not"):
            Policy.model_validate(
                {"policy": "p", "version": "1", "about": "x", "rules": [rule | {"action": action}]}
            )


def test_groups_add_disjoint_classes_and_take_the_likeliest_tag(scorer: Any, policy_file: Path) -> None:
    policy_file.write_text(
        policy_file.read_text().replace("rules:", "groups: {vivid: [red, bright]}\nrules:")
    )
    policy = read_policy(policy_file)
    watch = watch_for(policy, scorer)
    assert [signal.label for signal in watch.signals] == ["vivid"]
    observed = np.array([[0.25, 0.5], [0.1, 0.0]])
    assert watch.read(observed).tolist() == [[0.75], [0.1]]
    scorer.probes = tuple(probe.model_copy(update={"task": "describe"}) for probe in scorer.probes)
    assert watch_for(policy, scorer).read(observed).tolist() == [[0.5], [0.1]]
    assert watch.probes[0].groups == {"vivid": ["red", "bright"]} and watch.probes[1].groups == {}


def test_a_group_confirms_a_forecast_of_its_name(
    scorer: Any, policy_file: Path, video: Path, tmp_path: Path
) -> None:
    """The forecaster says "danger", the observer "red": the policy joins them."""
    policy_file.write_text(
        policy_file.read_text()
        .replace("red: {iab: I4GWl6, risk: true}", "danger: {iab: I4GWl6}")
        .replace("category: red", "category: danger")
        .replace("rules:", "groups: {danger: [red]}\nrules:")
    )
    scorer.anticipated = (Signal("foresee", "danger"),)
    see, foresee = scorer.probes
    scorer.probes = (see, foresee.model_copy(update={"labels": ["danger"]}))
    document = decisions(scorer, policy_file, video, tmp_path / "out")
    assert [item.resolution.status for item in document.anticipated] == ["confirmed", "refuted", "expired"]
    assert document.run.probes[0].groups == {"danger": ["red"]}
