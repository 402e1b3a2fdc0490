"""A toy world on disk: videos, ground truth and manifests, written in parallel and resumed after a stop."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from jepa.errors import UserError
from jepa.files import atomic_path, write_json, write_text
from jepa.progress import progress
from jepa.toyworld.config import ToyWorldConfig
from jepa.toyworld.lists import video_path, write_lists
from jepa.toyworld.mp4 import write_mp4
from jepa.toyworld.truth import SCHEMA, truth_of, truth_text
from jepa.toyworld.world import World

_CHUNK = 4  # videos handed to a process at a time


def write_world(config: ToyWorldConfig) -> Path:
    """Writes the videos of a world and the lists that describe them.

    Under `out` come `videos/NNNNNN.mp4`, `truth/NNNNNN.json` and `world.json`, and the manifests `labels.csv`,
    `shots.csv`, `segments.csv` and `annotations.csv`. Videos that already exist are kept, so a stopped run resumes
    and a finished world grows. The bytes do not depend on `workers`. With `workers` above 0 the processes are
    spawned, so a script needs the usual `if __name__ == "__main__":` around the call.

    Returns:
        The folder.

    Raises:
        UserError: two keys do not go together, or the folder holds another world.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     world = write_world(ToyWorldConfig(out=folder, videos=1, duration_s=0.5, height_px=64, width_px=64))
        ...     sorted(path.name for path in world.glob("*.csv"))
        ['annotations.csv', 'labels.csv', 'segments.csv', 'shots.csv']
    """
    world, out = World(config), Path(config.out)
    _claim(config, out)
    for leftover in out.glob("*/.*.partial.*"):  # of a run that was killed
        leftover.unlink()
    todo = [i for i in range(config.videos) if not (_video(out, i).exists() and _truth(out, i).exists())]
    task = partial(_write_video, config)
    with progress("videos", len(todo)) as advance:
        if config.workers == 0:
            for index in todo:
                task(index)
                advance(1)
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(config.workers, mp_context=context) as pool:
                for _ in pool.map(task, todo, chunksize=_CHUNK):
                    advance(1)
    indices = range(config.videos)
    write_lists(out, [world.plan(i) for i in indices], [_read_truth(world, out, i) for i in indices])
    return out


def run(config: ToyWorldConfig) -> Path:
    """`jepa toyworld`: `write_world`, and a line that says so."""
    world = write_world(config)
    print(f"wrote {world}: {config.videos} videos")
    return world


def _video(out: Path, index: int) -> Path:
    return out / video_path(index)


def _truth(out: Path, index: int) -> Path:
    return out / "truth" / f"{index:06d}.json"


def _claim(config: ToyWorldConfig, out: Path) -> None:
    """Marks the folder as this world's, or refuses it as another's."""
    card = out / "world.json"
    if card.exists():
        found = json.loads(card.read_text(encoding="utf-8"))
        was, now = found["identity"], config.identity()
        if was != now:
            changed = ", ".join(
                f"{k}={was.get(k)!r} there, {now.get(k)!r} requested" for k in now if was.get(k) != now[k]
            )
            raise UserError(
                f"{out} holds another toy world ({changed}), and videos of two worlds must not mix. "
                "Choose another out=, or remove the folder."
            )
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and holds no toy world. Choose another out= or an empty folder.")
    identity, mark = config.identity(), config.fingerprint()
    write_json(
        card,
        {"schema": "jepa.toyworld/1", "fingerprint": mark, "videos": config.videos, "identity": identity},
    )


def _write_video(config: ToyWorldConfig, index: int) -> None:
    """Truth first: a folder that is cut short never shows a video whose truth is missing."""
    world, out = World(config), Path(config.out)
    shots = world.simulate(index)
    write_text(_truth(out, index), truth_text(truth_of(config, world.plan(index), shots)))
    with atomic_path(_video(out, index)) as beside:
        write_mp4(beside, world.render(index, shots), config.rate, config.crf)


def _read_truth(world: World, out: Path, index: int) -> dict[str, Any]:
    """The truth file of a video; one of an earlier schema is written again, which needs no rendering."""
    path = _truth(out, index)
    truth: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if truth.get("schema") != SCHEMA:
        text = truth_text(world.truth(index))
        write_text(path, text)
        truth = json.loads(text)
    return truth
