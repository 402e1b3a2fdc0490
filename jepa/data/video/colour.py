"""From a decoder's colours to RGB: matrix and range by the frame's own tags, as FFmpeg's command-line tools do it.

BT.601, BT.709 and BT.2020 matrices, limited and full range, 8 bits and more; untagged video counts as BT.601 limited,
alpha is dropped.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import av.filter
import numpy as np
from av.video.reformatter import VideoReformatter

from jepa.data.crops import Box

# 8-bit planes side by side: what is left of a crop and resize in them needs no RGB picture of the entire frame.
_PLANAR = {
    "yuv420p": "yuv422p", "yuv422p": "yuv422p", "yuv444p": "yuv422p",
    "yuvj420p": "yuvj422p", "yuvj422p": "yuvj422p", "yuvj444p": "yuvj422p",
}  # fmt: skip
# swscale's SWS_BILINEAR and SWS_ACCURATE_RND; PyAV 17, the last for Python 3.10, has no name for the second.
_CAREFUL = 0x2 | 0x40000


def bits_of(owner: Any) -> int:
    """Bits per sample of a frame's or a decoder's pixel format."""
    return max((c.bits for c in owner.format.components), default=8) if owner.format else 8


class ToRgb:
    """Converts frames of one video to uint8 [height, width, 3].

    Args:
        width: of the result, in pixels; a stream that changes its size half-way is brought back to it.
        height: of the result, in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._reformatter = VideoReformatter()
        self._cutter = Cutter()
        self._graph: Any = None
        self._graph_of: tuple[Any, ...] = ()

    def __call__(self, frame: Any) -> np.ndarray:
        """Converts one PyAV frame; the array is a view of FFmpeg's memory.

        Raises:
            av.error.FFmpegError: FFmpeg cannot convert from this format.
        """
        rgb = self._deep(frame) if bits_of(frame) > 8 else frame
        rgb = self._reformatter.reformat(
            rgb, self.width, self.height, "rgb24", interpolation="BICUBIC", threads=1
        )
        plane = rgb.planes[0]
        strides = (plane.line_size, 3, 1)
        return np.ndarray((self.height, self.width, 3), np.uint8, memoryview(plane), strides=strides)

    def cut(self, frame: Any, box: Box, size: int) -> np.ndarray:
        """Cuts `box` out of one PyAV frame and resizes it: uint8 [3, size, size], RGB.

        Raises:
            av.error.FFmpegError: FFmpeg cannot convert from this format.
        """
        # A box that begins between two samples of the colour planes (pixels that are not square, say) needs the RGB.
        even = not (box.top % 2 or box.left % 2)
        if even and frame.format.name in _PLANAR and (frame.width, frame.height) == (self.width, self.height):
            return self._cutter.from_planes(frame, box, size)
        return self._cutter.from_rgb(self(frame), box, size)

    def _deep(self, frame: Any) -> Any:
        """More than 8 bits, through FFmpeg's scale filter.

        PyAV's own conversion takes the chroma samples' position from the file, the command-line tools and torchcodec
        do not; on sharp colour edges that alone was a mean difference of 2.4 of 255.
        """
        properties = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if properties != self._graph_of:
            graph = av.filter.Graph()
            graph.threads = 1
            start = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
            )
            convert, end = graph.add("format", "rgb24"), graph.add("buffersink")
            start.link_to(convert)
            convert.link_to(end)
            graph.configure()
            self._graph, self._graph_of = graph, properties
        self._graph.push(frame)
        return self._graph.pull()


class Cutter:
    """Crops and resizes in one go with FFmpeg's scaler, which widens its filter when it shrinks (antialiasing).

    In the decoder's own planes brightness and colour are resized apart and only the small result becomes RGB: a
    quarter of the time of converting the frame and then resizing it.
    """

    def __init__(self) -> None:
        self._resize, self._convert = VideoReformatter(), VideoReformatter()
        self._piece: Any = None

    def from_planes(self, frame: Any, box: Box, size: int) -> np.ndarray:
        """`box` of a frame in one of the formats of `_PLANAR`, as uint8 [3, size, size]."""
        kind = frame.format.name
        piece = self._room(box, kind)
        for source, target in zip(frame.planes, piece.planes, strict=True):
            # Colour planes are smaller by an integer factor, rounded up.
            down, across = -(-frame.height // source.height), -(-frame.width // source.width)
            top, left = box.top // down, box.left // across
            part = _pixels(source)[top : top + target.height, left : left + target.width]
            _pixels(target)[: part.shape[0], : part.shape[1]] = part
        piece.colorspace, piece.color_range = frame.colorspace, frame.color_range
        if size % 16:
            # FFmpeg 8's fast conversion to planar RGB leaves garbage in the last columns of widths such as 24 or 40;
            # accurate rounding keeps it from being chosen.
            return _planes(
                self._convert.reformat(piece, size, size, "gbrp", interpolation=_CAREFUL, threads=1)
            )
        small = self._resize.reformat(piece, size, size, _PLANAR[kind], interpolation="BILINEAR", threads=1)
        return _planes(self._convert.reformat(small, size, size, "gbrp", threads=1))

    def from_rgb(self, rgb: np.ndarray, box: Box, size: int) -> np.ndarray:
        """`box` of uint8 [H, W, 3], as uint8 [3, size, size]."""
        piece = self._room(box, "rgb24")
        part = rgb[box.top : box.top + box.height, box.left : box.left + box.width]
        _pixels(piece.planes[0])[:, : 3 * box.width] = part.reshape(box.height, -1)
        return _planes(self._resize.reformat(piece, size, size, "gbrp", interpolation="BILINEAR", threads=1))

    def _room(self, box: Box, kind: str) -> Any:
        """A frame to copy into, the same one while the size stays."""
        piece = self._piece
        if piece is None or (piece.width, piece.height, piece.format.name) != (box.width, box.height, kind):
            self._piece = av.VideoFrame(box.width, box.height, kind)
        return self._piece


def _pixels(plane: Any) -> np.ndarray:
    """[rows, bytes in a line] of a plane, as a view."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]


def _planes(frame: Any) -> np.ndarray:
    """Uint8 [3, H, W], RGB, of a frame in FFmpeg's order green, blue, red."""
    out = np.empty((3, frame.height, frame.width), np.uint8)
    for channel, plane in zip((1, 2, 0), frame.planes, strict=True):
        out[channel] = _pixels(plane)[:, : frame.width]
    return out
