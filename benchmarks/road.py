"""The end-to-end pipeline from a video to a decision, measured on toy videos that no training used.

    jepa toyworld out=WORLD family=film videos=500 seed=1 duration_s=12 width_px=96 height_px=96 fps=12
    python benchmarks/road.py WORLD ENCODER OUT > tables.md

WORLD is a toy world of videos with several shots, ENCODER an export. The probes are trained on the training part,
chosen and calibrated on the validation part, and all results are on the test part. What OUT holds already is not made
again. The toy world's truth files are read here, and nowhere in the package.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepa.data import read_items
from jepa.probes import ProbeConfig, run
from jepa.probes.config import AnticipateSettings, FeatureSettings, HeadSettings, ProbeData
from jepa.signals import Analyser, Policy, ProbeDetector, SignalsDocument, read_document, read_policy
from jepa.signals.command import SignalsConfig, process
from jepa.signals.decide.breaks import BreakContext, score_candidate
from jepa.signals.decide.decide import decide

POLICY = Path(__file__).parents[1] / "configs/policy/toy-brand.yaml"
HAZARD_OF = {"walker": "fall", "meeting": "aggression", "fire": "fire"}
AHEAD_S, NEAR_S = 3.0, 0.5
DRAWS = 200


def main() -> None:
    """Makes what is missing under OUT and prints the tables as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("world")
    parser.add_argument("encoder")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    world = Path(arguments.world)
    with contextlib.redirect_stdout(sys.stderr):
        anticipation = probe("anticipate", arguments.world, arguments.encoder, arguments.out)
        tagging = probe("describe", arguments.world, arguments.encoder, arguments.out)
        documents = analyse_videos(world, arguments.encoder, arguments.out)
    truths = {path.stem: json.loads(path.read_text()) for path in (world / "truth").glob("*.json")}
    lines = ["# From a video to a decision, on the toy world", "", *setup(anticipation, documents)]
    lines += (
        hazards(anticipation)
        + next_action(anticipation)
        + decoys(arguments.out / "anticipate/forecasts.npz", anticipation, truths)
    )
    lines += breaks(documents, truths) + tagging_tables(tagging)
    print("\n".join(lines))


def probe(task: str, world: str, encoder: str, out: Path) -> dict[str, Any]:
    """Trains and tests a probe unless its results are there."""
    path = out / task / "results.json"
    if not path.exists():
        kinds = ["linear"] if task == "anticipate" else ["linear", "attentive"]
        run(
            ProbeConfig(
                task, encoder, str(out / task), ProbeData(world), FeatureSettings(str(out / "cache"), max_tokens=64),
                HeadSettings(kinds), ["one_frame", "random_init"], anticipate=AnticipateSettings(stride_s=0.5),
            )
        )  # fmt: skip
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def analyse_videos(world: Path, encoder: str, out: Path) -> dict[str, SignalsDocument]:
    """The documents of all test videos, by stem."""
    videos = [Path(item.path) for item in read_items(world) if item.split == "test"]
    folder = out / "signals"
    config = SignalsConfig(out=str(folder), policy=str(POLICY), video=str(world))
    # The anticipation and the current-action probe; tags have tables of their own.
    process(config, videos, Analyser(ProbeDetector(out / "anticipate", encoder), POLICY))
    documents = [read_document(file) for file in sorted(folder.glob("*/signals.json"))]
    return {Path(document.asset.name).stem: document for document in documents}


def setup(anticipation: dict[str, Any], documents: dict[str, SignalsDocument]) -> list[str]:
    """The data, encoder and settings of the tables."""
    encoder, fold = anticipation["encoder"], anticipation["folds"][0]["videos"]
    return [
        f"Videos: {fold[0]} to train heads, {fold[1]} to choose and calibrate, {fold[2]} to test. Encoder "
        f"{encoder['name']}, weights {encoder['sha256'][:12]}; windows of {anticipation['window_s']:g} s; "
        f"{len(anticipation['config']['seeds'])} seeds of the heads; +- is their standard deviation, intervals are "
        f"95 % bootstrap over videos. Frames of {next(iter(documents.values())).asset.width} px.",
        "",
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return [*lines, ""]


def figure(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def between(interval: Sequence[float], digits: int = 3, sign: str = "+") -> str:
    """An interval."""
    return f"{interval[0]:{sign}.{digits}f} to {interval[1]:{sign}.{digits}f}"


def hazards(anticipation: dict[str, Any]) -> list[str]:
    """Average precision per hazard and horizon, the mean, and the gain in Brier score."""
    part, horizons = anticipation["hazard"], anticipation["horizons_s"]
    lines = [
        "## A hazard starts within ...",
        "",
        f"Average precision on {part['windows']} times in all videos, half a second apart; mean of the seeds. "
        "The base rate's AP is the fraction of times at which it happened.",
        "",
    ]
    for number, name in enumerate(anticipation["hazards"]):
        rows = []
        for row in part["rows"]:
            here = [f for f in row["metrics"] if f["category"] == number]
            aucs = [f["auc"] for f in here if f["auc"] is not None]
            rows.append([row["features"], *(figure(f["ap"]) for f in here), figure(float(np.mean(aucs)), 2)])
        lines += [f"**{name}**", "", *table(["forecast from", *(f"{h:g} s" for h in horizons), "AUC"], rows)]
    rows = [
        [
            row["features"],
            f"{row['mean']['ap']:.3f} +- {row['mean']['ap_std']:.3f}",
            figure(row["mean"]["auc"]),
            figure(row["mean"]["ece"]),
            f"{1000 * row['gain']:+.2f}",
            between([1000 * v for v in row["gain_interval"]], 2),
        ]
        for row in part["rows"]
    ]
    lines += [
        "All hazards and horizons together; gain is the fall of the Brier score below the base rate's, x 1000.",
        "",
    ]
    return lines + table(["forecast from", "AP", "AUC", "ECE", "gain", "95 %"], rows)


def next_action(anticipation: dict[str, Any]) -> list[str]:
    """Accuracy of the next and of the current action."""
    part = anticipation["next_action"]
    rows = [
        [
            r["features"],
            f"{r['accuracy']:.3f} +- {r['std_seeds']:.3f}",
            between(r["interval"], sign=""),
            figure(r["top3"]),
        ]
        for r in part["rows"]
    ]
    now = ", ".join(f"{r['features']} {r['accuracy']:.3f}" for r in anticipation["current_action"]["rows"])
    return [
        f"## The next action, {part['tau_s']:g} s before it starts",
        "",
        f"{part['windows']} windows, {len(part['classes'])} actions.",
        "",
        *table(["forecast from", "accuracy", "95 %", "top 3"], rows),
        f"Current action, {len(anticipation['current_action']['classes'])} actions, accuracy: {now}.",
        "",
    ]


@dataclass
class Alarm:
    """A shot with a hazard or its decoy, and the highest forecast before it, per seed."""

    video: str
    category: str
    real: bool
    score: np.ndarray


def alarms(
    kept: Any, number: int, categories: list[str], truths: dict[str, Any], horizon: int
) -> list[Alarm]:
    """All events and decoys of the test videos with windows before the event."""
    probability = kept[f"p{number}"][..., horizon]  # [seeds, n, H]
    found = []
    for video in sorted(set(kept["video"].tolist())):
        rows = np.flatnonzero((kept["video"] == video) & ~np.isnan(probability[0, :, 0]))
        if not len(rows):
            continue
        truth = truths[Path(video).stem]
        onsets = {(h["category"], round(h["onset_s"], 2)) for h in truth["hazards"]}
        for shot in truth["shots"]:
            category, event_s = HAZARD_OF.get(shot["family"]), shot["event_s"]
            real = (category, round(event_s, 2)) in onsets
            if category is None or not (real or shot["decoy"]):
                continue
            times = kept["end_s"][rows]
            here = rows[(times >= max(shot["start_s"] + NEAR_S, event_s - AHEAD_S)) & (times < event_s)]
            if len(here):
                column = categories.index(category)
                found.append(Alarm(video, category, real, probability[:, here, column].max(1)))
    return found


def decoys(path: Path, anticipation: dict[str, Any], truths: dict[str, Any]) -> list[str]:
    """How well events are distinguished from their decoys before they happen."""
    from sklearn.metrics import roc_auc_score

    kept = np.load(path)
    horizon = anticipation["horizons_s"].index(AHEAD_S)
    rows = []
    for number, name in enumerate(kept["names"].tolist()):
        found = alarms(kept, number, anticipation["hazards"], truths, horizon)
        real = np.array([alarm.real for alarm in found])
        score = np.stack([alarm.score for alarm in found])  # [shots, seeds]
        videos = np.array([alarm.video for alarm in found])
        aucs = [roc_auc_score(real, column) for column in score.T]
        fractions = [float((column[~real] >= np.median(column[real])).mean()) for column in score.T]
        mean = score.mean(1)

        def auc(keep: np.ndarray, real: np.ndarray = real, mean: np.ndarray = mean) -> float:
            return float(roc_auc_score(real[keep], mean[keep]))

        interval = bootstrap(videos, auc)
        rows.append(
            [
                name.split(",")[0],
                f"{np.mean(aucs):.3f} +- {np.std(aucs):.3f}",
                f"{interval[0]:.2f} to {interval[1]:.2f}",
                f"{np.mean(fractions):.2f}",
            ]
        )
    return [
        "## Events against their decoys",
        "",
        f"Shots of the test videos in which a figure falls or catches itself, pushes or only talks, smoke turns to "
        f"fire or thins: {int(real.sum())} events, {int((~real).sum())} decoys. The highest forecast within "
        f"{AHEAD_S:g} s, over times in the shot before it happens or would have. False alarms: the fraction of decoys "
        "above the threshold that half of the events reach; chance is the base rate's row.",
        "",
        *table(["forecast from", "AUC", "95 %", "false alarms on decoys"], rows),
    ]


def bootstrap(videos: np.ndarray, of: Callable[[np.ndarray], float]) -> tuple[float, float]:
    """95 % interval of a metric over videos drawn with replacement; draws without both outcomes are left out."""
    rng = np.random.Generator(np.random.Philox(key=[0, 0x60AD]))
    names, values = np.unique(videos), []
    rows = {name: np.flatnonzero(videos == name) for name in names}
    for _ in range(DRAWS):
        keep = np.concatenate([rows[name] for name in rng.choice(names, len(names))])
        with contextlib.suppress(ValueError):
            value = of(keep)
            values += [value] if np.isfinite(value) else []
    if not values:
        return float("nan"), float("nan")
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


@dataclass
class BreakTimes:
    """When one method would put breaks in one video: every candidate that it ranks, and those it offers."""

    ranked: list[tuple[float, float]]
    """(score, seconds); a method that does not rank gives all its candidates the same score"""
    offered: list[float]
    """seconds"""


def by_policy(document: SignalsDocument, policy: Policy, causal: bool) -> BreakTimes:
    """A policy, applied to a document's scores: all candidates by score, and the breaks that it allows."""
    context = BreakContext(policy, document.tracks, causal)
    candidates = [
        score_candidate(
            policy, context, document.timeline, item.at_ms, item.at_frame, item.boundary_types, []
        )
        for item in document.ads.breaks
    ]
    found, _ = decide(policy, context, [], [], candidates)
    return BreakTimes(
        [(item.score, item.at_ms / 1000) for item in candidates],
        [item.at_ms / 1000 for item in found if item.verdict == "allow"],
    )


def unranked(seconds: Sequence[float]) -> BreakTimes:
    """Unranked times: all have the same score."""
    return BreakTimes([(0.0, at) for at in seconds], list(seconds))


def boundaries(document: SignalsDocument, kinds: Sequence[str] = ("cut", "fade", "dissolve")) -> list[float]:
    """Seconds at which shots begin in one of these ways."""
    return [shot.start_ms / 1000 for shot in document.timeline.shots[1:] if shot.kind in kinds]


def breaks(documents: dict[str, SignalsDocument], truths: dict[str, Any]) -> list[str]:
    """Breaks against the times that the world calls good and bad."""
    policy = read_policy(POLICY)
    no_risk = {"risk_before": 0.0, "risk_after": 0.0, "risk_near": 0.0}
    weights = policy.breaks.weights.model_copy(update=no_risk)
    layout = policy.model_copy(
        update={"rules": [], "breaks": policy.breaks.model_copy(update={"weights": weights})}
    )
    gap_s = policy.breaks.min_gap_ms / 1000
    rng = np.random.Generator(np.random.Philox(key=[0, 0xB4EA]))
    ways: dict[str, Callable[[SignalsDocument], BreakTimes]] = {
        "policy, causal": lambda d: by_policy(d, policy, True),
        "policy, looking up what follows": lambda d: by_policy(d, policy, False),
        "layout alone, without risk": lambda d: by_policy(d, layout, True),
        "every detected boundary": lambda d: unranked(boundaries(d)),
        "every detected cut or fade": lambda d: unranked(boundaries(d, ("cut", "fade"))),
        "every second detected boundary": lambda d: unranked(boundaries(d)[::2]),
        f"evenly spaced, every {gap_s:g} s": lambda d: unranked(
            np.arange(gap_s, d.asset.duration_ms / 1000 - NEAR_S, gap_s).tolist()
        ),
        "random times, 20 a video": lambda d: unranked(
            rng.uniform(NEAR_S, d.asset.duration_ms / 1000 - NEAR_S, 20).tolist()
        ),
    }
    good = sum(item["good"] for stem in documents for item in truths[stem]["breaks"])
    bad = sum(not item["good"] for stem in documents for item in truths[stem]["breaks"])
    ranking, offers = [], []
    for name, way in ways.items():
        found = {stem: way(document) for stem, document in documents.items()}
        videos = [standing(times.ranked, truths[stem]) for stem, times in found.items()]
        ranking.append([name, f"{sum(len(video[0]) for video in videos)}", *rank_cells(videos)])
        counts = np.array([tally(times.offered, truths[stem]) for stem, times in found.items()], float)
        offers.append([name, f"{counts[:, 2].sum():.0f}", *fraction_cells(counts)])
    return [
        "## Breaks",
        "",
        f"{len(documents)} test videos with {good} times that the world calls good for an ad and {bad} that it "
        f"calls bad (inside a scene, near a hazard, in the middle of an event). A break hits such a time within "
        f"{NEAR_S:g} s. Policy `{policy.policy}`, which keeps {gap_s:g} s between breaks.",
        "",
        "**Ranked by score**: all candidates of all videos in one list. Average precision counts good times that no "
        f"candidate is near as never found; beside it the fraction of hits among the first {good}, as many as there "
        "are good times. Candidates with equal scores have one rank.",
        "",
        *table(["ranked", "candidates", "average precision", f"precision at {good}"], ranking),
        f"**Offered**: what the policy allows, with score at least {policy.breaks.min_score:g}, its rules and its gap.",
        "",
        *table(["breaks at", "breaks", "hit a good one (precision)", "hit a bad one", "good ones hit (recall)",
                "hazard starts within 3 s after"], offers),
    ]  # fmt: skip


def standing(
    ranked: Sequence[tuple[float, float]], truth: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores of a video's candidates, whether each is the best at a good time, and the number of good times."""
    good = [item["time_s"] for item in truth["breaks"] if item["good"]]
    order, hits, taken = sorted(ranked, key=lambda item: -item[0]), [], set[int]()
    for _, at in order:
        near = [i for i, good_s in enumerate(good) if abs(at - good_s) <= NEAR_S and i not in taken]
        taken |= set(near[:1])
        hits.append(bool(near))
    return np.array([score for score, _ in order]), np.array(hits, bool), len(good)


def rank_cells(videos: Sequence[tuple[np.ndarray, np.ndarray, int]]) -> list[str]:
    """Average precision and precision at the number of good times, with intervals over videos."""

    def ranking_metrics(keep: np.ndarray) -> tuple[float, float]:
        score, hit = (np.concatenate([videos[i][part] for i in keep]) for part in (0, 1))
        good = sum(videos[i][2] for i in keep)
        ends = np.append(
            np.flatnonzero(np.diff(-np.sort(-score))), len(score) - 1
        )  # last candidate of each rank
        hits = np.cumsum(hit[np.argsort(-score, kind="stable")])[ends]
        average = float((np.diff(hits, prepend=0) / good * hits / (ends + 1)).sum())
        # Within a rank hits are evenly spaced; beyond the last candidate there are none.
        return average, float(np.interp(good, np.append(0, ends + 1), np.append(0, hits)) / good)

    cells = []
    for part in (0, 1):
        low, high = bootstrap(np.arange(len(videos)), lambda keep, part=part: ranking_metrics(keep)[part])
        cells.append(f"{ranking_metrics(np.arange(len(videos)))[part]:.2f} ({low:.2f} to {high:.2f})")
    return cells


def fraction_cells(counts: np.ndarray) -> list[str]:
    """Precision, fraction of bad ones, recall and fraction before hazards, with intervals over videos, of `tally`."""
    cells = []
    for top, bottom in ((0, 2), (1, 2), (3, 4), (5, 2)):

        def fraction(keep: np.ndarray, a: int = top, b: int = bottom) -> float:
            return float(counts[keep, a].sum() / counts[keep, b].sum())

        low, high = bootstrap(np.arange(len(counts)), fraction)
        cells.append(f"{fraction(np.arange(len(counts))):.2f} ({low:.2f} to {high:.2f})")
    return cells


def tally(times: Sequence[float], truth: dict[str, Any]) -> list[int]:
    """Breaks that hit good times, bad times, all breaks, good times hit, good times, breaks before hazards."""
    good = [item["time_s"] for item in truth["breaks"] if item["good"]]
    bad = [item["time_s"] for item in truth["breaks"] if not item["good"]]
    onsets = [item["onset_s"] for item in truth["hazards"]]

    def near(at: float, others: Sequence[float]) -> bool:
        return any(abs(at - other) <= NEAR_S for other in others)

    return [
        sum(near(at, good) for at in times),
        sum(near(at, bad) and not near(at, good) for at in times),
        len(times),
        sum(near(at, times) for at in good),
        len(good),
        sum(any(0 <= onset - at <= AHEAD_S for onset in onsets) for at in times),
    ]


def tagging_tables(tagging: dict[str, Any]) -> list[str]:
    """Tags and search."""
    rows = [
        [
            f"{row['features']}, {row['head']}",
            f"{row['map']:.3f} +- {row['map_std']:.3f}",
            figure(row["auc"]),
            figure(row["ece"]),
            *(figure(row["search"][name]) for name in ("recall_1", "recall_5", "recall_10")),
            figure(row["search"]["median_rank"], 1),
            figure(row["search"]["nearest_caption"]),
        ]
        for row in tagging["rows"]
    ]
    shots = tagging["folds"][0]["test"]
    return [
        "## Tags and search",
        "",
        f"{len(tagging['tags'])} tags on {shots} test shots, mean average precision; search ranks those shots by a "
        f"caption of one of them (text encoder {tagging['text_encoder']}); the last column is how often the "
        "nearest caption is a right one.",
        "",
        *table(
            ["features, head", "tag AP", "AUC", "ECE", "R@1", "R@5", "R@10", "median rank", "caption"], rows
        ),
    ]


if __name__ == "__main__":
    main()
