"""End-to-end demo on synthetic video: worlds, pretraining, probes and a signals report. Run it with `make demo`.

It runs the same `jepa` commands that anyone would type and prints each of them. Everything goes to `demo/`; a second
start does only what is missing. `--tiny` runs every step in a minute or two, with results that mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

PICTURE = ("width_px=96", "height_px=96", "fps=12")
POLICY = "configs/policy/toy-brand.yaml"
TARGETS = ("latents", "pixels")
# Small heads on few tokens: enough for a toy, and quick.
HEADS = ("features.max_tokens=64", "features.workers=1", "heads.kinds=[linear]")
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    clips: int = 1600
    """clips of one moving shape, for pretraining and for the probe of its direction"""
    videos: int = 300
    """videos of several shots, for the other probes"""
    unseen_s: int = 45
    """length of the video that the report is about, seconds"""
    train: tuple[str, ...] = ()
    """further keys of `jepa pretrain`"""
    heads: tuple[str, ...] = ()
    """further keys of `jepa probe`"""


TINY = Size(
    80,
    40,
    16,
    ("train.steps=12", "train.log_every=4", "train.save_every=12"),
    ("heads.steps=10", "seeds=[0]"),
)


class Demo:
    """The folders and the steps, in order."""

    def __init__(self, out: Path, size: Size) -> None:
        self.out, self.size = out, size
        self.clips, self.videos, self.unseen = out / "world", out / "toyworld-films", out / "unseen"
        self.encoder = out / "encoders" / "latents"

    def run(self) -> None:
        """Makes the worlds, pretrains, probes, and analyses an unseen video."""
        start = time.monotonic()
        self.make_worlds()
        self.pretrain()
        self.probe_direction()
        self.probe_events()
        signals = self.analyse()
        minutes = (time.monotonic() - start) / 60
        say(
            f"Done in {minutes:.1f} minutes. The same on your own video (these probes know drawings only) and data:"
        )
        console.print(f"   jepa signals video=FILE {' '.join(signals)} out=signals", soft_wrap=True)
        console.print("   jepa pretrain data.root=FOLDER out=runs/mine")
        console.print("   jepa pretrain --help   lists every key; README.md goes on from here")
        say("Open these in a browser:")
        for name, page in (
            ("probe", self.out / "direction" / "latents" / "report.html"),
            ("training", self.out / "report.html"),
            (
                "signals, with annotations drawn beside the forecasts",
                next((self.out / "signals").glob("*/report.html")),
            ),
        ):
            console.print(f"   {page.absolute()}   ({name})", soft_wrap=True)

    def make_worlds(self) -> None:
        """Three toy worlds: clips to pretrain on, videos to probe, and one video that nothing is trained on."""
        say("1. Two worlds of moving shapes, as real MP4 files. Clips under temporal noise, labelled with a direction; "
            "and videos of several shots, in which figures fall or push each other and things catch fire.")  # fmt: skip
        jepa_command("toyworld", f"out={self.clips}", f"videos={self.size.clips}", "seed=0", "temporal_noise=0.6",
                     "distractors=0", "workers=2", *PICTURE)  # fmt: skip
        jepa_command("toyworld", f"out={self.videos}", "family=film", f"videos={self.size.videos}", "seed=1",
                     "duration_s=12", "workers=2", *PICTURE)  # fmt: skip
        jepa_command("toyworld", f"out={self.unseen}", "family=film", "videos=1", "seed=2",
                     f"duration_s={self.size.unseen_s}", *PICTURE)  # fmt: skip

    def pretrain(self) -> None:
        """Masked prediction on the training split of the clips, in latent space and, as a baseline, in pixel space."""
        say("2. Pretraining without labels on the training split of the clips: predict the masked time steps from the "
            "visible ones. Once their latents, and once their pixels, as a baseline.")  # fmt: skip
        self.list_training_split(self.out / "train.csv")
        self.together(
            {
                target: ("pretrain", "recipe=demo", f"objective.target={target}", f"data.root={self.out / 'train.csv'}",
                         f"out={self.out / target}", *self.size.train)
                for target in TARGETS
            },
            self.losses,
        )  # fmt: skip
        for target in TARGETS:
            jepa_command("export", f"run={self.out / target}", f"out={self.out / 'encoders' / target}")
        runs = ",".join(str(self.out / target) for target in TARGETS)
        jepa_command("report", f"run=[{runs}]", f"out={self.out / 'report.html'}")

    def probe_direction(self) -> None:
        """Both frozen encoders, and baselines, on the direction of motion."""
        say("3. Probes on both frozen encoders: in which direction does the shape move?")
        baselines = {"latents": "[one_frame,motion,random_init]", "pixels": "[]"}
        self.together(
            {
                f"direction-{target}": (
                    "probe", "task=classify", f"encoder={self.out / 'encoders' / target}", f"data.root={self.clips}",
                    f"baselines={baselines[target]}", "features.workers=1", *self.size.heads,
                    f"out={self.out / 'direction' / target}",
                )
                for target in TARGETS
            }
        )  # fmt: skip
        self.show_directions()
        for picture in self.draw_pictures():
            console.print(f"   picture: {picture}")

    def probe_events(self) -> None:
        """The latent-prediction encoder on videos of a kind that it was not trained on."""
        say("4. The same frozen encoder on the videos of several shots, a new domain: current action, hazards to come, "
            "tags and captions.")  # fmt: skip
        more = {"anticipate": ("anticipate.predictor=false",), "describe": ()}
        self.together(
            {
                task: ("probe", f"task={task}", f"encoder={self.encoder}", f"data.root={self.videos}",
                       "baselines=[random_init]", *HEADS, *self.size.heads, *keys, f"out={self.out / 'probes' / task}")
                for task, keys in more.items()
            }
        )  # fmt: skip
        self.show_events()

    def analyse(self) -> tuple[str, ...]:
        """Signals of the unseen video, and their verification; returns the keys that name probes and policy."""
        say("5. Signals of an unseen video: observed and forecast risks, ad breaks judged on both sides, and a check "
            "of the document.")  # fmt: skip
        keys = (f"probes={self.out / 'probes'}", f"encoder={self.encoder}", f"policy={POLICY}")
        jepa_command("signals", f"video={self.unseen / 'videos' / '000000.mp4'}", *keys,
                     f"annotations={self.unseen / 'annotations.csv'}", f"out={self.out / 'signals'}")  # fmt: skip
        jepa_command("verify", f"path={self.out / 'signals'}")
        return keys

    def together(self, commands: dict[str, tuple[str, ...]], progress: Callable[[], str] = str) -> None:
        """Runs two commands side by side with one thread each, since two cores serve two processes best.

        Their output goes to `demo/logs/NAME.log`. When one fails its last lines are shown and the demo ends.
        """
        logs = {name: self.out / "logs" / f"{name}.log" for name in commands}
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
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
                lines = logs[name].read_text(errors="replace").splitlines()
                console.print("\n".join(lines[-15:]), markup=False)
                console.print(f"   {name} failed; its whole output is in {logs[name]}")
                sys.exit(process.returncode)

    def list_training_split(self, path: Path) -> None:
        """Writes a list of the training clips, so that no pretraining sees validation or test clips.

        The videos of several shots are left out: with them, an encoder did not anticipate better and predicted
        directions worse.
        """
        clips = [Path(item.path) for item in read_items(self.clips) if item.split == "train"]
        rows = [str(clip.relative_to(path.parent)) for clip in clips]
        write_text(path, "\n".join(["path", *rows]) + "\n")
        console.print(f"   {path}: {len(clips)} clips")

    def losses(self) -> str:
        """The latest step and loss of both trainings."""
        found = []
        for target in TARGETS:
            path = self.out / target / "metrics.jsonl"
            if path.exists() and (rows := path.read_text().splitlines()):
                row = json.loads(rows[-1])
                found.append(f"{target}: step {row['step']}, loss {row['loss']:.3f}")
        return "   ".join(found)

    def show_directions(self) -> None:
        """Every baseline and both encoders, each with its best head by validation, and test intervals."""
        ours, other = results(self.out / "direction" / "latents"), results(self.out / "direction" / "pixels")
        names = {"majority": "chance", "one frame": "one frame", "motion": "motion",
                 "random init": "encoder, randomly initialised"}  # fmt: skip
        rows = [(label, best(ours["rows"], key)) for key, label in names.items()]
        rows.append(("encoder, pixel prediction", best(other["rows"], "encoder")))
        rows.append(("encoder, latent prediction", best(ours["rows"], "encoder")))
        table = Table()
        for heading in ("direction of motion", "head", "accuracy", "95 % interval"):
            table.add_column(heading, justify="right" if heading == "accuracy" else "left")
        for label, row in rows:
            low, high = row["interval"]
            table.add_row(label, row["head"], f"{row['accuracy']:.3f}", f"{low:.2f} to {high:.2f}")
        console.print(table)
        against = ours["comparison"]["against"]["random init"]
        low, high = against["interval"]
        verdict = "above" if low > 0 else "below" if high < 0 else "not significantly different from"
        console.print(
            f"   Latent prediction is {verdict} the randomly initialised encoder: difference "
            f"{against['difference']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, on {ours['folds'][0]['test']} "
            "test clips."
        )

    def show_events(self) -> None:
        """On the test split: AP of each hazard within 3 s, current action, tags and search."""
        future, words = results(self.out / "probes" / "anticipate"), results(self.out / "probes" / "describe")
        table = Table()
        columns = ("AP within 3 s", *future["hazards"], "mean, 0.5 to 5 s", "gain over base rate")
        for column in columns:
            table.add_column(column, justify="left" if column == columns[0] else "right")
        for row in future["hazard"]["rows"]:
            at_3s = [entry["ap"] for entry in row["metrics"] if entry["horizon_s"] == 3.0]
            cells = ["-" if ap is None else f"{ap:.2f}" for ap in at_3s]
            low, high = row["gain_interval"]
            table.add_row(row["features"], *cells, f"{row['mean']['ap']:.3f}", f"{low:+.4f} to {high:+.4f}")
        console.print(table)
        console.print(
            "   Gain: fall of the Brier score, 95 % interval; above zero is better than the base rate."
        )
        current = ", ".join(
            f"{row['features']} {row['accuracy']:.2f}" for row in future["current_action"]["rows"]
        )
        console.print(
            f"   Current action, {len(future['current_action']['classes'])} classes, accuracy: {current}."
        )
        tags = ", ".join(f"{row['features']} {row['map']:.2f}" for row in words["rows"])
        console.print(f"   Tags, mean AP: {tags}.")
        found = ", ".join(f"{row['features']} {row['search']['recall_5']:.2f}" for row in words["rows"])
        console.print(f"   Search by a caption, recall at 5: {found}.")

    def draw_pictures(self) -> list[Path]:
        """Masks on a clip, the features of that clip before and after training, and the losses."""
        trained = jepa.load_encoder(self.encoder)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            fresh = jepa.models.VideoEncoder(trained.config)
            times = [i / trained.preprocessing.fps for i in range(trained.preprocessing.num_frames)]
            with jepa.open_video(self.clips / "videos" / "000007.mp4") as video:
                frames = video.frames_at(times).data
            clip = trained.preprocess(frames)[None]
            grid = trained.grid_of(clip)
            features = {"randomly initialised": fresh(clip)[0], "trained": trained(clip)[0]}
        kinds = {
            "temporal\n(used here)": MaskConfig("temporal", 0.5),
            "blocks\n(V-JEPA 2)": MaskConfig("blocks", 0.5),
            "tokens": MaskConfig("tokens", 0.75),
            "future": MaskConfig("future", 0.5),
        }
        masks = {name: sample_masks(kind, grid, 0, [3]) for name, kind in kinds.items()}
        runs = {target: self.out / target for target in TARGETS}
        title = "Training loss: that of latents rises while its targets grow richer"
        return [
            draw_masks(
                frames, masks, grid, self.out / "masks.png", "Context tokens; grey tokens are predicted"
            ),
            draw_features(
                frames, features, grid, self.out / "features.png", "Principal components of the tokens"
            ),
            draw_losses(runs, self.out / "losses.png", title),
        ]


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


def results(folder: Path) -> dict[str, Any]:
    """The test results of a probe."""
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def best(rows: list[dict[str, Any]], features: str) -> dict[str, Any]:
    """The row of some features whose head did best on the validation part."""
    return max((row for row in rows if row["features"] == features), key=lambda row: row["val_accuracy"])


def main() -> None:
    """Reads the options and runs the demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write")
    parser.add_argument("--tiny", action="store_true", help="run every step on next to nothing")
    options = parser.parse_args()
    Demo(options.out, TINY if options.tiny else Size()).run()


if __name__ == "__main__":
    main()
