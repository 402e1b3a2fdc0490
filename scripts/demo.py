"""The whole road in one go, on worlds made on the spot: `make demo`.

Runs the same `jepa` commands that anyone would type, prints each of them, and ends with the report of a film that no
training saw. Everything goes to `demo/`; a second start does only what is missing.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import jepa
from jepa.data import read_items
from jepa.files import write_text
from jepa.masking import MaskConfig, sample_masks
from jepa.viz import draw_features, draw_losses, draw_masks

OUT = Path("demo")
MOTION, FILMS, UNSEEN = OUT / "world", OUT / "toyworld-films", OUT / "unseen"
PICTURE = ("width_px=96", "height_px=96", "fps=12")
POLICY = "configs/policy/toy-brand.yaml"
# Small heads on few tokens: enough for a toy, and quick.
HEADS = ("features.max_tokens=64", "features.workers=1", "heads.kinds=[linear]")
console = Console(highlight=False)


def main() -> None:
    """Makes the worlds, trains on them without labels, probes what was learnt, and judges a film with it."""
    start = time.monotonic()
    say("1. Two worlds of moving shapes, as real MP4 files: clips over flickering blotches, whose label is a "
        "direction, and films with cuts, in which figures fall or push each other and things catch fire.")  # fmt: skip
    jepa_command("toyworld", f"out={MOTION}", "videos=1600", "seed=0", "temporal_noise=0.6", "distractors=0",
                 "workers=2", *PICTURE)  # fmt: skip
    jepa_command("toyworld", f"out={FILMS}", "family=film", "videos=300", "seed=1", "duration_s=12", "workers=2",
                 *PICTURE)  # fmt: skip
    jepa_command("toyworld", f"out={UNSEEN}", "family=film", "videos=1", "seed=2", "duration_s=45", *PICTURE)

    say("2. Training without labels, on the training part of the clips: from the moments it sees, guess the hidden "
        "ones. Once their latents, once, for comparison, their pixels.")  # fmt: skip
    list_training_part(OUT / "train.csv")
    together(
        {
            what: ("pretrain", "recipe=demo", f"objective.target={what}",
                   f"data.root={OUT / 'train.csv'}", f"out={OUT / what}")
            for what in ("latents", "pixels")
        },
        losses,
    )  # fmt: skip

    say("3. Freezing both encoders and asking each: which way does the shape move?")
    for what in ("latents", "pixels"):
        jepa_command("export", f"run={OUT / what}", f"out={OUT / 'encoders' / what}")
    together(
        {
            f"direction-{what}": ("probe", "task=classify", f"encoder={OUT / 'encoders' / what}", f"data.root={MOTION}",
                                  f"baselines={baselines}", "features.workers=1", f"out={OUT / 'direction' / what}")
            for what, baselines in (("latents", "[one_frame,motion,random_init]"), ("pixels", "[]"))
        }
    )  # fmt: skip
    show_table()
    for picture in draw_pictures():
        console.print(f"   picture: {picture}")

    say(
        "4. The same frozen encoder on films, which are new to it: what goes on, what is about to start, how to say it."
    )
    together(
        {
            task: ("probe", f"task={task}", f"encoder={OUT / 'encoders' / 'latents'}", f"data.root={FILMS}",
                   "baselines=[random_init]", *HEADS, *more, f"out={OUT / 'probes' / task}")
            for task, more in (("anticipate", ("anticipate.predictor=false",)), ("describe", ()))
        }
    )  # fmt: skip
    show_foresight()

    say(
        "5. A film that no training saw: risks seen and foreseen, breaks judged on both sides, and a check of it all."
    )
    film = UNSEEN / "videos" / "000000.mp4"
    signals = (f"probes={OUT / 'probes'}", f"encoder={OUT / 'encoders' / 'latents'}", f"policy={POLICY}")
    jepa_command("signals", f"video={film}", *signals, f"out={OUT / 'signals'}")
    jepa_command("verify", f"path={OUT / 'signals'}")
    minutes = (time.monotonic() - start) / 60
    say(f"Done in {minutes:.1f} minutes. The same on your own video, as far as probes that learnt from drawings can "
        "tell, and on your own data:")  # fmt: skip
    console.print(f"   .venv/bin/jepa signals video=FILE {' '.join(signals)} out=signals", soft_wrap=True)
    console.print("   .venv/bin/jepa pretrain data.root=FOLDER out=runs/mine")
    console.print("   .venv/bin/jepa pretrain --help   lists every key; README.md goes on from here")
    say("The film's report, with the truth drawn beside the forecasts; open it in a browser:")
    console.print(str(next((OUT / "signals").glob("*/report.html")).absolute()), soft_wrap=True)


def say(sentence: str) -> None:
    """Prints a heading."""
    console.print(f"\n[bold]{sentence}[/bold]")


def announce(words: Sequence[str]) -> list[str]:
    """Prints a command as one would type it, and returns it as this process runs it."""
    console.print(f"   $ jepa {shlex.join(words)}", style="dim", soft_wrap=True, markup=False)
    return [sys.executable, "-m", "jepa.cli", *words]


def jepa_command(*words: str) -> None:
    """Prints and runs `jepa ...`; ends the demo with the command's own exit code when it fails."""
    code = subprocess.run(announce(words), check=False).returncode
    if code:
        sys.exit(code)


def together(commands: dict[str, tuple[str, ...]], progress: Callable[[], str] = str) -> None:
    """Runs two commands side by side with one thread each: on two cores they do not get in each other's way.

    What they print goes to `demo/logs/NAME.log`. When one fails its last lines are shown and the demo ends.
    """
    logs = {name: OUT / "logs" / f"{name}.log" for name in commands}
    (OUT / "logs").mkdir(parents=True, exist_ok=True)
    running, last = {}, ""
    for name, words in commands.items():
        with logs[name].open("wb") as log:
            one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
            running[name] = subprocess.Popen(announce(words), env=one_thread, stdout=log, stderr=log)
    while any(process.poll() is None for process in running.values()):
        time.sleep(1)
        if (line := progress()) != last:
            console.print(f"   {line}")
            last = line
    for name, process in running.items():
        if process.returncode:
            console.print("\n".join(logs[name].read_text(errors="replace").splitlines()[-15:]), markup=False)
            console.print(f"   {name} failed; all that it said is in {logs[name]}")
            sys.exit(process.returncode)


def list_training_part(path: Path) -> None:
    """Writes a list of the clips that are not kept for validation and testing, so that no training sees those.

    The films are left out altogether: an encoder trained on them too told them no better, and directions worse.
    """
    clips = [Path(item.path) for item in read_items(MOTION) if item.split == "train"]
    write_text(path, "\n".join(["path", *(str(clip.relative_to(path.parent)) for clip in clips)]) + "\n")
    console.print(f"   {path}: {len(clips)} clips")


def metrics(what: str) -> list[dict[str, float]]:
    """The rows of a run's metrics so far."""
    path = OUT / what / "metrics.jsonl"
    return [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []


def losses() -> str:
    """How far both trainings are."""
    last = {what: rows[-1] for what in ("latents", "pixels") if (rows := metrics(what))}
    return "   ".join(f"{what}: step {row['step']}, loss {row['loss']:.3f}" for what, row in last.items())


def results(folder: Path) -> dict[str, Any]:
    """What a probe's test brought."""
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def show_table() -> None:
    """Every baseline and both encoders, each with its best head by validation, the interval of the test part beside."""
    ours, other = results(OUT / "direction" / "latents"), results(OUT / "direction" / "pixels")
    names = {
        "majority": "chance",
        "one frame": "one frame",
        "motion": "motion",
        "random init": "encoder, randomly initialised",
    }
    rows = [(label, best(ours["rows"], key)) for key, label in names.items()]
    rows.append(("encoder, trained on pixels", best(other["rows"], "encoder")))
    rows.append(("encoder, trained on latents", best(ours["rows"], "encoder")))
    table = Table()
    for heading in ("which way does it move?", "head", "accuracy", "95 % interval"):
        table.add_column(heading, justify="right" if heading == "accuracy" else "left")
    for label, row in rows:
        low, high = row["interval"]
        table.add_row(label, row["head"], f"{row['accuracy']:.3f}", f"{low:.2f} to {high:.2f}")
    console.print(table)
    against = ours["comparison"]["against"]["random init"]
    low, high = against["interval"]
    verdict = "above" if low > 0 else "below" if high < 0 else "not significantly different from"
    console.print(
        f"   Trained on latents is {verdict} random weights: difference {against['difference']:+.3f}, "
        f"95 % interval {low:+.3f} to {high:+.3f}, on {ours['folds'][0]['test']} videos that no training saw."
    )


def best(rows: list[dict[str, Any]], features: str) -> dict[str, Any]:
    """The row of some features whose head did best on the validation part."""
    return max((row for row in rows if row["features"] == features), key=lambda row: row["val_accuracy"])


def show_foresight() -> None:
    """On films of the test part: AP of each hazard within 3 s, what goes on now, and tags and search."""
    told, said = results(OUT / "probes" / "anticipate"), results(OUT / "probes" / "describe")
    table = Table()
    for heading in ("AP: it starts within 3 s", *told["hazards"], "all, 0.5 to 5 s", "gain over base rate"):
        table.add_column(heading, justify="left" if heading.startswith("AP") else "right")
    for row in told["hazard"]["rows"]:
        cells = [
            f"{f['ap']:.2f}" if f["ap"] is not None else "-" for f in row["metrics"] if f["horizon_s"] == 3.0
        ]
        low, high = row["gain_interval"]
        table.add_row(row["features"], *cells, f"{row['mean']['ap']:.3f}", f"{low:+.4f} to {high:+.4f}")
    console.print(table)
    console.print(
        "   The last column is the fall of the Brier score, 95 % interval; above zero is better than the base rate."
    )
    now = ", ".join(f"{row['features']} {row['accuracy']:.2f}" for row in told["current_action"]["rows"])
    console.print(f"   Current action, {len(told['current_action']['classes'])} classes, accuracy: {now}.")
    tags = ", ".join(f"{row['features']} {row['map']:.2f}" for row in said["rows"])
    found = ", ".join(f"{row['features']} {row['search']['recall_5']:.2f}" for row in said["rows"])
    console.print(f"   Tags, mean AP: {tags}.")
    console.print(f"   Search by a caption, the right shot among the first five: {found}.")


def draw_pictures() -> list[Path]:
    """Masks on a clip, the features of that clip before and after training, and the losses."""
    trained = jepa.load_encoder(OUT / "encoders" / "latents")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        untrained = jepa.models.VideoEncoder(trained.config)
        with jepa.open_video(MOTION / "videos" / "000007.mp4") as video:
            frames = video.frames_at(
                [i / trained.preprocessing.fps for i in range(trained.preprocessing.num_frames)]
            ).data
        clip = trained.preprocess(frames)[None]
        grid = trained.grid_of(clip)
        features = {"never trained": untrained(clip)[0], "trained": trained(clip)[0]}
    masks = {
        "moments\n(used here)": sample_masks(MaskConfig("temporal", 0.5), grid, 0, [3]),
        "blocks\n(V-JEPA 2)": sample_masks(MaskConfig("blocks", 0.5), grid, 0, [3]),
        "tokens": sample_masks(MaskConfig("tokens", 0.75), grid, 0, [3]),
        "future": sample_masks(MaskConfig("future", 0.5), grid, 0, [3]),
    }
    return [
        draw_masks(
            frames,
            masks,
            grid,
            OUT / "masks.png",
            "What the encoder sees; the predictor guesses what is grey",
        ),
        draw_features(
            frames, features, grid, OUT / "features.png", "Main directions of the tokens as colours"
        ),
        draw_losses(
            {what: OUT / what for what in ("latents", "pixels")},
            OUT / "losses.png",
            "Loss while training: that of latents rises while its targets grow richer",
        ),
    ]


if __name__ == "__main__":
    main()
