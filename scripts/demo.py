"""The whole road in one go, on a world made on the spot: `make demo`.

Runs the same `jepa` commands that anyone would type, prints each of them, and ends with a table, pictures and the
line that does the same on one's own videos. Everything goes to `demo/`; a second start does only what is missing.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import jepa
from jepa.masking import MaskConfig, sample_masks
from jepa.viz import draw_features, draw_losses, draw_masks

OUT = Path("demo")
WORLD = (
    "videos=1600",
    "seed=0",
    "flicker=0.6",
    "distractors=0",
    "width_px=96",
    "height_px=96",
    "fps=12",
    "workers=2",
)
console = Console(highlight=False)


def main() -> None:
    """Makes the world, trains on it without labels, probes what was learnt, and draws it."""
    start = time.monotonic()
    say(
        "1. A world of moving shapes over flickering blotches, as real MP4 files. The label is the direction."
    )
    jepa_command("toyworld", f"out={OUT / 'world'}", *WORLD)

    say("2. Training without labels: from the moments it sees, guess the hidden ones. Once their latents, once, "
        "for comparison, their pixels.")  # fmt: skip
    pretrain = [
        jepa_command("pretrain", "recipe=demo", f"objective.predict={what}", f"data.root={OUT / 'world'}",
                     f"out={OUT / what}", wait=False)
        for what in ("latents", "pixels")
    ]  # fmt: skip
    follow(pretrain)

    say("3. Freezing both encoders and asking each: which way does the shape move?")
    for what, baselines in (("latents", "[one_frame,motion,untrained]"), ("pixels", "[]")):
        jepa_command("export", f"run={OUT / what}", f"out={OUT / 'encoders' / what}")
        jepa_command("probe", "task=classify", f"encoder={OUT / 'encoders' / what}", f"data.root={OUT / 'world'}",
                     f"baselines={baselines}", f"out={OUT / 'probes' / what}")  # fmt: skip

    say("4. What came of it")
    show_table()
    for picture in draw_pictures():
        console.print(f"   picture: {picture}")
    minutes = (time.monotonic() - start) / 60
    say(f"Done in {minutes:.1f} minutes. The same on your own videos:")
    console.print("   .venv/bin/jepa pretrain data.root=FOLDER out=runs/mine")
    console.print(
        "   .venv/bin/jepa pretrain --help   lists every key with its meaning; README.md goes on from here"
    )


def say(sentence: str) -> None:
    """Prints a heading."""
    console.print(f"\n[bold]{sentence}[/bold]")


def jepa_command(*words: str, wait: bool = True) -> subprocess.Popen[bytes]:
    """Prints and starts `jepa ...`; ends the demo with the command's own exit code when it fails."""
    console.print(f"   $ jepa {shlex.join(words)}", style="dim", soft_wrap=True)
    # Two trainings side by side: with one thread each they do not get in each other's way on two cores.
    environment = os.environ | ({} if wait else {"OMP_NUM_THREADS": "1"})
    streams = None if wait else subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, "-m", "jepa.cli", *words], env=environment, stdout=streams, stderr=streams
    )
    if wait and process.wait():
        sys.exit(process.returncode)
    return process


def follow(processes: list[subprocess.Popen[bytes]]) -> None:
    """Shows how far trainings in the background are, by the rows that they write."""
    last = ""
    while any(process.poll() is None for process in processes):
        time.sleep(5)
        parts = []
        for what in ("latents", "pixels"):
            rows = metrics(what)
            if rows:
                parts.append(f"{what}: step {rows[-1]['step']}, loss {rows[-1]['loss']:.3f}")
        if (line := "   " + "   ".join(parts)) != last and parts:
            console.print(line)
            last = line
    for process, what in zip(processes, ("latents", "pixels"), strict=True):
        if process.returncode:
            console.print(f"   training on {what} failed; run its command by hand to see why")
            sys.exit(process.returncode)


def metrics(what: str) -> list[dict[str, float]]:
    """The rows of a run's metrics so far."""
    path = OUT / what / "metrics.jsonl"
    return [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []


def show_table() -> None:
    """Every baseline and both encoders, each with its best head by validation, the interval of the test part beside."""
    ours, other = (
        json.loads((OUT / "probes" / what / "results.json").read_text()) for what in ("latents", "pixels")
    )
    names = {
        "majority": "chance",
        "one frame": "one frame",
        "motion": "motion",
        "untrained": "encoder, never trained",
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
    against = ours["comparison"]["against"]["untrained"]
    low, high = against["interval"]
    verdict = "above" if low > 0 else "below" if high < 0 else "not told apart from"
    console.print(
        f"   Trained on latents is {verdict} the untrained encoder: difference {against['difference']:+.3f}, "
        f"95 % interval {low:+.3f} to {high:+.3f}, on {ours['folds'][0]['test']} videos that no training saw."
    )


def best(rows: list[dict], features: str) -> dict:
    """The row of some features whose head did best on the validation part."""
    return max((row for row in rows if row["features"] == features), key=lambda row: row["val_accuracy"])


def draw_pictures() -> list[Path]:
    """Masks on a clip, the features of that clip before and after training, and the losses."""
    trained = jepa.load_encoder(OUT / "encoders" / "latents")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        untrained = jepa.models.VideoEncoder(trained.config)
        with jepa.open_video(OUT / "world" / "videos" / "000007.mp4") as video:
            frames = video.frames_at(
                [i / trained.preprocessing.fps for i in range(trained.preprocessing.num_frames)]
            ).data
        clip = trained.preprocess(frames)[None]
        grid = trained.grid_of(clip)
        features = {"never trained": untrained(clip)[0], "trained": trained(clip)[0]}
    masks = {
        "moments\n(used here)": sample_masks(MaskConfig("slots", 0.5), grid, 0, [3]),
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
