"""The policy at work: every span, forecast and break gets a decision with its rule, value, threshold and
margin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jepa.signals.decide.breaks import Candidate, Sides, choose
from jepa.signals.document.objects import (
    ACTION_ORDER,
    FINAL_ACTIONS,
    Action,
    Anticipated,
    Break,
    Decision,
    Observed,
    Review,
)
from jepa.signals.policy import Policy, Rule

Basis = Literal["observed", "anticipated", "layout", "not_assessed"]


class Reading(NamedTuple):
    """A rule beside what it read: `value` is None where no probe looks."""

    rule: Rule
    value: float | None
    basis: Basis
    label: str = ""

    @property
    def margin(self) -> float:
        """By how much the value exceeds the threshold; negative where it stays below."""
        return -1.0 if self.value is None else self.value - self.rule.at_least


@dataclass
class _Verdict:
    """A decision before it has its number."""

    subject: str
    action: Action
    rule_id: str
    rule: str
    value: float | None
    threshold: float | None
    basis: Basis
    reason: str
    queue: str | None = None
    human: Literal["required", "not_required"] = "required"
    to: str | None = None

    def numbered(self, number: int, policy: Policy, policy_sha256: str) -> Decision:
        """The decision as the document keeps it."""
        margin = (
            None if self.value is None or self.threshold is None else round(self.value - self.threshold, 9)
        )
        return Decision(
            id=f"d{number}",
            subject=self.subject,
            action=self.action,
            policy=policy.policy,
            policy_version=policy.version,
            policy_sha256=policy_sha256,
            rule_id=self.rule_id,
            rule=self.rule,
            value=self.value,
            threshold=self.threshold,
            margin=margin,
            basis=self.basis,
            automated="partially" if self.queue is not None else "fully",
            human=self.human,
            reason=self.reason,
            review=Review(queue=self.queue, state="open") if self.queue is not None else None,
            to=self.to,
        )


def decide(
    policy: Policy,
    sides: Sides,
    observed: Sequence[Observed],
    forecasts: Sequence[Anticipated],
    found: Sequence[Candidate],
) -> tuple[list[Break], list[Decision]]:
    """Applies every rule to everything it is about.

    Spans and forecasts that no rule is about get no decision. Every break gets one. Among the rules that
    fire, the strictest action wins, then the widest margin. If none fires, the decision prints the one that
    came closest.

    Returns:
        The breaks with their verdicts, and all decisions: spans first, then forecasts, then breaks.
    """
    verdicts = [
        verdict
        for span in observed
        if (verdict := _judge(policy, "observed", span.id, span.label, span.p)) is not None
    ]
    for forecast in forecasts:
        p = next(point.p for point in forecast.curve if point.within_ms == forecast.horizon_ms)
        verdict = _judge(policy, "anticipated", forecast.id, forecast.label, p)
        if verdict is not None:
            verdicts.append(verdict)
    on_breaks = _judge_breaks(policy, sides, found)
    fingerprint = policy.sha256()
    decisions = [
        verdict.numbered(number, policy, fingerprint)
        for number, verdict in enumerate([*verdicts, *on_breaks], start=1)
    ]
    breaks = [
        Break(
            id=decision.subject,
            at_ms=place.at_ms,
            at_frame=place.at_frame,
            snap=place.snap,
            score=place.score,
            factors=place.factors,
            before=place.before,
            after=place.after,
            verdict=decision.action,
            decision=decision.id,
        )
        for place, decision in zip(found, decisions[len(verdicts) :], strict=True)
    ]
    return breaks, decisions


def _judge(
    policy: Policy, kind: Literal["observed", "anticipated"], subject: str, label: str, p: float
) -> _Verdict | None:
    readings = [
        Reading(rule, p, kind, label)
        for rule in policy.rules
        if rule.subject == kind and policy.matches(rule.category, label)
    ]
    seen = "was seen" if kind == "observed" else f"is forecast within {_seconds(policy.forecast.horizon_ms)}"
    return _strictest(policy, subject, readings, lambda _: f"{label} {seen}") if readings else None


def _judge_breaks(policy: Policy, sides: Sides, found: Sequence[Candidate]) -> list[_Verdict]:
    verdicts: list[_Verdict | None] = []
    readings: list[list[Reading]] = []
    for number, place in enumerate(found, start=1):
        readings.append(_readings(policy, sides, place))
        verdict = _strictest(policy, f"b{number}", readings[-1], lambda reading: _side_words(policy, reading))
        verdicts.append(verdict if verdict is not None and verdict.action != "allow" else None)
    layout = policy.breaks
    free = [i for i, verdict in enumerate(verdicts) if verdict is None and found[i].score >= layout.min_score]
    # Scores are shifted so that any allowed place counts for something, however low the policy sets its
    # floor.
    shift = 1e-6 - min(0.0, layout.min_score)
    picks = choose(
        [found[i].at_ms for i in free],
        [found[i].score + shift for i in free],
        layout.min_gap_ms,
        layout.max_breaks,
    )
    taken = {free[pick] for pick in picks}
    done = [
        verdict if verdict is not None else _lay_out(policy, found, i, taken, readings[i])
        for i, verdict in enumerate(verdicts)
    ]
    for i, verdict in enumerate(done):
        if verdict.action == "move":
            _find_another(verdict, found, i, taken)
    return done


def _readings(policy: Policy, sides: Sides, place: Candidate) -> list[Reading]:
    found = []
    for rule in policy.rules:
        if rule.subject != "break":
            continue
        look = sides.before if rule.signal == "risk_before" else sides.after
        worst = look(place.at_ms, rule.category)
        basis: Basis = "anticipated" if rule.signal == "risk_after" and sides.causal else "observed"
        if worst is None:
            # Nobody looks for it, or the first window had not ended yet. Nothing known is not nothing there.
            found.append(Reading(rule, None, "not_assessed"))
        else:
            found.append(Reading(rule, worst.p, basis, worst.label))
    return found


def _strictest(
    policy: Policy, subject: str, readings: Sequence[Reading], words: Callable[[Reading], str]
) -> _Verdict | None:
    """The verdict of the rules alone; None if there are no rules."""
    fired = [reading for reading in readings if reading.value is not None and reading.margin >= 0]
    if fired:
        reading = max(fired, key=lambda item: (ACTION_ORDER.index(item.rule.action), item.margin))
        rule = reading.rule
        # What needs a person, and what a person is asked about, goes to a queue even if the policy names
        # none.
        asks = rule.action == "review" or (rule.action in FINAL_ACTIONS and rule.human == "required")
        return _Verdict(
            subject, rule.action, rule.id, _condition(rule), reading.value, rule.at_least, reading.basis,
            f"{rule.reason} ({words(reading)}, p {reading.value:.2f}, threshold {rule.at_least:.2f})",
            rule.queue or ("review" if asks else None), rule.human,
        )  # fmt: skip
    blind = [reading for reading in readings if reading.value is None]
    if blind and policy.when_not_assessed != "allow":
        rule = blind[0].rule
        return _Verdict(
            subject, policy.when_not_assessed, rule.id, _condition(rule), None, rule.at_least, "not_assessed",
            f"No probe could say anything about {rule.category} here, so the policy's when_not_assessed "
            "applies.",
            rule.queue or "review",
        )  # fmt: skip
    read = [reading for reading in readings if reading.value is not None]
    if not read:
        return None
    nearest = max(read, key=lambda item: item.margin)
    return _Verdict(
        subject, "allow", nearest.rule.id, _condition(nearest.rule), nearest.value, nearest.rule.at_least,
        nearest.basis,
        f"No rule fires; {nearest.rule.id} comes closest ({words(nearest)}, p {nearest.value:.2f}, threshold "
        f"{nearest.rule.at_least:.2f}).",
        human="not_required",
    )  # fmt: skip


def _lay_out(
    policy: Policy, found: Sequence[Candidate], index: int, taken: set[int], readings: Sequence[Reading]
) -> _Verdict:
    """The verdict on a break that no rule forbids: is it worth it, and is there room?"""
    place, layout, subject = found[index], policy.breaks, f"b{index + 1}"
    if index in taken:
        verdict = _strictest(policy, subject, readings, lambda reading: _side_words(policy, reading))
        if verdict is not None:
            return verdict
        return _Verdict(
            subject, "allow", "breaks.min_score", f"score >= {layout.min_score:.2f}", place.score,
            layout.min_score, "layout", "No rule is about breaks; the score is high enough.", human="not_required",
        )  # fmt: skip
    if place.score < layout.min_score:
        return _Verdict(
            subject, "skip", "breaks.min_score", f"score >= {layout.min_score:.2f}", place.score,
            layout.min_score, "layout", "The score is too low to interrupt here.", human="not_required",
        )  # fmt: skip
    gap = min((abs(found[other].at_ms - place.at_ms) for other in taken), default=0)
    if gap < layout.min_gap_ms:
        return _Verdict(
            subject, "skip", "breaks.min_gap_ms", f"gap_ms >= {layout.min_gap_ms}", float(gap),
            float(layout.min_gap_ms), "layout", "A better break is too close.", human="not_required",
        )  # fmt: skip
    return _Verdict(
        subject, "skip", "breaks.max_breaks", f"breaks < {layout.max_breaks}", float(len(taken)),
        float(layout.max_breaks), "layout", "There are as many breaks as the policy permits.",
        human="not_required",
    )  # fmt: skip


def _find_another(verdict: _Verdict, found: Sequence[Candidate], index: int, taken: set[int]) -> None:
    others = sorted(taken, key=lambda other: abs(found[other].at_ms - found[index].at_ms))
    if others:
        verdict.to = f"b{others[0] + 1}"
    else:
        verdict.action = "hold"
        verdict.reason += " There is no other break to move to, so it is held."


def _condition(rule: Rule) -> str:
    return f"{rule.signal}.{rule.category} >= {rule.at_least:.2f}"


def _side_words(policy: Policy, reading: Reading) -> str:
    if reading.rule.signal == "risk_before":
        return f"{reading.label} seen in the {_seconds(policy.breaks.before_ms)} before"
    how = "foreseen" if reading.basis == "anticipated" else "seen"
    return f"{reading.label} {how} for the {_seconds(policy.breaks.after_ms)} after"


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g} s"
