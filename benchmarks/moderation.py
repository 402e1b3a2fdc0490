"""Moderation probes on real video: the tables of docs/moderation.md, from two folders.

    python benchmarks/moderation.py OUT violence=FOLDER falls=FOLDER [key=value ...]

Each part is `jepa probe recipe=NAME data.root=FOLDER out=OUT/NAME` with the keys given behind; the tables are printed
in Markdown from its results. Further keys go to both, such as features.device=cuda. A second run decodes nothing.

violence=FOLDER has labels.csv with the columns file, label_name (fight, no_fight) and source_group. falls=FOLDER has
segments.csv with video, start_s, end_s and label, some of them `falling`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepa.config import compose_config, to_dataclass
from jepa.probes import ProbeConfig, run


def evaluate(recipe: str, folder: str, out: Path, keys: Sequence[str]) -> dict[str, Any]:
    """What `jepa probe recipe=...` does, with its results."""
    overrides = [f"recipe={recipe}", f"data.root={folder}", f"out={out / recipe}", *keys]
    return run(to_dataclass("probe", compose_config("probe", ProbeConfig, overrides)))


def ranged(row: dict[str, Any], name: str) -> str:
    """A figure with its interval."""
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.3f} ({low:.2f} to {high:.2f})"


def detection_table(results: dict[str, Any]) -> None:
    """One class: every head and baseline."""
    detection = results["detection"]
    print(
        f"\n{results['data']['samples']} clips, {results['data']['groups']} sources, {len(results['folds'])} folds\n"
    )
    print(
        "| features | head | accuracy | AUC | AP | precision at recall 0.9 | ECE |\n|---|---|---|---|---|---|---|"
    )
    for row in detection["rows"]:
        names = ("accuracy", "auc", "average_precision", "precision_at_recall", "ece")
        print(
            f"| {row['features']} | {row['head']} | " + " | ".join(ranged(row, name) for name in names) + " |"
        )


def alarm_table(title: str, entries: Sequence[dict[str, Any]]) -> None:
    """Recall and median lead at fixed false alarms per hour."""
    points = entries[0]["points"]
    print(f"\n{title}: {points[0]['events']} events in {entries[0]['hours']:.2f} h\n")
    rates = [f"{point['false_alarms_per_hour']:g} per hour" for point in points]
    print(f"| features | head | {' | '.join(rates)} |\n|---|---|{'---|' * len(rates)}")
    for entry in entries:
        cells = [
            f"{p['recall']:.2f} ({p['interval'][0]:.2f} to {p['interval'][1]:.2f})"
            + ("" if p["median_lead_s"] is None else f", {p['median_lead_s']:+.1f} s")
            for p in entry["points"]
        ]
        print(f"| {entry['features']} | {entry['head']} | {' | '.join(cells)} |")


def main(arguments: Sequence[str]) -> None:
    """Runs the parts that are named."""
    if not arguments or "=" in arguments[0]:
        raise SystemExit(__doc__)
    out, folders, keys = Path(arguments[0]), {}, []
    for text in arguments[1:]:
        name, _, value = text.partition("=")
        if name in ("violence", "falls"):
            folders[name] = value
        else:
            keys.append(text)
    for name, folder in folders.items():
        results = evaluate(name, folder, out, keys)
        if name == "violence":
            detection_table(results)
        else:
            alarm_table("Forecast, an alarm says within 5 s", results["hazard"]["alarms"])
            alarm_table("Observed, an alarm says now", results["current_action"]["alarms"])


if __name__ == "__main__":
    main(sys.argv[1:])
