"""Frames to H.264, the same bytes each time: one encoder thread, and a colour conversion of our own."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_GOP_FRAMES = 8  # a seek decodes at most this many frames
# x264's lookahead (rate control by macroblock tree) is not repeatable: of 80 encodings of the same noisy frames in one
# process, up to 7 came out with other bytes. Without it, all were alike.
_PARAMS = ("rc-lookahead=0", "mbtree=0")
_COLOURS = tuple(f"{key}=smpte170m" for key in ("colorprim", "transfer", "colormatrix"))
_TO_YUV = np.array([[66, 129, 25], [-38, -74, 112], [112, -94, -18]], np.int32)


def yuv420(frame: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 limited-range planes, [H * 3 / 2, W] uint8, from RGB uint8 [H, W, 3]; chroma is the mean
    of 2x2.

    In integers, so that the result does not depend on the machine's vector instructions, as that of swscale
    may.
    """
    rgb = frame.astype(np.int32)
    height, width = rgb.shape[:2]
    luma = ((rgb @ _TO_YUV[0] + 128) >> 8) + 16
    four = rgb.reshape(height // 2, 2, width // 2, 2, 3).sum(axis=(1, 3))
    chroma = ((four @ _TO_YUV[1:].T + 512) >> 10) + 128
    planes = [luma.reshape(-1), chroma[..., 0].reshape(-1), chroma[..., 1].reshape(-1)]
    return np.concatenate(planes).astype(np.uint8).reshape(height * 3 // 2, width)


def write_mp4(path: Path, frames: Iterable[np.ndarray], rate: Fraction, crf: int) -> None:
    """Encodes RGB uint8 frames [H, W, 3]; frame k is shown at k / rate seconds.

    Raises:
        OSError: whatever opening or writing the file raised.
    """
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = None
        for number, frame in enumerate(frames):
            if stream is None:
                stream = container.add_stream("libx264", rate=rate)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = {
                    "preset": "veryfast",
                    "crf": str(crf),
                    "g": str(_GOP_FRAMES),
                    "bf": "0",
                    "threads": "1",
                    "x264-params": ":".join([*_PARAMS, *_COLOURS]),
                }
                stream.codec_context.time_base = 1 / rate
            picture = av.VideoFrame.from_ndarray(yuv420(frame), format="yuv420p")
            picture.pts, picture.time_base = number, 1 / rate
            container.mux(stream.encode(picture))
        if stream is not None:
            container.mux(stream.encode(None))
