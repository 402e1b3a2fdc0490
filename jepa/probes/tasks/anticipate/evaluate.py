"""Hazard heads and their baselines through all folds: fitted on train, chosen and calibrated on val, tested
once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa.files import atomic_path
from jepa.probes.config import HeadSettings
from jepa.probes.data.labels import Sample
from jepa.probes.data.splits import Fold
from jepa.probes.evaluation.cross_validate import FeatureSet, make_grid
from jepa.probes.heads.stacked import AttentiveBank, Bank, LinearBank, Setting, bank_logits, train_bank
from jepa.probes.tasks.anticipate.hazard import (
    apply_calibration,
    base_logits,
    calibrate_hazards,
    cumulative,
    hazard_loss,
)

FORECASTS_FILE = "forecasts.npz"

SMOOTHING = 10.0
"""imagined moments that pull the rates after a rare action towards those of all actions"""


@dataclass
class HazardRun:
    """What one forecaster said."""

    features: str
    """what it read"""
    head: str
    """linear, attentive, or - for a baseline without weights"""
    probability: np.ndarray
    """[seeds, n, H, K] probability of a start within each horizon; NaN where no fold tested"""
    val_loss: float
    """mean over folds of the validation loss with the chosen settings"""


def fit_hazard_bank(
    kind: str,
    inputs: Tensor,
    targets: Tensor,
    settings: HeadSettings,
    seeds: list[int],
    jobs: Sequence[tuple[np.ndarray, Setting]],
) -> Bank:
    """Trains one hazard head per job and seed, all at once.

    Args:
        kind: linear or attentive.
        inputs: vectors or tokens [n, ...].
        targets: [n, H, 2, K], see `hazard.hazard_targets`.
        settings: steps, batch size and queries.
        seeds: one head each per job.
        jobs: (indices of the training moments, setting) per head.
    """
    member = torch.zeros(len(jobs), len(inputs), dtype=torch.bool)
    for row, (moments, _) in zip(member, jobs, strict=True):
        row[torch.from_numpy(moments)] = True
    outputs = targets.shape[1] * targets.shape[3]
    bank: Bank
    if kind == "linear":
        bank = LinearBank(len(seeds), len(jobs), inputs.shape[-1], outputs)
    else:
        bank = AttentiveBank(len(seeds), len(jobs), inputs.shape[-1], outputs, settings.queries)
    train_bank(
        bank, inputs, targets, member, [setting for _, setting in jobs], seeds,
        settings.steps, settings.batch_size, hazard_loss,
        start_bias=base_logits(targets[member.any(0)]).flatten(),
    )  # fmt: skip
    return bank


def head_input(kind: str, data: FeatureSet) -> Tensor:
    """What a kind of head reads: vectors for linear, tokens for attentive, [n, ...]."""
    return data.vectors().half() if kind == "linear" else data.tokens()


def choose_hazard(logits: Tensor, targets: Tensor, val: np.ndarray) -> tuple[int, float]:
    """The setting with the lowest validation loss.

    Args:
        logits: [settings, n, H * K].
        targets: [n, H, 2, K].
        val: indices of the validation moments.
    """
    loss = hazard_loss(logits[:, val].unsqueeze(0), targets[val].unsqueeze(0))[0].mean(-1)
    return int(loss.argmin()), float(loss.min())


def evaluate_hazards(
    kind: str,
    data: FeatureSet,
    targets: Tensor,
    folds: Sequence[Fold],
    settings: HeadSettings,
    seeds: Sequence[int],
    groups: Sequence[str],
) -> HazardRun:
    """Runs one kind of hazard head through all folds; forecasts of the test moments are calibrated on val, where
    val can tell that it helps (`hazard.calibrate_hazards`)."""
    inputs, grid = head_input(kind, data), make_grid(settings)
    shape = (targets.shape[1], targets.shape[3])
    jobs = [(fold.train, setting) for fold in folds for setting in grid]
    sweep = bank_logits(fit_hazard_bank(kind, inputs, targets, settings, list(seeds[:1]), jobs), inputs)[0]
    chosen, losses = [], []
    for number, fold in enumerate(folds):
        best, loss = choose_hazard(sweep[number * len(grid) : (number + 1) * len(grid)], targets, fold.val)
        chosen.append((fold.train, grid[best]))
        losses.append(loss)
    logits = bank_logits(fit_hazard_bank(kind, inputs, targets, settings, list(seeds), chosen), inputs)
    logits = logits.unflatten(-1, shape)
    probability = np.full((len(seeds), len(targets), *shape), np.nan)
    for number, fold in enumerate(folds):
        for s in range(len(seeds)):
            held = [groups[i] for i in fold.val]
            fitted = calibrate_hazards(logits[s, number, fold.val], targets[fold.val], held)
            probability[s, fold.test] = cumulative(
                apply_calibration(logits[s, number, fold.test], fitted)
            ).numpy()
    return HazardRun(data.name, kind, probability, float(np.mean(losses)))


def base_rate_run(targets: Tensor, folds: Sequence[Fold]) -> HazardRun:
    """The life-table rates of the training and validation part, the same at every moment."""
    probability = np.full((1, len(targets), targets.shape[1], targets.shape[3]), np.nan)
    for fold in folds:
        known = np.concatenate([fold.train, fold.val])
        probability[0, fold.test] = cumulative(base_logits(targets[known])).numpy()
    return HazardRun("base rate", "-", probability, float("inf"))


def after_action_run(
    name: str, belief: np.ndarray, truth: np.ndarray, targets: Tensor, folds: Sequence[Fold]
) -> HazardRun:
    """The rates that follow each action in the training part, mixed by a belief about what is going on now.

    With a detector's belief this is a forecast that knows the present and nothing else; with the list's own
    labels it is what a perfect detector would give.

    Args:
        name: for the table.
        belief: [seeds, n, A] probability of each action at the window's end.
        truth: [n] number of the action that is going on, for the rates.
        targets: [n, H, 2, K].
        folds: divisions of the moments.
    """
    probability = np.full((len(belief), len(targets), targets.shape[1], targets.shape[3]), np.nan)
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
                for a in range(belief.shape[-1])
            ]
        ).numpy()
        probability[:, fold.test] = np.einsum("sna,ahk->snhk", belief[:, fold.test], rates)
    return HazardRun(name, "-", probability, float("inf"))


def next_after_action(
    belief: np.ndarray, truth: np.ndarray, targets: np.ndarray, classes: int, folds: Sequence[Fold]
) -> np.ndarray:
    """Next-action shares after each action in the training part, mixed by a belief: [seeds, n, C].

    Args:
        belief: [seeds, n, A] probability of each action at the window's end.
        truth: [n] number of the action going on.
        targets: [n] number of the next action.
        classes: C.
        folds: divisions of the questions.
    """
    probability = np.full((len(belief), len(targets), classes), np.nan)
    for fold in folds:
        known = np.concatenate([fold.train, fold.val])
        base = np.bincount(targets[known], minlength=classes) / len(known)
        counts = np.zeros((belief.shape[-1], classes))
        np.add.at(counts, (truth[known], targets[known]), 1)
        shares = (counts + base) / (counts.sum(1, keepdims=True) + 1)
        probability[:, fold.test] = belief[:, fold.test] @ shares
    return probability


def as_belief(truth: np.ndarray, actions: int) -> np.ndarray:
    """Certainty about the labels as they are, [1, n, A]."""
    return np.eye(actions)[truth][None]


def write_forecasts(
    path: Path, runs: Sequence[HazardRun], samples: Sequence[Sample], event: Tensor, observed: Tensor
) -> None:
    """Every forecast of every tested moment, for figures that the tables do not hold.

    The file holds `video` and `end_s` of n moments, `event` [n, H] and `observed` [n] as in `HazardQuestions`,
    `names` "features, head" of R forecasters, and `p0`, `p1`, ... each [seeds, n, H, K], NaN where no fold tested.
    """
    arrays: dict[str, Any] = {
        f"p{number}": run.probability.astype(np.float32) for number, run in enumerate(runs)
    }
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            video=np.array([sample.name for sample in samples]),
            end_s=np.array([sample.end_s for sample in samples], float),
            event=event.numpy(),
            observed=observed.numpy(),
            names=np.array([f"{run.features}, {run.head}" for run in runs]),
            **arrays,
        )
