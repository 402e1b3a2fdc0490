"""Geometry of the report's timeline: lanes from top to bottom, time from left to right, as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jepa.html import COLOURS
from jepa.signals.annotations import Annotation
from jepa.signals.document.objects import SignalsDocument
from jepa.signals.words import clock

LEFT, RIGHT, WIDTH = 118.0, 12.0, 1100.0
_CURVE = 58  # height of a risk lane
_ANNOTATION = 22  # height of a lane of annotations
_LETTER = 6.2  # width of a letter of a label, as a rule
_POINTS = 900  # points of a curve; more cannot be distinguished on a screen
_LANES_MOST = 8


def shown_horizon(document: SignalsDocument) -> int:
    """The horizon that the page draws: the one that forecasts were issued for, else a middle one."""
    if document.anticipated:
        return document.anticipated[0].horizon_ms
    horizons = sorted({track.within_ms for track in document.tracks.anticipated})
    return horizons[len(horizons) // 2] if horizons else 0


class Chart:
    """The timeline as plain numbers: lanes from top to bottom, time from left to right."""

    def __init__(self, document: SignalsDocument, annotations: Sequence[Annotation]) -> None:
        self.document, self.annotations = document, annotations
        self.scale = (WIDTH - LEFT - RIGHT) / document.asset.duration_ms
        self.top = 0.0
        self.labels = self._ranked()
        self.colours = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(self.labels)}

    def _ranked(self) -> list[str]:
        """Labels by their highest score, so that the lanes that matter come first."""
        highest: dict[str, float] = {}
        for track in self.document.tracks.observed:
            highest[track.label] = max((p for p in track.p if p is not None), default=0.0)
        for curve in self.document.tracks.anticipated:
            known = [p for p in curve.p if p is not None]
            highest[curve.label] = max([highest.get(curve.label, 0.0), *known])
        return sorted(highest, key=lambda label: (-highest[label], label))

    def x(self, at_ms: float) -> float:
        """Time to pixels."""
        clipped = min(max(at_ms, 0.0), self.document.asset.duration_ms)
        return round(LEFT + clipped * self.scale, 2)

    def take(self, height: float) -> float:
        """The top of the next lane."""
        top = self.top
        self.top += height
        return top

    def build(self) -> dict[str, Any]:
        """All lanes; the template draws them in this order."""
        document = self.document
        strip = self.take(62)
        shots = self._boxes(document.timeline.shots, 16)
        scenes = self._boxes(document.timeline.scenes, 22)
        sound = {
            name: self._boxes(spans, 10)
            for name, spans in (("Speech", document.timeline.speech), ("Silence", document.timeline.silences))
            if spans is not None
        }
        lanes, omitted = self._curves()
        forecasts = self._forecasts()
        breaks = self._breaks()
        annotations = self._annotation_lanes()
        axis = self.take(24)
        return {
            "strip": strip,
            "shots": shots,
            "scenes": scenes,
            "sound": sound,
            "curves": lanes,
            "omitted": omitted,
            "forecasts": forecasts,
            "breaks": breaks,
            "annotations": annotations,
            "axis": axis,
            "ticks": self._ticks(),
            "height": round(self.top, 1),
            "width": WIDTH,
            "left": LEFT,
            "right": RIGHT,
            "horizon_ms": shown_horizon(document),
        }

    def _boxes(self, spans: Sequence[Any], height: float) -> dict[str, Any]:
        top = self.take(height + 4)
        rows = [
            {
                "id": span.id,
                "x": self.x(span.start_ms),
                "w": self._wide(span.start_ms, span.end_ms),
                "ms": span.start_ms,
                "until": span.end_ms,
            }
            for span in spans
        ]
        return {"y": top, "h": height, "rows": rows}

    def _wide(self, start_ms: float, end_ms: float) -> float:
        return max(1.0, round(self.x(end_ms) - self.x(start_ms), 2))

    def _curves(self) -> tuple[list[dict[str, Any]], list[str]]:
        tracks, horizon = self.document.tracks, shown_horizon(self.document)
        observed = {track.label: track.p for track in tracks.observed}
        ahead = {track.label: track.p for track in tracks.anticipated if track.within_ms == horizon}
        lanes = []
        for label in self.labels[:_LANES_MOST]:
            top = self.take(_CURVE + 10)
            spans = [span for span in self.document.observed if span.label == label]
            lanes.append(
                {
                    "label": label,
                    "y": top,
                    "h": _CURVE,
                    "colour": self.colours[label],
                    "observed": self._lines(observed.get(label), top),
                    "areas": self._areas(observed.get(label), top),
                    "anticipated": self._lines(ahead.get(label), top),
                    "unassessed": self._unassessed(label),
                    "spans": [
                        {"id": s.id, "x": self.x(s.start_ms), "w": self._wide(s.start_ms, s.end_ms), "p": s.p}
                        for s in spans
                    ],
                    "annotated": [
                        self.x(1000 * item.start_s) for item in self.annotations if item.label == label
                    ],
                }
            )
        return lanes, self.labels[_LANES_MOST:]

    def _unassessed(self, label: str) -> list[dict[str, float]]:
        """Stretches that a head with this label left out; its line has a gap there."""
        tracks = self.document.tracks
        heads = {track.head for track in tracks.observed if track.label == label}
        heads |= {track.head for track in tracks.anticipated if track.label == label}
        spans = [span for item in self.document.not_assessed if item.head in heads for span in item.spans_ms]
        return [{"x": self.x(start), "w": self._wide(start, end)} for start, end in dict.fromkeys(spans)]

    def _thin(self, p: Sequence[float | None]) -> list[list[tuple[int, float]]]:
        """At most `_POINTS` points: the highest of each bin, so that no peak is lost; a new stretch after windows that
        were not assessed."""
        ends = self.document.tracks.window_end_ms
        step = max(1, -(-len(ends) // _POINTS))
        stretches: list[list[tuple[int, float]]] = [[]]
        for i in range(0, len(ends), step):
            known = [(value, -j) for j in range(i, min(i + step, len(ends))) if (value := p[j]) is not None]
            if known:
                value, j = max(known)
                stretches[-1].append((ends[-j], value))
            elif stretches[-1]:
                stretches.append([])
        return [stretch for stretch in stretches if stretch]

    def _lines(self, p: Sequence[float | None] | None, top: float) -> list[str]:
        """The points of one line for each stretch that was assessed."""
        lines = []
        for stretch in [] if p is None else self._thin(p):
            points = [f"{self.x(at):.1f},{top + _CURVE * (1 - value):.1f}" for at, value in stretch]
            if len(points) == 1:  # a line needs two points
                right = self.x(stretch[0][0] + self.document.run.stride_ms)
                points.append(f"{right:.1f},{points[0].split(',')[1]}")
            lines.append(" ".join(points))
        return lines

    def _areas(self, p: Sequence[float | None] | None, top: float) -> list[str]:
        areas = []
        for points in self._lines(p, top):
            line = points.split(" ")
            first, last = line[0].split(",")[0], line[-1].split(",")[0]
            areas.append(" ".join([f"{first},{top + _CURVE}", *line, f"{last},{top + _CURVE}"]))
        return areas

    def _forecasts(self) -> dict[str, Any]:
        """Forecasts as bars from issue to horizon, stacked so that none hides another."""
        free: list[int] = []
        bars = []
        for item in self.document.anticipated:
            until = item.issued_at_ms + item.horizon_ms
            row = next((i for i, end in enumerate(free) if end <= item.issued_at_ms), len(free))
            free[row : row + 1] = [until]
            onset = item.resolution.onset_ms
            bars.append(
                {
                    "id": item.id,
                    "label": item.label,
                    "status": item.resolution.status,
                    "x": self.x(item.issued_at_ms),
                    "w": self._wide(item.issued_at_ms, until),
                    "row": row,
                    "onset": None if onset is None else self.x(onset),
                    "ms": item.issued_at_ms,
                }
            )
        top = self.take(13 * max(1, len(free)) + 8)
        return {"y": top, "h": 13 * max(1, len(free)), "rows": bars}

    def _breaks(self) -> dict[str, Any]:
        rows = [
            {"id": item.id, "x": self.x(item.at_ms), "verdict": item.verdict, "ms": item.at_ms}
            for item in self.document.ads.breaks
        ]
        return {"y": self.take(30), "h": 24, "rows": rows}

    def _annotation_lanes(self) -> list[dict[str, Any]]:
        """One lane for each kind of annotation, in the order in which they first appear."""
        kinds = list(dict.fromkeys(item.kind for item in self.annotations))
        return [
            {"kind": kind, "y": self.take(_ANNOTATION), "h": _ANNOTATION - 3, "rows": self._annotated(kind)}
            for kind in kinds
        ]

    def _annotated(self, kind: str) -> list[dict[str, Any]]:
        """Bars and marks of one lane; a label is drawn only where it hides none of its neighbours."""
        items = sorted(
            (item for item in self.annotations if item.kind == kind), key=lambda item: item.start_s
        )
        starts = [self.x(1000 * item.start_s) for item in items]
        rows = []
        for item, x, following in zip(items, starts, [*starts[1:], WIDTH - RIGHT], strict=True):
            point = item.end_s <= item.start_s
            wide = self._wide(1000 * item.start_s, 1000 * item.end_s)
            room = following - x - 12 if point else wide - 6
            shown = item.label if room > _LETTER * len(item.label) else ""
            rows.append({"x": x, "w": wide, "point": point, "label": item.label, "shown": shown})
        return rows

    def _ticks(self) -> list[dict[str, Any]]:
        duration = self.document.asset.duration_ms
        steps = [
            100,
            200,
            500,
            *(1000 * s for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)),
        ]
        step = next((s for s in steps if duration / s <= 12), 3_600_000 * max(1, duration // 43_200_000))
        return [{"x": self.x(at), "text": clock(at)} for at in range(0, duration + 1, step)]
