"""`jepa probe task=describe`: tags with calibrated probabilities, and search by a sentence."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jepa.errors import UserError
from jepa.files import write_json
from jepa.probes.config import HeadSettings, ProbeConfig
from jepa.probes.data.captions import Words, read_words, split_into_shots
from jepa.probes.data.labels import read_samples
from jepa.probes.data.splits import Fold, make_folds, select_test_part, tested_samples
from jepa.probes.evaluation.calibration import fit_platt
from jepa.probes.evaluation.conformal import check_conformal, tag_report
from jepa.probes.evaluation.cross_validate import FeatureSet, make_grid
from jepa.probes.evaluation.metrics import brier, calibration_error, group_bootstrap, mean_and_spread
from jepa.probes.evaluation.results import print_unsaved, table_console
from jepa.probes.features.sources import ENCODER, encode_samples, load_frozen_encoder, make_extractors
from jepa.probes.heads.stacked import AttentiveBank, Bank, LinearBank, Setting, bank_logits, train_bank
from jepa.probes.saved import data_card, today
from jepa.probes.tasks.anticipate.evaluate import head_input
from jepa.probes.tasks.describe.probe import save_describer
from jepa.probes.tasks.describe.text import TextEncoder, contrast, make_text_encoder, retrieval_figures
from jepa.rng import generator

SEARCH_COLUMNS = ("recall_1", "recall_5", "map", "map_spread", "nearest_caption")
MIN_VIDEOS = 5
"""a tag must be on this many training videos, and off as many, to be learned"""


def multi_label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy summed over tags, per sample [S, G, B], of logits [S, G, B, T] against [S, B,
    T]."""
    wanted = targets.unsqueeze(1).expand_as(logits)
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1)


def fit_bank(
    kind: str,
    inputs: Tensor,
    targets: Tensor,
    settings: HeadSettings,
    seeds: list[int],
    jobs: Sequence[tuple[np.ndarray, Setting]],
    aligned: bool,
) -> Bank:
    """Trains tag heads, or with `aligned` heads that land near text vectors; one per job and seed.

    Args:
        kind: linear or attentive.
        inputs: vectors or tokens [n, ...].
        targets: tags [n, T] as 0 and 1, or unit text vectors [n, E].
        settings: steps, batch size and queries.
        seeds: one head each per job.
        jobs: (indices of training samples, setting) per head; all with the same samples, since contrastive
            batches
            must not hold samples of another part.
        aligned: use the contrastive loss.
    """
    member = torch.zeros(len(jobs), len(inputs), dtype=torch.bool)
    for row, (samples, _) in zip(member, jobs, strict=True):
        row[torch.from_numpy(samples)] = True
    shape = len(seeds), len(jobs), inputs.shape[-1], targets.shape[-1]
    bank: Bank = LinearBank(*shape) if kind == "linear" else AttentiveBank(*shape, settings.queries)
    bias = None
    if not aligned:
        bias = torch.logit((targets[member.any(0)].sum(0) + 1) / (int(member.any(0).sum()) + 2))
    train_bank(
        bank, inputs, targets, member, [setting for _, setting in jobs], seeds,
        settings.steps, settings.batch_size, contrast if aligned else multi_label_loss, start_bias=bias,
    )  # fmt: skip
    return bank


def tag_calibration(logits: Tensor, targets: Tensor) -> Tensor:
    """Scale and offset per tag [T, 2] from samples that trained nothing; a tag never seen there stays as it
    is."""
    return torch.tensor(
        [
            fit_platt(logits[:, t], targets[:, t])
            if 0 < float(targets[:, t].sum()) < len(targets)
            else (1.0, 0.0)
            for t in range(targets.shape[1])
        ]
    )


def run(config: ProbeConfig) -> dict[str, Any]:
    """Trains and tests tags and search, prints the tables, writes OUT/results.json and OUT/probe.

    Raises:
        UserError: the data, the split or the config cannot be used.
    """
    config.check()
    started = time.perf_counter()
    kinds = [kind for kind in config.heads.kinds if kind in ("linear", "attentive")]
    if not kinds or config.features.clips != 1:
        raise UserError("task=describe needs linear or attentive in heads.kinds, and features.clips=1.")
    encoder = load_frozen_encoder(config.encoder)
    data = config.data
    listed = read_samples(data.root, data.label_column, data.group_column, data.path_column)
    if data.folds is None:
        listed, _ = select_test_part(listed, data.test_split)
    listed = split_into_shots(data.root, listed)
    extractors = make_extractors(config, encoder)
    samples, sets, report = encode_samples(config, listed, extractors)
    encoded = time.perf_counter()
    words, groups = read_words(config, samples), [s.group for s in samples]
    folds = make_folds(
        [s.label for s in samples],
        groups,
        [s.split for s in samples],
        data.folds,
        data.val_share,
        config.split_seed,
    )
    tags = _learnable(words, folds)
    aims = torch.tensor([[float(tag in own) for tag in tags] for own in words.tags])
    seen = sorted({i for fold in folds for i in fold.train.tolist()})
    text = make_text_encoder(config.describe.text_encoder, [c for i in seen for c in words.captions[i]])
    vectors = caption_vectors(text, words)
    tested = tested_samples(folds)
    if config.conformal:
        check_conformal([groups[i] for i in tested if aims[i].any()], config.conformal)
    rows, said = [_base_rate(aims, words, folds)], {}
    for features in sets[::-1]:
        for kind in kinds if features.time_slots else ["linear"]:
            row, p = _evaluate(kind, features, aims, vectors, words, text, folds, groups, config)
            rows.append(row)
            said[features.name, kind] = p[:, tested].mean(0)
    own = [row for row in rows if row["features"] == ENCODER]
    best = max(own, key=lambda row: row["val_mrr"])["head"]
    results = {
        "schema": "jepa.probe.results/1",
        "task": "describe",
        "created": today(),
        "config": dataclasses.asdict(config),
        "tags": tags,
        "tag_shares": aims.mean(0).tolist(),
        "captions": len({c for own in words.captions for c in own}),
        "text_encoder": text.name,
        "data": data_card(Path(data.root).name, samples),
        "encoder": {"sha256": extractors[0].sha256, "name": str(encoder.metadata.get("name", "encoder"))},  # type: ignore[attr-defined]
        "excluded": [dataclasses.asdict(bad) for bad in report.bad],
        "folds": [
            {"name": f.name, "train": len(f.train), "val": len(f.val), "test": len(f.test)} for f in folds
        ],
        "rows": rows,
        "tag_sets": tag_report(
            said[ENCODER, best], aims[tested].bool().numpy(), [groups[i] for i in tested], config.conformal
        )
        if config.conformal
        else [],
        "decoded_videos": report.decoded,
        "int8_error": report.int8_error,
        "seconds": {"features": encoded - started, "heads": time.perf_counter() - encoded},
    }
    write_json(Path(config.out) / "results.json", results)
    console = table_console()
    if config.features.layers:
        print_unsaved(console, config.features.layers)
    else:
        save_describer(
            config, results, extractors[0], samples, sets[0], aims, vectors, words.captions, text, folds, best
        )
    _print(console, results)
    return results


def _learnable(words: Words, folds: Sequence[Fold]) -> list[str]:
    tags = sorted({tag for own in words.tags for tag in own})
    kept = []
    for tag in tags:
        counts = [(sum(tag in words.tags[i] for i in fold.train), len(fold.train)) for fold in folds]
        if all(MIN_VIDEOS <= on <= total - MIN_VIDEOS for on, total in counts):
            kept.append(tag)
    if not kept:
        most = Counter(tag for own in words.tags for tag in own).most_common(3)
        raise UserError(
            f"No tag is on at least {MIN_VIDEOS} training videos and off as many (most frequent: {most}). "
            "Add videos, or name another column in describe.tag_columns."
        )
    return kept


def caption_vectors(text: TextEncoder, words: Words) -> Tensor:
    """One unit vector per sample, the direction of the mean of its captions: [n, E]."""
    return torch.stack([functional.normalize(text.encode(own).mean(0), dim=-1) for own in words.captions])


def _base_rate(aims: Tensor, words: Words, folds: Sequence[Fold]) -> dict[str, Any]:
    """Tags at their training share, search in random order: the expectation over orders is drawn 20 times."""
    p = np.full((1, *aims.shape), np.nan)
    for fold in folds:
        p[0, fold.test] = aims[np.concatenate([fold.train, fold.val])].mean(0)
    row = {"features": "chance", "head": "-", "val_mrr": None, **_tag_figures(p, aims, folds, None)}
    figures = []
    for draw in range(20):
        rng = generator([draw, 0x5EA7])
        figures.append([_search(rng.random, words, fold) for fold in folds])
    row["search"] = {
        name: float(np.mean([[f[name] for f in folds_] for folds_ in figures])) for name in figures[0][0]
    }
    return row


def _search(similar: Any, words: Words, fold: Fold) -> dict[str, float]:
    """Figures of search among the test samples; `similar(shape)` or an array [queries, items] gives the
    ranking."""
    queries = sorted({caption for i in fold.test for caption in words.captions[i]})
    relevant = np.array([[query in words.captions[i] for i in fold.test] for query in queries])
    scores = similar(relevant.shape) if callable(similar) else similar
    figures = retrieval_figures(scores, relevant)
    nearest = scores.argmax(0)
    figures["nearest_caption"] = float(np.mean(relevant[nearest, np.arange(len(fold.test))]))
    return figures


def _tag_figures(
    p: np.ndarray, aims: Tensor, folds: Sequence[Fold], groups: Sequence[str] | None
) -> dict[str, Any]:
    """Mean over folds and tags: average precision, AUC, Brier skill and ECE of probabilities [S, n, T]."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    per_seed = []
    for each in p:
        ap, auc, error, base, ece = [], [], [], [], []
        for fold in folds:
            truth, share = (
                aims[fold.test].numpy(),
                aims[np.concatenate([fold.train, fold.val])].mean(0).numpy(),
            )
            for t in range(truth.shape[1]):
                own = each[fold.test, t]
                error.append(brier(own, truth[:, t]))
                base.append(brier(np.full(len(own), share[t]), truth[:, t]))
                ece.append(calibration_error(own, truth[:, t]))
                if 0 < truth[:, t].sum() < len(own):
                    ap.append(average_precision_score(truth[:, t], own))
                    auc.append(roc_auc_score(truth[:, t], own))
        per_seed.append((np.mean(ap), np.mean(auc), 1 - np.mean(error) / np.mean(base), np.mean(ece)))
    out: dict[str, Any] = {}
    for name, values in zip(("map", "auc", "skill", "ece"), zip(*per_seed, strict=True), strict=True):
        out[name], out[f"{name}_spread"] = mean_and_spread([float(v) for v in values])
    if groups is not None:
        tested = tested_samples(folds)
        error = ((p[:, tested] - aims[tested].numpy()) ** 2).mean((0, 2))
        out["brier"] = float(error.mean())
        out["brier_interval"] = list(group_bootstrap(error, [groups[i] for i in tested]))
    return out


def _evaluate(
    kind: str,
    data: FeatureSet,
    aims: Tensor,
    vectors: Tensor,
    words: Words,
    text: TextEncoder,
    folds: Sequence[Fold],
    groups: Sequence[str],
    config: ProbeConfig,
) -> tuple[dict[str, Any], np.ndarray]:
    """The row of one head, and its tag probabilities [S, n, T], NaN where no fold tests."""
    inputs, grid, seeds = head_input(kind, data), make_grid(config.heads), config.seeds
    p = np.full((len(seeds), *aims.shape), np.nan)
    searches: list[list[dict[str, float]]] = [[] for _ in seeds]
    val_mrr = []
    for fold in folds:
        sweep = fit_bank(kind, inputs, aims, config.heads, seeds[:1], [(fold.train, s) for s in grid], False)
        best = int(
            multi_label_loss(bank_logits(sweep, inputs)[:, :, fold.val], aims[None, fold.val])
            .mean(-1)
            .argmin()
        )
        logits = bank_logits(
            fit_bank(kind, inputs, aims, config.heads, seeds, [(fold.train, grid[best])], False), inputs
        )
        for s in range(len(seeds)):
            fitted = tag_calibration(logits[s, 0, fold.val], aims[fold.val])
            p[s, fold.test] = torch.sigmoid(logits[s, 0, fold.test] * fitted[:, 0] + fitted[:, 1]).numpy()
        sweep = fit_bank(
            kind, inputs, vectors, config.heads, seeds[:1], [(fold.train, s) for s in grid], True
        )
        best, mrr = choose_aligned(bank_logits(sweep, inputs)[0], vectors, fold.val)
        val_mrr.append(mrr)
        final = fit_bank(kind, inputs, vectors, config.heads, seeds, [(fold.train, grid[best])], True)
        made = functional.normalize(bank_logits(final, inputs)[:, 0], dim=-1)
        queries = text.encode(sorted({caption for i in fold.test for caption in words.captions[i]}))
        for s in range(len(seeds)):
            searches[s].append(_search((queries @ made[s, fold.test].T).numpy(), words, fold))
    search: dict[str, float] = {}
    for name in searches[0][0]:
        values = [float(np.mean([f[name] for f in own])) for own in searches]
        search[name], search[f"{name}_spread"] = mean_and_spread(values)
    row = {
        "features": data.name, "head": kind, "val_mrr": float(np.mean(val_mrr)),
        **_tag_figures(p, aims, folds, groups), "search": search,
    }  # fmt: skip
    return row, p


def choose_aligned(logits: Tensor, vectors: Tensor, val: np.ndarray) -> tuple[int, float]:
    """The setting whose embeddings rank validation captions best, by mean reciprocal rank.

    Args:
        logits: embeddings [settings, n, E].
        vectors: caption vectors [n, E].
        val: indices of the validation samples.
    """
    wanted = vectors[val]
    relevant = ((wanted @ wanted.T) > 1 - 1e-4).numpy()
    made = functional.normalize(logits[:, val], dim=-1)
    ranks = [retrieval_figures((wanted @ each.T).numpy(), relevant)["mrr"] for each in made]
    return int(np.argmax(ranks)), float(max(ranks))


def _print(console: Any, results: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    tested = sum(fold["test"] for fold in results["folds"])
    console.print(
        f"{len(results['tags'])} tags, {results['captions']} captions, text encoder {results['text_encoder']}; "
        f"{tested} tested videos. Search ranks the tested videos by a sentence."
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("features", no_wrap=True)
    table.add_column("head", no_wrap=True)
    for name in ("tag AP", "seeds", "AUC", "skill", "ECE", "R@1", "R@5", "search AP", "seeds", "caption"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in results["rows"]:
        search = row["search"]
        table.add_row(
            row["features"],
            row["head"],
            *(f"{row[k]:.3f}" for k in ("map", "map_spread", "auc", "skill", "ece")),
            *(f"{search.get(k, 0.0):.3f}" for k in SEARCH_COLUMNS),
        )
    console.print(table)
    for entry in results["tag_sets"]:
        console.print(
            f"sets promised to hold {entry['level']:.0%} of a video's tags held {entry['recall']:.1%} of them, with "
            f"{entry['mean_size']:.1f} tags where a video has {entry['mean_tags']:.1f}"
        )
    if results["excluded"]:
        console.print(f"left out {len(results['excluded'])} unreadable video(s)")
