"""Verification of a signals document: can it be trusted, and does the video still give it?

Four steps, each of which names what does not fit:

1. the document alone: fields, invariants, hash chain;
2. the policy: spans, forecasts, breaks and decisions are worked out again from the scores in the document;
3. the video: its hash, and the hash of every evidence frame;
4. the detectors: their metadata, and the scores of every forecast, of the peak of every span, and of the start of every
   stretch that a head left out. A window is scored when its last frame has been decoded and before the next one is
   read, so a file that ends there gives the same numbers.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jepa.data import LimitsConfig, open_video
from jepa.errors import UserError, VideoError
from jepa.files import sha256_file
from jepa.signals.decide.breaks import BreakContext, score_candidate
from jepa.signals.decide.decide import decide
from jepa.signals.decide.events import forecasts, observed_spans, track_again
from jepa.signals.detect.detector import Detector, DetectorSet, Signal, WindowScores, rounded
from jepa.signals.detect.registry import PROBES, build_detector
from jepa.signals.detect.risks import Risks, risks_of
from jepa.signals.detect.scan import FrameClock, frame_sha256
from jepa.signals.detect.sound import Hearing
from jepa.signals.detect.windows import Window, WindowMaker
from jepa.signals.document.fields import Part
from jepa.signals.document.hash_chain import chain_faults
from jepa.signals.document.objects import SCHEMA_ID, Evidence, SignalsDocument
from jepa.signals.document.schema import parse_document
from jepa.signals.policy import Policy, read_policy


@dataclass
class Findings:
    """What was checked of one document, and what did not fit.

    Example:
        >>> Findings().sound, Findings(faults=["break b1: score is 0.9"]).sound
        (True, False)
    """

    faults: list[str] = field(default_factory=list)
    """sentences that name the object"""
    entries: int = 0
    """links of the chain"""
    frames: int = 0
    """evidence frames hashed again"""
    replayed: int = 0
    """windows scored again"""
    forecasts: int = 0
    """forecasts among them"""
    difference: float = 0.0
    """largest difference of a probability"""

    @property
    def sound(self) -> bool:
        """Whether nothing was found that does not fit."""
        return not self.faults


def verify(
    document: SignalsDocument | str | os.PathLike[str],
    policy: Policy | str | os.PathLike[str],
    *,
    video: str | os.PathLike[str] | None = None,
    detectors: Detector | Sequence[Detector] | None = None,
    every: bool = False,
    limits: LimitsConfig | None = None,
) -> Findings:
    """Checks one document.

    Args:
        document: a document, or the path of its signals.json.
        policy: the policy that it was made with, or the path of its YAML file.
        video: the video; None checks the document and its decisions alone.
        detectors: those that made it; None makes them again from what the document states, which works for detectors
            that need no files of this machine. For probes see `rebuild_detectors`.
        every: score every window again, not only those of forecasts and spans.
        limits: what the video may cost.

    Raises:
        UserError: the file, the policy or the detectors are not there. What does not fit is no exception but a line
            in `Findings.faults`.

    Example:
        >>> from jepa.signals import verify
        >>> verify("out/clip-1a2b3c4d/signals.json", "out/policy.yaml").sound    # doctest: +SKIP
        True
    """
    text, name = _text_of(document)
    found = Findings()
    parsed = _check_alone(text, name, found)
    if parsed is None:  # nothing else can be checked, whatever the policy
        return found
    policy = policy if isinstance(policy, Policy) else read_policy(policy)
    found.entries = parsed.log.seq
    found.faults += policy_faults(parsed, policy)
    if video is not None:
        if detectors is None:
            detectors = rebuild_detectors(parsed, {})
        chosen = DetectorSet.of(detectors)
        try:
            _Replay(parsed, chosen, policy, found).run(Path(video), every, limits)
        except VideoError as error:
            found.faults.append(str(error))
    return found


def _text_of(document: SignalsDocument | str | os.PathLike[str]) -> tuple[bytes, str]:
    if isinstance(document, SignalsDocument):
        return document.model_dump_json(by_alias=True).encode(), document.asset.id
    try:
        return Path(document).read_bytes(), Path(document).parent.name or str(document)
    except OSError as error:
        raise UserError(
            f"cannot read {os.fspath(document)}: {error.strerror}. Give the path of a signals.json."
        ) from error


def _check_alone(text: bytes, name: str, found: Findings) -> SignalsDocument | None:
    """Step 1; None where the document cannot be read any further."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        found.faults.append(f"not JSON: {error}")
        return None
    try:
        document = parse_document(text, name)
    except UserError as error:
        found.faults.append(str(error))
        document = None
    # The chain too: it names the object that was touched even where the document is no longer consistent.
    # That of another version covers other objects.
    if isinstance(raw, dict) and raw.get("schema") == SCHEMA_ID:
        found.faults[:0] = chain_faults(raw)
    return document


def rebuild_detectors(
    document: SignalsDocument, sources: Mapping[str, Mapping[str, str]], device: str = "auto"
) -> list[Detector]:
    """Makes the detectors of a document again, through the registry.

    Args:
        document: states kind and settings of each detector.
        sources: by detector id, what its builder needs besides: for probes {"probes": DIR, "encoder": DIR}.
        device: where encoders run: "auto", "cpu" or "cuda".

    Raises:
        UserError: a kind is not registered, or the folder of the probes is not given.

    Example:
        >>> sources = {"probes": {"probes": "probes/", "encoder": "export/"}}
        >>> detectors = rebuild_detectors(read_document("signals.json"), sources)    # doctest: +SKIP
    """
    made = []
    for stated in document.run.detectors:
        source = {**sources.get(stated.id, {}), **stated.settings}
        if stated.kind == PROBES and "probes" not in source:
            raise UserError(
                f"the folder of the probes of detector {stated.id} is not known. Say probes=DIR, or give the "
                "detectors; or check the document without its video."
            )
        made.append(build_detector(stated.kind, source, device))
    return made


def policy_faults(document: SignalsDocument, policy: Policy) -> list[str]:
    """Works out spans, forecasts, breaks and decisions again and names what differs."""
    used = {decision.policy_sha256 for decision in document.decisions} - {policy.sha256()}
    if used:
        return [f"the decisions follow a policy with hash {used.pop()[:12]}, and the one at hand is another"]
    tracks, duration = document.tracks, document.asset.duration_ms
    rows = {end: row for row, end in enumerate(tracks.window_end_ms)}
    names = {rows[item.end_ms]: item.id for item in document.evidence if item.end_ms in rows}
    heads = {head.id: head for head in document.run.heads}
    stated = document.anticipated
    # Which frames a window held cannot be worked out from the scores; the replay checks it with the video.
    contexts = {rows[item.issued_at_ms]: item.context_ms for item in stated if item.issued_at_ms in rows}
    try:
        tracker = track_again(policy, tracks)
    except UserError as error:
        return [str(error)]
    missing = [issue for issue in tracker.issues if issue.row not in contexts]
    if missing:
        return [
            f"the scores call for a forecast at {issue.issued_at_ms} ms that is not there"
            for issue in missing
        ]
    observed = observed_spans(tracker, tracks, document.run.stride_ms, duration, heads, names)
    issued = forecasts(tracker, tracks, observed, duration, heads, contexts, names)
    context = BreakContext(policy, tracks, document.run.causal)
    candidates = [
        score_candidate(
            policy, context, document.timeline, item.at_ms, item.at_frame, item.boundary_types, issued
        )
        for item in document.ads.breaks
    ]
    breaks, decisions = decide(policy, context, observed, issued, candidates)
    return [
        *_differences("observed", document.observed, observed),
        *_differences("anticipated", stated, issued),
        *_differences("break", document.ads.breaks, breaks),
        *_differences("decision", document.decisions, decisions),
    ]


def _differences(kind: str, stated: Sequence[Part], worked_out: Sequence[Part]) -> Iterator[str]:
    one = {item["id"]: item for item in (part.model_dump(mode="json") for part in stated)}
    two = {item["id"]: item for item in (part.model_dump(mode="json") for part in worked_out)}
    for name in [*one, *(name for name in two if name not in one)]:
        if name not in one or name not in two:
            where = "document" if name in one else "policy applied to the scores"
            yield f"{kind} {name} is only in the {where}"
            continue
        for key, value in two[name].items():
            # A person's review comes later and is theirs to change.
            if key != "review" and one[name][key] != value:
                yield (
                    f"{kind} {name}: {key} is {one[name][key]!r}, the policy applied to the scores gives "
                    f"{value!r}"
                )


class _Replay:
    """Steps 3 and 4: hashes the evidence frames again and scores windows again; adds to `found`."""

    def __init__(
        self, document: SignalsDocument, detectors: DetectorSet, policy: Policy, found: Findings
    ) -> None:
        self.document, self.detectors, self.found = document, detectors, found
        self.risks: Risks = risks_of(policy, detectors)
        self.rows = {end: row for row, end in enumerate(document.tracks.window_end_ms)}
        self.hearing: Hearing | None = None

    def run(self, video: Path, every: bool, limits: LimitsConfig | None) -> None:
        """Replays the video.

        Raises:
            VideoError: the video cannot be read.
        """
        try:
            same = sha256_file(video) == self.document.asset.sha256
        except OSError as error:
            raise VideoError(video, "open", error.strerror or str(error)) from error
        if not same:
            self.found.faults.append(
                f"the video {str(video)!r} is another one: its hash is not {self.document.asset.sha256[:12]}"
            )
            return
        faults = self._metadata_faults()
        self.found.faults += faults
        if not faults:
            self._replay(video, every, limits)

    def _metadata_faults(self) -> list[str]:
        """What the document states about its detectors against the detectors at hand."""
        stated = self.document.run.detectors
        at_hand = {item.id: item for item in self.risks.detectors}
        if [item.id for item in stated] != list(at_hand):
            names = ", ".join(at_hand)
            return [f"the detectors at hand ({names}) are not those that made the document"]
        found = []
        for item in stated:
            other = at_hand[item.id]
            for key, value in item.model_dump(mode="json", exclude={"heads"}).items():
                if value != other.model_dump(mode="json")[key]:
                    found.append(f"detector {item.id}: its {key} is not that of the detector at hand")
            found += _differences_of_heads(item.heads, other.heads)
        if [item.model_dump() for item in self.document.calibrations] != [
            item.model_dump() for item in self.detectors.calibrations
        ]:
            found.append("the calibrations are not those of the detectors at hand")
        return found

    def _replay(self, video: Path, every: bool, limits: LimitsConfig | None) -> None:
        document, tracks = self.document, self.document.tracks
        requested = {item.issued_at_ms for item in document.anticipated}
        requested |= {item.peak_ms for item in document.observed}
        # The start of each stretch that a head left out: was that video really unlike what it was trained on?
        requested |= {start for item in document.not_assessed for start, _ in item.spans_ms}
        requested = set(tracks.window_end_ms) if every else requested & set(self.rows)
        # Windows and evidence by the frame after which they can be made.
        by_frame: dict[int, list[int]] = {}
        for end_ms in sorted(requested):
            by_frame.setdefault(tracks.last_frame[self.rows[end_ms]], []).append(end_ms)
        hashes: dict[int, list[Evidence]] = {}
        for evidence in document.evidence:
            hashes.setdefault(evidence.frame, []).append(evidence)
        maker = WindowMaker(self.detectors.feeds(), document.run.stride_ms, self.detectors.hears)
        last = max([*by_frame, *hashes], default=-1)
        single = len(tracks.window_end_ms) == 1
        if single:  # shorter than one window, whose end is then the end of the video
            last = document.asset.frames - 1
        done: set[int] = set()
        count, times = 0, FrameClock()
        with open_video(video, limits=limits, lenient=document.run.lenient) as reader:
            frames = iter(reader)
            # The next frame is read only when everything that this one allows has been scored.
            while count <= last and (item := next(frames, None)) is not None:
                frame, time_s = item
                if count == 0:
                    self.hearing = Hearing(video, self.detectors, time_s, limits)
                for evidence in hashes.get(count, []):
                    self.found.frames += 1
                    if frame_sha256(frame) != evidence.frame_sha256:
                        self.found.faults.append(f"evidence {evidence.id}: frame {count} has another hash")
                windows = list(maker.push(count, frame, times.at(time_s)))
                for end_ms in by_frame.get(count, []):
                    windows += maker.advance(end_ms)
                for window in windows:
                    if window.end_ms in requested:
                        done.add(window.end_ms)
                        self._compare(self.rows[window.end_ms], window)
                count += 1
        if requested - done and single:
            for window in maker.finish(document.asset.duration_ms / 1000):
                done.add(window.end_ms)
                self._compare(0, window)
        for end_ms in sorted(requested - done):
            self.found.faults.append(
                f"the window that ends at {end_ms} ms could not be made again from this video"
            )
        self._compare_sound()
        self.found.forecasts = sum(item.issued_at_ms in done for item in document.anticipated)

    def _compare_sound(self) -> None:
        """Hears the video to its end and compares silences, speech and loudness with the document's."""
        if self.hearing is None:
            return
        timeline, heard = self.document.timeline, self.hearing.finish(self.document.asset.duration_ms)
        if timeline.sound != heard.sound:
            self.found.faults.append(
                "the sound: its track, loudness, gaps or what was not heard is another one"
            )
        for name in ("silences", "speech"):
            stated, again = getattr(timeline, name), getattr(heard, name)
            spans = [
                None if found is None else [(s.start_ms, s.end_ms) for s in found]
                for found in (stated, again)
            ]
            if spans[0] != spans[1]:
                self.found.faults.append(f"the {name} of the timeline are not those of the replay")

    def _compare(self, row: int, window: Window) -> None:
        """Scores one window and compares with row `row` of the document."""
        tracks, found = self.document.tracks, self.found
        assert self.hearing is not None  # a window comes after the first frame
        heard = self.hearing.scores([window.end_ms])
        scores = self.detectors.score([clip[None] for clip in window.clips], heard)
        assert scores.anticipated is not None
        risks = rounded(self.risks.probabilities(scores.observed))[0].tolist()
        observed = dict(zip(self.risks.signals, risks, strict=True))
        anticipated = dict(zip(self.detectors.anticipated, rounded(scores.anticipated)[0], strict=True))
        column = {within: i for i, within in enumerate(self.detectors.horizons_ms)}
        pairs: list[tuple[str, float | None, float | None]] = [
            (f"observed {track.label}", track.p[row], observed.get(Signal(track.head, track.label)))
            for track in tracks.observed
        ]
        for track in tracks.anticipated:
            curve = anticipated.get(Signal(track.head, track.label))
            again = (
                float(curve[column[track.within_ms]])
                if curve is not None and track.within_ms in column
                else None
            )
            pairs.append((f"anticipated {track.label} within {track.within_ms} ms", track.p[row], again))
        found.replayed += 1
        if window.last_frame != tracks.last_frame[row]:
            found.faults.append(
                f"the window at {window.end_ms} ms ends with frame {window.last_frame}, not "
                f"{tracks.last_frame[row]}"
            )
        near = self._compare_distances(row, window, scores)
        for name, stated, again in pairs:
            if again is None:
                found.faults.append(f"{name} is not among the scores of the detectors")
                continue
            one = math.nan if stated is None else stated
            if math.isnan(one) or math.isnan(again):
                fits = (math.isnan(one) and math.isnan(again)) or near
            else:
                found.difference = max(found.difference, abs(one - again))
                fits = abs(one - again) <= self.document.run.tolerance
            if not fits:
                words = ["not assessed" if math.isnan(value) else str(value) for value in (one, again)]
                found.faults.append(
                    f"{name} at {window.end_ms} ms: the document states {words[0]}, the replay gives {words[1]}"
                )

    def _compare_distances(self, row: int, window: Window, scores: WindowScores) -> bool:
        """Compares how unlike the training videos a window is; returns whether rounding alone could have put it on the
        other side of a threshold."""
        tolerance, near = self.document.run.tolerance, False
        thresholds = {head.id: head.domain.threshold for head in self.document.run.heads if head.domain}
        for track in self.document.tracks.domain:
            stated, again = track.distance[row], float(scores.distances[track.head][0])
            threshold = thresholds[track.head]
            near |= abs(stated - threshold) <= tolerance * threshold
            # Distances have no scale of their own, so theirs is the threshold.
            if abs(stated - again) > tolerance * max(threshold, stated):
                self.found.faults.append(
                    f"distance of {track.head} at {window.end_ms} ms: the document states {stated}, the replay gives "
                    f"{again}"
                )
        return near


def _differences_of_heads(stated: Sequence[Part], at_hand: Sequence[Part]) -> Iterator[str]:
    one = {item["id"]: item for item in (part.model_dump(mode="json") for part in stated)}
    two = {item["id"]: item for item in (part.model_dump(mode="json") for part in at_hand)}
    if list(one) != list(two):
        yield f"the heads at hand ({', '.join(two)}) are not those of the document ({', '.join(one)})"
        return
    for name, item in one.items():
        for key, value in item.items():
            if value != two[name][key]:
                yield f"head {name}: its {key} is not that of the head at hand"
