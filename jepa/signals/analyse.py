"""`jepa signals`: from videos to documents, exports and reports, one folder each.

out/
  clip-1a2b3c4d/signals.json  report.html  openrtb.json  breaks.vmap.xml  timeline.csv
  policy.yaml     the policy as it was read
  summary.json    every video: done, skipped or failed, with the reason; timings
  chain.jsonl     one line per finished document
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import av

import jepa
from jepa.data import LimitsConfig
from jepa.data.manifest import VIDEO_SUFFIXES
from jepa.errors import UserError, VideoError
from jepa.files import sha256_file, write_json, write_text
from jepa.signals import export as exports
from jepa.signals.assemble import assemble
from jepa.signals.decide.events import EventDesk
from jepa.signals.decide.forecasts import statistics_of
from jepa.signals.detect.detector import Scorer
from jepa.signals.detect.risks import Watch, watch_for
from jepa.signals.detect.scan import Scan, scan
from jepa.signals.document.hash_chain import append_chain, digest, read_chain, read_document
from jepa.signals.document.objects import Asset, EncoderFacts, Run
from jepa.signals.document.schema import SCHEMA_ID, SignalsDocument
from jepa.signals.policy import Policy, read_policy
from jepa.signals.report import render

DOCUMENT, REPORT, SUMMARY, POLICY_COPY = "signals.json", "report.html", "summary.json", "policy.yaml"
# How far a replayed probability may be off: forward passes in other batches, or on other hardware, round
# otherwise.
TOLERANCE = 1e-4


@dataclass
class SignalsConfig:
    """`jepa signals`."""

    video: str = "???"
    """a video file, or a folder whose videos are all processed"""
    probes: str = "???"
    """folder with one or more probes that `jepa probe` wrote, all for the same encoder"""
    policy: str = "???"
    """the customer's policy, YAML; configs/policy holds examples"""
    out: str = "???"
    """folder to write; started again on it, finished videos are skipped"""
    encoder: str | None = None
    """export that the probes were trained on; null looks for it under `probes`"""
    stride_ms: int = 500
    """time between two windows"""
    causal: bool = True
    """judge a break only by what was known at that time; false looks up what comes after it, for finished
    videos"""
    batch_size: int = 8
    """windows per forward pass"""
    device: str = "auto"
    """where the encoder runs: auto, cpu or cuda"""
    truth: str | None = None
    """truth file of the toy world, or a folder of them, drawn beside the forecast in the report and used nowhere
    else; null looks for ../truth/NAME.json"""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """what a file may cost"""

    def check(self) -> None:
        """Refuses values that cannot be meant.

        Raises:
            UserError: names the key, its value and what it may be.
        """
        for key, value, low, high in (
            ("stride_ms", self.stride_ms, 20, 60_000),
            ("batch_size", self.batch_size, 1, 4096),
        ):
            if not low <= value <= high:
                raise UserError(f"{key}={value} is outside its limits, {low} to {high}.")


def run(config: SignalsConfig) -> dict[str, Any]:
    """Processes every video and returns the summary, which is also written to `out/summary.json`.

    A video that cannot be read is counted with its reason and does not stop the others.

    Raises:
        UserError: a wrong path, policy, probe or setting; nothing has been processed then.
        VideoError: not one video could be processed.
    """
    from jepa.signals.detect.probes import ProbeScorer

    config.check()
    videos, policy = find_videos(Path(config.video)), read_policy(config.policy)
    return process(config, videos, policy, ProbeScorer(config.probes, config.encoder, config.device))


def find_videos(where: Path) -> list[Path]:
    """The file itself, or all files below a folder whose names end like a video's.

    Raises:
        UserError: nothing there.
    """
    if where.is_file():
        return [where]
    if not where.is_dir():
        raise UserError(f"video={str(where)!r} is neither a file nor a folder. Give the path of a video.")
    found = sorted(
        path for path in where.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
    )
    if not found:
        known = ", ".join(sorted(VIDEO_SUFFIXES))
        raise UserError(f"video={str(where)!r} holds no video; looked for names that end in {known}.")
    return found


def process(config: SignalsConfig, videos: Sequence[Path], policy: Policy, scorer: Scorer) -> dict[str, Any]:
    """The work of `run`, for any scorer."""
    out = Path(config.out)
    watch = watch_for(policy, scorer)
    # Wrong horizons are one mistake in the policy, not one per video.
    EventDesk(policy, watch.signals, scorer.anticipated, scorer.horizons_ms)
    if config.truth is not None and not Path(config.truth).exists():
        raise UserError(
            f"truth={config.truth!r} does not exist. Give a truth file of the toy world, or leave it out."
        )
    write_text(out / POLICY_COPY, Path(config.policy).read_text("utf-8"))
    settings = _settings(config, policy, scorer)
    known = {path: identifier for path, identifier in _identifiers(videos)}
    for probe in watch.probes:
        names = ", ".join(map(printable, probe.labels))
        print(
            f"Probe {probe.id} ({probe.task}) learnt from {printable(probe.trained_on)}. It tells only: "
            f"{names}."
        )
    print("What no probe knows is not assessed, which is not the same as safe.")
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(videos, start=1):
        print(f"[{number}/{len(videos)}] {printable(path.name)}", flush=True)
        rows.append(_one(config, path, known[path], policy, scorer, watch, settings))
        print(f"    {_line(rows[-1])}", flush=True)
        write_json(out / SUMMARY, _summary(config, rows, len(videos)))
    summary = _summary(config, rows, len(videos))
    _print_end(summary, out)
    failed = [row for row in rows if row["status"] == "failed"]
    if len(failed) == len(rows):
        row = failed[0]
        raise VideoError(
            row["path"], row["stage"], f"{row['reason']} (no video of {len(rows)} could be processed)"
        )
    return summary


def printable(name: str) -> str:
    """A file name as text that any file and terminal can hold: undecodable bytes and control signs are
    written out."""
    clean = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in clean)


def _identifiers(videos: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
    """Folder names made of safe signs; None for a file that cannot even be read."""
    taken: Counter[str] = Counter()
    for path in videos:
        try:
            fingerprint = sha256_file(path)[:8]
        except OSError:
            yield path, None
            continue
        stem = re.sub(r"[^A-Za-z0-9]+", "-", path.stem).strip("-")[:60] or "video"
        name = f"{stem}-{fingerprint}"
        taken[name] += 1
        yield path, name if taken[name] == 1 else f"{name}-{taken[name]}"


def _settings(config: SignalsConfig, policy: Policy, scorer: Scorer) -> dict[str, Any]:
    """Everything besides the video that decides what a document says; its hash tells whether one is up to
    date."""
    return {
        "schema": SCHEMA_ID,
        "tool": jepa.__version__,
        "decoder": decoder_name(),
        "encoder": scorer.encoder_sha256,
        "probes": [[probe.id, probe.weights_sha256] for probe in scorer.probes],
        "policy": policy.sha256(),
        "stride_ms": config.stride_ms,
        "causal": config.causal,
    }


def decoder_name() -> str:
    """PyAV and the FFmpeg libraries in it: another decoder may round colours otherwise."""
    libraries = " ".join(
        f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in ("libavcodec", "libswscale")
    )
    return f"PyAV {metadata.version('av')}, {libraries}"


def _one(
    config: SignalsConfig,
    path: Path,
    identifier: str | None,
    policy: Policy,
    scorer: Scorer,
    watch: Watch,
    settings: dict[str, Any],
) -> dict[str, Any]:
    row: dict[str, Any] = {"path": printable(str(path.absolute())), "id": identifier}
    if identifier is None:
        return {**row, "status": "failed", "stage": "open", "reason": "the file cannot be read"}
    folder = Path(config.out) / identifier
    if _finished(folder, path, digest(settings)):
        return {
            **row,
            "status": "skipped",
            "reason": "finished before, with the same video, probes and policy",
        }
    truth = find_truth(config.truth, path)  # before the long part, since a wrong one ends the command
    start = time.perf_counter()
    try:
        result = scan(path, scorer, policy, watch, config.stride_ms, config.batch_size, config.limits)
        asset = Asset(
            id=identifier,
            name=printable(path.name),
            sha256=sha256_file(path),
            duration_ms=result.duration_ms,
            fps=(result.fps.numerator, result.fps.denominator),
            frames=result.frames,
            width=result.size[0],
            height=result.size[1],
        )
        document = assemble(
            asset, _run(config, asset, scorer, watch, settings), policy, scorer, watch, result
        )
    except VideoError as error:
        return {**row, "status": "failed", "stage": error.stage, "reason": error.reason}
    except UserError as error:
        return {**row, "status": "failed", "stage": "document", "reason": str(error)}
    scanned = time.perf_counter() - start
    _write(folder, document, result, truth)
    append_chain(Path(config.out), identifier, document.log.hash)
    total = time.perf_counter() - start
    seconds = {**result.seconds, "write": total - scanned}
    seconds["rest"] = total - sum(seconds.values())
    return {
        **row,
        "status": "done",
        "duration_s": asset.duration_ms / 1000,
        "seconds": {name: round(value, 3) for name, value in sorted(seconds.items())},
        "wall_s": round(total, 3),
        "real_time_factor": round(total / (asset.duration_ms / 1000), 3),
        "breaks": dict(Counter(item.verdict for item in document.ads.breaks)),
        "ledger": statistics_of(document.anticipated, asset.duration_ms),
    }


def _finished(folder: Path, path: Path, config_sha256: str) -> bool:
    """Whether a sound document of exactly this video and these settings is there. `signals.json` is written
    last."""
    if not (folder / DOCUMENT).exists():
        return False
    try:
        document = read_document(folder / DOCUMENT)
    except UserError:
        return False
    chained = any(line["head"] == document.log.hash for line in read_chain(folder.parent))
    return (
        chained and document.run.config_sha256 == config_sha256 and document.asset.sha256 == sha256_file(path)
    )


def _run(config: SignalsConfig, asset: Asset, scorer: Scorer, watch: Watch, settings: dict[str, Any]) -> Run:
    spec = max(scorer.specs, key=lambda item: item.reach_s)
    return Run(
        run_id=f"r-{digest([settings, asset.sha256, asset.name])[:12]}",
        tool=f"jepa {jepa.__version__}",
        decoder=decoder_name(),
        config_sha256=digest(settings),
        causal=config.causal,
        tolerance=TOLERANCE,
        encoder=EncoderFacts(
            name=scorer.encoder_name,
            weights_sha256=scorer.encoder_sha256,
            clip_frames=spec.num_frames,
            clip_fps=spec.fps,
            stride_ms=config.stride_ms,
        ),
        probes=list(watch.probes),
    )


def find_truth(where: str | None, video: Path) -> dict[str, Any] | None:
    """The toy world's truth of a video, which is for the reader of the report alone.

    Args:
        where: a truth file, or a folder that may hold one with the video's stem; None looks where the toy world
            puts it, in the folder `truth` beside the video's own.
        video: the video.

    Raises:
        UserError: the file is no truth of the toy world.
    """
    if where is None:
        path = video.absolute().parent.parent / "truth" / f"{video.stem}.json"
        return _read_truth(path) if path.is_file() else None
    path = Path(where)
    if path.is_dir():
        path = path / f"{video.stem}.json"
        if not path.is_file():
            return None
    truth = _read_truth(path)
    if truth is None:
        raise UserError(f"truth={str(path)!r} is not a truth file of the toy world.")
    return truth


def _read_truth(path: Path) -> dict[str, Any] | None:
    """The content of a truth file; None for a file of some other kind."""
    try:
        truth = json.loads(path.read_text("utf-8"))
    except ValueError:
        return None
    known = isinstance(truth, dict) and str(truth.get("schema", "")).startswith("jepa.toyworld.truth/")
    return truth if known else None


def _write(folder: Path, document: SignalsDocument, result: Scan, truth: dict[str, Any] | None) -> None:
    write_text(folder / REPORT, render(document, result, truth))
    write_json(folder / "openrtb.json", exports.openrtb(document))
    write_text(folder / "breaks.vmap.xml", exports.vmap(document))
    write_text(folder / "timeline.csv", exports.table(document))
    write_json(folder / DOCUMENT, document.model_dump(mode="json", by_alias=True))


def _summary(config: SignalsConfig, rows: Sequence[dict[str, Any]], total: int) -> dict[str, Any]:
    done = [row for row in rows if row["status"] == "done"]
    video_s, wall_s = sum(row["duration_s"] for row in done), sum(row["wall_s"] for row in done)
    stages: Counter[str] = Counter()
    for row in done:
        stages.update(row["seconds"])
    return {
        "video": printable(config.video),
        "probes": _absolute(config.probes),
        "encoder": _absolute(config.encoder),
        "videos": total,
        "counts": dict(Counter(row["status"] for row in rows)),
        "reasons": dict(Counter(row["reason"] for row in rows if row["status"] == "failed")),
        "video_s": round(video_s, 3),
        "wall_s": round(wall_s, 3),
        "real_time_factor": round(wall_s / video_s, 3) if video_s else None,
        "stage_shares": {name: round(value / wall_s, 3) for name, value in stages.most_common()}
        if wall_s
        else {},
        "rows": list(rows),
    }


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def _line(row: dict[str, Any]) -> str:
    if row["status"] == "failed":
        return f"failed ({row['stage']}): {row['reason']}"
    if row["status"] == "skipped":
        return f"skipped: {row['reason']}"
    breaks = ", ".join(f"{count} {verdict}" for verdict, count in row["breaks"].items()) or "none"
    ledger = row["ledger"]
    return (
        f"{row['duration_s']:.1f} s in {row['wall_s']:.1f} s ({row['real_time_factor']:.2f} of real "
        "time); breaks: "
        f"{breaks}; forecasts: {ledger['issued']}, confirmed {ledger['confirmed']}, refuted "
        f"{ledger['refuted']}, "
        f"expired {ledger['expired']}, open {ledger['open']}"
    )


def _print_end(summary: dict[str, Any], out: Path) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in summary["counts"].items())
    print(f"{summary['videos']} videos: {counts}.")
    if summary["real_time_factor"] is not None:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in summary["stage_shares"].items())
        print(
            f"Real-time factor {summary['real_time_factor']:.3f} (below 1 is faster than watching); {shares}."
        )
    for reason, count in summary["reasons"].items():
        print(f"{count} failed: {reason}")
    print(f"Wrote {out / SUMMARY}; open {out}/*/{REPORT} in a browser, check with: jepa verify path={out}")
