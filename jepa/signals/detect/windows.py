"""Sliding windows over one sequential decode: each window holds the past of its own end and nothing later.

Time runs in events. Every feed's clip rate has its own grid of frame times, and windows end every `stride_ms`. An
event at time t is served by the frame on screen at t, so it waits until a frame later than t arrives: then t has
passed, and what the later frame shows is not used. Memory: one prepared clip per feed, one frame.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jepa.data.video.pyav import TOLERANCE_S
from jepa.signals.detect.detector import Feed


@dataclass(frozen=True)
class Window:
    """A window: `clips` holds one tensor [C, T, h, w] per feed, `image` its last frame."""

    end_ms: int
    """end of the window, the time that its scores are about"""
    context_ms: tuple[int, int]
    """times of its first and last frame"""
    last_frame: int
    """index of the last frame"""
    clips: list[Tensor]
    """the detectors' input, one clip per feed"""
    image: Tensor
    """the last frame, uint8 [C, H, W], as it was decoded"""


@dataclass(frozen=True)
class _Latest:
    index: int
    time_s: float
    frame: Tensor
    inputs: dict[Callable[[Tensor], Tensor], Tensor] = field(default_factory=dict)
    """the prepared frame, by the function that made it, so that the clips of one detector share it"""


class WindowMaker:
    """Cuts a stream of frames into windows.

    Args:
        feeds: the clips to cut, and how their frames are prepared.
        stride_ms: time between the ends of two windows.
        bare: without feeds, cut windows that hold their last frame only, for detectors of sound; otherwise there is no
            window then.
    """

    def __init__(self, feeds: Sequence[Feed], stride_ms: int, bare: bool = False) -> None:
        self._feeds, self._specs, self._stride_ms = list(feeds), [feed.spec for feed in feeds], stride_ms
        self._held: list[deque[tuple[float, Tensor]]] = [
            deque(maxlen=spec.num_frames) for spec in self._specs
        ]
        self._ticks = [0] * len(self._specs)
        reach_ms = 1000 * max((spec.reach_s for spec in self._specs), default=0.0)
        self._first_ms = math.ceil(reach_ms / stride_ms - 1e-6) * stride_ms
        self._next_ms = self._first_ms
        self._current: tuple[int, Tensor, float] | None = None
        self._latest: _Latest | None = None
        self._idle = not feeds and not bare
        self.short = False
        """whether the video ended before the first full window; its only window then repeats the first
        frame"""

    def push(self, index: int, frame: Tensor, time_s: float) -> Iterator[Window]:
        """Takes the next frame and yields the windows that ended before it.

        Args:
            index: the frame's number.
            frame: uint8 [C, H, W].
            time_s: when it is first shown, with the first frame at 0.
        """
        yield from self._until(time_s - TOLERANCE_S)
        self._current = (index, frame, time_s)

    def advance(self, end_ms: int) -> Iterator[Window]:
        """Serves everything up to `end_ms` with the frame at hand, before the next one is read.

        Right when the caller knows that no later frame is shown by then, as a replay does.
        """
        yield from self._until(end_ms / 1000 + 1e-6)

    def finish(self, end_s: float) -> Iterator[Window]:
        """Ends the stream at `end_s` and yields the windows that are left; at least one comes from any
        video that somebody reads."""
        yield from self._until(end_s - TOLERANCE_S)
        if not self._idle and self._next_ms == self._first_ms and self._current is not None:
            self.short = True
            for held, spec in zip(self._held, self._specs, strict=True):
                held.extendleft([held[0]] * (spec.num_frames - len(held)))
            yield self._window(round(self._current[2] * 1000))

    def _until(self, limit_s: float) -> Iterator[Window]:
        """Serves all events before `limit_s` with the frame on screen."""
        if self._current is None or self._idle:
            return
        while True:
            samples = [tick / spec.fps for tick, spec in zip(self._ticks, self._specs, strict=True)]
            which = min(range(len(samples)), key=lambda i: samples[i], default=None)
            # At the same instant the sample comes first: a window that ends now may see what is on screen
            # now.
            if which is not None and samples[which] <= self._next_ms / 1000 + 1e-9:
                if samples[which] >= limit_s:
                    return
                self._held[which].append(self._sample(self._feeds[which].prepare))
                self._ticks[which] += 1
            else:
                if self._next_ms / 1000 >= limit_s:
                    return
                yield self._window(self._next_ms)
                self._next_ms += self._stride_ms

    def _look(self) -> _Latest:
        """The frame on screen, as the latest that a clip or a window has seen."""
        assert self._current is not None
        index, frame, time_s = self._current
        if self._latest is None or self._latest.index != index:
            self._latest = _Latest(index, time_s, frame)
        return self._latest

    def _sample(self, prepare: Callable[[Tensor], Tensor]) -> tuple[float, Tensor]:
        self._latest = self._look()
        if prepare not in self._latest.inputs:
            self._latest.inputs[prepare] = prepare(self._latest.frame)
        return self._latest.time_s, self._latest.inputs[prepare]

    def _window(self, end_ms: int) -> Window:
        # Ends come at or after the first full clip.
        last = self._latest if self._held and self._latest is not None else self._look()
        first = min((held[0][0] for held in self._held), default=last.time_s)
        clips = [torch.stack([prepared for _, prepared in held], dim=1) for held in self._held]
        context_ms = (round(first * 1000), min(round(last.time_s * 1000), end_ms))
        return Window(end_ms, context_ms, last.index, clips, last.frame)
