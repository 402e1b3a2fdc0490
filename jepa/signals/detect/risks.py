"""Which risks are watched for, and how their scores come from the probes' classes.

A probe that tells what is happening and one that foresees seldom use the same words: one knows "ignite bin"
and "burn bin", the other "fire". The policy's `groups` say which classes count as one risk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jepa.signals.detect.detector import Scorer, Signal
from jepa.signals.document.objects import ProbeFacts
from jepa.signals.policy import Policy


@dataclass(frozen=True)
class Watch:
    """The observed risks, and for each the columns of the scorer's output that it is made of."""

    signals: tuple[Signal, ...]
    """the risks that documents speak of"""
    columns: tuple[tuple[int, ...], ...]
    """for each, columns of `WindowScores.observed`"""
    exclusive: tuple[bool, ...]
    """for each, whether its classes exclude each other, so that their probabilities add up"""
    probes: tuple[ProbeFacts, ...]
    """the scorer's probes with the groups that were formed from their classes"""

    def read(self, observed: np.ndarray) -> np.ndarray:
        """Probabilities of the watched risks [B, O'] from those of all classes [B, O].

        Classes of one softmax are disjoint, so the probability of any of them is their sum. Independent tags
        are not, and their maximum is a lower bound of it.
        """
        found = [
            observed[:, list(columns)].sum(axis=1) if exclusive else observed[:, list(columns)].max(axis=1)
            for columns, exclusive in zip(self.columns, self.exclusive, strict=True)
        ]
        return np.stack(found, axis=1) if found else np.zeros((len(observed), 0))


def watch_for(policy: Policy, scorer: Scorer) -> Watch:
    """The risks to watch: the policy's groups, the labels that it marks, and those that are also foreseen."""
    tasks = {probe.id: probe.task for probe in scorer.probes}
    grouped: dict[Signal, list[int]] = {}
    singles: dict[Signal, list[int]] = {}
    foreseen = {signal.label for signal in scorer.anticipated}
    for column, signal in enumerate(scorer.observed):
        homes = [name for name, members in policy.groups.items() if signal.label in members]
        for name in homes:
            grouped.setdefault(Signal(signal.probe, name), []).append(column)
        marked = signal.label in policy.labels and policy.labels[signal.label].risk
        if not homes and (signal.label in foreseen or marked):
            singles[signal] = [column]
    found = {**singles, **{key: columns for key, columns in grouped.items() if key not in singles}}
    probes = [_with_groups(probe, grouped, scorer.observed) for probe in scorer.probes]
    return Watch(
        tuple(found),
        tuple(tuple(columns) for columns in found.values()),
        tuple(tasks[signal.probe] == "classify" for signal in found),
        tuple(probes),
    )


def _with_groups(
    probe: ProbeFacts, grouped: dict[Signal, list[int]], observed: Sequence[Signal]
) -> ProbeFacts:
    groups = {
        signal.label: [observed[column].label for column in columns]
        for signal, columns in grouped.items()
        if signal.probe == probe.id
    }
    return probe.model_copy(update={"groups": groups})
