"""Group-wise cross-validation: train, validation and test parts of entire groups.

A hyper-parameter chosen on the data that is then reported makes the report too good. So every fold has three
parts: `train` fits, `val` chooses, `test` is looked at once.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from jepa.errors import UserError


@dataclass(frozen=True)
class Fold:
    """One division of the samples into three parts, as sorted index arrays."""

    name: str
    """what is tested: a group, a number, or "test" """
    train: np.ndarray
    """indices that fit the weights"""
    val: np.ndarray
    """indices that choose hyper-parameters and calibrate"""
    test: np.ndarray
    """indices that are reported"""


def tested_samples(folds: Sequence[Fold]) -> np.ndarray:
    """Sorted indices of the samples that some fold reports."""
    return np.sort(np.concatenate([fold.test for fold in folds]))


def make_folds(
    labels: Sequence[str],
    groups: Sequence[str],
    splits: Sequence[str | None],
    folds: int | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> list[Fold]:
    """Divides samples into train, val and test parts without splitting a group.

    The manifest's own split is used where it has one and `folds` is None. Otherwise `folds=0` leaves one
    group out at a time, and `folds=k` (default 5) makes k parts of entire groups with similar class fractions.

    Args:
        labels: class of each sample.
        groups: group of each sample.
        splits: "train", "val", "test" or None for each sample.
        folds: number of folds, 0 for leave-one-group-out, None for the manifest's split if there is one.
        val_fraction: part of the training groups that selects, in (0, 0.5].
        seed: decides which groups fall together.

    Raises:
        UserError: too few groups, an unknown split name, or a group found in two parts.
    """
    if not 0 < val_fraction <= 0.5:
        raise UserError(f"val_fraction={val_fraction} must be above 0 and not above 0.5.")
    label_array, group_array = np.asarray(labels), np.asarray(groups)
    named = [split for split in splits if split is not None]
    if named and folds is None:
        if len(named) < len(splits):
            raise UserError(
                f"{len(splits) - len(named)} of {len(splits)} lines have no split. Fill the column, or give "
                "folds=K."
            )
        made = [_manifest_fold(label_array, group_array, np.asarray(splits), val_fraction, seed)]
    elif folds == 0:
        made = [
            _with_validation(
                str(group),
                group_array != group,
                group_array == group,
                label_array,
                group_array,
                val_fraction,
                seed,
            )
            for group in _in_order(groups)
        ]
    else:
        count = 5 if folds is None else folds
        if count < 2:
            raise UserError(f"folds={folds} must be 0 (leave one group out) or at least 2.")
        made = []
        for number, test in enumerate(_group_parts(label_array, group_array, count, seed)):
            made.append(
                _with_validation(str(number), ~test, test, label_array, group_array, val_fraction, seed)
            )
    for fold in made:
        check_no_leak(fold, groups)
    return made


def holdout(
    labels: Sequence[str], groups: Sequence[str], fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits indices into a large and a small part of entire groups.

    Returns:
        Two sorted index arrays; the second holds about `fraction` of the samples.

    Raises:
        UserError: fewer than two groups.
    """
    small = _group_parts(np.asarray(labels), np.asarray(groups), max(2, round(1 / fraction)), seed)[0]
    return np.flatnonzero(~small), np.flatnonzero(small)


GROUP_REMEDY = "Move each to one part, or leave the split column out and give folds=K."


class HasSplit(Protocol):
    """Something that a list may have assigned to a part."""

    @property
    def split(self) -> str | None:
        """train, val, a name that starts with test, or None."""


Splittable = TypeVar("Splittable", bound=HasSplit)


def select_test_part(items: Sequence[Splittable], test_split: str) -> tuple[list[Splittable], int]:
    """Keeps one of several test parts, under the name "test".

    Returns:
        The items of the training, validation and chosen test part, and how many were left out.

    Raises:
        UserError: there is a split column and no such part in it.
    """
    names = {item.split for item in items if item.split is not None}
    if names and test_split not in names:
        found = ", ".join(sorted(names))
        raise UserError(f"data.test_split={test_split!r} is not in the split column, which holds {found}.")
    kept = []
    for item in items:
        if item.split == test_split:
            kept.append(dataclasses.replace(item, split="test"))  # type: ignore[type-var]
        elif item.split is None or not item.split.startswith("test"):
            kept.append(item)
    return kept, len(items) - len(kept)


def check_no_leak(fold: Fold, keys: Sequence[str], what: str = "group", remedy: str = GROUP_REMEDY) -> None:
    """Refuses a fold in which one group (or file content) is in two parts.

    Raises:
        UserError: names up to three of them.
    """
    parts = {name: {keys[i] for i in getattr(fold, name)} for name in ("train", "val", "test")}
    for first, second in (("train", "test"), ("val", "test"), ("train", "val")):
        shared = sorted(parts[first] & parts[second])
        if shared:
            raise UserError(
                f"The split leaks: {len(shared)} {what}(s) are in the {first} part and in the {second} part "
                f"of fold {fold.name!r}, for example {', '.join(map(repr, shared[:3]))}. A probe could "
                f"recognise them instead of the class. {remedy}"
            )


def missing_classes(fold: Fold, labels: Sequence[str]) -> list[str]:
    """Classes that the test part asks for and the training and validation parts never show."""
    known = {labels[i] for i in np.concatenate([fold.train, fold.val])}
    return sorted({labels[i] for i in fold.test} - known)


def _in_order(groups: Sequence[str]) -> list[str]:
    # Numbered groups in the order of their numbers, others by name.
    return sorted(set(groups), key=lambda group: (0, int(group), "") if group.isdecimal() else (1, 0, group))


def _group_parts(labels: np.ndarray, groups: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Boolean masks of `count` parts of entire groups; scikit-learn keeps the class fractions similar."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    available = len(set(groups.tolist()))
    if available < 2:
        raise UserError(
            f"All {len(labels)} samples belong to one group, so nothing can be held out. Name a group column "
            "with more values, or leave it out to treat every video as its own group."
        )
    count = min(count, available)
    # Stratifying needs every class often enough; with rarer ones entire groups in equal numbers are what is
    # left.
    frequent = min(Counter(labels.tolist()).values()) >= count
    splitter = (
        StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        if frequent
        else GroupKFold(count, shuffle=True, random_state=seed)
    )
    masks = []
    for _, part in splitter.split(np.zeros(len(labels)), labels, groups):
        mask = np.zeros(len(labels), bool)
        mask[part] = True
        masks.append(mask)
    return [mask for mask in masks if mask.any()]


def _with_validation(
    name: str,
    rest: np.ndarray,
    test: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    val_fraction: float,
    seed: int,
) -> Fold:
    indices = np.flatnonzero(rest)
    train, val = holdout(labels[indices].tolist(), groups[indices].tolist(), val_fraction, seed)
    return Fold(name, indices[train], indices[val], np.flatnonzero(test))


def _manifest_fold(
    labels: np.ndarray, groups: np.ndarray, splits: np.ndarray, val_fraction: float, seed: int
) -> Fold:
    unknown = sorted(set(splits.tolist()) - {"train", "val", "test"})
    if unknown:
        raise UserError(
            f"The split column holds {', '.join(map(repr, unknown))}; it may hold train, val and test."
        )
    for part in ("train", "test"):
        if not (splits == part).any():
            raise UserError(
                f"The split column has no {part!r} line. Mark some, or leave it out and give folds=K."
            )
    if (splits == "val").any():
        return Fold("test", *(np.flatnonzero(splits == part) for part in ("train", "val", "test")))
    leak = Fold(
        "test", np.flatnonzero(splits == "train"), np.array([], int), np.flatnonzero(splits == "test")
    )
    check_no_leak(leak, groups.tolist())
    return _with_validation("test", splits == "train", splits == "test", labels, groups, val_fraction, seed)
