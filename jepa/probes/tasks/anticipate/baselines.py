"""Baselines of anticipation: base rates, and what follows the current action."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from jepa.probes.data.splits import Fold
from jepa.probes.evaluation.cross_validate import HeadRun
from jepa.probes.tasks.anticipate.hazard import base_logits, cumulative

SMOOTHING = 10.0
"""pseudo-observations that pull the rates after a rare action towards those of all actions"""


def base_rate_run(targets: Tensor, folds: Sequence[Fold]) -> HeadRun:
    """The life-table rates of the training and validation part, the same for every window."""
    probability = np.full((1, len(targets), targets.shape[1], targets.shape[3]), np.nan)
    for fold in folds:
        known = np.concatenate([fold.train, fold.val])
        probability[0, fold.test] = cumulative(base_logits(targets[known])).numpy()
    return HeadRun("base rate", "-", probability, -float("inf"))


def hazards_after_action(
    name: str, current: np.ndarray, truth: np.ndarray, targets: Tensor, folds: Sequence[Fold]
) -> HeadRun:
    """The rates that follow each action in the training part, mixed by probabilities of the current action.

    With a current-action probe's probabilities this forecast depends on the present only. With the list's own
    labels it is the current-action oracle.

    Args:
        name: for the table.
        current: [seeds, n, A] probability of each action at the window's end.
        truth: [n] number of the current action, for the rates.
        targets: [n, H, 2, K].
        folds: divisions of the windows.
    """
    probability = np.full((len(current), len(targets), targets.shape[1], targets.shape[3]), np.nan)
    for fold in folds:
        known = np.concatenate([fold.train, fold.val])
        base = base_logits(targets[known])
        rates = torch.stack(
            [
                cumulative(
                    base_logits(
                        targets[known], torch.from_numpy((truth[known] == a) * 1.0).float(), SMOOTHING, base
                    )
                )
                for a in range(current.shape[-1])
            ]
        ).numpy()
        probability[:, fold.test] = np.einsum("sna,ahk->snhk", current[:, fold.test], rates)
    return HeadRun(name, "-", probability, -float("inf"))


def next_after_action(
    current: np.ndarray, truth: np.ndarray, targets: np.ndarray, classes: int, folds: Sequence[Fold]
) -> np.ndarray:
    """Next-action fractions after each action in the training part, mixed by probabilities of the current one.

    Returns predictions [seeds, n, C].

    Args:
        current: [seeds, n, A] probability of each action at the window's end.
        truth: [n] number of the current action.
        targets: [n] number of the next action.
        classes: C.
        folds: divisions of the windows.
    """
    probability = np.full((len(current), len(targets), classes), np.nan)
    for fold in folds:
        known = np.concatenate([fold.train, fold.val])
        base = np.bincount(targets[known], minlength=classes) / len(known)
        counts = np.zeros((current.shape[-1], classes))
        np.add.at(counts, (truth[known], targets[known]), 1)
        fractions = (counts + base) / (counts.sum(1, keepdims=True) + 1)
        probability[:, fold.test] = current[:, fold.test] @ fractions
    return probability


def certain(truth: np.ndarray, actions: int) -> np.ndarray:
    """Probability one for the labels as they are, [1, n, A].

    Example:
        >>> certain(np.array([1, 0]), 2).tolist()
        [[[0.0, 1.0], [1.0, 0.0]]]
    """
    return np.eye(actions)[truth][None]
