"""Domain check of saved probes: which windows of which folders are inside?

    python benchmarks/domain.py PROBES ENCODER NAME=FOLDER [NAME=FOLDER ...]

PROBES is a folder that `jepa probe` wrote. Every video of each folder is cut into windows that end every second, as
`jepa signals` cuts them. Printed for each head and folder: windows, the fraction inside, and the smallest distance over
the threshold (above 1: nothing of that folder is inside).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from jepa.data import open_video
from jepa.signals import ProbeDetector
from jepa.signals.command import find_videos
from jepa.signals.detect.detector import DetectorSet
from jepa.signals.detect.scan import FrameClock
from jepa.signals.detect.windows import Window, WindowMaker

STRIDE_MS = 1000
BATCH = 16


def distances(detectors: DetectorSet, video: Path) -> dict[str, np.ndarray]:
    """Distances of every window of a video, by head."""
    maker, clock = WindowMaker(detectors.feeds(), STRIDE_MS), FrameClock()
    found: dict[str, list[np.ndarray]] = {}
    waiting: list[Window] = []

    def flush() -> None:
        if waiting:
            clips = [torch.stack(clips) for clips in zip(*(window.clips for window in waiting), strict=True)]
            for head, values in detectors.score(clips).distances.items():
                found.setdefault(head, []).append(values)
            waiting.clear()

    with open_video(video) as reader:
        for index, (frame, time_s) in enumerate(reader):
            waiting += maker.push(index, frame, clock.at(time_s))
            if len(waiting) >= BATCH:
                flush()
        waiting += maker.finish(max(reader.duration_s, clock.now_s + 1e-3))
    flush()
    return {head: np.concatenate(values) for head, values in found.items()}


def main(probes: str, encoder: str, folders: list[str]) -> None:
    """Prints one line per folder and head."""
    detectors = DetectorSet.of(ProbeDetector(probes, encoder, device="cpu"))
    thresholds = {head.id: head.domain.threshold for head in detectors.heads if head.domain}
    for name, _, folder in (item.partition("=") for item in folders):
        videos = [distances(detectors, video) for video in find_videos(Path(folder))]
        for head, threshold in thresholds.items():
            values = np.concatenate([found[head] for found in videos])
            inside = float((values <= threshold).mean())
            nearest = values.min() / threshold
            print(
                f"{head:24s} {name:14s} {len(values):6d} windows  {inside:.4f} inside  nearest {nearest:.2f}"
            )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
