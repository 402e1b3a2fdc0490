"""A world on disk: videos, truth and lists, written in parallel and continued after a stop."""

from __future__ import annotations

import csv
import json
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from jepa.errors import UserError
from jepa.files import atomic_path, write_json, write_text
from jepa.toyworld.config import ToyWorldConfig
from jepa.toyworld.mp4 import write_mp4
from jepa.toyworld.truth import truth_of, truth_text
from jepa.toyworld.world import World

_CHUNK = 4  # videos handed to a process at a time


def write_world(config: ToyWorldConfig) -> Path:
    """Writes `videos/NNNNNN.mp4`, `truth/NNNNNN.json`, `labels.csv`, `segments.csv` and `world.json` under
    `out`.

    Videos that are already there are kept, so a stopped run goes on where it was and a finished world grows.
    The bytes do not depend on `workers`. With `workers` above 0 the processes are spawned, so a script needs
    the usual `if __name__ == "__main__":` around the call.

    Returns:
        The folder.

    Raises:
        UserError: if a knob is outside its limits, or the folder holds another world.
    """
    world, out = World(config), Path(config.out)
    _claim(config, out)
    for leftover in out.glob("*/.*.partial.*"):  # of a run that was killed
        leftover.unlink()
    todo = [i for i in range(config.videos) if not (_video(out, i).exists() and _truth(out, i).exists())]
    task = partial(_write_video, config)
    if config.workers == 0:
        for index in todo:
            task(index)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(config.workers, mp_context=context) as pool:
            for _ in pool.map(task, todo, chunksize=_CHUNK):
                pass
    _write_lists(world, out)
    return out


def _video(out: Path, index: int) -> Path:
    return out / "videos" / f"{index:06d}.mp4"


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
                f"{k}={was.get(k)!r} there, {now.get(k)!r} asked" for k in now if was.get(k) != now[k]
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
    takes = world.takes(index)
    write_text(_truth(out, index), truth_text(truth_of(config, world.plan(index), takes)))
    with atomic_path(_video(out, index)) as beside:
        write_mp4(beside, world.render(index, takes), config.rate, config.crf)


def _write_lists(world: World, out: Path) -> None:
    """`labels.csv`, one row a video, with an empty answer where a video has no part in a task; `segments.csv`."""
    plans = [world.plan(i) for i in range(world.config.videos)]
    columns = sorted({name for plan in plans for name in plan.tasks})
    head = [
        "path",
        "label",
        "group",
        "split",
        "family",
        "outcome",
        "colour",
        "shape",
        "decoy",
        "moment_s",
        *columns,
    ]
    labels, segments = [], []
    for plan in plans:
        path, first = f"videos/{plan.index:06d}.mp4", plan.shots[0].plan
        truth = json.loads(_truth(out, plan.index).read_text(encoding="utf-8"))
        about = [plan.label, plan.group, plan.split, first.family, first.outcome, first.colour, first.shape]
        decoy = "yes" if truth["decoy"] else "no"
        answers = [plan.tasks.get(name, "") for name in columns]
        labels.append([path, *about, decoy, truth["moment_s"], *answers])
        for segment in truth["segments"]:
            label = f"{segment['verb']} {segment['noun']}"
            segments.append([path, segment["start_s"], segment["end_s"], label, plan.group, plan.split])
    _write_csv(out / "labels.csv", head, labels)
    _write_csv(out / "segments.csv", ["path", "start_s", "end_s", "label", "group", "split"], segments)


def _write_csv(path: Path, head: list[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_path(path) as beside, beside.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
