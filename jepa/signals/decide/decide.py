"""Policy decisions: every span, forecast and break gets a decision with its rule, value, threshold and margin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from jepa.signals.decide.breaks import BreakContext, Candidate, choose
from jepa.signals.document.fields import ACTION_ORDER, FINAL_ACTIONS, Action
from jepa.signals.document.objects import (
    Anticipated,
    Break,
    Decision,
    Observed,
    Review,
)
from jepa.signals.policy import Policy, Rule

Basis = Literal["observed", "anticipated", "layout", "not_assessed"]


class Reading(NamedTuple):
    """A rule beside the value that it reads: `value` is None where nothing was assessed."""

    rule: Rule
    value: float | None
    basis: Basis
    label: str = ""

    @property
    def margin(self) -> float:
        """By how much the value exceeds the threshold; negative where it stays below."""
        return -1.0 if self.value is None else self.value - self.rule.at_least


@dataclass(frozen=True, kw_only=True)
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
    context: BreakContext,
    observed: Sequence[Observed],
    forecasts: Sequence[Anticipated],
    candidates: Sequence[Candidate],
) -> tuple[list[Break], list[Decision]]:
    """Applies every rule to everything it is about.

    Spans and forecasts that no rule is about get no decision. Every break gets one. Among the rules that
    fire, the strictest action wins, then the widest margin. If none fires, the decision prints the one that
    came closest.

    Args:
        policy: the rules.
        context: gives the risks on both sides of a break.
        observed: spans.
        forecasts: forecasts that were issued.
        candidates: times at which a break could go, in order of time.

    Returns:
        The breaks with their verdicts, and all decisions: spans first, then forecasts, then breaks.
    """
    signals = [("observed", span.id, span.label, span.p) for span in observed]
    for forecast in forecasts:
        p = next(point.p for point in forecast.curve if point.within_ms == forecast.horizon_ms)
        signals.append(("anticipated", forecast.id, forecast.label, p))
    about_signals = [verdict for signal in signals if (verdict := _judge_signal(policy, *signal)) is not None]
    about_breaks = _judge_breaks(policy, context, candidates)
    fingerprint = policy.sha256()
    decisions = [
        verdict.numbered(number, policy, fingerprint)
        for number, verdict in enumerate([*about_signals, *about_breaks], start=1)
    ]
    breaks = [
        Break(
            id=decision.subject,
            at_ms=candidate.at_ms,
            at_frame=candidate.at_frame,
            boundary_types=candidate.boundary_types,
            score=candidate.score,
            factors=candidate.factors,
            before=candidate.before,
            after=candidate.after,
            verdict=decision.action,
            decision=decision.id,
        )
        for candidate, decision in zip(candidates, decisions[len(about_signals) :], strict=True)
    ]
    return breaks, decisions


def _judge_signal(policy: Policy, kind: str, subject: str, label: str, p: float) -> _Verdict | None:
    """The verdict on a span or a forecast; None where no rule is about it."""
    basis: Basis = "observed" if kind == "observed" else "anticipated"
    readings = [
        Reading(rule, p, basis, label)
        for rule in policy.rules
        if rule.subject == kind and policy.matches(rule.category, label)
    ]
    ahead = f"is forecast within {_seconds(policy.forecast.horizon_ms)}"
    words = f"{label} {'was observed' if kind == 'observed' else ahead}"
    return _apply_rules(policy, subject, readings, lambda _: words) if readings else None


def _judge_breaks(policy: Policy, context: BreakContext, candidates: Sequence[Candidate]) -> list[_Verdict]:
    """One verdict per candidate: rules first, then score and layout among what the rules leave."""
    readings = [_readings(policy, context, candidate) for candidate in candidates]
    by_rule: list[_Verdict | None] = []
    for number, read in enumerate(readings, start=1):
        verdict = _apply_rules(policy, f"b{number}", read, lambda reading: _side_words(policy, reading))
        by_rule.append(verdict if verdict is not None and verdict.action != "allow" else None)
    layout = policy.breaks
    # Only what no rule forbids competes for room: a held break must not push an allowed one out.
    free = [
        i for i, verdict in enumerate(by_rule) if verdict is None and candidates[i].score >= layout.min_score
    ]
    # Scores are shifted so that any candidate above the policy's floor counts for something, however low that is.
    shift = 1e-6 - min(0.0, layout.min_score)
    picks = choose(
        [candidates[i].at_ms for i in free],
        [candidates[i].score + shift for i in free],
        layout.min_gap_ms,
        layout.max_breaks,
    )
    taken = {free[pick] for pick in picks}
    verdicts = [
        verdict if verdict is not None else _lay_out(policy, candidates, i, taken, readings[i])
        for i, verdict in enumerate(by_rule)
    ]
    # Where to move a break is known only now that the others have been taken.
    return [
        _find_another(verdict, candidates, i, taken) if verdict.action == "move" else verdict
        for i, verdict in enumerate(verdicts)
    ]


def _readings(policy: Policy, context: BreakContext, candidate: Candidate) -> list[Reading]:
    """What each rule about breaks reads at this candidate."""
    found = []
    for rule in policy.rules:
        if rule.subject != "break" or (rule.signal == "risk_before" and candidate.at_ms == 0):
            continue  # before the first frame nothing was shown, which no detector need assess
        before = rule.signal == "risk_before"
        risk = (context.before if before else context.after)(candidate.at_ms, rule.category)
        assessed = context.assessed_before if before else context.assessed_after
        basis: Basis = "anticipated" if rule.signal == "risk_after" and context.causal else "observed"
        # What was seen in a part of the side may forbid a break; it can never clear the rest of it.
        if risk is None or (risk.p < rule.at_least and not assessed(candidate.at_ms, rule.category)):
            # No detector looks for it, none assessed all of this side, or the first window had not ended yet.
            found.append(Reading(rule, None, "not_assessed"))
        else:
            found.append(Reading(rule, risk.p, basis, risk.label))
    return found


def _apply_rules(
    policy: Policy, subject: str, readings: Sequence[Reading], words: Callable[[Reading], str]
) -> _Verdict | None:
    """The verdict of the rules alone; None if there are no rules.

    Three cases, in this order: a rule fires; a rule has nothing to read and the policy does not let that pass; no rule
    fires, and the decision states the one that came closest, so that a reader sees by how much.
    """
    fired = [reading for reading in readings if reading.value is not None and reading.margin >= 0]
    if fired:
        return _fired(subject, max(fired, key=_severity), words)
    unassessed = [reading.rule for reading in readings if reading.value is None]
    if unassessed and policy.when_not_assessed != "allow":
        rule = unassessed[0]
        return _Verdict(
            subject=subject,
            action=policy.when_not_assessed,
            rule_id=rule.id,
            rule=_condition(rule),
            value=None,
            threshold=rule.at_least,
            basis="not_assessed",
            reason=f"No detector assessed all of this side for {rule.category}, so the policy's when_not_assessed "
            "applies.",
            queue=rule.queue or "review",
        )
    read = [reading for reading in readings if reading.value is not None]
    if not read:
        return None
    closest = max(read, key=lambda reading: reading.margin)
    return _Verdict(
        subject=subject,
        action="allow",
        rule_id=closest.rule.id,
        rule=_condition(closest.rule),
        value=closest.value,
        threshold=closest.rule.at_least,
        basis=closest.basis,
        reason=f"No rule fires; {closest.rule.id} comes closest ({_comparison(closest, words)}).",
        human="not_required",
    )


def _severity(reading: Reading) -> tuple[int, float]:
    """Order among rules that fire: the strictest action, then the widest margin."""
    return ACTION_ORDER.index(reading.rule.action), reading.margin


def _fired(subject: str, reading: Reading, words: Callable[[Reading], str]) -> _Verdict:
    rule = reading.rule
    # What needs a person goes to a queue even if the policy names none.
    needs_person = rule.action == "review" or (rule.action in FINAL_ACTIONS and rule.human == "required")
    return _Verdict(
        subject=subject,
        action=rule.action,
        rule_id=rule.id,
        rule=_condition(rule),
        value=reading.value,
        threshold=rule.at_least,
        basis=reading.basis,
        reason=f"{rule.reason} ({_comparison(reading, words)})",
        queue=rule.queue or ("review" if needs_person else None),
        human=rule.human,
    )


def _lay_out(
    policy: Policy,
    candidates: Sequence[Candidate],
    index: int,
    taken: set[int],
    readings: Sequence[Reading],
) -> _Verdict:
    """The verdict on a break that no rule forbids: is its score high enough, and is there room?"""
    layout, candidate = policy.breaks, candidates[index]
    verdict = _Verdict(
        subject=f"b{index + 1}",
        action="skip",
        rule_id="breaks.min_score",
        rule=f"score >= {layout.min_score:.2f}",
        value=candidate.score,
        threshold=layout.min_score,
        basis="layout",
        reason="The score is too low to interrupt here.",
        human="not_required",
    )
    if index in taken:
        by_rule = _apply_rules(policy, verdict.subject, readings, lambda item: _side_words(policy, item))
        reason = "No rule is about breaks; the score is high enough."
        return by_rule if by_rule is not None else replace(verdict, action="allow", reason=reason)
    if candidate.score < layout.min_score:
        return verdict
    gap = min((abs(candidates[other].at_ms - candidate.at_ms) for other in taken), default=0)
    if gap < layout.min_gap_ms:
        return replace(
            verdict,
            rule_id="breaks.min_gap_ms",
            rule=f"gap_ms >= {layout.min_gap_ms}",
            value=float(gap),
            threshold=float(layout.min_gap_ms),
            reason="A better break is too close.",
        )
    return replace(
        verdict,
        rule_id="breaks.max_breaks",
        rule=f"breaks < {layout.max_breaks}",
        value=float(len(taken)),
        threshold=float(layout.max_breaks),
        reason="There are as many breaks as the policy permits.",
    )


def _find_another(
    verdict: _Verdict, candidates: Sequence[Candidate], index: int, taken: set[int]
) -> _Verdict:
    """A verdict to move, with the nearest allowed break to move to; without one the break is held."""
    others = sorted(taken, key=lambda other: abs(candidates[other].at_ms - candidates[index].at_ms))
    if others:
        return replace(verdict, to=f"b{others[0] + 1}")
    reason = f"{verdict.reason} There is no other break to move to, so it is held."
    return replace(verdict, action="hold", reason=reason)


def _condition(rule: Rule) -> str:
    return f"{rule.signal}.{rule.category} >= {rule.at_least:.2f}"


def _comparison(reading: Reading, words: Callable[[Reading], str]) -> str:
    return f"{words(reading)}, p {reading.value:.2f}, threshold {reading.rule.at_least:.2f}"


def _side_words(policy: Policy, reading: Reading) -> str:
    if reading.rule.signal == "risk_before":
        return f"{reading.label} observed in the {_seconds(policy.breaks.before_ms)} before"
    how = "forecast" if reading.basis == "anticipated" else "observed"
    return f"{reading.label} {how} for the {_seconds(policy.breaks.after_ms)} after"


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g} s"
