"""Results of an ablation plan as a Markdown table and learning curves.

    python benchmarks/recipes/show.py benchmarks/recipes/plans/motion.yaml --title "Motion"

Prints a table in Markdown, one line per recipe, mean and standard deviation over training seeds, and draws accuracy
over seconds, operations and steps beside the plan.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import yaml
from run import reached, read_rows

COLOURS = ("#2a78d6", "#1baf7a", "#eb6834", "#4a3aa7", "#e87ba4", "#008300", "#eda100", "#e34948")
GREY = "#898781"
AXES = (
    ("cpu_s", 1, "processor seconds, one thread"),
    ("flops", 1e-12, "operations, 10^12"),
    ("step", 1, "steps"),
)


def main() -> None:
    """Prints the table and writes the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", type=Path)
    parser.add_argument("--results", type=Path, help="JSON lines; by default beside the plan")
    parser.add_argument("--task", help="whose curves are drawn; by default the first")
    parser.add_argument("--all-tasks", action="store_true", help="draw a column per task, over operations")
    parser.add_argument("--runs", nargs="*", help="names of runs to draw; by default all")
    parser.add_argument("--inside", type=Path, help="also draw rank and std of the features, to this file")
    parser.add_argument("--picture", type=Path, help="by default the plan's name with .png")
    options = parser.parse_args()
    plan = yaml.safe_load(options.plan.read_text())
    rows = read_rows(options.results or options.plan.with_suffix(".jsonl"))
    print(speedrun_table(plan, rows) if "goal" in plan else table(plan, rows))
    task = options.task or next(iter(plan["tasks"]))
    columns = (
        [(t, *AXES[1]) for t in plan["tasks"]] if options.all_tasks else [(task, *axis) for axis in AXES]
    )
    draw(plan, rows, columns, options.runs, options.picture or options.plan.with_suffix(".png"))
    if options.inside:
        draw_inside(plan, rows, task, options.runs, options.inside)


def grouped(plan: dict[str, Any], rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows of each (world, run), in the order of the plan; the last of several with one seed."""
    groups: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        groups[row["world"], row["name"]][row["seed"]] = row
    keys = [(world, name) for world in plan["worlds"] for name in plan["runs"]]
    return {key: list(groups[key].values()) for key in keys if key in groups}


def table(plan: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per world and run."""
    columns = [(task, str(n)) for task in plan["tasks"] for n in plan["labels"]]
    head = ["world", "run", "seeds", "steps", "seconds", *(f"{task}, {n} labels" for task, n in columns)]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for (world, name), group in grouped(plan, rows).items():
        last = [row["curve"][-1] for row in group]
        cells = [
            world,
            name,
            str(len(group)),
            str(group[0]["steps"]),
            f"{np.mean([p['cpu_s'] for p in last]):.0f}",
        ]
        for task, n in columns:
            values = [p["tasks"][task][n]["accuracy"] for p in last if n in p["tasks"].get(task, {})]
            cells.append(mean_and_std(values))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speedrun_table(plan: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Markdown for a plan with a goal: seconds to it, by seed and median; a run that ended before counts as more."""
    lines = ["| entry | seconds, by seed | median | accuracy at the end, by seed |", "|" + " --- |" * 4]
    for (_, name), group in grouped(plan, rows).items():
        last = [row["curve"][-1] for row in group]
        seconds = [point["cpu_s"] if reached(plan, point) else float("inf") for point in last]
        least = [("" if reached(plan, point) else "> ") + f"{point['cpu_s']:.0f}" for point in last]
        middle = statistics.median_low(seconds)
        spent = min((point["cpu_s"] for point in last if not reached(plan, point)), default=0.0)
        goal = plan["goal"]
        known = [point["tasks"][goal["task"]][str(goal["labels"])]["accuracy"] for point in last]
        cells = [
            f"`{name}`",
            ", ".join(least),
            f"{middle:.0f}" if middle < float("inf") else f"> {spent:.0f}",
            ", ".join(f"{value:.3f}" for value in known),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_and_std(values: list[float]) -> str:
    """Mean and, from two values on, the standard deviation."""
    if not values:
        return "-"
    std = f" ({statistics.stdev(values):.3f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{std}"


def draw(
    plan: dict[str, Any],
    rows: list[dict[str, Any]],
    columns: list[tuple[str, str, float, str]],
    runs: list[str] | None,
    out: Path,
) -> None:
    """One line of panels per world, one column per (task, axis, unit, words), one colour per run.

    Thin lines are seeds, the thick one is their mean; the dotted line is the untrained encoder's mean.
    """
    groups = grouped(plan, rows)
    worlds = [world for world in plan["worlds"] if any(key[0] == world for key in groups)]
    size = (4 * len(columns), 3.4 * len(worlds))
    figure, panels = plt.subplots(len(worlds), len(columns), figsize=size, squeeze=False)
    names = [n for n in plan["runs"] if n != "untrained" and (not runs or n in runs)]
    labels = str(plan["labels"][-1])

    def known(row: dict[str, Any], task: str) -> list[float]:
        return [p["tasks"][task][labels]["accuracy"] for p in row["curve"]]

    for line, world in zip(panels, worlds, strict=True):
        for panel, (task, axis, unit, words) in zip(line, columns, strict=True):
            for name in names:
                colour = COLOURS[names.index(name) % len(COLOURS)]
                xs, ys = [], []
                for row in groups.get((world, name), []):
                    x, y = [p[axis] * unit for p in row["curve"]], known(row, task)
                    panel.plot(x, y, color=colour, linewidth=0.8, alpha=0.4)
                    xs.append(x)
                    ys.append(y)
                if xs:
                    shared = min(map(len, xs))  # runs that reached a goal are shorter
                    xs, ys = ([row[:shared] for row in rows] for rows in (xs, ys))
                    panel.plot(np.mean(xs, 0), np.mean(ys, 0), color=colour, linewidth=2, label=name)
            if start := [known(row, task)[0] for row in groups.get((world, "untrained"), [])]:
                panel.axhline(np.mean(start), color=GREY, linewidth=1, linestyle=":", label="untrained")
            panel.set_xlabel(words)
            panel.set_title(f"{world}: {task}", loc="left", fontsize=10)
            panel.grid(color="#e1e0d9", linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(f"accuracy, {labels} labels")
    panels[0][-1].legend(frameon=False, fontsize=9, loc="lower right")
    figure.tight_layout()
    figure.savefig(out, dpi=80)
    plt.close(figure)


def draw_inside(
    plan: dict[str, Any], rows: list[dict[str, Any]], task: str, runs: list[str] | None, out: Path
) -> None:
    """Over steps: accuracy, rank, and standard deviations of features over time and over clips; seed 0."""
    groups = grouped(plan, rows)
    worlds = [
        world
        for world in plan["worlds"]
        if any(key[0] == world and key[1] in (runs or key) for key in groups)
    ]
    figure, panels = plt.subplots(len(worlds), 4, figsize=(13, 3.1 * len(worlds)), squeeze=False)
    names = [n for n in plan["runs"] if n != "untrained" and (not runs or n in runs)]
    labels = str(plan["labels"][-1])
    kinds = (("rank", "rank"), ("std_time", "std over time"), ("std_clips", "std over clips"))
    for line, world in zip(panels, worlds, strict=True):
        for name in names:
            for row in groups.get((world, name), [])[:1]:
                curve, colour = row["curve"], COLOURS[names.index(name) % len(COLOURS)]
                steps = [p["step"] for p in curve]
                known = [p["tasks"][task][labels]["accuracy"] for p in curve]
                for panel, values in zip(
                    line, [known, *([p[key] for p in curve] for key, _ in kinds)], strict=True
                ):
                    panel.plot(steps, values, "o-", color=colour, linewidth=2, markersize=4, label=name)
        for panel, words in zip(line, (f"{task}: accuracy", *(words for _, words in kinds)), strict=True):
            panel.set_title(words, loc="left", fontsize=10)
            panel.set_xlabel("steps")
            panel.grid(color="#e1e0d9", linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(world)
    panels[0][0].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(out, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
