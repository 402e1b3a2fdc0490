"""Colours come back as they went in, whatever matrix, range and depth the file uses."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from jepa.data.video.reader import open_video

COLOURS = [(200, 60, 30), (30, 180, 70), (20, 40, 210), (128, 128, 128), (235, 235, 235), (255, 255, 0)]


def yuv(rgb, kr, kb, full, bits):
    """ITU-R BT.601 / BT.709 / BT.2020, section on quantisation: R'G'B' in 0..255 to digital Y'CbCr."""
    r, g, b = (v / 255 for v in rgb)
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))
    if full:
        scale = (1 << bits) - 1
        return round(y * scale), round(cb * scale + (1 << (bits - 1))), round(cr * scale + (1 << (bits - 1)))
    step = 1 << (bits - 8)
    return round((219 * y + 16) * step), round((224 * cb + 128) * step), round((224 * cr + 128) * step)


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("tag", "kr", "kb"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593)])
def test_matrix_range_and_depth(tmp_path, tag, kr, kb, full, bits):
    path = tmp_path / "colour.mp4"
    kind = np.uint8 if bits == 8 else np.uint16
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(5), options={"qp": "0" if bits == 8 else "4"})
        stream.width, stream.height = 64, 64
        stream.pix_fmt = "yuv420p" if bits == 8 else "yuv420p10le"
        stream.codec_context.colorspace, stream.codec_context.color_range = tag, 2 if full else 1
        for colour in COLOURS:
            frame = av.VideoFrame(64, 64, stream.pix_fmt)
            for plane, value in zip(frame.planes, yuv(colour, kr, kb, full, bits), strict=True):
                plane.update(np.full(plane.buffer_size // kind().itemsize, value, kind))
            frame.colorspace, frame.color_range = tag, 2 if full else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with open_video(path) as video:
        found = video.frames(range(len(COLOURS))).data.float().mean((2, 3))
    assert (found - torch.tensor(COLOURS).float()).abs().max() <= 3
