"""`jepa probe task=classify`: which class a clip belongs to, always with its baselines beside it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.files import write_json
from jepa.probes.config import PUBLISHED, ProbeConfig
from jepa.probes.data.labels import Sample, class_names, fingerprint, read_samples
from jepa.probes.data.splits import (
    Fold,
    check_no_leak,
    holdout,
    make_folds,
    missing_classes,
    select_test_part,
    tested_samples,
)
from jepa.probes.evaluation.calibration import apply_isotonic, fit_isotonic
from jepa.probes.evaluation.conformal import check_conformal, conformal_report
from jepa.probes.evaluation.cross_validate import (
    FeatureSet,
    choose,
    evaluate_head,
    fit_heads,
    make_grid,
    race_published,
    windows_of,
)
from jepa.probes.evaluation.metrics import calibration_error
from jepa.probes.evaluation.protocols import run_protocols
from jepa.probes.evaluation.report import write_report
from jepa.probes.evaluation.results import (
    compare,
    majority,
    print_results,
    print_unsaved,
    result_row,
    table_console,
)
from jepa.probes.features.augment import augmented, with_versions
from jepa.probes.features.encoder_tokens import EncoderTokens, coarsen, coarsen_future
from jepa.probes.features.sources import ENCODER, encode_samples, load_frozen_encoder, make_extractors
from jepa.probes.heads.stacked import AttentiveBank, Bank, LinearBank, bank_logits, pool_stats, take_head
from jepa.probes.heads.vjepa2_attentive import PublishedBank
from jepa.probes.saved import Window, calibration_card, data_card, save_probe, today, window_card

ClassifyConfig = ProbeConfig
COPY_REMEDY = "Remove one of the copies, or give both the same group."


class ClassPrediction(NamedTuple):
    """Scores of a batch of windows."""

    probability: Tensor
    """[B, classes], calibrated, rows sum to 1"""


class ClassifyProbe:
    """A saved classification head: reads encoder tokens, returns calibrated class probabilities."""

    task = "classify"
    needs_future = False

    def __init__(self, card: dict[str, Any], weights: dict[str, Tensor], sha256: str) -> None:
        self.metadata, self.weights_sha256 = card, sha256
        self.classes = tuple(card["classes"])
        self.window = Window(**card["window"])
        self.temperature = float(card["calibration"]["temperature"])
        self.isotonic = weights.get("isotonic")
        self.bank = bank_from_state({name: value for name, value in weights.items() if name != "isotonic"})

    @torch.inference_mode()
    def predict(self, tokens: Tensor, future: Tensor | None = None) -> ClassPrediction:
        """Class probabilities of windows.

        Args:
            tokens: [B, N, D], the encoder's output for windows like `window`.
            future: not used by this task.

        Raises:
            UserError: tokens of another window size.
        """
        inputs = head_inputs(self.metadata, tokens, self.metadata["head"])
        p = (bank_logits(self.bank, inputs)[0, 0] / self.temperature).softmax(-1)
        return ClassPrediction(p if self.isotonic is None else apply_isotonic(p, self.isotonic))


def class_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}


def head_inputs(card: dict[str, Any], tokens: Tensor, head: str, future: Tensor | None = None) -> Tensor:
    """Brings encoder tokens [B, N, D] into the form that a saved head was trained on.

    Args:
        card: the probe's card; its grid and token limit are used.
        tokens: encoder output.
        head: linear or attentive.
        future: the predictor's guesses [B, slots * h * w, D], which follow the tokens.

    Raises:
        UserError: the number of tokens is not that of the head's window.
    """
    from jepa.models import TokenGrid

    grid = TokenGrid(*card["grid"])
    if tokens.ndim != 3 or tokens.shape[1] != grid.size:
        raise UserError(
            f"The probe reads windows of {grid.size} tokens (grid {tuple(grid)}), and was given "
            f"{list(tokens.shape)}. Encode {card['window']['num_frames']} frames at {card['window']['fps']} "
            "fps with encoder.preprocess."
        )
    # Features were stored in half precision; the same rounding here keeps live and cached scores equal.
    coarse, slots = coarsen(tokens.float().cpu(), grid, card["max_tokens"]), grid.t
    if future is not None:
        more = card["future_slots"]
        guessed = coarsen_future(future.float().cpu(), grid, more, card["max_tokens"])
        coarse, slots = torch.cat([coarse, guessed], dim=1), slots + more
    coarse = coarse.half()
    return pool_stats(coarse, slots) if head == "linear" else coarse


def bank_from_state(weights: dict[str, Tensor]) -> Bank | PublishedBank:
    """Rebuilds the single head that `save_probe` stored."""
    if "num_heads" in weights:
        return PublishedBank.from_state(weights).eval().requires_grad_(False)
    if "query" in weights:
        queries, channels = weights["query"].shape[2:]
        bank: Bank = AttentiveBank(1, 1, channels, weights["output.bias"].shape[-1], queries)
    else:
        bank = LinearBank(1, 1, *weights["weight"].shape[2:])
    bank.load_state_dict(weights)
    return bank.eval().requires_grad_(False)


def run(config: ProbeConfig) -> dict[str, Any]:
    """Trains and tests the heads, prints the table, writes OUT/results.json and OUT/probe.

    Returns:
        The content of results.json.

    Raises:
        UserError: the data, the split or the config cannot be used.
    """
    config.check()
    started = time.perf_counter()
    encoder = load_frozen_encoder(config.encoder)
    data = config.data
    listed = read_samples(data.root, data.label_column, data.group_column, data.path_column)
    if data.folds is None:
        listed, _ = select_test_part(listed, data.test_split)
    classes = class_names(listed, data.classes or None)
    extractors = make_extractors(config, encoder)
    samples, sets, report = encode_samples(config, listed, extractors)
    encoded = time.perf_counter()
    labels, groups = [s.label for s in samples], [s.group for s in samples]
    folds = make_folds(
        labels, groups, [s.split for s in samples], data.folds, data.val_share, config.split_seed
    )
    contents = [f"{fingerprint(s.path)} {s.start_s} {s.end_s}" for s in samples]
    for fold in folds:
        _check_copies(fold, contents, samples)
    if config.conformal:
        check_conformal([groups[i] for fold in folds for i in fold.test], config.conformal)
    targets = torch.tensor([classes.index(label) for label in labels])
    wide, wide_targets, wide_folds = augmented(config, samples, extractors, sets, targets, folds, report)
    runs = [majority(targets, len(classes), folds)]
    for features in wide[::-1]:
        for kind in config.heads.kinds if features.time_slots else ["ridge"]:
            head = evaluate_head(
                kind, features, wide_targets, len(classes), wide_folds, config.heads, config.seeds
            )
            # Versions of clips train and are never asked about.
            runs.append(dataclasses.replace(head, probability=head.probability[:, : len(samples)]))
    protocols = run_protocols(config, samples, extractors, sets, runs, targets, len(classes), folds)
    rows = [result_row(run, targets, groups, folds) for run in runs]
    comparison = compare(runs, rows, targets, groups, folds)
    best = next(run for run in runs if (run.features, run.head) == (ENCODER, comparison["head"]))
    tested = tested_samples(folds)
    said, truth = best.probability[:, tested].mean(0), targets.numpy()[tested]
    results = {
        "schema": "jepa.probe.results/1",
        "task": "classify",
        "created": today(),
        "config": dataclasses.asdict(config),
        "classes": classes,
        "data": data_card(Path(data.root).name, samples),
        "encoder": _encoder_card(extractors[0], encoder.metadata),
        "excluded": [dataclasses.asdict(bad) for bad in report.bad],
        "folds": [
            {"name": f.name, "train": len(f.train), "val": len(f.val), "test": len(f.test),
             "missing_classes": missing_classes(f, labels)} for f in folds
        ],
        "rows": rows,
        "comparison": comparison,
        "wrong": _most_wrong(said, truth, [samples[i] for i in tested], classes),
        "abstention": conformal_report(said, truth, [groups[i] for i in tested], config.conformal)
        if config.conformal
        else [],
        "protocols": protocols,
        "decoded_videos": report.decoded,
        "int8_error": report.int8_error,
        "seconds": {"features": encoded - started, "heads": time.perf_counter() - encoded},
    }  # fmt: skip
    write_json(Path(config.out) / "results.json", results)
    console = table_console()
    if config.features.layers:
        print_unsaved(console, config.features.layers)
    else:
        _save_best(config, samples, wide[0], wide_targets, classes, folds, results, extractors[0])
    print_results(console, results, report)
    write_report(Path(config.out) / "report.html", results, samples)
    return results


def _most_wrong(
    probability: np.ndarray, targets: np.ndarray, samples: Sequence[Sample], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Wrongly named samples, those first whose own class got the least."""
    own, guess = probability[np.arange(len(targets)), targets], probability.argmax(1)
    return [
        {
            "name": samples[i].name,
            "start_s": samples[i].start_s,
            "group": samples[i].group,
            "label": classes[targets[i]],
            "label_probability": float(own[i]),
            "said": classes[guess[i]],
            "probability": float(probability[i].max()),
        }
        for i in np.argsort(own, kind="stable")
        if guess[i] != targets[i]
    ]


def _check_copies(fold: Fold, contents: Sequence[str], samples: Sequence[Sample]) -> None:
    """The same pixels under two names in two parts leak as surely as a shared group."""
    names = {content: sample.name for content, sample in zip(contents, samples, strict=True)}
    check_no_leak(fold, [names[content] for content in contents], "copied video", COPY_REMEDY)


def _encoder_card(extractor: Any, about: dict[str, Any]) -> dict[str, Any]:
    return {"sha256": extractor.sha256, "name": str(about.get("name") or about.get("model") or "encoder")}


def _save_best(
    config: ProbeConfig,
    samples: Sequence[Sample],
    features: FeatureSet,
    targets: Tensor,
    classes: list[str],
    folds: Sequence[Fold],
    results: dict[str, Any],
    extractor: Any,
) -> None:
    """Fits and saves the head that signals use: trained on one part, chosen and calibrated on another."""
    assert isinstance(extractor, EncoderTokens)
    trained = [
        row
        for row in results["rows"]
        if row["features"] == ENCODER and row["head"] in ("linear", "attentive", PUBLISHED)
    ]
    if not trained:
        return
    row = max(trained, key=lambda r: (r["val_accuracy"], r["head"] == "linear"))
    kind, clips = row["head"], features.clips
    if len(folds) == 1:
        train, val = folds[0].train, folds[0].val
    else:
        labels, groups = [s.label for s in samples], [s.group for s in samples]
        train, val = holdout(labels, groups, config.data.val_share, config.split_seed)
    fit = with_versions(train, len(samples), config.features.augment)
    inputs = features.vectors().half() if kind == "linear" else features.tokens()
    wanted = targets.repeat_interleave(clips)
    windows = windows_of(val, clips)
    single: Bank | PublishedBank
    if kind == PUBLISHED:
        single, held, _, accuracy, temperature = race_published(
            inputs, targets, len(classes), fit, val, config.heads, config.seeds[:1], clips
        )
    else:
        jobs = [(fit, setting) for setting in make_grid(config.heads)]
        bank = fit_heads(kind, inputs, wanted, len(classes), config.heads, config.seeds[:1], jobs, clips)
        logits = bank_logits(bank, inputs)[0]
        best, accuracy, temperature = choose(logits, targets, wanted, val, clips)
        single, held = take_head(bank, 0, best), logits[best, windows]
    right = (held.argmax(-1) == wanted[windows]).numpy()

    said = (held / temperature).softmax(-1)
    weights = {name: value.cpu() for name, value in single.state_dict().items()}
    if config.calibration == "isotonic":
        weights["isotonic"] = fit_isotonic(said, wanted[windows])
        said = apply_isotonic(said, weights["isotonic"])
    right_after = (said.argmax(-1) == wanted[windows]).numpy()

    card = {
        "task": "classify",
        "classes": classes,
        "head": kind,
        **window_card(extractor),
        "encoder": results["encoder"],
        "data": results["data"],
        "trained_on": data_card("train", [samples[i] for i in train]),
        "calibration": {
            "method": config.calibration,
            "temperature": temperature,
            **calibration_card([samples[i] for i in val]),
            "ece_before": calibration_error(held.softmax(-1).amax(-1).numpy(), right),
            "ece_after": calibration_error(said.amax(-1).numpy(), right_after),
            "accuracy": accuracy,
        },
        "results": {
            "metric": "accuracy",
            "test": row["accuracy"],
            "interval": row["interval"],
            "spread_seeds": row["spread_seeds"],
            "spread_folds": row["spread_folds"],
            "baselines": {
                name: entry["accuracy"] for name, entry in results["comparison"]["against"].items()
            },
        },
    }
    save_probe(Path(config.out) / "probe", card, weights)
