"""Whatever one video provokes, the others are encoded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jepa.errors import UserError
from jepa.probes.data.labels import read_labelled
from jepa.probes.features.baselines import OneFrame
from jepa.probes.features.encode import encode


class Breaks(OneFrame):
    """An extractor that fails on the third video that it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.calls = error, 0

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 3:
            raise self.error
        return super().prepare(frames)


@pytest.mark.parametrize("error", [ZeroDivisionError("division"), ValueError("29 is not a valid Type")])
def test_any_exception_while_one_video_is_encoded_makes_it_a_bad_video(
    squares: Path, error: Exception
) -> None:
    samples = read_labelled(squares)[:6]
    kept, (features,), report = encode(samples, [Breaks(error)], None, workers=1, max_bad_fraction=0.5)
    assert len(kept) == len(features) == 5
    (bad,) = report.bad
    assert bad.name == samples[2].name and type(error).__name__ in bad.reason


def test_a_mistake_in_the_request_is_not_blamed_on_a_video(squares: Path) -> None:
    with pytest.raises(UserError, match="no such codec"):
        encode(read_labelled(squares)[:6], [Breaks(UserError("no such codec"))], None, workers=1)
