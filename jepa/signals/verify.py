"""`jepa verify`: can this document be trusted, and does the video still say so?

Four steps, each of which names what does not fit:

1. the document alone: fields, invariants, hash chain, and the folder's chain file;
2. the policy: spans, forecasts, breaks and decisions are worked out again from the scores in the document;
3. the video: its hash, and the hash of every evidence frame;
4. the probes: every forecast and the peak of every span are scored again, when the last frame that they saw
has been
   decoded and before the next one is asked for. So a file that ends there gives the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jepa.data import LimitsConfig, open_video
from jepa.errors import UserError, VideoError
from jepa.files import sha256_file
from jepa.signals.analyse import DOCUMENT, POLICY_COPY, SUMMARY, find_videos
from jepa.signals.decide.breaks import Sides, judge
from jepa.signals.decide.decide import decide
from jepa.signals.decide.events import forecasts, observed_spans, replay, rounded
from jepa.signals.detect.detector import Scorer, Signal
from jepa.signals.detect.risks import Watch, watch_for
from jepa.signals.detect.scan import frame_sha256
from jepa.signals.detect.windows import Window, WindowMaker
from jepa.signals.document.hash_chain import chain_faults, folder_faults
from jepa.signals.document.objects import Evidence, Part
from jepa.signals.document.schema import SignalsDocument, parse_document
from jepa.signals.policy import Policy, read_policy


@dataclass
class VerifyConfig:
    """`jepa verify`."""

    path: str = "???"
    """a signals.json, or a folder that `jepa signals` wrote"""
    video: str | None = None
    """the video, or a folder that holds it; null asks summary.json"""
    policy: str | None = None
    """the policy file; null takes the copy beside the summary"""
    probes: str | None = None
    """folder of the probes; null asks summary.json"""
    encoder: str | None = None
    """export that the probes were trained on; null asks summary.json, then looks under `probes`"""
    replay: bool = True
    """score again from the video; false checks the documents alone"""
    every: bool = False
    """score every window again, not only those of forecasts and spans"""
    device: str = "auto"
    """where the encoder runs: auto, cpu or cuda"""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """what a video may cost"""


class Unverified(RuntimeError):
    """A document, or what it speaks of, has been changed."""


@dataclass
class Findings:
    """What was checked of one document, and what did not fit."""

    path: Path
    """the document"""
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


def run(config: VerifyConfig) -> dict[str, Any]:
    """Checks one document or a folder of them, prints what was found and returns it.

    Raises:
        UserError: no document there, or the video, policy or probes it needs are not at hand.
        Unverified: something does not fit; the message counts, the lines above it name.
    """
    where = Path(config.path)
    paths = sorted(where.glob(f"*/{DOCUMENT}")) if where.is_dir() else [where]
    if where.is_dir() and (where / DOCUMENT).is_file():
        paths, where = [where / DOCUMENT], where.parent
    if not paths or not paths[0].is_file():
        raise UserError(
            f"path={config.path!r} holds no {DOCUMENT}. Give what `jepa signals` wrote, or one document."
        )
    top = where if where.is_dir() else paths[0].parent.parent
    tools = _Tools(config, top)
    found = [_check(path, tools) for path in paths]
    heads = {item.path.parent.name: _head(item.path) for item in found}
    chain = folder_faults(top, {name: head for name, head in heads.items() if head is not None})
    for item in found:
        _print(item, tools)
    for fault in chain:
        print(f"  {fault}")
    count = sum(len(item.faults) for item in found) + len(chain)
    if count:
        raise Unverified(f"{count} faults in {len(found)} documents; each is named above")
    print(f"{len(found)} documents are sound.")
    return {"documents": len(found), "findings": found}


class _Tools:
    """Finds policy, video and probes: where the caller says, else where the summary says."""

    def __init__(self, config: VerifyConfig, top: Path) -> None:
        self.config = config
        summary = top / SUMMARY
        self._summary: dict[str, Any] = json.loads(summary.read_text("utf-8")) if summary.exists() else {}
        self._paths = {row["id"]: row["path"] for row in self._summary.get("rows", []) if row["id"]}
        chosen = Path(config.policy) if config.policy is not None else top / POLICY_COPY
        if not chosen.exists():
            raise UserError(
                f"the policy {str(chosen)!r} is missing, without which no decision can be checked. Say "
                "policy=FILE."
            )
        self.policy = read_policy(chosen)
        self.scorer: Scorer | None = None
        if config.replay:
            self.scorer = self._load()

    def _load(self) -> Scorer:
        from jepa.signals.detect.probes import ProbeScorer

        probes = self.config.probes or self._summary.get("probes")
        if probes is None:
            raise UserError(
                "the probes are not known, since there is no summary.json. Say probes=DIR, or replay=false."
            )
        return ProbeScorer(probes, self.config.encoder or self._summary.get("encoder"), self.config.device)

    def video_of(self, document: SignalsDocument) -> Path:
        """The file with the document's hash.

        Raises:
            UserError: it is not where it was; or a file is there and is another one.
        """
        if self.config.video is not None:
            options = find_videos(Path(self.config.video))
        else:
            options = [Path(self._paths[document.asset.id])] if document.asset.id in self._paths else []
        for path in options:
            if path.is_file() and sha256_file(path) == document.asset.sha256:
                return path
        looked = ", ".join(map(str, options[:3])) or "nowhere, since summary.json does not list it"
        raise UserError(
            f"the video of {document.asset.id} with hash {document.asset.sha256[:12]} was not found "
            f"(looked at {looked}): it "
            "was moved or changed. Say video=FILE, or replay=false."
        )


def _head(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_bytes())["log"]["hash"])
    except (ValueError, KeyError, TypeError):
        return None  # the document's own faults say so


def _check(path: Path, tools: _Tools) -> Findings:
    found = Findings(path)
    text = path.read_bytes()
    try:
        raw = json.loads(text)
    except ValueError as error:
        found.faults.append(f"not JSON: {error}")
        return found
    # The chain first: it names the object that was touched even where the whole no longer makes sense.
    found.faults += chain_faults(raw)
    try:
        document = parse_document(text, path.parent.name)
    except UserError as error:
        found.faults.append(str(error))
        return found
    found.entries = document.log.seq
    found.faults += policy_faults(document, tools.policy)
    if tools.scorer is not None:
        try:
            video_faults(document, tools.video_of(document), tools.scorer, tools.policy, found, tools.config)
        except (UserError, VideoError) as error:
            found.faults.append(str(error))
    return found


def policy_faults(document: SignalsDocument, policy: Policy) -> list[str]:
    """Works out spans, forecasts, breaks and decisions again and names what differs."""
    used = {decision.policy_sha256 for decision in document.decisions} - {policy.sha256()}
    if used:
        return [f"the decisions follow a policy with hash {used.pop()[:12]}, and the one at hand is another"]
    tracks, duration = document.tracks, document.asset.duration_ms
    rows = {end: row for row, end in enumerate(tracks.window_end_ms)}
    names = {rows[item.end_ms]: item.id for item in document.evidence if item.end_ms in rows}
    probes = {probe.id: probe for probe in document.run.probes}
    stated = document.anticipated
    contexts = {rows[item.issued_at_ms]: item.context_ms for item in stated if item.issued_at_ms in rows}
    rates = {Signal(item.probe, item.label): item.base_rate for item in stated}
    desk = replay(policy, tracks)
    missing = [issue for issue in desk.issues if issue.row not in contexts]
    if missing:
        return [
            f"the scores call for a forecast at {issue.issued_at_ms} ms that is not there"
            for issue in missing
        ]
    observed = observed_spans(desk, tracks, document.run.encoder.stride_ms, duration, probes, names)
    foreseen = forecasts(desk, tracks, observed, duration, probes, contexts, rates, names)
    sides = Sides(policy, tracks, document.run.causal)
    places = [
        judge(policy, sides, document.timeline, b.at_ms, b.at_frame, b.snap, foreseen)
        for b in document.ads.breaks
    ]
    breaks, decisions = decide(policy, sides, observed, foreseen, places)
    return [
        *_differences("observed", document.observed, observed),
        *_differences("anticipated", stated, foreseen),
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
            # A person's review and an appeal come later and are theirs to change.
            if key not in ("review", "appeal") and one[name][key] != value:
                yield (
                    f"{kind} {name}: {key} is {one[name][key]!r}, the policy applied to the scores gives "
                    f"{value!r}"
                )


def video_faults(
    document: SignalsDocument,
    path: Path,
    scorer: Scorer,
    policy: Policy,
    found: Findings,
    config: VerifyConfig,
) -> None:
    """Hashes the evidence frames again and makes the forecasts again; adds to `found`.

    Raises:
        VideoError: the video cannot be read.
    """
    stated = [probe.weights_sha256 for probe in document.run.probes]
    if document.run.encoder.weights_sha256 != scorer.encoder_sha256 or stated != [
        probe.weights_sha256 for probe in scorer.probes
    ]:
        found.faults.append("the encoder and probes at hand are not those that made the document")
        return
    tracks = document.tracks
    rows = {end: row for row, end in enumerate(tracks.window_end_ms)}
    wanted = {item.issued_at_ms for item in document.anticipated} | {
        item.peak_ms for item in document.observed
    }
    wanted = set(tracks.window_end_ms) if config.every else wanted
    by_frame: dict[int, list[int]] = {}
    for end_ms in sorted(wanted & set(rows)):
        by_frame.setdefault(tracks.last_frame[rows[end_ms]], []).append(end_ms)
    hashes: dict[int, list[Evidence]] = {}
    for evidence in document.evidence:
        hashes.setdefault(evidence.frame, []).append(evidence)
    maker = WindowMaker(scorer.specs, document.run.encoder.stride_ms, scorer.prepare)
    last = max([*by_frame, *hashes], default=-1)
    single = len(tracks.window_end_ms) == 1
    if single:  # shorter than one window, whose end is then the end of the video
        last = document.asset.frames - 1
    done: set[int] = set()
    watch = watch_for(policy, scorer)
    count, first_s, now_s = 0, 0.0, 0.0
    with open_video(path, limits=config.limits) as reader:
        frames = iter(reader)
        while count <= last and (item := next(frames, None)) is not None:
            frame, moment = item
            first_s = moment if count == 0 else first_s
            now_s = max(now_s, moment - first_s)
            for evidence in hashes.get(count, []):
                found.frames += 1
                if frame_sha256(frame) != evidence.frame_sha256:
                    found.faults.append(f"evidence {evidence.id}: frame {count} has another hash")
            windows = list(maker.push(count, frame, now_s))
            for end_ms in by_frame.get(count, []):
                windows += maker.advance(end_ms)
            for window in windows:
                if window.end_ms in wanted:
                    done.add(window.end_ms)
                    _compare(document, rows[window.end_ms], window, scorer, watch, found)
            count += 1
    if wanted - done and single:
        for window in maker.finish(document.asset.duration_ms / 1000):
            done.add(window.end_ms)
            _compare(document, 0, window, scorer, watch, found)
    for end_ms in sorted(wanted - done):
        found.faults.append(f"the window that ends at {end_ms} ms could not be made again from this video")
    found.forecasts = sum(item.issued_at_ms in done for item in document.anticipated)


def _compare(
    document: SignalsDocument, row: int, window: Window, scorer: Scorer, watch: Watch, found: Findings
) -> None:
    tracks = document.tracks
    scores = scorer.score([clip[None] for clip in window.clips])
    seen = dict(zip(watch.signals, rounded(watch.read(scores.observed))[0].tolist(), strict=True))
    foreseen = dict(zip(scorer.anticipated, rounded(scores.anticipated)[0], strict=True))
    pairs = [
        (f"observed {track.label}", track.p[row], seen[Signal(track.probe, track.label)])
        for track in tracks.observed
    ] + [
        (
            f"anticipated {track.label} within {track.within_ms} ms",
            track.p[row],
            float(
                foreseen[Signal(track.probe, track.label)][list(scorer.horizons_ms).index(track.within_ms)]
            ),
        )
        for track in tracks.anticipated
    ]
    found.replayed += 1
    if window.last_frame != tracks.last_frame[row]:
        found.faults.append(
            f"the window at {window.end_ms} ms ends with frame {window.last_frame}, not "
            f"{tracks.last_frame[row]}"
        )
    for name, stated, again in pairs:
        found.difference = max(found.difference, abs(stated - again))
        if not np.isclose(stated, again, rtol=0, atol=document.run.tolerance):
            found.faults.append(
                f"{name} at {window.end_ms} ms: the document says {stated}, the replay {again}"
            )


def _print(found: Findings, tools: _Tools) -> None:
    name = found.path.parent.name
    if found.faults:
        print(f"{name}: {len(found.faults)} faults")
        for fault in found.faults:
            print(f"  {fault}")
        return
    again = "not replayed"
    if tools.scorer is not None:
        again = (
            f"{found.frames} evidence frames, {found.replayed} windows replayed ({found.forecasts} "
            "forecasts), "
            f"largest difference {found.difference:.1e}"
        )
    print(f"{name}: sound; {found.entries} log entries, {again}")
