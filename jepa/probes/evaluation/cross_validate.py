"""Heads on one set of features, through all folds: fitted on train, chosen on val, looked at once on test.

For every fold a head's settings are chosen by accuracy on the validation part; it is then fitted again on
training and validation part together with the chosen settings, once per seed, and scored on the test part.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa.probes.config import PUBLISHED, HeadSettings
from jepa.probes.data.splits import Fold
from jepa.probes.evaluation.calibration import fit_temperature
from jepa.probes.features.encode import Features
from jepa.probes.heads.closed_form import NEIGHBOURS, RIDGE_STRENGTHS, Ridge, knn_scores
from jepa.probes.heads.stacked import (
    AttentiveBank,
    Bank,
    LinearBank,
    Setting,
    bank_logits,
    cross_entropy,
    pool_stats,
    train_bank,
)
from jepa.probes.heads.successive_halving import Training, race
from jepa.probes.heads.vjepa2_attentive import PublishedBank


@dataclass
class FeatureSet:
    """Features ready for heads: n samples, each with `clips` windows."""

    name: str
    """what made them"""
    features: Features
    """rows [n, clips, N, D] for tokens or [n, clips, F] for vectors"""
    time_slots: int = 0
    """time slots of the token grid, levels included; 0 for vectors"""
    _vectors: Tensor | None = field(default=None, repr=False)

    @property
    def clips(self) -> int:
        """Windows of a sample."""
        return self.features.shape[1]

    def tokens(self) -> Tensor:
        """All windows' tokens [n * clips, N, D]."""
        return self.features.rows().flatten(0, 1)

    def vectors(self) -> Tensor:
        """One vector per window [n * clips, F]: pixels as they are, tokens pooled to mean, spread and
        change."""
        if self._vectors is None:
            indices = np.arange(len(self.features))
            parts = []
            for start in range(0, len(indices), 64):
                rows = self.features.rows(indices[start : start + 64]).flatten(0, 1)
                parts.append(pool_stats(rows, self.time_slots) if self.time_slots else rows.float())
            self._vectors = torch.cat(parts)
        return self._vectors

    def means(self) -> Tensor:
        """One vector per window for nearest neighbours [n * clips, D]."""
        if not self.time_slots:
            return self.vectors()
        return self.vectors()[:, : self.vectors().shape[1] // 3]


@dataclass
class HeadRun:
    """What one head did on one set of features."""

    features: str
    """what the head read"""
    head: str
    """linear, attentive, ridge or knn"""
    probability: np.ndarray
    """test probabilities [seeds, n, C]; NaN for samples that no fold tested"""
    val_accuracy: float
    """mean over folds of the validation accuracy with the chosen settings"""
    chosen: list[dict[str, float]]
    """settings of each fold"""
    seconds: float
    """time of all fits"""


def evaluate_head(
    kind: str,
    data: FeatureSet,
    targets: Tensor,
    classes: int,
    folds: Sequence[Fold],
    settings: HeadSettings,
    seeds: Sequence[int],
) -> HeadRun:
    """Runs one kind of head through all folds.

    Args:
        kind: linear, attentive, ridge, knn or published.
        data: features of n samples.
        targets: class numbers [n].
        classes: number of classes.
        folds: divisions of the n samples.
        settings: the grid to choose from.
        seeds: one fit each, after the choice.
    """
    start = time.perf_counter()
    if kind in ("ridge", "knn"):
        probability, accuracy, chosen = _closed(kind, data, targets, classes, folds)
    elif kind == PUBLISHED:
        probability, accuracy, chosen = _published(data, targets, classes, folds, settings, list(seeds))
    else:
        probability, accuracy, chosen = _trained(kind, data, targets, classes, folds, settings, list(seeds))
    return HeadRun(data.name, kind, probability, accuracy, chosen, time.perf_counter() - start)


def windows_of(samples: np.ndarray, clips: int) -> np.ndarray:
    """Indices of the windows of some samples, sample by sample."""
    return (samples[:, None] * clips + np.arange(clips)).ravel()


def _closed(
    kind: str, data: FeatureSet, targets: Tensor, classes: int, folds: Sequence[Fold]
) -> tuple[np.ndarray, float, list[dict[str, float]]]:
    vectors = data.vectors() if kind == "ridge" else data.means()
    probability = np.full((1, len(targets), classes), np.nan)
    choices: Sequence[float] = RIDGE_STRENGTHS if kind == "ridge" else NEIGHBOURS
    accuracies, chosen = [], []

    def scores(fit: np.ndarray, ask: np.ndarray) -> Tensor:
        """Scores [choices, samples, C], averaged over the windows of a sample."""
        known, asked = windows_of(fit, data.clips), windows_of(ask, data.clips)
        x, y, z = vectors[known], targets[fit].repeat_interleave(data.clips), vectors[asked]
        if kind == "knn":
            out = knn_scores(x, y, z, classes)
        else:
            if data.time_slots:
                # Parts of a pooled vector differ in size; pixels share one unit and stay as they are.
                shift, scale = x.mean(0), x.std(0, correction=0).clamp_min(1e-3)
                x, z = (x - shift) / scale, (z - shift) / scale
            out = Ridge(x, y, classes).scores(z)
        return out.unflatten(1, (len(ask), data.clips)).mean(2)

    for fold in folds:
        on_val = scores(fold.train, fold.val)
        right = (on_val.argmax(-1) == targets[fold.val]).double().mean(1)
        # Among equally good choices the smoothest one: the strongest ridge, the most neighbours.
        best = len(choices) - 1 - int(right.flip(0).argmax())
        accuracies.append(float(right[best]))
        chosen.append({"strength" if kind == "ridge" else "neighbours": float(choices[best])})
        on_test = scores(np.concatenate([fold.train, fold.val]), fold.test)[best]
        if kind == "ridge":
            on_test = (on_test / fit_temperature(on_val[best], targets[fold.val])).softmax(-1)
        probability[0, fold.test] = on_test.numpy()
    return probability, float(np.mean(accuracies)), chosen


def _trained(
    kind: str,
    data: FeatureSet,
    targets: Tensor,
    classes: int,
    folds: Sequence[Fold],
    settings: HeadSettings,
    seeds: list[int],
) -> tuple[np.ndarray, float, list[dict[str, float]]]:
    inputs = data.vectors() if kind == "linear" else data.tokens()
    wanted = targets.repeat_interleave(data.clips)
    grid = make_grid(settings)
    # First pass: every setting in every fold, one seed, on the training part.
    sweep = fit_heads(
        kind, inputs, wanted, classes, settings, seeds[:1],
        [(fold.train, setting) for fold in folds for setting in grid], data.clips,
    )  # fmt: skip
    val_logits = bank_logits(sweep, inputs)[0].unflatten(0, (len(folds), len(grid)))
    best, accuracies, temperatures = [], [], []
    for number, fold in enumerate(folds):
        choice, accuracy, temperature = choose(val_logits[number], targets, wanted, fold.val, data.clips)
        best.append(grid[choice])
        accuracies.append(accuracy)
        temperatures.append(temperature)
    # Second pass: the chosen setting of every fold, all seeds, on training and validation part.
    final = fit_heads(
        kind, inputs, wanted, classes, settings, seeds,
        [(np.concatenate([f.train, f.val]), s) for f, s in zip(folds, best, strict=True)], data.clips,
    )  # fmt: skip
    logits = bank_logits(final, inputs)
    probability = np.full((len(seeds), len(targets), classes), np.nan)
    for number, fold in enumerate(folds):
        windows = windows_of(fold.test, data.clips)
        p = (logits[:, number, windows] / temperatures[number]).softmax(-1)
        probability[:, fold.test] = p.unflatten(1, (len(fold.test), data.clips)).mean(2).numpy()
    chosen = [{"lr": s.lr, "weight_decay": s.weight_decay} for s in best]
    return probability, float(np.mean(accuracies)), chosen


def _published(
    data: FeatureSet,
    targets: Tensor,
    classes: int,
    folds: Sequence[Fold],
    settings: HeadSettings,
    seeds: list[int],
) -> tuple[np.ndarray, float, list[dict[str, float]]]:
    inputs, wanted = data.tokens(), targets.repeat_interleave(data.clips)
    probability = np.full((len(seeds), len(targets), classes), np.nan)
    accuracies, chosen = [], []
    for fold in folds:
        _, _, setting, accuracy, temperature = race_published(
            inputs, targets, classes, fold.train, fold.val, settings, seeds[:1], data.clips
        )
        accuracies.append(accuracy)
        chosen.append({"lr": setting.lr, "weight_decay": setting.weight_decay})
        known = windows_of(np.concatenate([fold.train, fold.val]), data.clips)
        final = Training.fresh(
            inputs, wanted, classes, known, [setting], seeds, settings.steps, settings.batch_size
        )
        final.advance(settings.steps)
        logits = bank_logits(final.bank, inputs[windows_of(fold.test, data.clips)], settings.batch_size)[:, 0]
        p = (logits / temperature).softmax(-1).unflatten(1, (len(fold.test), data.clips)).mean(2)
        probability[:, fold.test] = p.numpy()
    return probability, float(np.mean(accuracies)), chosen


def race_published(
    inputs: Tensor,
    targets: Tensor,
    classes: int,
    train: np.ndarray,
    val: np.ndarray,
    settings: HeadSettings,
    seeds: list[int],
    clips: int,
) -> tuple[PublishedBank, Tensor, Setting, float, float]:
    """The published sweep: of twenty heads on the training part, the best on the validation part.

    Args:
        inputs: tokens of all windows [n * clips, N, D].
        targets: class numbers of the samples [n].
        classes: number of classes.
        train: indices of the training samples.
        val: indices of the validation samples.
        settings: steps and batch size.
        seeds: one.
        clips: windows of a sample.

    Returns:
        A bank with the best head alone, its logits for the validation windows, its setting, its accuracy, and
        the temperature that calibrates it.
    """
    asked, wanted = windows_of(val, clips), targets.repeat_interleave(clips)

    def ask(bank: PublishedBank) -> Tensor:
        return bank_logits(bank, inputs[asked], settings.batch_size)[0]

    def judge(bank: PublishedBank) -> Tensor:
        right, loss = _goodness(ask(bank), targets[val], clips)
        return right - 1e-6 * loss

    def start(tried: Sequence[Setting]) -> Training:
        used = windows_of(train, clips)
        return Training.fresh(
            inputs, wanted, classes, used, tried, seeds, settings.steps, settings.batch_size
        )

    training, setting = race(start, judge)
    logits = ask(training.bank)
    _, accuracy, temperature = choose(logits, targets[val], wanted[asked], np.arange(len(val)), clips)
    return training.bank, logits[0], setting, accuracy, temperature


def make_grid(settings: HeadSettings) -> list[Setting]:
    """All pairs of learning rate and weight decay."""
    return [Setting(lr, decay) for lr in settings.lrs for decay in settings.weight_decays]


def fit_heads(
    kind: str,
    inputs: Tensor,
    targets: Tensor,
    classes: int,
    settings: HeadSettings,
    seeds: list[int],
    jobs: Sequence[tuple[np.ndarray, Setting]],
    clips: int,
) -> Bank:
    """Trains one head per job and seed, all at once.

    Args:
        kind: linear or attentive.
        inputs: vectors or tokens of all windows [n * clips, ...].
        targets: class numbers of all windows [n * clips].
        classes: number of classes.
        settings: steps, batch size and queries.
        seeds: one head each per job.
        jobs: (indices of the training samples, setting) per head.
        clips: windows of a sample.
    """
    member = torch.zeros(len(jobs), len(inputs), dtype=torch.bool)
    for row, (samples, _) in zip(member, jobs, strict=True):
        row[torch.from_numpy(windows_of(samples, clips))] = True
    channels = inputs.shape[-1]
    bank: Bank
    if kind == "linear":
        bank = LinearBank(len(seeds), len(jobs), channels, classes)
    else:
        bank = AttentiveBank(len(seeds), len(jobs), channels, classes, settings.queries)
    train_bank(
        bank, inputs, targets, member, [setting for _, setting in jobs], seeds,
        settings.steps, settings.batch_size, cross_entropy,
    )  # fmt: skip
    return bank


def choose(
    logits: Tensor, targets: Tensor, window_targets: Tensor, val: np.ndarray, clips: int
) -> tuple[int, float, float]:
    """The setting with the best validation accuracy; among equals the one with the lowest loss.

    Args:
        logits: [settings, n * clips, C].
        targets: class numbers of the samples [n].
        window_targets: class numbers of the windows [n * clips].
        val: indices of the validation samples.
        clips: windows of a sample.

    Returns:
        Number of the setting, its accuracy, and the temperature that calibrates it.
    """
    windows = windows_of(val, clips)
    here, wanted = logits[:, windows], window_targets[windows]
    right, loss = _goodness(here, targets[val], clips)
    order: list[Any] = sorted(range(len(right)), key=lambda i: (-float(right[i]), float(loss[i])))
    best = int(order[0])
    return best, float(right[best]), fit_temperature(here[best], wanted)


def _goodness(logits: Tensor, targets: Tensor, clips: int) -> tuple[Tensor, Tensor]:
    """Accuracy and log loss [G] of logits [G, n * clips, C], averaged over the windows of a sample."""
    averaged = logits.softmax(-1).unflatten(1, (len(targets), clips)).mean(2)
    right = (averaged.argmax(-1) == targets).double().mean(1)
    said = averaged.gather(-1, targets.expand(len(right), -1).unsqueeze(-1))
    return right, -said.clamp_min(1e-9).log().mean((1, 2))
