"""From one scan to one sealed document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jepa.signals.decide.breaks import Sides, candidates
from jepa.signals.decide.decide import decide
from jepa.signals.decide.events import forecasts, observed_spans
from jepa.signals.detect.detector import DIGITS, Scorer, ScoreTrack
from jepa.signals.detect.risks import Watch
from jepa.signals.detect.scan import Scan
from jepa.signals.document import taxonomy
from jepa.signals.document.hash_chain import seal
from jepa.signals.document.objects import (
    Ads,
    AnticipatedTrack,
    Asset,
    CategoryScore,
    Evidence,
    NotAssessed,
    Observed,
    ObservedTrack,
    Part,
    Run,
    Scene,
    Segment,
    Suitability,
    TagScore,
    Taxonomy,
    Timeline,
    Tracks,
)
from jepa.signals.document.schema import SCHEMA_ID, SignalsDocument
from jepa.signals.policy import Policy

# What no picture shows. A reader must not take the silence of a visual probe for an all-clear.
BEYOND_PICTURES = (
    ("speech, music and other sound", "Only pictures are read."),
    ("text on screen and its meaning", "No probe reads text."),
    (
        "hate speech, profanity and misinformation",
        "They lie in words and context, which no probe here reads.",
    ),
    ("online piracy and spam", "They depend on rights and on behaviour outside the picture."),
    ("who is shown", "No person is identified, by design."),
)


def tracks_of(track: ScoreTrack) -> Tracks:
    """The scores as a document keeps them."""
    seen = np.array(track.observed).reshape(len(track.end_ms), len(track.observed_signals))
    shape = (len(track.end_ms), len(track.anticipated_signals), len(track.horizons_ms))
    foreseen = np.array(track.anticipated).reshape(shape)
    return Tracks(
        window_end_ms=track.end_ms,
        last_frame=track.last_frame,
        observed=[
            ObservedTrack(probe=signal.probe, label=signal.label, p=seen[:, i].tolist())
            for i, signal in enumerate(track.observed_signals)
        ],
        anticipated=[
            AnticipatedTrack(
                probe=signal.probe, label=signal.label, within_ms=within, p=foreseen[:, i, h].tolist()
            )
            for i, signal in enumerate(track.anticipated_signals)
            for h, within in enumerate(track.horizons_ms)
        ],
    )


def segments_of(
    policy: Policy, scorer: Scorer, scan: Scan, scenes: Sequence[Scene], observed: Sequence[Observed]
) -> list[Segment]:
    """What each scene is about: tags averaged over the windows that end in it, and the risks seen in it."""
    ends, found = np.array(scan.track.end_ms), []
    tags = np.array(scan.tags).reshape(len(ends), len(scorer.tags))
    for scene in scenes:
        inside = (ends >= scene.start_ms) & (ends < scene.end_ms)
        mean = tags[inside].mean(axis=0) if inside.any() else np.zeros(len(scorer.tags))
        scored = [
            (signal.label, round(float(p), DIGITS))
            for signal, p in sorted(zip(scorer.tags, mean, strict=True), key=lambda item: -item[1])
            if p >= policy.tags_at
        ]
        cats: dict[str, CategoryScore] = {}
        for label, p in scored:
            name = policy.category(label)
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
                tags=[TagScore(label=label, p=p) for label, p in scored],
                suitability=[Suitability(category=name, level=None, p=p) for name, p in risks.items()],
            )
        )
    return found


def not_assessed(policy: Policy, scorer: Scorer, watch: Watch) -> list[NotAssessed]:
    """What a reader might miss: sensitive categories without a probe, forecasts nobody can confirm, and
    sound."""
    signals = [*scorer.observed, *scorer.anticipated, *scorer.tags, *watch.signals]
    known = {signal.label for signal in signals}
    covered = {policy.category(label) for label in known}
    found = []
    for row in taxonomy.categories().values():
        if row.parent == taxonomy.SENSITIVE_TOPICS and row.id not in covered:
            found.append(NotAssessed(what=f"{row.id} {row.name}", why="No probe of this run looks for it."))
    seen = {signal.label for signal in watch.signals}
    for label in dict.fromkeys(signal.label for signal in scorer.anticipated):
        if label not in seen:
            why = "No probe tells when it happens, so forecasts of it stay open."
            found.append(NotAssessed(what=f"whether {label} came about", why=why))
    for label in policy.labels:
        if label not in known:
            found.append(NotAssessed(what=label, why="The policy names it and no probe knows it."))
    for probe in scorer.probes:
        why = f"Probe {probe.id} learnt from {probe.trained_on} and tells only {', '.join(probe.labels)}."
        found.append(NotAssessed(what=f"everything outside what {probe.id} was trained on", why=why[:4000]))
    return found + [NotAssessed(what=what, why=why) for what, why in BEYOND_PICTURES]


def assemble(
    asset: Asset, run: Run, policy: Policy, scorer: Scorer, watch: Watch, scan: Scan
) -> SignalsDocument:
    """Builds, checks and seals the document of one video.

    Args:
        asset: the video's facts.
        run: what made it.
        policy: the customer's policy.
        scorer: encoder and probes.
        watch: which risks were watched for.
        scan: what the pass over the video brought.

    Raises:
        UserError: an invariant does not hold.
    """
    duration, stride = asset.duration_ms, run.encoder.stride_ms
    tracks = tracks_of(scan.track)
    shots, scenes = scan.timeline.shots_and_scenes(duration)
    pauses = scan.timeline.pauses(policy.breaks.still_at, policy.breaks.still_ms, duration)
    timeline = Timeline(shots=shots, scenes=scenes, pauses=pauses)
    probes = {probe.id: probe for probe in scorer.probes}
    names = {row: f"e{number}" for number, row in enumerate(sorted(scan.evidence), start=1)}
    observed = observed_spans(scan.desk, tracks, stride, duration, probes, names)
    rates: dict[Any, float | None] = {}
    if scorer.anticipated:
        column = list(scorer.horizons_ms).index(policy.forecast.horizon_ms)
        for signal, row in zip(scorer.anticipated, scorer.base_rates, strict=True):
            rates[signal] = round(float(row[column]), DIGITS)
    foreseen = forecasts(scan.desk, tracks, observed, duration, probes, scan.contexts, rates, names)
    sides = Sides(policy, tracks, run.causal)
    frame_ms = [round(moment * 1000) for moment in scan.timeline.times_s]
    places = candidates(policy, sides, timeline, foreseen, frame_ms, duration)
    breaks, decisions = decide(policy, sides, observed, foreseen, places)
    evidence = [
        Evidence(
            id=names[row], kind="frame", start_ms=seen.start_ms, end_ms=seen.end_ms, frame=seen.frame,
            frame_sha256=seen.sha256,
        )
        for row, seen in sorted(scan.evidence.items())
    ]  # fmt: skip
    notices = []
    if scan.short:
        notices.append("The video is shorter than one window; its only window repeats the first frame.")
    risk = Taxonomy(key="risk", name="IAB brand suitability and risk", order=list(taxonomy.RISK_ORDER))
    iab = Taxonomy(
        key="iab", name="IAB Content Taxonomy", version=taxonomy.VERSION, cattax=taxonomy.CATTAX,
        sha256=taxonomy.sha256(),
    )  # fmt: skip
    parts = {
        "schema": SCHEMA_ID,
        "asset": asset,
        "run": run,
        "calibrations": list(scorer.calibrations),
        "taxonomies": [iab, risk],
        "not_assessed": not_assessed(policy, scorer, watch),
        "notices": notices,
        "timeline": timeline,
        "tracks": tracks,
        "observed": observed,
        "anticipated": foreseen,
        "ads": Ads(segments=segments_of(policy, scorer, scan, scenes, observed), breaks=breaks),
        "decisions": decisions,
        "evidence": evidence,
    }
    return seal({key: _plain(value) for key, value in parts.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return value.model_dump(mode="json", by_alias=True)
    return [_plain(item) for item in value] if isinstance(value, list) else value
