"""Sliding windows over long videos, in memory that does not grow with their length."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.models.base import Pool
from jepa.models.encoder import VideoEncoder


class Window(NamedTuple):
    """Features of one stretch of a video."""

    start_frame: int
    """Number of its first frame in the video, from 0."""
    num_frames: int
    """Frames of the video in it; fewer than were encoded if a short video had to be filled up to a whole
    tubelet."""
    features: Tensor
    """[N, D], [D] or [t, h, w, D], by the kind of pooling."""


def window_features(
    encoder: VideoEncoder,
    frames: Iterable[Tensor],
    window_frames: int = 64,
    stride_frames: int | None = None,
    pool: Pool | None = None,
) -> Iterator[Window]:
    """Encodes a video of any length by sliding windows, without gradients.

    Memory: at most `window_frames` frames as float32 of the encoder's crop, twice, and one forward pass of
    one window; a window's features are handed over before the next is read. For 64 frames of 256 pixels that
    is 2 x 48 MiB and 8192 tokens. Nothing grows with the length of the video.

    Windows start every `stride_frames`. If the last of them would pass the end, it is moved back to end with
    the video, so that every frame is covered and all windows are alike. A video shorter than one window gives
    one shorter window; its last frame is repeated to fill a tubelet.

    Args:
        encoder: an encoder with its preprocessing.
        frames: uint8 frames [C, H, W] in order, at the frame rate that the encoder was trained on; taken one
            at a time, so a generator is best.
        window_frames: frames per window, a multiple of the tubelet.
        stride_frames: frames between the starts of two windows; by default windows do not overlap.
        pool: as in `VideoEncoder.features`.

    Yields:
        One `Window` after another.

    Raises:
        UserError: window or stride do not fit, or the encoder has no preprocessing.

    Example:
        >>> from jepa.models import create_model
        >>> frames = (torch.zeros(3, 240, 320, dtype=torch.uint8) for _ in range(5))
        >>> windows = window_features(create_model("vit_nano").eval(), frames, window_frames=4, pool="mean")
        >>> [(window.start_frame, window.num_frames, list(window.features.shape)) for window in windows]
        [(0, 4, [128]), (1, 4, [128])]
    """
    stride = window_frames if stride_frames is None else stride_frames
    tubelet = encoder.config.tubelet_frames
    if window_frames < 1 or window_frames % tubelet or not 1 <= stride <= window_frames:
        raise UserError(
            f"window_frames={window_frames} must be a multiple of {tubelet} and stride_frames={stride} "
            f"between 1 and "
            f"window_frames, or frames would be left out."
        )
    device = next(encoder.parameters()).device
    recent: deque[Tensor] = deque(maxlen=window_frames)
    count, next_end, last_end = 0, window_frames, 0
    for frame in frames:
        recent.append(encoder.preprocess(frame.unsqueeze(0).to(device)))
        count += 1
        if count == next_end:
            yield _encoded(encoder, list(recent), count, pool)
            last_end, next_end = count, count + stride
    if count > last_end:
        yield _encoded(encoder, list(recent), count, pool)


def _encoded(encoder: VideoEncoder, recent: list[Tensor], end: int, pool: Pool | None) -> Window:
    filling = -len(recent) % encoder.config.tubelet_frames
    clip = torch.cat([*recent, *recent[-1:] * filling], dim=1).unsqueeze(0)
    with torch.no_grad():
        features = encoder.features(clip, pool=pool)
    return Window(end - len(recent), len(recent), features[0])
