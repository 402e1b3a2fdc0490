"""HTML report of a signals document: what was found, what was not assessed, and why a break was offered.

The timeline's geometry is in `timeline_chart.py`, the words are in `words.py`; the template is
`assets/report.html.j2` and the scaffold `jepa.html`.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence
from typing import Any

from jepa.html import data_url, render_page
from jepa.signals import words
from jepa.signals.analysis import AnalysisResult
from jepa.signals.annotations import Annotation
from jepa.signals.console import findings_of
from jepa.signals.decide.forecasts import statistics_of
from jepa.signals.document import taxonomy
from jepa.signals.document.objects import (
    Anticipated,
    Break,
    Observed,
    SignalsDocument,
)
from jepa.signals.timeline_chart import LEFT, RIGHT, WIDTH, Chart, shown_horizon

_CARDS_MOST = 40  # breaks with pictures; the rest, and those that layout skipped, are lines of a table


def render(result: AnalysisResult, annotations: Sequence[Annotation] = ()) -> str:
    """The page.

    Args:
        result: the document, and the pictures of its scan.
        annotations: what people or a simulator state about the video, drawn in lanes of their own.

    Returns:
        HTML, a complete page.

    Raises:
        UserError: Jinja is not installed.

    Example:
        >>> from jepa.signals import Analyser, render
        >>> result = Analyser(detectors, "policy.yaml").run("clip.mp4")    # doctest: +SKIP
        >>> Path("report.html").write_text(render(result))                 # doctest: +SKIP
    """
    document = result.document
    chart = Chart(document, annotations)
    cards = [item for item in document.ads.breaks if item.verdict != "skip"][:_CARDS_MOST]
    return render_page(
        "jepa.signals",
        "report",
        "signals",
        {
            "clock": words.clock,
            "label": words.label_words,
            "factor": words.factor_words,
            "plural": words.plural,
            "reasons": words.reasons_for,
            "where": words.where,
        },
        doc=document,
        chart=chart.build(),
        data=_data(result, chart.colours),
        cards=[_break(result, item) for item in cards],
        other_breaks=[item for item in document.ads.breaks if item not in cards],
        evidence=_evidence(result),
        decisions={decision.id: decision for decision in document.decisions},
        forecast_log=statistics_of(document.anticipated, document.asset.duration_ms),
        findings=findings_of(document),
        statuses=words.STATUSES,
        verdict_words=words.VERDICTS,
        categories=taxonomy.categories(),
        sensitive=_sensitive(document),
        verdicts=Counter(item.verdict for item in document.ads.breaks),
        annotated=bool(annotations),
    )


def _sensitive(document: SignalsDocument) -> tuple[int, int]:
    """How many of the taxonomy's brand-safety categories nobody looked for, and how many there are."""
    topics = [row for row in taxonomy.categories().values() if row.parent == taxonomy.SENSITIVE_TOPICS]
    names = {entry.what for entry in document.not_assessed}
    return sum(f"{row.id} {row.name}" in names for row in topics), len(topics)


def _data(result: AnalysisResult, colours: dict[str, str]) -> dict[str, Any]:
    """What the page's script reads: pictures, scores, and the times that keys jump to."""
    document = result.document
    tracks, horizon = document.tracks, shown_horizon(document)
    event_times = [
        *(item.at_ms for item in document.ads.breaks),
        *(item.issued_at_ms for item in document.anticipated),
        *(item.start_ms for item in document.observed),
    ]
    return {
        "duration": document.asset.duration_ms,
        "stride": document.run.stride_ms,
        "left": LEFT,
        "width": WIDTH - LEFT - RIGHT,
        "ends": tracks.window_end_ms,
        "observed": [
            {"label": track.label, "p": track.p, "colour": colours[track.label]} for track in tracks.observed
        ],
        "anticipated": [
            {"label": track.label, "p": track.p, "colour": colours[track.label]}
            for track in tracks.anticipated
            if track.within_ms == horizon
        ],
        "shots": [[shot.id, shot.start_ms, shot.end_ms] for shot in document.timeline.shots],
        "scenes": [
            [segment.scene, [tag.label for tag in segment.tags[:6]]] for segment in document.ads.segments
        ],
        "sceneTimes": [[scene.id, scene.start_ms, scene.end_ms] for scene in document.timeline.scenes],
        "strip": [[at_ms, data_url(jpeg)] for at_ms, jpeg in result.scan.strip],
        "times": sorted(set(event_times)),
        "hasTags": any(head.categories for head in document.run.heads),
    }


def _nearest(result: AnalysisResult, at_ms: int) -> str | None:
    strip = result.scan.strip
    latest = max(0, bisect.bisect_right([time_ms for time_ms, _ in strip], at_ms) - 1)
    return data_url(strip[latest][1]) if strip else None


def _break(result: AnalysisResult, item: Break) -> dict[str, Any]:
    widest = max((abs(factor.part) for factor in item.factors), default=0.0) or 1.0
    decisions = result.document.decisions
    return {
        "item": item,
        "decision": next(decision for decision in decisions if decision.id == item.decision),
        "bars": [(factor, 100 * abs(factor.part) / widest) for factor in item.factors if factor.part],
        "zero": [words.factor_words(factor.name) for factor in item.factors if not factor.part],
        "before": _nearest(result, max(0, item.at_ms - 500)) if item.at_ms else None,
        "after": _nearest(result, item.at_ms + 500),
    }


def _evidence(result: AnalysisResult) -> list[dict[str, Any]]:
    document = result.document
    by_frame = {(kept.frame, kept.end_ms): kept.jpeg for kept in result.evidence.values()}
    users: dict[str, list[str]] = {}
    signals: list[Observed | Anticipated] = [*document.observed, *document.anticipated]
    for signal in signals:
        for name in signal.evidence:
            users.setdefault(name, []).append(f"{signal.id} {signal.label}")
    return [
        {
            "item": item,
            "picture": data_url(by_frame.get((item.frame, item.end_ms))),
            "users": users.get(item.id, []),
        }
        for item in document.evidence
    ]
