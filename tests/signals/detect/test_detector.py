"""Several detectors as one: columns in order, shapes checked, names that would clash refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jepa.errors import UserError
from jepa.signals.detect.detector import Detector, DetectorSet, Signal, WindowScores
from jepa.signals.document.run import ClipMetadata, DetectorMetadata, HeadMetadata


class Fixed(Detector):
    """Gives the same scores to every window."""

    def __init__(
        self, name: str, heads: list[HeadMetadata], observed: list[float], anticipated: object = None
    ) -> None:
        self.metadata = DetectorMetadata(
            id=name, kind="fixed", clips=[ClipMetadata(num_frames=1, fps=2.0)], heads=heads
        )
        self._observed, self._anticipated = observed, anticipated

    def score(self, clips: object) -> WindowScores:
        batch = len(clips[0])  # type: ignore[index]
        ahead = None if self._anticipated is None else np.array([self._anticipated] * batch)
        return WindowScores(np.array([self._observed] * batch), ahead)


def head(name: str, task: str, *labels: str, horizons: tuple[int, ...] = ()) -> HeadMetadata:
    return HeadMetadata(
        id=name, task=task, weights_sha256="0" * 64, labels=list(labels), horizons_ms=list(horizons), calibration=None,
        trained_on="nothing",
    )  # fmt: skip


def test_scores_of_all_detectors_stand_side_by_side() -> None:
    together = DetectorSet(
        [
            Fixed("one", [head("a", "classify", "x", "y"), head("b", "anticipate", "z", horizons=(500, 1000))],
                  [0.1, 0.9], [[0.2, 0.3]]),
            Fixed("two", [head("c", "describe", "x")], [0.5]),
        ]
    )  # fmt: skip
    assert together.observed == [Signal("a", "x"), Signal("a", "y"), Signal("c", "x")]
    assert together.anticipated == [Signal("b", "z")] and together.horizons_ms == [500, 1000]
    scores = together.score([torch.zeros(4, 3, 1, 2, 2)] * 2)
    assert scores.observed.tolist() == [[0.1, 0.9, 0.5]] * 4
    assert scores.anticipated is not None and scores.anticipated.tolist() == [[[0.2, 0.3]]] * 4


def test_scores_of_another_shape_name_the_detector() -> None:
    wrong = DetectorSet([Fixed("one", [head("a", "describe", "x", "y")], [0.5])])
    with pytest.raises(ValueError, match=r"detector one: observed has the shape \[2, 1\].*promises \[2, 2\]"):
        wrong.score([torch.zeros(2, 3, 1, 2, 2)])


def test_detectors_that_a_document_could_not_distinguish_are_refused() -> None:
    one, two = (
        Fixed("one", [head("a", "describe", "x")], [0.5]),
        Fixed("one", [head("b", "describe", "x")], [0.5]),
    )
    with pytest.raises(UserError, match="two detectors are called one"):
        DetectorSet([one, two])
    with pytest.raises(UserError, match="two heads are called a"):
        DetectorSet([one, Fixed("two", [head("a", "describe", "x")], [0.5])])
    with pytest.raises(UserError, match="within different times"):
        DetectorSet(
            [
                Fixed("one", [head("a", "anticipate", "x", horizons=(500,))], []),
                Fixed("two", [head("b", "anticipate", "x", horizons=(900,))], []),
            ]
        )
    with pytest.raises(UserError, match=r"'probes/' is a path.*give ProbeDetector\('probes/'\)"):
        DetectorSet.of("probes/")  # type: ignore[arg-type]
