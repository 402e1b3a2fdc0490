from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from jepa.errors import UserError
from jepa.probes.data.splits import Fold, check_no_leak, make_folds, missing_classes


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("123456")), min_size=12, max_size=60),
    folds=st.sampled_from([0, 2, 3]),
    seed=st.integers(0, 5),
)
def test_groups_stay_undivided_and_every_sample_is_tested_once(
    rows: list[tuple[str, str]], folds: int, seed: int
) -> None:
    labels, groups = zip(*rows, strict=True)
    assume(len(set(groups)) >= 3)
    try:
        made = make_folds(labels, groups, [None] * len(rows), folds, seed=seed)
    except UserError as error:
        # One huge group beside few small ones: a fold trains on a single group, and nothing is left to validate on.
        assert "belong to one group" in str(error)
        reject()
    tested = np.concatenate([fold.test for fold in made])
    assert sorted(tested.tolist()) == list(range(len(rows)))
    for fold in made:
        parts = [{groups[i] for i in part} for part in (fold.train, fold.val, fold.test)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert len(fold.train) and len(fold.val)
        assert len(fold.train) + len(fold.val) + len(fold.test) == len(rows)


def test_leave_one_group_out_in_numerical_order() -> None:
    groups = [str(i) for i in range(12)]
    made = make_folds(["a", "b"] * 6, groups, [None] * 12, folds=0)
    assert [fold.name for fold in made] == groups
    assert [fold.test.tolist() for fold in made] == [[i] for i in range(12)]


def test_manifest_split_is_kept_and_validation_comes_from_training_groups() -> None:
    labels, groups = ["a", "b"] * 10, [str(i // 2) for i in range(20)]
    splits = ["train"] * 14 + ["test"] * 6
    (fold,) = make_folds(labels, groups, splits)
    assert fold.test.tolist() == list(range(14, 20))
    assert set(fold.train) | set(fold.val) == set(range(14))
    with_val = ["train"] * 10 + ["val"] * 4 + ["test"] * 6
    (fold,) = make_folds(labels, groups, with_val)
    assert fold.val.tolist() == list(range(10, 14))


@pytest.mark.parametrize(
    "splits", [["train"] * 5 + ["test"] * 5, ["train"] * 4 + ["val", "val"] + ["test"] * 4]
)
def test_a_leaking_manifest_is_caught(splits: list[str]) -> None:
    groups = ["1", "1", "2", "2", "3", "3", "3", "3", "4", "4"]
    with pytest.raises(UserError, match=r"leaks.*'3'"):
        make_folds(["a", "b"] * 5, groups, splits)


@pytest.mark.parametrize(
    ("splits", "folds", "says"),
    [
        (["train", "tets"] * 5, None, "tets"),
        (["train", None] * 5, None, "no split"),
        (["train"] * 10, None, "'test'"),
        ([None] * 10, 1, "folds=1"),
    ],
)
def test_unusable_splits_are_named(splits: list[str | None], folds: int | None, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_folds(["a", "b"] * 5, [str(i) for i in range(10)], splits, folds)


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(UserError, match="one group"):
        make_folds(["a", "b"], ["g", "g"], [None, None], 2)


def test_missing_classes_are_counted() -> None:
    fold = Fold("f", np.array([0]), np.array([1]), np.array([2, 3]))
    assert missing_classes(fold, ["a", "b", "a", "c"]) == ["c"]
    check_no_leak(fold, ["1", "2", "3", "3"])
    with pytest.raises(UserError, match="train part and in the val part"):
        check_no_leak(fold, ["1", "1", "3", "3"])
