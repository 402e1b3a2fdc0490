"""Risks: which labels a policy calls risks, and how their probabilities come from the detectors' labels.

A current-action probe and an anticipation probe seldom have the same labels: one has "ignite bin" and "burn bin", the
other "fire". The policy's `groups` say which labels count as one risk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jepa.signals.detect.detector import DetectorSet, Signal
from jepa.signals.document.run import DetectorMetadata, HeadMetadata
from jepa.signals.policy import Policy


@dataclass(frozen=True)
class Risks:
    """The observed risks, and for each the columns of the detectors' output that it is made of."""

    signals: tuple[Signal, ...]
    """the risks that documents name"""
    columns: tuple[tuple[int, ...], ...]
    """for each, columns of `WindowScores.observed`"""
    exclusive: tuple[bool, ...]
    """for each, whether its labels exclude each other, so that their probabilities add up"""
    detectors: tuple[DetectorMetadata, ...]
    """the detectors' metadata, with the groups that were formed from their heads' labels"""

    def probabilities(self, observed: np.ndarray) -> np.ndarray:
        """Probabilities of the risks [B, R] from those of all labels [B, O].

        Classes of one softmax are disjoint, so the probability of any of them is their sum. Independent tags
        are not, and their maximum is a lower bound of it.
        """
        found = [
            observed[:, list(columns)].sum(axis=1) if exclusive else observed[:, list(columns)].max(axis=1)
            for columns, exclusive in zip(self.columns, self.exclusive, strict=True)
        ]
        return np.stack(found, axis=1) if found else np.zeros((len(observed), 0))


def risks_of(policy: Policy, detectors: DetectorSet) -> Risks:
    """The risks to track: the policy's groups, the labels that it marks, and those that are also forecast."""
    tasks = {head.id: head.task for head in detectors.heads}
    grouped: dict[Signal, list[int]] = {}
    singles: dict[Signal, list[int]] = {}
    forecast = {signal.label for signal in detectors.anticipated}
    for column, signal in enumerate(detectors.observed):
        homes = [name for name, members in policy.groups.items() if signal.label in members]
        for name in homes:
            grouped.setdefault(Signal(signal.head, name), []).append(column)
        marked = signal.label in policy.labels and policy.labels[signal.label].risk
        if not homes and (signal.label in forecast or marked):
            singles[signal] = [column]
    # A label of its own wins over a group of the same name: it was calibrated as it is.
    found = {**singles, **{key: columns for key, columns in grouped.items() if key not in singles}}
    metadata = [
        item.model_copy(
            update={"heads": [_with_groups(head, grouped, detectors.observed) for head in item.heads]}
        )
        for item in detectors.metadata
    ]
    return Risks(
        tuple(found),
        tuple(tuple(columns) for columns in found.values()),
        tuple(tasks[signal.head] == "classify" for signal in found),
        tuple(metadata),
    )


def _with_groups(
    head: HeadMetadata, grouped: dict[Signal, list[int]], observed: Sequence[Signal]
) -> HeadMetadata:
    groups = {
        signal.label: [observed[column].label for column in columns]
        for signal, columns in grouped.items()
        if signal.head == head.id
    }
    return head.model_copy(update={"groups": groups})
