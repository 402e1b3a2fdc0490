"""H.264 encoding with reproducible bytes: one encoder thread, and an integer colour conversion."""

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
_TO_YUV = ((66, 129, 25), (-38, -74, 112), (112, -94, -18))


def yuv420(frame: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 limited-range planes, [H * 3 / 2, W] uint8, from RGB uint8 [H, W, 3]; chroma is the mean
    of 2x2.

    In integers, so that the result does not depend on the machine's vector instructions, as that of swscale
    may.
    """
    height, width = frame.shape[:2]
    rgb = np.ascontiguousarray(frame.transpose(2, 0, 1)).astype(np.int32)
    pairs = rgb[:, ::2] + rgb[:, 1::2]
    four = pairs[:, :, ::2] + pairs[:, :, 1::2]
    planes = np.empty(height * width * 3 // 2, np.uint8)
    at = 0
    for weights, colours, shift, offset in zip(
        _TO_YUV, (rgb, four, four), (8, 10, 10), (16, 128, 128), strict=True
    ):
        plane = sum(weight * colour for weight, colour in zip(weights, colours, strict=True))
        plane = ((plane + (1 << (shift - 1))) >> shift) + offset
        planes[at : at + plane.size] = plane.reshape(-1)
        at += plane.size
    return planes.reshape(height * 3 // 2, width)


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
