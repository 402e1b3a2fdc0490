"""Frozen-feature probing on real clips: every head beside every baseline, one command for each data set.

    python benchmarks/probe_real.py interactions DATA OUT [ENCODER]
    python benchmarks/probe_real.py fights DATA OUT [ENCODER]

DATA holds labels.csv and the clips. Interactions leave one sequence out at a time; fights make ten folds of entire
sources. Without ENCODER a randomly initialised `vit_nano` is used, which shows what the architecture and the
heads do alone. OUT/NAME receives what `jepa probe` writes; the table in Markdown goes to the terminal.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from jepa.models import Preprocessing, create_model, save_encoder
from jepa.probes import ProbeConfig, run
from jepa.probes.config import FeatureSettings, ProbeData
from jepa.probes.features.baselines import random_init_copy

PROTOCOLS = {
    "interactions": ProbeData(group_column="sequence", folds=0),
    "fights": ProbeData(label_column="label_name", group_column="source_group", folds=10),
}
FURTHER = {"interactions": ["early"], "fights": ["label_efficiency"]}
WINDOW = Preprocessing(num_frames=16, fps=8, resize_px=128, crop_px=128)


def random_init_export(folder: Path) -> Path:
    """An export of random weights; the baseline "random init" draws others."""
    encoder = create_model("vit_nano")
    encoder.preprocessing = WINDOW
    save_encoder(folder, random_init_copy(encoder, 1), WINDOW, {"name": "vit_nano, randomly initialised"})
    return folder


def main(name: str, data: str, out: str, encoder: str | None = None) -> None:
    torch.set_num_threads(1)
    settings = PROTOCOLS[name]
    settings.root = data
    results = run(
        ProbeConfig(
            encoder=encoder or str(random_init_export(Path(out) / "random_init")),
            out=str(Path(out) / name),
            data=settings,
            features=FeatureSettings(cache=str(Path(out) / "cache"), max_tokens=128),
            image_model="efficientnet_lite0",
            protocols=FURTHER[name],
            conformal=[0.9],
        )
    )
    tested = sum(fold["test"] for fold in results["folds"])
    print(f"\n{name}: {tested} clips, {len(results['classes'])} classes, {len(results['folds'])} folds, "
          f"{results['data']['groups']} groups; encoder: {results['encoder']['name']}\n")  # fmt: skip
    print("| features | head | accuracy | 95 % interval | std over seeds | class mean | ECE |")
    print("|---|---|---|---|---|---|---|")
    for row in results["rows"]:
        low, high = row["interval"]
        print(f"| {row['features']} | {row['head']} | {row['accuracy']:.3f} | {low:.2f} to {high:.2f} | "
              f"{row['std_seeds']:.3f} | {row['class_mean']:.3f} | {row['ece']:.3f} |")  # fmt: skip
    for protocol, entries in results["protocols"].items():
        marks = [f"{100 * point['at']:g} %" for point in entries[0]["points"]]
        print(f"\n| {protocol} | head | {' | '.join(marks)} |")
        print("|---" * (len(marks) + 2) + "|")
        for entry in entries:
            accuracies = " | ".join(f"{point['accuracy']:.3f}" for point in entry["points"])
            print(f"| {entry['features']} | {entry['head']} | {accuracies} |")
    for entry in results["abstention"]:
        print(f"\nconformal sets at a nominal coverage of {entry['level']:.0%}: measured {entry['coverage']:.3f}, "
              f"{entry['mean_size']:.2f} classes on average, a single one for {entry['answered']:.3f} of the clips, "
              f"right there: {entry['accuracy_answered']}")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
