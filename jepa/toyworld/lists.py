"""Manifests of a toy world (CSV): labels, shots, action and hazard segments, and annotations for reports.

They have the ordinary format of any data set. Other rooms read these and never the world's own truth files.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jepa.files import atomic_path
from jepa.toyworld.plan import VideoPlan

_CAPTIONS = 3  # sentences that say the same, at the most
_CAPTION_COLUMNS = ("caption", *(f"caption_{i}" for i in range(2, _CAPTIONS + 1)))
_OWNER = ("label", "group", "split")


def video_path(index: int) -> str:
    """Path of a video, relative to the world's folder."""
    return f"videos/{index:06d}.mp4"


def write_lists(out: Path, plans: Sequence[VideoPlan], truths: Sequence[dict[str, Any]]) -> None:
    """Writes `labels.csv`, `shots.csv`, `segments.csv` and `annotations.csv`.

    Args:
        out: folder of the world.
        plans: of every video, in order.
        truths: ground truth of every video, in the same order.
    """
    both = list(zip(plans, truths, strict=True))
    span = ("path", "start_s", "end_s")
    _write(out / "labels.csv", *_labels(plans, truths))
    shots = [row for plan, truth in both for row in _shots(plan, truth)]
    _write(out / "shots.csv", [*span, *_OWNER, "tags", *_CAPTION_COLUMNS], shots)
    segments = [row for plan, truth in both for row in _segments(plan, truth)]
    _write(out / "segments.csv", [*span, *_OWNER, "kind"], segments)
    notes = [row for plan, truth in both for row in _annotations(plan, truth)]
    _write(out / "annotations.csv", [*span, "kind", "label"], notes)


def _labels(
    plans: Sequence[VideoPlan], truths: Sequence[dict[str, Any]]
) -> tuple[list[str], list[list[object]]]:
    """One row per video; a task's column is empty where the video has no part in the task."""
    tasks = sorted({name for plan in plans for name in plan.tasks})
    head = ["path", *_OWNER, "family", "outcome", "colour", "shape", "decoy", "event_s"]
    rows: list[list[object]] = []
    for plan, truth in zip(plans, truths, strict=True):
        first = plan.shots[0].event
        row: list[object] = [video_path(plan.index), plan.label, plan.group, plan.split]
        row += [first.family, first.outcome, first.colour, first.shape]
        row += ["yes" if truth["decoy"] else "no", truth["event_s"], *_words(truth)]
        rows.append([*row, *(plan.tasks.get(name, "") for name in tasks)])
    return [*head, "tags", *_CAPTION_COLUMNS, *tasks], rows


def _shots(plan: VideoPlan, truth: dict[str, Any]) -> list[list[object]]:
    """One row per shot; a video of one shot keeps its label and the tags of the video."""
    path = video_path(plan.index)
    if len(truth["shots"]) == 1:
        end_s = truth["shots"][0]["end_s"]
        return [[path, 0.0, end_s, plan.label, plan.group, plan.split, *_words(truth)]]
    rows: list[list[object]] = []
    for shot in truth["shots"]:
        label = f"{shot['family']} {shot['outcome']}"
        rows.append([path, shot["start_s"], shot["end_s"], label, plan.group, plan.split, *_words(shot)])
    return rows


def _segments(plan: VideoPlan, truth: dict[str, Any]) -> list[list[object]]:
    """Actions ("verb noun") and hazards (the category; its start is the onset), each in order of time."""
    path = video_path(plan.index)
    rows: list[list[object]] = []
    for segment in truth["segments"]:
        label = f"{segment['verb']} {segment['noun']}"
        times = segment["start_s"], segment["end_s"]
        rows.append([path, *times, label, plan.group, plan.split, "action"])
    for hazard in truth["hazards"]:
        times = hazard["onset_s"], hazard["end_s"]
        rows.append([path, *times, hazard["category"], plan.group, plan.split, "hazard"])
    return rows


def _annotations(plan: VideoPlan, truth: dict[str, Any]) -> list[list[object]]:
    """What a reader of a report wants to compare with: hazards, near misses, scenes and good ad breaks."""
    path = video_path(plan.index)
    rows: list[list[object]] = []
    for hazard in truth["hazards"]:
        rows.append([path, hazard["onset_s"], hazard["end_s"], "hazard", hazard["category"]])
    for shot in truth["shots"]:
        if shot["decoy"]:
            label = f"{shot['family']} {shot['outcome']}".replace("_", " ")
            rows.append([path, shot["event_s"], shot["event_end_s"], "near_miss", label])
    for number, scene in enumerate(truth["scenes"], 1):
        rows.append([path, scene["start_s"], scene["end_s"], "scene", f"scene {number}"])
    for item in truth["breaks"]:
        if item["good"]:
            rows.append([path, item["time_s"], item["time_s"], "good_break", item["reason"]])
    return rows


def _words(part: dict[str, Any]) -> list[str]:
    """Tags separated by ";", and one column per caption."""
    captions = list(part["captions"])[:_CAPTIONS]
    return [";".join(part["tags"]), *captions, *[""] * (_CAPTIONS - len(captions))]


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_path(path) as beside, beside.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
