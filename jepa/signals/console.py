"""What `jepa signals` tells a person at a terminal: which detectors run, and in a few lines what each video brought."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jepa.signals import words
from jepa.signals.analysis import Analyser, printable
from jepa.signals.document.objects import SignalsDocument

_SHOWN = 5  # categories, times and labels in one line


def introduction(analyser: Analyser, absent: Mapping[str, str]) -> list[str]:
    """Which detectors run, what each knows, and which are absent.

    Args:
        analyser: has the detectors that run.
        absent: packaged detectors that do not run here, and the remedy of each.
    """
    lines = [
        f"Head {head.id} ({head.task}) was trained on {printable(head.trained_on)}. It knows only: "
        f"{some([printable(label) for label in head.labels], 12)}."
        for head in analyser.detectors.heads
    ]
    if not lines:
        lines = ["No detector runs: shots, scenes, pauses and breaks only."]
    lines += [f"Not installed: {kind}. {remedy}" for kind, remedy in absent.items()]
    return [*lines, "What no detector knows is not assessed, which is not the same as safe."]


def findings_of(document: SignalsDocument) -> dict[str, Any]:
    """What a document found, in short: breaks by verdict, times of the allowed ones, categories and risks.

    Returns:
        `breaks`, counts by verdict; `allowed_ms`; `categories`, each with `id`, `name` and its highest `p` over the
        scenes; `tags`, labels without a category; `risks`, the highest `p` of each label that was observed;
        `looked_for`, the risks that detectors know; `sound`, what is heard, in one sentence; `left_out`, which heads
        did not assess all of the video, and why.
    """
    categories: dict[str, dict[str, Any]] = {}
    for segment in document.ads.segments:
        for cat in segment.cats:
            if cat.p > categories.get(cat.id, {"p": -1.0})["p"]:
                categories[cat.id] = {"id": cat.id, "name": " > ".join(cat.path), "p": cat.p}
    risks: dict[str, float] = {}
    for span in document.observed:
        risks[span.label] = max(span.p, risks.get(span.label, 0.0))
    return {
        "breaks": dict(Counter(item.verdict for item in document.ads.breaks)),
        "allowed_ms": [item.at_ms for item in document.ads.breaks if item.verdict == "allow"],
        "categories": sorted(categories.values(), key=lambda item: -item["p"]),
        "tags": _tags(document),
        "risks": risks,
        "looked_for": list(dict.fromkeys(track.label for track in document.tracks.observed)),
        "sound": words.sound(document),
        "left_out": words.left_out(document),
    }


def _tags(document: SignalsDocument) -> dict[str, float]:
    """The labels that no category stands for, with the highest probability of a scene, the likeliest first."""
    named = {cat.label for segment in document.ads.segments for cat in segment.cats}
    ears = words.hearing(document)
    named |= {label for head in document.run.heads if head.id in ears for label in head.labels}
    found: dict[str, float] = {}
    for segment in document.ads.segments:
        for tag in segment.tags:
            if tag.label not in named:
                found[tag.label] = max(tag.p, found.get(tag.label, 0.0))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def result_lines(row: Mapping[str, Any], page: Path) -> list[str]:
    """One video's result for stdout.

    Args:
        row: its row of the summary.
        page: its report.
    """
    name = row["path"].rpartition("/")[2]
    if row["status"] == "failed":
        return [f"{name}: failed ({row['stage']}): {row['reason']}"]
    if row["status"] == "skipped":
        return [f"{name}: {row['reason']}", f"  page        {page}"]
    lines = [
        f"{name}: {words.clock(1000 * row['duration_s'])} long, analysed in {row['wall_s']:.1f} s "
        f"({row['real_time_factor']:.2f} of real time)",
        f"  breaks      {_breaks(row)}",
        f"  categories  {_categories(row)}",
        f"  risks       {_risks(row)}",
        f"  sound       {_sound(row['sound'])}",
    ]
    if row["tags"]:
        tags = some([f"{printable(label)} {p:.2f}" for label, p in row["tags"].items()])
        lines.insert(3, f"  tags        {tags}")
    log = row["forecast_log"]
    if log["issued"]:
        parts = [f"{log[key]} {key}" for key in ("confirmed", "refuted", "expired", "open") if log[key]]
        lines.append(f"  forecasts   {log['issued']}: {', '.join(parts)}")
    lines += [f"  note        {note}" for note in [*row["left_out"], *row["notices"]]]
    return [*lines, f"  page        {page}"]


def some(names: list[str], most: int = _SHOWN) -> str:
    """The first of a list of names, and how many more there are.

    Example:
        >>> some(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _breaks(row: Mapping[str, Any]) -> str:
    order = sorted(row["breaks"], key=lambda verdict: verdict != "allow")
    counts = [f"{row['breaks'][verdict]} {words.VERDICTS.get(verdict, verdict)}" for verdict in order]
    times = [words.clock(at_ms) for at_ms in row["allowed_ms"]]
    if not counts:
        return "none: no cut, fade or pause far enough from the start and the end"
    return ", ".join(counts) + (f"; allowed at {some(times)}" if times else "")


def _categories(row: Mapping[str, Any]) -> str:
    return (
        some([f"{cat['name']} {cat['p']:.2f}" for cat in row["categories"]], 3) or "none above the threshold"
    )


def _risks(row: Mapping[str, Any]) -> str:
    if row["risks"]:
        return some([f"{words.label_words(printable(label))} {p:.2f}" for label, p in row["risks"].items()])
    if row["looked_for"]:
        known = some([words.label_words(printable(label)) for label in row["looked_for"]])
        return f"none seen of {known}; others were not looked for"
    return "not assessed: no detector looks for any"


def _sound(sentence: str) -> str:
    return sentence.replace("Sound was ", "").removeprefix("Sound: ")


def closing(summary: Mapping[str, Any], out: Path) -> list[str]:
    """How many videos, how fast, and how to go on."""
    counts = ", ".join(f"{count} {status}" for status, count in summary["counts"].items())
    lines = [f"{words.plural(summary['videos'], 'video')}: {counts}."]
    if summary["real_time_factor"] is not None:
        stages = ", ".join(f"{name} {part:.0%}" for name, part in summary["stage_fractions"].items())
        lines.append(
            f"Real-time factor {summary['real_time_factor']:.3f} (below 1 is faster than watching); {stages}."
        )
    if set(summary["counts"]) != {"failed"}:
        lines.append(f"Check the documents with: jepa verify path={out}")
    return lines
