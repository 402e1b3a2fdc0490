"""Probe heads: the `Head` interface, the registry, and the targets that heads are fitted to.

A head is a small function on frozen features. A family of heads fits many of them at once: one per *job* (training
samples and hyper-parameters) and seed. `evaluation.cross_validate` uses this interface and no head by name; a new
family is one file with a subclass of `Head` under `register_head`.

Axes: S seeds, G jobs, n samples with `clips` windows each, B windows of a batch, C outputs.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jepa.errors import UserError
from jepa.probes.config import HeadSettings
from jepa.probes.data.splits import Fold

Reads = Literal["vectors", "changes", "means", "tokens"]
Job = tuple[np.ndarray, Any]
"""indices of the training samples, and the hyper-parameters of one head"""


class Calibration(Protocol):
    """A map from logits to probabilities (or to whatever a task predicts), fitted on a validation part."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Predictions [m, ...] from logits [m, C]."""


@dataclass(frozen=True)
class Targets:
    """What heads learn to predict: target values, training loss, validation score and calibration.

    Attributes:
        values: targets of n samples, [n, ...].
        outputs: C, the number of logits.
        loss: logits [S, G, B, C] and targets [S, B, ...] to a loss per window [S, G, B].
        score: logits [G, m * clips, C], targets [m, ...] and clips to a validation score [G], higher is better, and a
            loss [G] that decides between equal scores.
        calibrate: logits [m, C], targets [m, ...] and groups [m] of the validation part to a `Calibration`.
        classes: number of classes where the values are class numbers, else None.
        initial_bias: training targets to the output bias [C] before the first step; rare events start at their base
            rate.
        refit: fit again on training and validation part once the settings are chosen. Wrong where the calibration
            must come from samples that fitted nothing.
        share_batches: heads of several folds may share a batch. False for a loss that compares samples of a batch.
    """

    values: Tensor
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
    calibrate: Callable[[Tensor, Tensor, Sequence[str]], Calibration]
    classes: int | None = None
    initial_bias: Callable[[Tensor], Tensor] | None = None
    refit: bool = False
    share_batches: bool = True


@dataclass(frozen=True)
class FitData:
    """What a family of heads is fitted on: inputs of all windows beside the targets of their samples."""

    inputs: Tensor
    """vectors [n * clips, F] or tokens [n * clips, N, D], sample by sample"""
    targets: Targets
    """targets of the n samples"""
    clips: int = 1
    """windows of a sample"""
    standardise: bool = True
    """features differ in unit; false for pixels, which have one in common"""
    window_targets: Tensor = field(init=False, repr=False)
    """targets of the windows [n * clips, ...]"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "window_targets", self.targets.values.repeat_interleave(self.clips, dim=0))

    def windows(self, samples: np.ndarray) -> np.ndarray:
        """Indices of the windows of some samples, sample by sample.

        Example:
            >>> targets = class_targets(torch.tensor([0, 1, 1]), 2, calibrate=lambda *_: torch.softmax)
            >>> FitData(torch.zeros(6, 4), targets, clips=2).windows(np.array([0, 2])).tolist()
            [0, 1, 4, 5]
        """
        return (samples[:, None] * self.clips + np.arange(self.clips)).ravel()


class FittedHeads(Protocol):
    """S x G fitted heads."""

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits [S, G, m, C] of inputs [m, ...], on the CPU."""

    def take(self, heads: Sequence[int], seeds: Sequence[int] | None = None) -> FittedHeads:
        """Some of the heads, of some of the seeds (all without)."""

    def state(self) -> dict[str, Tensor]:
        """Tensors that `Head.from_state` rebuilds the heads from."""


@dataclass(frozen=True)
class Candidate:
    """The head that validation chose in one fold."""

    setting: Any
    """its hyper-parameters, a dataclass"""
    fitted: FittedHeads
    """one head, fitted on the training part"""
    score: float
    """its validation score"""
    val_logits: Tensor
    """its logits for the windows of the validation part [m * clips, C]"""


class Head(ABC):
    """A family of heads. Subclass it, and register the subclass with `register_head`."""

    name: ClassVar[str]
    reads: ClassVar[Reads]
    """what it takes of a feature set: pooled vectors, the same with the largest change, plain means, or all tokens"""
    classes_only: ClassVar[bool] = False
    """it can be fitted to class numbers alone"""
    seeded: ClassVar[bool] = True
    """its fit depends on a seed"""
    prefers_first: ClassVar[bool] = False
    """among equal validation scores the first setting of the grid wins, not the one with the lowest loss"""

    @abstractmethod
    def grid(self, settings: HeadSettings) -> list[Any]:
        """The hyper-parameters to choose from, as dataclasses."""

    @abstractmethod
    def fit(
        self, data: FitData, jobs: Sequence[Job], settings: HeadSettings, seeds: Sequence[int]
    ) -> FittedHeads:
        """Fits one head per job and seed, all at once."""

    @abstractmethod
    def from_state(self, state: dict[str, Tensor]) -> FittedHeads:
        """Rebuilds heads from `FittedHeads.state`."""

    def search(
        self, data: FitData, folds: Sequence[Fold], settings: HeadSettings, seed: int
    ) -> list[Candidate]:
        """Fits every setting of the grid on each fold's training part and takes the best on its validation part."""
        grid = self.grid(settings)
        together = [list(folds)] if data.targets.share_batches else [[fold] for fold in folds]
        found = []
        for some in together:
            jobs = [(fold.train, setting) for fold in some for setting in grid]
            fitted = self.fit(data, jobs, settings, [seed])
            for number, fold in enumerate(some):
                own = fitted.take(range(number * len(grid), (number + 1) * len(grid)))
                logits = own.logits(data.inputs[data.windows(fold.val)])[0]
                best, score = self.choose(logits, data, fold.val)
                found.append(Candidate(grid[best], own.take([best]), score, logits[best]))
        return found

    def choose(self, logits: Tensor, data: FitData, val: np.ndarray) -> tuple[int, float]:
        """Number and score of the best of G heads, from their logits [G, m * clips, C] on the validation part."""
        score, loss = data.targets.score(logits, data.targets.values[val], data.clips)
        ties = torch.arange(len(score)) if self.prefers_first else loss
        best = min(range(len(score)), key=lambda i: (-float(score[i]), float(ties[i])))
        return best, float(score[best])


_HEADS: dict[str, type[Head]] = {}
_BUILT_IN = {
    "linear": "stacked",
    "attentive": "stacked",
    "ridge": "closed_form",
    "knn": "closed_form",
    "change_linear": "change",
    "change_ridge": "change",
    "vjepa2_attentive": "successive_halving",
}
_OLD_NAMES = {"published": "vjepa2_attentive"}  # in probes saved with schema jepa.probe/1


def register_head(cls: type[Head]) -> type[Head]:
    """Makes a family of heads known under its `name`, for `heads.kinds` and saved probes. A class decorator.

    Raises:
        UserError: another family has that name.
    """
    known = _HEADS.get(cls.name, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__) or (
        cls.name in _BUILT_IN and not cls.__module__.startswith("jepa.")
    ):
        raise UserError(f"There is a head {cls.name!r} already. Choose another name.")
    _HEADS[cls.name] = cls
    return cls


def list_heads() -> list[str]:
    """Names that `heads.kinds` takes.

    Example:
        >>> from jepa.probes.heads.base import list_heads
        >>> list_heads()[:2]
        ['linear', 'attentive']
    """
    return list(dict.fromkeys([*_BUILT_IN, *_HEADS]))


def get_head(name: str) -> Head:
    """A registered family of heads.

    Raises:
        UserError: there is none of that name.

    Example:
        >>> from jepa.probes.heads.base import get_head
        >>> get_head("ridge").reads
        'vectors'
    """
    name = _OLD_NAMES.get(name, name)
    if name not in _HEADS and name in _BUILT_IN:
        importlib.import_module(f"jepa.probes.heads.{_BUILT_IN[name]}")
    if name not in _HEADS:
        raise UserError(f"There is no head {name!r}; there are {', '.join(list_heads())}.")
    return _HEADS[name]()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss per window [S, G, B] of logits [S, G, B, C] against class numbers [S, B].

    Example:
        >>> cross_entropy(torch.zeros(1, 1, 1, 2), torch.tensor([[0]])).shape
        torch.Size([1, 1, 1])
    """
    seeds, heads, batch, classes = logits.shape
    expanded = targets.unsqueeze(1).expand(seeds, heads, batch)
    return functional.cross_entropy(logits.reshape(-1, classes), expanded.reshape(-1), reduction="none").view(
        seeds, heads, batch
    )


def accuracy_score(logits: Tensor, targets: Tensor, clips: int = 1) -> tuple[Tensor, Tensor]:
    """Accuracy and log loss [G] of logits [G, m * clips, C], with probabilities averaged over a sample's windows.

    Example:
        >>> accuracy_score(torch.tensor([[[2.0, 0.0], [2.0, 0.0]]]), torch.tensor([0, 1]))[0].tolist()
        [0.5]
    """
    averaged = logits.softmax(-1).unflatten(1, (len(targets), clips)).mean(2)
    accuracy = (averaged.argmax(-1) == targets).double().mean(1)
    own = averaged.gather(-1, targets.expand(len(accuracy), -1).unsqueeze(-1))
    return accuracy, -own.clamp_min(1e-9).log().mean((1, 2))


def class_targets(
    numbers: Tensor, classes: int, calibrate: Callable[[Tensor, Tensor, Sequence[str]], Calibration]
) -> Targets:
    """Class numbers [n] as targets: cross-entropy, chosen by accuracy, refitted on training and validation part.

    Example:
        >>> from jepa.probes.evaluation.calibration import softmax_calibrator
        >>> class_targets(torch.tensor([0, 1, 1]), 2, softmax_calibrator("temperature")).outputs
        2
    """
    return Targets(numbers, classes, cross_entropy, accuracy_score, calibrate, classes=classes, refit=True)
