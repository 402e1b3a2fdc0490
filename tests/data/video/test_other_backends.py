"""Three readers, the same frames."""

from __future__ import annotations

import pytest
import torch

from jepa.data.video.limits import LimitsConfig
from jepa.data.video.other_backends import DecordFile, TorchcodecFile
from jepa.data.video.reader import open_video
from jepa.errors import UserError, VideoError

FILES = ["plain.mp4", "plain.mkv", "vp9.webm", "vfr.mp4", "tall.mp4", "wide.mp4", "one.mp4"]


def works(backend, clips):
    try:
        {"torchcodec": TorchcodecFile, "decord": DecordFile}[backend](
            str(clips / "plain.mp4"), "x", LimitsConfig(), 1
        )
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("backend", ["torchcodec", "decord"])
@pytest.mark.parametrize("name", FILES)
def test_readers_agree(clips, backend, name):
    works(backend, clips)
    with open_video(clips / name) as video:
        count = video.num_frames
        expected = video.frames(range(count))
    with open_video(clips / name, backend=backend) as video:
        assert video.num_frames == count and video.backend == backend
        frames = video.frames(range(count))
        streamed = [(frame, time_s) for frame, time_s in video]
        later = video.frames_at([0.06, 0.01])
    assert frames.data.shape == expected.data.shape
    assert (frames.times - expected.times).abs().max() < 1e-3
    assert (frames.data.float() - expected.data.float()).abs().mean() <= 2
    assert torch.equal(torch.stack([f for f, _ in streamed]), frames.data)
    with open_video(clips / name) as video:
        assert (later.data.float() - video.frames_at([0.06, 0.01]).data.float()).abs().mean() <= 2


@pytest.mark.parametrize("backend", ["torchcodec", "decord"])
def test_bytes_and_bad_files(clips, backend):
    works(backend, clips)
    data = (clips / "plain.mp4").read_bytes()
    with open_video(data, backend=backend) as video:
        assert video.frames([3]).data.shape == (1, 3, 64, 96)
    with pytest.raises(VideoError), open_video(data[:600], backend=backend) as video:
        video.frames([0])
    with pytest.raises(UserError, match="lenient"):
        open_video(data, backend=backend, lenient=True)
    with pytest.raises(UserError, match="isolate"):
        open_video(data, backend=backend, limits=LimitsConfig(isolate=True))


def test_decord_refuses_what_it_would_get_wrong(clips):
    works("decord", clips)
    with pytest.raises(VideoError, match="10-bit"):
        open_video(clips / "deep.mp4", backend="decord")


@pytest.mark.parametrize("backend", ["torchcodec", "decord"])
def test_readers_are_refused_where_they_would_start_at_an_open_group(clips, backend):
    works(backend, clips)
    with pytest.raises(VideoError, match="do not prove"):
        open_video(clips / "opengop.mp4", backend=backend)
