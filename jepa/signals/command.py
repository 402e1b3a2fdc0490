"""`jepa signals`: from videos to documents, exports and reports, one folder each.

out/
  clip-1a2b3c4d/signals.json  report.html  openrtb.json  breaks.vmap.xml  timeline.csv
  policy.yaml     the policy as it was read
  summary.json    every video: done, skipped or failed, with the reason; timings
  failures.log    the traceback of every failure that is no typed one
  chain.jsonl     one line per finished document
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jepa.data import LimitsConfig, read_items
from jepa.data.list_files import VIDEO_SUFFIXES
from jepa.data.manifest import is_image
from jepa.errors import UserError, VideoError
from jepa.fields import path_key
from jepa.files import sha256_file, write_json, write_text
from jepa.signals.analysis import Analyser, AnalysisResult, asset_id, printable
from jepa.signals.annotations import Annotation, Annotations, read_annotations
from jepa.signals.console import closing, findings_of, introduction, result_lines
from jepa.signals.decide.forecasts import statistics_of
from jepa.signals.detect.detector import Detector
from jepa.signals.detect.registry import PACKAGED, PROBES, available, build_detector
from jepa.signals.document.hash_chain import append_chain, read_chain, read_document
from jepa.signals.export import write_exports
from jepa.signals.policy import policy_path, read_policy
from jepa.signals.report import render
from jepa.signals.words import plural

DOCUMENT, REPORT, SUMMARY, POLICY_COPY = "signals.json", "report.html", "summary.json", "policy.yaml"
FAILURES = "failures.log"
INSTALLED = "installed"


@dataclass
class SignalsConfig:
    """`jepa signals`."""

    video: str = path_key("???")
    """a video file, or a folder whose videos are all processed"""
    policy: str = path_key("general")
    """the customer's policy: a YAML file, or the name of one of the library, general or toy-brand"""
    out: str | None = path_key(None)
    """folder to write, null for one beside the video: clip.mp4 gives clip.signals; started again on it, finished
    videos are skipped"""
    probes: str | None = path_key(None)
    """folder with one or more probes that `jepa probe` wrote, all for the same encoder"""
    encoder: str | None = path_key(None)
    """what the probes were trained on: an export, or anything else that load_encoder takes; null finds it by what they
    state"""
    detectors: list[str] = field(default_factory=lambda: [INSTALLED])
    """detectors beside the probes: installed (all packaged ones that `jepa doctor` finds), kinds given to
    register_detector, or package.module:KIND, which imports the module first; [] for none"""
    shots: str = "pyscenedetect"
    """what finds cuts and dissolves: pyscenedetect, or transnetv2, which finds more of them and costs more"""
    stride_ms: int = 500
    """time between two windows"""
    causal: bool = False
    """true judges a break only by what was known at that time, as a live stream needs it; false looks up what comes
    after it"""
    batch_size: int = 8
    """windows per forward pass"""
    device: str = "auto"
    """where the encoder runs: auto, cpu or cuda"""
    annotations: str | None = path_key(None)
    """CSV with path, start_s, end_s, kind and label, drawn over the report and used nowhere else"""
    lenient: bool = False
    """pass over what does not decode instead of refusing the video; the document has a notice then"""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """what a file may cost"""


class VideosFailed(RuntimeError):
    """Some videos, or all, could not be processed; `summary` says which and why, and what became of the others."""

    def __init__(self, summary: dict[str, Any]) -> None:
        self.summary = summary
        count, total = summary["counts"]["failed"], summary["videos"]
        reasons = "; ".join(summary["reasons"])
        super().__init__(f"{count} of {plural(total, 'video')} could not be processed: {reasons}")


def run(config: SignalsConfig) -> dict[str, Any]:
    """Processes every video and returns the summary, which is also written to `out/summary.json`.

    A video that fails, for whatever reason, is counted with it and does not stop the others.

    Raises:
        UserError: a wrong path, policy, detector or setting; nothing has been processed then.
        VideosFailed: all videos have been tried, and at least one failed.
    """
    videos, policy = find_videos(Path(config.video)), read_policy(config.policy)
    packaged = [item for item in PACKAGED.values() if item.detects]
    remedies = {item.kind: available(item.kind) for item in packaged} if INSTALLED in config.detectors else {}
    installed = [kind for kind, remedy in remedies.items() if remedy is None]
    absent = {kind: remedy for kind, remedy in remedies.items() if remedy is not None}
    analyser = Analyser(
        _detectors(config, installed),
        policy,
        stride_ms=config.stride_ms,
        causal=config.causal,
        batch_size=config.batch_size,
        lenient=config.lenient,
        limits=config.limits,
        shots=config.shots,
    )
    summary = process(config, videos, analyser, absent)
    if "failed" in summary["counts"]:
        raise VideosFailed(summary)
    return summary


def _detectors(config: SignalsConfig, installed: Sequence[str]) -> list[Detector]:
    made = []
    if config.probes is not None:
        source = {"probes": config.probes}
        if config.encoder is not None:
            source["encoder"] = config.encoder
        made.append(build_detector(PROBES, source, config.device))
    names = [kind for name in config.detectors for kind in (installed if name == INSTALLED else [name])]
    return made + [build_detector(name, {}, config.device) for name in dict.fromkeys(names)]


def find_videos(where: Path) -> list[Path]:
    """The file itself, or all files below a folder whose names end like a video's, in a fixed order.

    Linked folders are followed, and names that begin with a dot are left out, as everywhere in `jepa.data`.

    Raises:
        UserError: nothing there.
    """
    if where.is_file():
        return [where]
    if not where.is_dir():
        raise UserError(f"video={str(where)!r} is neither a file nor a folder. Give the path of a video.")
    try:
        items = read_items(where, lists=())
    except UserError as error:
        known = ", ".join(sorted(VIDEO_SUFFIXES))
        raise UserError(
            f"video={str(where)!r} holds no video; looked for names that end in {known}."
        ) from error
    found = [Path(item.path) for item in items if item.span is None and not is_image(item.path)]
    if not found:
        raise UserError(f"video={str(where)!r} holds pictures or shards, and no video file. Give videos.")
    return found


def folder_for(video: str | os.PathLike[str]) -> Path:
    """Where results go when nobody says: beside the video or the folder of videos, named after it.

    Raises:
        UserError: the path has no name, as the root of a file system.

    Example:
        >>> folder_for("/films/clip.mp4").as_posix()
        '/films/clip.signals'
    """
    # "." and ".." have no name of their own; a link keeps its own name and place, which resolve() would not.
    path = Path(os.path.abspath(video))  # noqa: PTH100
    if not path.name:
        raise UserError(f"video={os.fspath(video)!r} has no name to call the results after. Say out=DIR.")
    return path.with_name((path.name if path.is_dir() else path.stem) + ".signals")


def process(
    config: SignalsConfig, videos: Sequence[Path], analyser: Analyser, absent: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The work of `run`, for any analyser. Failures are in the summary, and raise nothing.

    Args:
        config: where to write, and what is recorded in the summary.
        videos: the files.
        analyser: what analyses them.
        absent: packaged detectors that do not run here, and the remedy of each, for the console.
    """
    out = Path(config.out) if config.out is not None else folder_for(config.video)
    annotations = read_annotations(config.annotations) if config.annotations is not None else Annotations({})
    try:
        write_text(out / POLICY_COPY, policy_path(config.policy).read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot write to {str(out)!r}: {error.strerror}. Say out=DIR.") from error
    for sentence in introduction(analyser, absent or {}):
        _say(sentence)
    folder = _Folder(out, analyser, annotations)
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(videos, start=1):
        _say(f"[{number}/{len(videos)}] {printable(path.name)}")
        rows.append(folder.add(path))
        print("\n".join(result_lines(rows[-1], out / (rows[-1]["id"] or "") / REPORT)), flush=True)
        write_json(out / SUMMARY, _summary(config, analyser, rows, len(videos)))
    summary = _summary(config, analyser, rows, len(videos))
    for sentence in closing(summary, out):
        _say(sentence)
    return summary


def _say(sentence: str) -> None:
    """What accompanies the work; the results alone go to stdout."""
    print(sentence, file=sys.stderr, flush=True)


class _Folder:
    """A folder of results, and what happens to each video that is added to it."""

    def __init__(self, out: Path, analyser: Analyser, annotations: Annotations) -> None:
        self.out, self.analyser, self.annotations = out, analyser, annotations
        self._taken: Counter[str] = Counter()

    def add(self, path: Path) -> dict[str, Any]:
        """Processes one video; whatever goes wrong becomes a row that says so."""
        # The URI holds every byte of the name; the path is for people to read.
        row: dict[str, Any] = {
            "path": printable(str(path.absolute())),
            "uri": path.absolute().as_uri(),
            "id": None,
        }
        try:
            return self._process(path, row)
        except VideoError as error:
            return {**row, "status": "failed", "stage": error.stage, "reason": error.reason}
        except UserError as error:
            return {**row, "status": "failed", "stage": "document", "reason": str(error)}
        except Exception as error:  # noqa: BLE001
            # One odd file must not end a batch of thousands. It is no secret either: the traceback is kept.
            with open(self.out / FAILURES, "a", encoding="utf-8") as log:
                log.write(f"{row['path']}\n{traceback.format_exc()}\n")
            reason = f"{type(error).__name__}: {printable(str(error))}; the traceback is in {FAILURES}"
            return {**row, "status": "failed", "stage": "internal", "reason": reason}

    def _process(self, path: Path, row: dict[str, Any]) -> dict[str, Any]:
        try:
            sha256 = sha256_file(path)
        except OSError as error:
            raise VideoError(path, "open", f"the file cannot be read: {error.strerror}") from error
        name = asset_id(path, sha256)
        self._taken[name] += 1
        row["id"] = name if self._taken[name] == 1 else f"{name}-{self._taken[name]}"
        folder = self.out / row["id"]
        if self._finished(folder, sha256):
            reason = "finished before, with the same video, detectors and policy"
            return {**row, "status": "skipped", "reason": reason}
        start = time.perf_counter()
        result = self.analyser.run(path, sha256=sha256, identifier=row["id"])
        scanned = time.perf_counter() - start
        _write(folder, result, self.annotations.of(path))
        append_chain(self.out, row["id"], result.document.log.hash)
        total = time.perf_counter() - start
        seconds = {**result.scan.seconds, "write": total - scanned}
        seconds["rest"] = total - sum(seconds.values())
        document = result.document
        duration_s = document.asset.duration_ms / 1000
        return {
            **row,
            "status": "done",
            "duration_s": duration_s,
            "seconds": {name: round(value, 3) for name, value in sorted(seconds.items())},
            "wall_s": round(total, 3),
            "real_time_factor": round(total / duration_s, 3),
            **findings_of(document),
            "forecast_log": statistics_of(document.anticipated, document.asset.duration_ms),
            "notices": document.notices,
        }

    def _finished(self, folder: Path, sha256: str) -> bool:
        """Whether a sound document of exactly this video and these settings is there. `signals.json` is written
        last."""
        if not (folder / DOCUMENT).exists():
            return False
        try:
            document = read_document(folder / DOCUMENT)
        except UserError:
            return False
        chained = any(line["head"] == document.log.hash for line in read_chain(self.out))
        return (
            chained
            and document.run.config_sha256 == self.analyser.config_sha256
            and document.asset.sha256 == sha256
        )


def _write(folder: Path, result: AnalysisResult, annotations: Sequence[Annotation]) -> None:
    write_text(folder / REPORT, render(result, annotations))
    write_exports(folder, result.document)
    write_json(folder / DOCUMENT, result.document.model_dump(mode="json", by_alias=True))


def _summary(
    config: SignalsConfig, analyser: Analyser, rows: Sequence[dict[str, Any]], total: int
) -> dict[str, Any]:
    done = [row for row in rows if row["status"] == "done"]
    video_s, wall_s = sum(row["duration_s"] for row in done), sum(row["wall_s"] for row in done)
    stages: Counter[str] = Counter()
    for row in done:
        stages.update(row["seconds"])
    return {
        "video": printable(config.video),
        # Where `jepa verify` finds what the detectors are made from; documents hold no path of this machine.
        "detectors": [
            {"id": item.metadata.id, "kind": item.metadata.kind, "source": dict(item.source)}
            for item in analyser.detectors.detectors
        ],
        "modules": [name for name in config.detectors if ":" in name],
        "videos": total,
        "counts": dict(Counter(row["status"] for row in rows)),
        "reasons": dict(Counter(row["reason"] for row in rows if row["status"] == "failed")),
        "video_s": round(video_s, 3),
        "wall_s": round(wall_s, 3),
        "real_time_factor": round(wall_s / video_s, 3) if video_s else None,
        "stage_fractions": {name: round(value / wall_s, 3) for name, value in stages.most_common()}
        if wall_s
        else {},
        "rows": list(rows),
    }
