"""Builds and seals the document of one video from its scan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jepa.signals.decide.breaks import BreakContext, candidates
from jepa.signals.decide.decide import decide
from jepa.signals.decide.events import forecasts, observed_spans
from jepa.signals.decide.evidence import EvidenceKeeper
from jepa.signals.detect.detector import DIGITS, DetectorSet, ScoreTrack
from jepa.signals.detect.risks import Risks
from jepa.signals.detect.scan import Scan
from jepa.signals.detect.sound import Heard
from jepa.signals.document import taxonomy
from jepa.signals.document.fields import Part
from jepa.signals.document.hash_chain import seal
from jepa.signals.document.objects import (
    SCHEMA_ID,
    Ads,
    Asset,
    CategoryScore,
    Evidence,
    NotAssessed,
    Observed,
    Scene,
    Segment,
    SignalsDocument,
    Suitability,
    TagScore,
    Taxonomy,
    Timeline,
)
from jepa.signals.document.run import HeadMetadata, Run
from jepa.signals.document.tracks import AnticipatedTrack, DomainTrack, ObservedTrack, Tracks, spans_of
from jepa.signals.policy import Policy

_NAMED = 12  # labels of a head that are written out; all of them are in the document's `run`
NO_SOUND = "speech, music and other sound"
_SHOWN_MS = 2000  # a scene's tag is shown for this long, or for a third of the scene if that is longer
# What no picture shows. A reader must not take the silence of a visual probe for an all-clear.
BEYOND_PICTURES = (
    ("text on screen and its meaning", "No detector reads text."),
    (
        "hate speech, profanity and misinformation",
        "They depend on words and context, which no detector here reads.",
    ),
    ("online piracy and spam", "They depend on rights and on behaviour outside the picture."),
    ("who is shown", "No person is identified, by design."),
)


def tracks_of(track: ScoreTrack) -> Tracks:
    """The scores as a document keeps them."""
    observed = np.array(track.observed).reshape(len(track.end_ms), len(track.observed_signals))
    shape = (len(track.end_ms), len(track.anticipated_signals), len(track.horizons_ms))
    anticipated = np.array(track.anticipated).reshape(shape)
    return Tracks(
        window_end_ms=track.end_ms,
        last_frame=track.last_frame,
        observed=[
            ObservedTrack(head=signal.head, label=signal.label, p=_nullable(observed[:, i]))
            for i, signal in enumerate(track.observed_signals)
        ],
        anticipated=[
            AnticipatedTrack(
                head=signal.head, label=signal.label, within_ms=within, p=_nullable(anticipated[:, i, h])
            )
            for i, signal in enumerate(track.anticipated_signals)
            for h, within in enumerate(track.horizons_ms)
        ],
        domain=[
            DomainTrack(head=name, distance=[row[name] for row in track.distances])
            for name in (track.distances[0] if track.distances else ())
        ],
    )


def _nullable(p: np.ndarray) -> list[float | None]:
    """Scores with null for NaN: JSON has no NaN."""
    return [None if math.isnan(value) else value for value in p.tolist()]


def segments_of(
    policy: Policy,
    detectors: DetectorSet,
    track: ScoreTrack,
    scenes: Sequence[Scene],
    observed: Sequence[Observed],
    stride_ms: int,
) -> list[Segment]:
    """What each scene shows: tags over the windows that end in it and were assessed, and the risks observed in it.

    A tag counts by the mean over the third of these windows where it is likeliest, two seconds at least: what a scene
    shows need not be in every frame of it, and one odd window is not enough.
    """
    ends, found = np.array(track.end_ms), []
    tags = np.array(track.tags).reshape(len(ends), len(detectors.observed))
    tables = {head.id: head.categories for head in detectors.heads}
    least = math.ceil(_SHOWN_MS / stride_ms)
    for scene in scenes:
        inside = (ends >= scene.start_ms) & (ends < scene.end_ms)
        means = [
            (signal, _likeliest_mean(tags[inside, i], least)) for i, signal in enumerate(detectors.observed)
        ]
        scored = [
            (signal, round(p, DIGITS))
            for signal, p in sorted(means, key=lambda item: -item[1])
            if p > 0 and p >= policy.tags_at
        ]
        # Several labels may stand for one category; the likeliest comes first and names it.
        cats: dict[str, CategoryScore] = {}
        for (head, label), p in scored:
            name = policy.category(label, tables[head])
            if name is not None and name not in cats:
                cats[name] = CategoryScore(id=name, path=list(taxonomy.lookup(name).path), label=label, p=p)
        risks: dict[str, float] = {}
        for span in observed:
            overlaps = span.start_ms < scene.end_ms and span.end_ms > scene.start_ms
            if overlaps and span.cat is not None and taxonomy.is_sensitive(span.cat):
                risks[span.cat] = max(span.p, risks.get(span.cat, 0.0))
        found.append(
            Segment(
                scene=scene.id,
                cats=list(cats.values()),
                tags=[TagScore(label=signal.label, p=p) for signal, p in scored],
                suitability=[Suitability(category=name, p=p) for name, p in risks.items()],
            )
        )
    return found


def _likeliest_mean(p: np.ndarray, least: int) -> float:
    """The mean over the likeliest third of one label's windows, `least` of them at least; 0 where none was assessed."""
    known = np.sort(p[~np.isnan(p)])[::-1]
    return float(known[: max(least, math.ceil(len(known) / 3))].mean()) if len(known) else 0.0


def left_out(track: ScoreTrack, stride_ms: int, duration_ms: int) -> list[NotAssessed]:
    """The windows of this video that a head did not assess, one entry per head and reason."""
    pairs = dict.fromkeys(item for row in track.reasons for item in row.items())
    found = []
    for head, why in pairs:
        rows = [row.get(head) == why for row in track.reasons]
        found.append(
            NotAssessed(
                what=f"what {head} looks for",
                why=why,
                head=head,
                spans_ms=spans_of(rows, track.end_ms, stride_ms, duration_ms),
                fraction=round(sum(rows) / len(rows), DIGITS),
            )
        )
    return found


def sound_not_assessed(heard: Heard) -> list[NotAssessed]:
    """What of the sound nobody assessed, and why."""
    if heard.sound is None:
        why = heard.reason or "Only pictures are read."
        return [NotAssessed(what=NO_SOUND, why=why)]
    found = []
    if heard.speech is None:
        found.append(NotAssessed(what="when somebody speaks", why="No detector of this run listens for it."))
    if heard.silences is None:
        found.append(NotAssessed(what="loudness and silence", why="No detector of this run measures it."))
    if heard.sound.unheard:
        why = heard.reason or "Packets there do not decode."
        found.append(NotAssessed(what="part of the sound", why=why, spans_ms=heard.sound.unheard))
    why = "Of the sound, only loudness, silence and whether somebody speaks can be assessed."
    return [*found, NotAssessed(what="what is said, music and other sound", why=why)]


def not_assessed(policy: Policy, detectors: DetectorSet, risks: Risks) -> list[NotAssessed]:
    """What a reader might miss: sensitive categories without a detector, forecasts nobody can confirm, heads without a
    domain check."""
    signals = [*detectors.observed, *detectors.anticipated, *risks.signals]
    known = {signal.label for signal in signals}
    covered = {policy.category(label) for label in known}
    covered |= {policy.category(label, head.categories) for head in detectors.heads for label in head.labels}
    found = []
    for row in taxonomy.categories().values():
        if row.parent == taxonomy.SENSITIVE_TOPICS and row.id not in covered:
            found.append(
                NotAssessed(what=f"{row.id} {row.name}", why="No detector of this run looks for it.")
            )
    observable = {signal.label for signal in risks.signals}
    for label in dict.fromkeys(signal.label for signal in detectors.anticipated):
        if label not in observable:
            why = "No detector observes it, so forecasts of it stay open."
            found.append(NotAssessed(what=f"whether {label} came about", why=why))
    for label in policy.labels:
        if label not in known:
            found.append(NotAssessed(what=label, why="The policy names it and no detector has it."))
    for head in detectors.heads:
        more = f" and {len(head.labels) - _NAMED} more" if len(head.labels) > _NAMED else ""
        known_labels = ", ".join(head.labels[:_NAMED]) + more
        why = f"Head {head.id} was trained on {head.trained_on} and knows only {known_labels}."
        why = f"{why[:3800]} {_domain_words(head)}"
        found.append(NotAssessed(what=f"everything outside what {head.id} was trained on", why=why))
    return found + [NotAssessed(what=what, why=why) for what, why in BEYOND_PICTURES]


def _domain_words(head: HeadMetadata) -> str:
    if head.domain is None:
        return "No domain check is stored with it: it answers on any video."
    if not head.domain.promised:
        return f"Its domain check was fitted on {head.domain.groups} groups of videos, too few to promise a rate."
    return "Windows unlike its training videos are not assessed."


def assemble(
    asset: Asset,
    run: Run,
    policy: Policy,
    detectors: DetectorSet,
    risks: Risks,
    scan: Scan,
    evidence: EvidenceKeeper,
) -> SignalsDocument:
    """Builds, checks and seals the document of one video.

    Args:
        asset: the video's metadata.
        run: what made it.
        policy: the customer's policy.
        detectors: what scored the windows.
        risks: which risks were tracked.
        scan: what the pass over the video brought.
        evidence: the events found during the pass, and their frames.

    Raises:
        UserError: an invariant does not hold.
    """
    duration, tracks = asset.duration_ms, tracks_of(scan.track)
    shots, scenes = scan.shots.shots_and_scenes(duration)
    pauses = scan.shots.pauses(policy.breaks.still_at, policy.breaks.still_ms, duration)
    heard = scan.heard
    timeline = Timeline(
        shots=shots,
        scenes=scenes,
        pauses=pauses,
        sound=heard.sound,
        silences=heard.silences,
        speech=heard.speech,
    )
    heads = {head.id: head for head in run.heads}
    names = {row: f"e{number}" for number, row in enumerate(sorted(evidence.frames), start=1)}
    contexts = dict(enumerate(scan.track.context_ms))
    observed = observed_spans(evidence.tracker, tracks, run.stride_ms, duration, heads, names)
    issued = forecasts(evidence.tracker, tracks, observed, duration, heads, contexts, names)
    context = BreakContext(policy, tracks, run.causal)
    frame_ms = [round(time_s * 1000) for time_s in scan.shots.times_s]
    found = candidates(policy, context, timeline, issued, frame_ms, duration)
    breaks, decisions = decide(policy, context, observed, issued, found)
    segments = segments_of(policy, detectors, scan.track, scenes, observed, run.stride_ms)
    parts = {
        "schema": SCHEMA_ID,
        "asset": asset,
        "run": run,
        "calibrations": detectors.calibrations,
        "taxonomies": _taxonomies(),
        "not_assessed": [
            *left_out(scan.track, run.stride_ms, duration),
            *not_assessed(policy, detectors, risks),
            *sound_not_assessed(heard),
        ],
        "notices": scan.notices,
        "timeline": timeline,
        "tracks": tracks,
        "observed": observed,
        "anticipated": issued,
        "ads": Ads(segments=segments, breaks=breaks),
        "decisions": decisions,
        "evidence": _evidence(evidence, names),
    }
    return seal({key: _plain(value) for key, value in parts.items()})


def _taxonomies() -> list[Taxonomy]:
    return [
        Taxonomy(
            key="iab",
            name="IAB Content Taxonomy",
            version=taxonomy.VERSION,
            cattax=taxonomy.CATTAX,
            sha256=taxonomy.sha256(),
        ),
        Taxonomy(key="risk", name="IAB brand suitability and risk", order=list(taxonomy.RISK_ORDER)),
    ]


def _evidence(evidence: EvidenceKeeper, names: Mapping[int, str]) -> list[Evidence]:
    return [
        Evidence(
            id=names[row],
            kind="frame",
            start_ms=kept.start_ms,
            end_ms=kept.end_ms,
            frame=kept.frame,
            frame_sha256=kept.sha256,
        )
        for row, kept in sorted(evidence.frames.items())
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return value.model_dump(mode="json", by_alias=True)
    return [_plain(item) for item in value] if isinstance(value, list) else value
