"""What is said about each sample: tags and captions.

They come from `truth/<video>.json` beside the list where there is one, else from columns of the list; a list that
has neither uses its label for both. A video whose truth has several shots is described shot by shot: its captions
tell the shots one after the other, and no window sees them all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepa.errors import UserError
from jepa.probes.config import ProbeConfig
from jepa.probes.data.labels import Sample, column, read_rows


@dataclass
class Words:
    """What is said about each sample."""

    tags: list[list[str]]
    captions: list[list[str]]


def _truth_file(root: str, sample: Sample) -> Path:
    folder = Path(root) if Path(root).is_dir() else Path(root).parent
    return folder / "truth" / f"{sample.path.stem}.json"


def split_into_shots(root: str, samples: Sequence[Sample]) -> list[Sample]:
    """Whole videos as one sample per shot, where the truth beside the list knows several."""
    parts: list[Sample] = []
    for sample in samples:
        path = _truth_file(root, sample)
        shots: list[dict[str, Any]] = []
        if sample.start_s is None and path.is_file():
            shots = json.loads(path.read_text(encoding="utf-8")).get("shots", [])
        if len(shots) < 2:
            parts.append(sample)
            continue
        for shot in shots:
            label = f"{shot['family']} {shot['outcome']}"
            parts.append(
                dataclasses.replace(sample, label=label, start_s=shot["start_s"], end_s=shot["end_s"])
            )
    return parts


def _part_words(truth: dict[str, Any], sample: Sample) -> tuple[list[str], list[str]]:
    """Tags and captions of the shot or segment that a sample is.

    Raises:
        UserError: the truth knows no such part.
    """
    if sample.start_s is None or sample.end_s is None:
        return truth["tags"], truth["captions"]
    for kind in ("shots", "segments"):
        for part in truth.get(kind, []):
            if np.allclose([part["start_s"], part["end_s"]], [sample.start_s, sample.end_s], atol=1e-3):
                if kind == "shots":
                    tags = [part["colour"], part["shape"], part["outcome"].replace("_", " ")]
                    return tags, part["captions"]
                tags = [part["verb"], part["noun"]]
                return tags, part["captions"] or [" ".join(tags)]
    raise UserError(
        f"The truth of {sample.name!r} knows neither a shot nor a segment from {sample.start_s:g} to "
        f"{sample.end_s:g} s, so that part has no words. Use the times of the truth file, or remove the truth folder."
    )


def read_words(config: ProbeConfig, samples: Sequence[Sample]) -> Words:
    """Tags and captions of every sample.

    Raises:
        UserError: a named column does not exist, or a truth file knows nothing of a part.
    """
    root = Path(config.data.root)
    truths = [_truth_file(config.data.root, sample) for sample in samples]
    if all(path.is_file() for path in truths):
        found = {path: json.loads(path.read_text(encoding="utf-8")) for path in set(truths)}
        words = [_part_words(found[path], sample) for path, sample in zip(truths, samples, strict=True)]
        return Words([tags for tags, _ in words], [captions for _, captions in words])
    by_name: dict[str, dict[str, str]] = {}
    if root.is_file() or (root / "labels.csv").is_file():
        _, rows = read_rows(root)
        path = column(rows, config.data.path_column, ("path", "file", "video", "filename"), "path")
        by_name = {row[path]: row for row in rows}
    names = [name for name in config.describe.tag_columns if by_name and name in next(iter(by_name.values()))]
    text = config.describe.caption_column
    tags, captions = [], []
    for sample in samples:
        row = by_name.get(sample.name, {})
        split = [tag.strip() for name in names for tag in row[name].split(";") if tag.strip()]
        tags.append(split or [sample.label])
        captions.append([row[text]] if row.get(text) else [sample.label.replace("_", " ")])
    return Words(tags, captions)
