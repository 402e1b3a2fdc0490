"""A policy is data: typos are named, forbidden actions refused, decisions printed with their margin."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa.errors import UserError
from jepa.signals.policy import Policy, list_policies, read_policy

EXAMPLES = sorted((Path(__file__).parents[2] / "configs/policy").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    assert read_policy(path).rules


def test_a_policy_of_the_library_is_found_by_its_name_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert {read_policy(name).policy for name in list_policies()} == {"general", "toy-brand"}
    (tmp_path / "general").write_text("a file of the same name")
    assert read_policy("general").policy == "general"
    with pytest.raises(UserError, match=r"not valid YAML|holds no keys"):
        read_policy("./general")
    with pytest.raises(UserError, match=r"cannot read the policy generl: .*general, toy-brand"):
        read_policy("generl")


def test_the_general_policy_is_careful() -> None:
    """It asks a person where nobody looked, and removes, demotes or labels nothing."""
    policy = read_policy("general")
    assert policy.when_not_assessed == "review"
    assert {rule.action for rule in policy.rules} <= {"hold", "move", "review"}
    sides = {(rule.category, rule.signal) for rule in policy.rules if rule.subject == "break"}
    assert sides == {(name, side) for name in ("nsfw", "any") for side in ("risk_before", "risk_after")}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("min_score:", "min_scor:", "breaks.min_scor is not a key of a policy; did you mean min_score"),
        ("at_least: 0.6, action: remove", "atleast: 0.6, action: remove", "did you mean at_least"),
        (
            "min_score: -1.0",
            "weights: {new_look: 0.4}",
            "breaks.weights.new_look is now called visual_change",
        ),
        ("rules:", "ruls:", "ruls is not a key of a policy; did you mean rules"),
        ("I4GWl6, risk", "I4GWI6, risk", "Did you mean I4GWl6"),
        ("category: red", "category: redd", "neither a label of this policy nor an IAB id; did you mean red"),
        ("issue_at: 0.5", "issue_at: 1.5", "forecast.issue_at"),
        ("issue_at: 0.5", "issue_at: 0.1", "would always be issued"),
        ("action: hold", "action: remove", "a forecast may not remove"),
        ("action: review", "action: label", "a forecast may not label"),
        ("action: remove, queue: people", "action: remove", "needs a person"),
        ("signal: risk_after", "signal: p", "a break is judged by risk_before or risk_after"),
        ("id: now", "id: after", "used more than once"),
        ("version:", "policy: twice\nversion:", "appears twice"),
        ("about:", "about: [", "not valid YAML"),
        ("action: hold", "action: skip", "skip is what layout does"),
    ],
)
def test_mistakes_are_named(policy_file: Path, old: str, new: str, message: str) -> None:
    text = policy_file.read_text()
    assert old in text
    policy_file.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        read_policy(policy_file)
    assert message in str(error.value) and str(policy_file) in str(error.value)


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


def test_forecasts_cannot_be_made_to_remove() -> None:
    rule = {"id": "r", "subject": "anticipated", "signal": "p", "at_least": 0.1, "reason": "x", "queue": "q"}
    for action in ("remove", "label", "demote"):
        with pytest.raises(ValueError, match="may not"):
            Policy.model_validate(
                {"policy": "p", "version": "1", "about": "x", "rules": [rule | {"action": action}]}
            )


def test_the_policy_decides_what_a_label_means_and_the_head_where_the_policy_is_silent(
    policy_file: Path,
) -> None:
    policy = read_policy(policy_file)
    table = {"red": "425", "dog": "425"}
    assert policy.category("red", table) == "I4GWl6"
    assert policy.category("dog", table) == "425"
    assert policy.category("dog") is None
