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

    def _deep(self, frame: Any) -> Any:
        """More than 8 bits, through FFmpeg's scale filter.

        PyAV's own conversion takes the chroma samples' position from the file, the command-line tools and torchcodec
        do not; on sharp colour edges that alone was a mean difference of 2.4 of 255.
        """
        facts = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if facts != self._graph_of:
            graph = av.filter.Graph()
            graph.threads = 1
            start = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
            )
            convert, end = graph.add("format", "rgb24"), graph.add("buffersink")
            start.link_to(convert)
            convert.link_to(end)
            graph.configure()
            self._graph, self._graph_of = graph, facts
        self._graph.push(frame)
        return self._graph.pull()
