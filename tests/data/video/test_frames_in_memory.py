"""Frames in memory read as a file of the same frames does."""

import numpy as np
import pytest
import torch

import jepa
from jepa.errors import UserError


def frames(count=8):
    return torch.randint(
        0, 256, (count, 3, 24, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("form", ["tensor", "array", "channels last"])
def test_frames_are_found_by_time_and_number(form):
    data = frames()
    given = {"tensor": data, "array": data.numpy(), "channels last": data.permute(0, 2, 3, 1).numpy()}[form]
    with jepa.open_video(given, fps=4) as video:
        assert (video.num_frames, video.fps, video.duration_s) == (8, 4.0, 2.0)
        found = video.frames_at([1.0, 0.3, -5.0, 99.0])
        assert torch.equal(found.data, data[[4, 1, 0, 7]])
        assert found.times.tolist() == [1.0, 0.25, 0.0, 1.75]
        assert torch.equal(video.frames([2, 2, 5]).data, data[[2, 2, 5]])
        assert len([time for _, time in video]) == 8


def test_what_is_no_video_is_refused():
    with pytest.raises(UserError, match="fps="):
        jepa.open_video(frames())
    with pytest.raises(UserError, match="uint8"):
        jepa.open_video(frames().float(), fps=4)
    with pytest.raises(UserError, match="uint8"):
        jepa.open_video(np.zeros((4, 24, 32), np.uint8), fps=4)
    with pytest.raises(UserError, match="states its own times"):
        jepa.open_video("talk.mp4", fps=4)
