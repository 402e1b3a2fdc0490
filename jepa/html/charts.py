"""Line charts as SVG: scales, ticks and paths as plain numbers; `assets/charts.html.j2` draws the axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 560.0, 196.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 10.0, 8.0, 22.0
_POINTS = 500  # bins of a line; a screen shows no more
_DECADES_FOR_LOG = 1.5

Line = Sequence[tuple[float, float | None]]


@dataclass
class Scale:
    """Maps values to pixels, linearly or logarithmically; values outside are drawn at the edge.

    Example:
        >>> scale = Scale(low=0, high=10, start=100, end=200)
        >>> scale(5), scale.ticks()
        (150.0, [0.0, 5.0, 10.0])
    """

    low: float
    """value at `start`"""
    high: float
    """value at `end`"""
    start: float
    """pixel of the lower end"""
    end: float
    """pixel of the upper end"""
    log: bool = False
    """logarithmic"""

    def __call__(self, value: float) -> float:
        """The pixel at which a value is drawn."""
        low, high, value = (self._bend(v) for v in (self.low, self.high, value))
        part = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + min(1.0, max(0.0, part)) * (self.end - self.start), 1)

    def _bend(self, value: float) -> float:
        if not self.log:
            return value
        return math.log10(value) if value > 0 else -math.inf

    def ticks(self, count: int = 4) -> list[float]:
        """Round values inside the range: 1, 2 or 5 times a power of ten, or integer powers on a long log scale."""
        if not self.high > self.low:
            return [self.low]
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            step = max(1, math.ceil((last - first + 1) / 6))
            powers = [10.0**k for k in range(first, last + 1, step)]
            if len(powers) >= 3:
                return powers
            fine = [m * 10.0**k for k in range(first - 1, last + 1) for m in (1, 2, 5)]
            return [v for v in fine if self.low <= v * (1 + 1e-9) and v <= self.high * (1 + 1e-9)]
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        unit = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
        first, last = math.ceil(self.low / unit - 1e-9), math.floor(self.high / unit + 1e-9)
        return [k * unit for k in range(first, last + 1)]


def number(value: float) -> str:
    """A tick or reading in few characters.

    Example:
        >>> number(0.00012), number(1.50001), number(2000)
        ('0.00012', '1.5', '2000')
    """
    return f"{0.0 if abs(value) < 1e-12 else value:.4g}"


def value_scale(lines: Sequence[Line], floor: float | None = None) -> Scale:
    """A vertical scale over all finite values; logarithmic where they span more than one and a half decades.

    Args:
        lines: the lines that share the scale.
        floor: values below this are drawn at the lower edge; makes the scale linear.
    """
    values = [y for line in lines for _, y in line if y is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if floor is not None:
        low, high = max(low, floor), max(high, floor)
    log = floor is None and low > 0 and high > low * 10**_DECADES_FOR_LOG
    if not log:
        if 0 < low < 0.5 * high:
            low = 0.0
        pad = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = (low if low == 0 else low - pad), high + pad
    else:
        low, high = low / 1.15, high * 1.15
    return Scale(low, high, HEIGHT - BOTTOM, TOP, log)


def step_scale(last: float, first: float = 0.0, log: bool = False) -> Scale:
    """A horizontal scale from first to last."""
    return Scale(first, max(last, first + 1), LEFT, WIDTH - RIGHT, log)


def path(line: Line, x: Scale, y: Scale) -> str:
    """An SVG path; a missing value interrupts the line. Of many points in a bin the lowest and highest stay.

    Example:
        >>> path([(0, 0.0), (1, 1.0), (2, None)], Scale(0, 10, 0, 10), Scale(0, 10, 10, 0))
        'M0 10L1 9'
    """
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in _thin(line):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((x(at), y(value)))
    parts = []
    for points in filter(None, runs):
        if len(points) == 1:  # a lone point would be invisible
            points = [points[0], (points[0][0] + 1.5, points[0][1])]
        parts.append("M" + "L".join(f"{a:g} {b:g}" for a, b in points))
    return "".join(parts)


def _thin(line: Line) -> Line:
    if len(line) <= 2 * _POINTS:
        return line
    size, kept = len(line) / _POINTS, []
    for i in range(_POINTS):
        start, end = int(i * size), int((i + 1) * size)
        known = [j for j in range(start, end) if line[j][1] is not None]
        known.sort(key=lambda j: (line[j][1], j))
        kept += [line[j] for j in sorted({known[0], known[-1]} if known else {start})]
    return kept


def chart(lines: Sequence[Line], x: Scale, floor: float | None = None, unit: str = "") -> dict[str, Any]:
    """What the macro `axes` of `charts.html.j2` and a template draw.

    Args:
        lines: (x, y) points; None as y is a gap.
        x: the horizontal scale.
        floor: values below this are drawn at the lower edge.
        unit: caption of the horizontal axis.

    Returns:
        `paths`, one per line; `yticks` and `xticks` as (pixel, text); whether the vertical scale is logarithmic; and
        the edges of the plot in pixels.
    """
    y = value_scale(lines, floor)
    return {
        "paths": [path(line, x, y) for line in lines],
        "yticks": [(y(value), number(value)) for value in y.ticks()],
        "xticks": [(x(value), number(value)) for value in x.ticks(5)],
        "log": y.log,
        "unit": unit,
        **frame(),
    }


def frame(
    width: float = WIDTH,
    height: float = HEIGHT,
    left: float = LEFT,
    right: float = RIGHT,
    top: float = TOP,
    bottom: float = BOTTOM,
) -> dict[str, float]:
    """Size of a chart and the edges of its plot in pixels, from its margins.

    Example:
        >>> frame(width=400, left=30, right=10)["right"]
        390
    """
    return {
        "width": width,
        "height": height,
        "left": left,
        "right": width - right,
        "top": top,
        "bottom": height - bottom,
    }
