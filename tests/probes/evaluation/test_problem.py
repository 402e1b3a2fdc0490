"""The nested choice of a head: every fold takes the head that its own validation part prefers."""

from __future__ import annotations

import numpy as np
import torch

from jepa.data.manifest import Item
from jepa.probes.data.splits import Fold
from jepa.probes.evaluation.calibration import softmax_calibrator
from jepa.probes.evaluation.cross_validate import HeadRun
from jepa.probes.evaluation.problem import NESTED, Problem
from jepa.probes.heads.base import class_targets


def test_every_fold_is_tested_by_the_head_that_its_validation_prefers() -> None:
    none = np.array([], int)
    folds = [Fold("0", none, none, np.array([0, 1])), Fold("1", none, none, np.array([2, 3]))]
    targets = class_targets(torch.tensor([0, 1, 0, 1]), 2, softmax_calibrator("temperature"))
    one, two = np.full((2, 4, 2), 0.25), np.full((1, 4, 2), 0.75)
    one[1] += 0.5  # its seeds are averaged
    runs = [
        HeadRun("encoder", "a", one, 0.7, val_by_fold=[0.9, 0.5]),
        HeadRun("encoder", "b", two, 0.8, val_by_fold=[0.8, 0.8]),
        HeadRun("motion", "c", two + 9, 0.9, val_by_fold=[1.0, 1.0]),
    ]
    problem = Problem("classes", [Item(str(i)) for i in range(4)], targets, folds, [], runs)
    chosen = problem.nested("encoder")
    assert chosen.head == NESTED and chosen.chosen == [{"head": "a"}, {"head": "b"}]
    assert chosen.prediction[0, :, 0].tolist() == [0.5, 0.5, 0.75, 0.75]
