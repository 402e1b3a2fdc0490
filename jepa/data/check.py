"""Data set check (`jepa doctor data.root=...`): reads every video once and writes what is wrong with which file.

Files are decoded in child processes, several at once, so a file that crashes a decoder is one more line in
the report.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from jepa.data.bad_videos import as_video_error
from jepa.data.dataset import open_item
from jepa.data.manifest import Item, RootConfig, read_items
from jepa.data.video.limits import LimitsConfig
from jepa.errors import UserError
from jepa.fields import path_key
from jepa.files import write_text
from jepa.progress import progress


@dataclass
class ScanConfig:
    """What to scan, how deep, and where the report goes."""

    data: RootConfig = field(default_factory=RootConfig)
    out: str = path_key("scan.jsonl")
    """report: one JSON line per file, the bad ones first"""
    full: bool = True
    """decode every frame; otherwise the first and the last only"""
    workers: int = 0
    """files decoded at once; 0 is one per CPU core"""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """what one file may cost; decoding is isolated in any case"""


@dataclass(frozen=True)
class ScanRow:
    """What was found in one file; stage and reason are empty where nothing is wrong."""

    path: str
    stage: str = ""
    reason: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    fps: float = 0.0
    duration_s: float = 0.0
    frames: int = 0
    seconds: float = 0.0
    """that reading it took"""


def scan(config: ScanConfig) -> list[ScanRow]:
    """Reads every file once, writes the report and returns its rows, bad ones first.

    Raises:
        UserError: there is nothing to scan.
    """
    items = list(
        {item.path: replace(item, start_s=None, end_s=None) for item in read_items(config.data.root)}.values()
    )
    rows: list[ScanRow] = []
    with (
        progress("scanning", len(items)) as advance,
        ThreadPoolExecutor(config.workers or os.cpu_count() or 1) as pool,
    ):
        for done in as_completed([pool.submit(_scan_one, item, config) for item in items]):
            rows.append(done.result())
            advance(1)
    rows.sort(key=lambda row: (not row.stage, os.fsencode(row.path)))
    write_text(config.out, "".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return rows


def summary(rows: list[ScanRow], report: str | os.PathLike[str]) -> str:
    """A few lines for a person: how many, what is wrong, and the commonest reasons."""
    bad = [row for row in rows if row.stage]
    good = [row for row in rows if not row.stage]
    lines = [f"{len(rows)} files, {len(bad)} of them unreadable; report in {Path(report)}"]
    if good:
        hours, sizes = sum(r.duration_s for r in good) / 3600, Counter(f"{r.width}x{r.height}" for r in good)
        common = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(3))
        lines.append(f"readable: {hours:.2f} h, {sum(r.frames for r in good)} frames, sizes {common}")
    for reason, count in Counter(f"{r.stage}: {r.reason}" for r in bad).most_common(5):
        lines.append(f"{count} x {reason}")
    lines += [f"  {row.path!r}" for row in bad[:10]]
    return "\n".join(lines)


def _scan_one(item: Item, config: ScanConfig) -> ScanRow:
    begin = time.perf_counter()
    limits = replace(config.limits, isolate=True)
    try:
        with open_item(item, limits=limits) as video:
            info = video.info
            if config.full:
                count = sum(1 for _ in video)
            else:
                count = video.num_frames
                video.frames_at([video.start_s, video.start_s + video.duration_s])
        row = ScanRow(
            item.path, codec=info.codec, width=info.width, height=info.height, fps=round(info.fps, 3),
            duration_s=round(info.duration_s, 3), frames=count,
        )  # fmt: skip
        if not count:
            row = replace(row, stage="decode", reason="not one frame could be decoded")
    except UserError:
        raise  # a mistake in the settings, not in the video
    except Exception as error:  # noqa: BLE001 - a broken file may provoke anything
        failure = as_video_error(item.path, error)
        row = ScanRow(item.path, failure.stage, failure.reason)
    return replace(row, seconds=round(time.perf_counter() - begin, 3))
