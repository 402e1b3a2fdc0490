"""Shot boundaries: PySceneDetect and TransNet V2 on edits made between real clips, and on the clips as they are.

python benchmarks/shots.py FOLDER OUT.json

FOLDER holds unedited clips of at least three seconds. Neighbours in the order of their names are joined by a cut, a
dissolve of 0.5 and of 1 s, and a fade through black of 1 s, at 2 s; a boundary counts as found within 0.25 s of the
edit's middle, or inside it. The unedited clips, cut to 3 s, give false alarms; so does a white flash of two frames.
Needs the extra `detectors`. One thread; prints a table.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import jepa
from jepa.errors import VideoError
from jepa.signals.detect.shots import ShotFinder, reduce_frame
from jepa.signals.detect.transnetv2 import TransitionFinder, TransNetV2, load_transnetv2

FPS, SECONDS, SIZE = 25, 3, (256, 144)
EDITS = {"cut": 0.0, "dissolve 0.5 s": 0.5, "dissolve 1 s": 1.0, "fade 1 s": 1.0}


def clip(path: Path) -> np.ndarray | None:
    """Three seconds at 25 fps as BGR images [75, 144, 256, 3]; None for a clip that is shorter."""
    with jepa.open_video(path) as video:
        if video.duration_s < SECONDS + 0.1:
            return None
        frames = video.frames_at([index / FPS for index in range(SECONDS * FPS)]).data
    return np.stack([cv2.resize(reduce_frame(frame), SIZE, interpolation=cv2.INTER_AREA) for frame in frames])


def edit(one: np.ndarray, two: np.ndarray, kind: str) -> np.ndarray:
    """Two clips joined at 2 s: frames [100, H, W, 3]."""
    half, found = EDITS[kind] * FPS / 2, []
    for index in range(4 * FPS):
        at = index - 2 * FPS
        before = one[min(index, len(one) - 1)].astype(np.float32)
        after = two[max(0, index - FPS)].astype(np.float32)
        share = float(at >= 0) if half == 0 else min(1.0, max(0.0, (at + half) / (2 * half)))
        if kind.startswith("fade"):
            light = abs(2 * share - 1)
            found.append((before if share < 0.5 else after) * light)
        else:
            found.append((1 - share) * before + share * after)
    return np.stack(found).astype(np.uint8)


def boundaries(frames: np.ndarray, model: TransNetV2 | None) -> list[int]:
    shots = ShotFinder(Fraction(FPS), TransitionFinder(model) if model is not None else None)
    for index, frame in enumerate(frames):
        shots.push(frame, index / FPS)
    shots.finish()
    return [cut.frame for cut in shots.cuts()[1:]]


def main(folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    clips: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.mp4")):
        try:
            found = clip(path)
        except VideoError as error:
            print(error, file=sys.stderr)
            continue
        if found is not None:
            clips[path.stem] = found
    names = list(clips)
    pairs = list(zip(names, names[1:] + names[:1], strict=True))
    model, _ = load_transnetv2()
    rows: list[dict[str, Any]] = []
    for detector, network in (("pyscenedetect", None), ("transnetv2", model)):
        hits: Counter[str] = Counter()
        start, frames_read = time.process_time(), 0
        for kind, length in EDITS.items():
            for one, two in pairs:
                frames = edit(clips[one], clips[two], kind)
                near = [
                    at for at in boundaries(frames, network) if abs(at - 2 * FPS) <= (length / 2 + 0.25) * FPS
                ]
                hits[kind] += bool(near)
                frames_read += len(frames)
        seconds = time.process_time() - start
        plain = sum(len(boundaries(frames, network)) for frames in clips.values())
        flashes = 0
        for frames in clips.values():
            flashed = frames.copy()
            flashed[40:42] = 255
            flashes += bool(boundaries(flashed, network))
        rows.append(
            {
                "detector": detector,
                "found": dict(hits),
                "of": len(pairs),
                "false_in_clips": plain,
                "false_at_flashes": flashes,
                "clips": len(clips),
                "cpu_s_per_video_s": round(seconds / (frames_read / FPS), 3),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    out.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
