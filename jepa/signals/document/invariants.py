"""Invariants: what must hold between the parts of a document. `objects.py` checks each part alone."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from jepa.signals.document import taxonomy
from jepa.signals.document.fields import ANTICIPATED_ACTIONS, FINAL_ACTIONS
from jepa.signals.document.objects import (
    Anticipated,
    Break,
    Decision,
    Observed,
    SignalsDocument,
)
from jepa.signals.document.tracks import AnticipatedTrack, ObservedTrack, spans_of

SUM_TOLERANCE = 1e-6
LOOKS_AHEAD = ("still_after", "speech_across")  # the factors that only a finished video has


def violations(document: SignalsDocument) -> list[str]:
    """Every broken invariant, as sentences that name the object. An empty list means that the document is
    sound."""
    return [
        message
        for check in (
            _ids,
            _shots,
            _sound,
            _tracks,
            _not_assessed,
            _observed,
            _anticipated,
            _segments,
            _breaks,
            _decisions,
            _registers,
        )
        for message in check(document)
    ]


def _by_id(objects: Iterable[Any]) -> dict[str, Any]:
    return {item.id: item for item in objects}


def _ids(document: SignalsDocument) -> Iterator[str]:
    timeline = document.timeline
    named: list[Any] = [
        *document.calibrations, *timeline.shots, *timeline.scenes, *timeline.pauses,
        *(timeline.silences or []), *(timeline.speech or []), *document.observed,
        *document.anticipated, *document.ads.breaks, *document.decisions, *document.evidence,
    ]  # fmt: skip
    for identifier, times in Counter(item.id for item in named).items():
        if times > 1:
            yield f"the id {identifier} is used {times} times"
    duration, frames = document.asset.duration_ms, document.asset.frames
    spans: list[Any] = [*timeline.shots, *timeline.scenes, *timeline.pauses, *document.observed]
    for item in [*spans, *(timeline.silences or []), *(timeline.speech or [])]:
        if item.end_ms > duration:
            yield f"{item.id} ends at {item.end_ms} ms, after the video ({duration} ms)"
    for evidence in document.evidence:
        if evidence.frame >= frames:
            yield f"evidence {evidence.id} points at frame {evidence.frame} of {frames}"
        if not evidence.start_ms <= evidence.end_ms <= duration:
            yield (
                f"evidence {evidence.id} covers {evidence.start_ms} to {evidence.end_ms} ms, not inside the "
                "video"
            )


def _shots(document: SignalsDocument) -> Iterator[str]:
    at_ms = at_frame = 0
    for shot in document.timeline.shots:
        if (shot.start_ms, shot.start_frame) != (at_ms, at_frame) or shot.end_frame <= shot.start_frame:
            yield f"shot {shot.id} does not begin where the one before it ends"
        at_ms, at_frame = shot.end_ms, shot.end_frame
    if (at_ms, at_frame) != (document.asset.duration_ms, document.asset.frames):
        yield f"the shots end at {at_ms} ms, frame {at_frame}, and the video does not"
    shots = _by_id(document.timeline.shots)
    listed = []
    for scene in document.timeline.scenes:
        listed += scene.shots
        inside = [shots[name] for name in scene.shots if name in shots]
        if not inside or (scene.start_ms, scene.end_ms) != (inside[0].start_ms, inside[-1].end_ms):
            yield f"scene {scene.id} does not span its shots"
    for scene, following in itertools.pairwise(document.timeline.scenes):
        first = shots.get(following.shots[0]) if following.shots else None
        if (
            first is not None
            and first.visual_change is not None
            and first.visual_change != scene.visual_change
        ):
            yield (
                f"scene {scene.id}: its visual_change {scene.visual_change} is not that of shot {first.id}, "
                f"{first.visual_change}"
            )
    if listed != list(shots):
        yield "the scenes do not hold each shot once and in order"


def _sound(document: SignalsDocument) -> Iterator[str]:
    timeline = document.timeline
    for name, spans in (("silences", timeline.silences), ("speech", timeline.speech)):
        if spans is not None and timeline.sound is None:
            yield f"the timeline lists {name} of a video whose sound nobody heard"
        listed: list[Any] = list(spans or [])
        for early, late in itertools.pairwise(listed):
            if late.start_ms < early.end_ms:
                yield f"{late.id} begins before {early.id} ends"
    if timeline.sound is not None:
        for start, end in [*timeline.sound.gaps, *timeline.sound.unheard]:
            if not start < end <= document.asset.duration_ms:
                yield f"the sound lists {start} to {end} ms, which is no stretch of the video"
    needs = {"silence": timeline.silences, "speech_across": timeline.speech, "speech_before": timeline.speech}
    for item in document.ads.breaks:
        for factor in item.factors:
            if factor.name in needs and needs[factor.name] is None:
                yield f"break {item.id}: it counts {factor.name}, which nobody assessed"


def _tracks(document: SignalsDocument) -> Iterator[str]:
    tracks, known = (
        document.tracks,
        {head.id: {*head.labels, *head.groups} for head in document.run.heads},
    )
    count = len(tracks.window_end_ms)
    if any(late <= early for early, late in itertools.pairwise(tracks.window_end_ms)):
        yield "tracks: window_end_ms does not increase"
    if tracks.window_end_ms and tracks.window_end_ms[-1] > document.asset.duration_ms:
        yield "tracks: a window ends after the video"
    if len(tracks.last_frame) != count or any(frame >= document.asset.frames for frame in tracks.last_frame):
        yield "tracks: last_frame does not fit the windows"
    curves: dict[tuple[str, str], list[Any]] = defaultdict(list)
    every: list[ObservedTrack | AnticipatedTrack] = [*tracks.observed, *tracks.anticipated]
    for track in every:
        if len(track.p) != count:
            yield f"tracks: {track.label} has {len(track.p)} values for {count} windows"
        if track.label not in known.get(track.head, ()):
            yield f"tracks: {track.label} is not a label of head {track.head}"
    for curve in tracks.anticipated:
        curves[curve.head, curve.label].append(curve)
    for (_, label), family in curves.items():
        family.sort(key=lambda track: track.within_ms)
        for near, far in itertools.pairwise(family):
            pairs = zip(near.p, far.p, strict=False)  # other lengths have been reported above
            falls = any(a is not None and b is not None and a > b for a, b in pairs)
            if near.within_ms == far.within_ms or falls:
                yield f"tracks: {label} becomes less likely from {near.within_ms} to {far.within_ms} ms"


def _not_assessed(document: SignalsDocument) -> Iterator[str]:
    tracks, heads = document.tracks, _by_id(document.run.heads)
    nulls: dict[str, list[list[bool]]] = defaultdict(list)
    scored: list[ObservedTrack | AnticipatedTrack] = [*tracks.observed, *tracks.anticipated]
    for curve in scored:
        nulls[curve.head].append([p is None for p in curve.p])
    for head, columns in nulls.items():
        if any(column != columns[0] for column in columns):
            yield f"tracks: head {head} assessed some of its labels and not others in the same window"
    for head in {item.head for item in document.not_assessed if item.head is not None} - set(heads):
        yield f"not_assessed: no head {head}"
    if [track.head for track in tracks.domain] != [name for name, head in heads.items() if head.domain]:
        yield "tracks: the heads with distances are not those that have a domain"
        return
    for track in tracks.domain:
        outside = [distance > heads[track.head].domain.threshold for distance in track.distance]
        if len(outside) != len(tracks.window_end_ms):
            yield f"tracks: head {track.head} has {len(outside)} distances for {len(tracks.window_end_ms)} windows"
            continue
        if any(column != outside for column in nulls[track.head]):
            yield f"tracks: head {track.head} is null elsewhere than outside its domain"
        spans = spans_of(outside, tracks.window_end_ms, document.run.stride_ms, document.asset.duration_ms)
        stated = [span for item in document.not_assessed if item.head == track.head for span in item.spans_ms]
        if stated != spans:
            yield f"not_assessed: the times of head {track.head} are not those outside its domain"


def _signal(document: SignalsDocument, kind: str, signal: Observed | Anticipated) -> Iterator[str]:
    head = _by_id(document.run.heads).get(signal.head)
    if head is None or signal.label not in (*head.labels, *head.groups):
        yield f"{kind} {signal.id}: {signal.label} is not a label of a head {signal.head} of this run"
    if signal.cat is not None and signal.cat not in taxonomy.categories():
        yield f"{kind} {signal.id}: {signal.cat} is not an id of the IAB Content Taxonomy {taxonomy.VERSION}"
    if signal.calibration is not None and signal.calibration not in _by_id(document.calibrations):
        yield f"{kind} {signal.id}: no calibration {signal.calibration}"
    for name in signal.evidence:
        if name not in _by_id(document.evidence):
            yield f"{kind} {signal.id}: no evidence {name}"


def _observed(document: SignalsDocument) -> Iterator[str]:
    for span in document.observed:
        yield from _signal(document, "observed", span)
        if not span.start_ms <= span.peak_ms < span.end_ms:
            yield f"observed {span.id}: the peak at {span.peak_ms} ms is outside the span"


def _anticipated(document: SignalsDocument) -> Iterator[str]:
    evidence = _by_id(document.evidence)
    for forecast in document.anticipated:
        name = f"anticipated {forecast.id}"
        yield from _signal(document, "anticipated", forecast)
        start, end = forecast.context_ms
        if not start <= end <= forecast.issued_at_ms <= document.asset.duration_ms:
            yield (
                f"{name}: context {start} to {end} ms and issue time {forecast.issued_at_ms} ms are out of "
                "order"
            )
        for key in forecast.evidence:
            if key in evidence and (
                evidence[key].frame > forecast.last_frame or evidence[key].end_ms > forecast.issued_at_ms
            ):
                yield f"{name}: evidence {key} is later than what the forecast saw"
        for near, far in itertools.pairwise(forecast.curve):
            if far.within_ms <= near.within_ms or far.p < near.p:
                yield f"{name}: the curve falls or goes back between {near.within_ms} and {far.within_ms} ms"
        if forecast.horizon_ms not in {point.within_ms for point in forecast.curve}:
            yield f"{name}: its horizon {forecast.horizon_ms} ms is not on its curve"
        yield from _resolution(document, forecast)


def _resolution(document: SignalsDocument, forecast: Anticipated) -> Iterator[str]:
    name, outcome = f"anticipated {forecast.id}", forecast.resolution
    until = forecast.issued_at_ms + forecast.horizon_ms
    onsets = {
        span.id: span.start_ms
        for span in document.observed
        if span.label == forecast.label
        and forecast.issued_at_ms < span.start_ms <= until
        and document.tracks.shows_onset(span.head, span.label, span.start_ms)
    }
    if outcome.status == "confirmed":
        by_human = outcome.by is not None and outcome.by.startswith("human:")
        if outcome.onset_ms is None or not forecast.issued_at_ms < outcome.onset_ms <= until:
            yield f"{name}: confirmed by an onset outside its horizon"
        elif outcome.lead_ms != outcome.onset_ms - forecast.issued_at_ms:
            yield f"{name}: lead_ms {outcome.lead_ms} is not onset minus issue time"
        if not by_human and onsets.get(outcome.by or "") != outcome.onset_ms:
            yield (
                f"{name}: confirmed by {outcome.by}, which is no observed onset of {forecast.label} within "
                "its horizon"
            )
        return
    if (outcome.by, outcome.onset_ms, outcome.lead_ms) != (None, None, None):
        yield f"{name}: {outcome.status}, yet it names a confirmation"
    if outcome.status != "open" and not document.tracks.watched(forecast.label, forecast.issued_at_ms, until):
        yield f"{name}: {outcome.status}, yet no head observed {forecast.label} in all of its horizon; that is open"
    if onsets and outcome.status != "open":
        yield f"{name}: {outcome.status}, yet {min(onsets, key=lambda key: onsets[key])} confirms it"
    ended = until > document.asset.duration_ms
    if outcome.status == "refuted" and ended:
        yield f"{name}: refuted although the video ended before its horizon; that is expired"
    if outcome.status == "expired" and not ended:
        yield f"{name}: expired although its horizon ended inside the video; that is refuted"


def _segments(document: SignalsDocument) -> Iterator[str]:
    scenes = _by_id(document.timeline.scenes)
    for segment in document.ads.segments:
        if segment.scene not in scenes:
            yield f"segment: no scene {segment.scene}"
        for item in segment.cats:
            row = taxonomy.categories().get(item.id)
            if row is None or list(row.path) != item.path:
                yield (
                    f"segment {segment.scene}: {item.id} with path {' > '.join(item.path)} is not in the "
                    "taxonomy"
                )
        for risk in segment.suitability:
            if risk.category not in taxonomy.categories() or not taxonomy.is_sensitive(risk.category):
                yield f"segment {segment.scene}: {risk.category} is not a Sensitive Topics category"


def _breaks(document: SignalsDocument) -> Iterator[str]:
    forecasts, decisions = _by_id(document.anticipated), _by_id(document.decisions)
    for item in document.ads.breaks:
        name = f"break {item.id}"
        if item.at_ms > document.asset.duration_ms or item.at_frame >= document.asset.frames:
            yield f"{name} is outside the video"
        for factor in item.factors:
            if abs(factor.value * factor.weight - factor.part) > SUM_TOLERANCE:
                yield (
                    f"{name}: factor {factor.name} is {factor.value} times {factor.weight}, not {factor.part}"
                )
        names = Counter(factor.name for factor in item.factors)
        for factor_name, times in names.items():
            if times > 1:
                yield f"{name}: the factor {factor_name} is listed {times} times"
        total = sum(factor.part for factor in item.factors)
        if abs(total - item.score) > SUM_TOLERANCE:
            yield f"{name}: the parts sum to {total:.6f} and the score says {item.score}"
        yield from _sides(name, item, forecasts)
        if document.run.causal and (item.after.source != "anticipated" or names.keys() & set(LOOKS_AHEAD)):
            yield f"{name}: a causal run looked at the time after the break"
        decision = decisions.get(item.decision)
        if decision is None or (decision.subject, decision.action) != (item.id, item.verdict):
            yield f"{name}: decision {item.decision} does not say {item.verdict} about it"


def _sides(name: str, item: Break, forecasts: dict[str, Anticipated]) -> Iterator[str]:
    if not item.before.window_ms[0] <= item.before.window_ms[1] <= item.at_ms:
        yield f"{name}: what it calls before is after it"
    if not item.at_ms <= item.after.window_ms[0] <= item.after.window_ms[1]:
        yield f"{name}: what it calls after is before it"
    if item.after.forecast is not None:
        forecast = forecasts.get(item.after.forecast)
        if forecast is None:
            yield f"{name}: no forecast {item.after.forecast}"
        elif forecast.issued_at_ms > item.at_ms:
            yield f"{name}: forecast {item.after.forecast} was issued after it"
    for side in (item.before.max_risk, item.after.max_risk):
        if side is not None and side.cat is not None and side.cat not in taxonomy.categories():
            yield f"{name}: {side.cat} is not an id of the IAB Content Taxonomy {taxonomy.VERSION}"


def _decisions(document: SignalsDocument) -> Iterator[str]:
    forecasts, observed = _by_id(document.anticipated), _by_id(document.observed)
    breaks = _by_id(document.ads.breaks)
    for decision in document.decisions:
        name = f"decision {decision.id}"
        if decision.subject not in {*forecasts, *observed, *breaks, document.asset.id}:
            yield f"{name}: no subject {decision.subject}"
        if decision.subject in forecasts and decision.basis not in ("anticipated", "not_assessed"):
            yield f"{name}: it is about a forecast and claims the basis {decision.basis}"
        if decision.to is not None and decision.to not in breaks:
            yield f"{name}: no break {decision.to} to move to"
        if (decision.value is None) != (decision.basis == "not_assessed"):
            yield f"{name}: a value is missing exactly when nothing was assessed"
        if decision.value is not None and (
            decision.threshold is None
            or decision.margin is None
            or abs(decision.value - decision.threshold - decision.margin) > SUM_TOLERANCE
        ):
            yield f"{name}: the margin {decision.margin} is not {decision.value} minus {decision.threshold}"
        yield from _permission(name, decision)


def _permission(name: str, decision: Decision) -> Iterator[str]:
    if decision.basis == "anticipated" and decision.action not in ANTICIPATED_ACTIONS:
        yield f"{name}: a forecast may not {decision.action}; it may {', '.join(sorted(ANTICIPATED_ACTIONS))}"
    if decision.action not in FINAL_ACTIONS:
        return
    if decision.basis != "observed":
        yield f"{name}: {decision.action} needs something observed, not {decision.basis}"
    if decision.human == "required" and (decision.review is None or decision.automated == "fully"):
        yield f"{name}: {decision.action} without a person, which its policy does not permit"


def _registers(document: SignalsDocument) -> Iterator[str]:
    heads = document.run.heads
    for identifier, times in Counter(head.id for head in heads).items():
        if times > 1:
            yield f"the head {identifier} is listed {times} times"
    for head in heads:
        if head.calibration is not None and head.calibration not in _by_id(document.calibrations):
            yield f"head {head.id}: no calibration {head.calibration}"
        if (head.task == "anticipate") != bool(head.horizons_ms):
            yield f"head {head.id}: a head has horizons exactly when it anticipates"
        for label, rates in head.base_rates.items():
            if label not in head.labels or len(rates) != len(head.horizons_ms):
                yield f"head {head.id}: the base rates of {label} do not fit its labels and horizons"
        for label, category in head.categories.items():
            if label not in head.labels or category not in taxonomy.categories():
                yield f"head {head.id}: {label} is not one of its labels, or {category} is not in the taxonomy"
    for entry in document.taxonomies:
        if entry.key == "risk" and tuple(entry.order or ()) != taxonomy.RISK_ORDER:
            yield f"taxonomies: the order of risk is {entry.order}, not {list(taxonomy.RISK_ORDER)}"
