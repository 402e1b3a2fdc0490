"""`jepa probe task=anticipate`: what comes next, and how soon a hazard starts, beside what needs no
foresight."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepa.device import choose_device
from jepa.errors import UserError
from jepa.files import write_json
from jepa.probes.config import ProbeConfig
from jepa.probes.data.labels import Sample
from jepa.probes.data.segments import HazardQuestions, hazard_questions, next_action_questions, read_timelines
from jepa.probes.data.splits import Fold, holdout, make_folds, select_test_part
from jepa.probes.evaluation.cross_validate import FeatureSet, HeadRun, evaluate_head
from jepa.probes.evaluation.results import compare, majority, result_row, table_console
from jepa.probes.features.encode import Extractor, Features, encode
from jepa.probes.features.encoder_tokens import EncoderTokens, Motion, OneFrame, untrained_copy
from jepa.probes.features.sources import ENCODER, UNTRAINED, load_frozen_encoder
from jepa.probes.saved import data_card, today
from jepa.probes.tasks.anticipate.current_action import actions_of, evaluate_now, save_observer
from jepa.probes.tasks.anticipate.evaluate import (
    FORECASTS_FILE,
    HazardRun,
    after_action_run,
    as_belief,
    base_rate_run,
    evaluate_hazards,
    next_after_action,
    write_forecasts,
)
from jepa.probes.tasks.anticipate.hazard import (
    hazard_targets,
    known_outcome,
)
from jepa.probes.tasks.anticipate.probe import WITH_FUTURE, save_forecaster
from jepa.probes.tasks.anticipate.report import hazard_rows, print_anticipation

NOW, DETECTOR = "action now (truth)", "action now (probe)"


def run(config: ProbeConfig) -> dict[str, Any]:
    """Trains and tests the forecasts, prints the tables, writes OUT/results.json, OUT/probe and the observer
    OUT/now.

    Raises:
        UserError: the list, the split or the config cannot be used.
    """
    config.check()
    started = time.perf_counter()
    settings, kinds = config.anticipate, [k for k in config.heads.kinds if k in ("linear", "attentive")]
    if not kinds:
        raise UserError("task=anticipate needs linear or attentive in heads.kinds.")
    encoder = load_frozen_encoder(config.encoder)
    timelines, hazards = read_timelines(config.data, settings)
    if config.data.folds is None:
        timelines, _ = select_test_part(timelines, config.data.test_split)
    extractors = _extractors(config, encoder)
    main = extractors[0]
    assert isinstance(main, EncoderTokens)
    window_s = main.window.num_frames / main.fps
    asked = next_action_questions(timelines, settings.tau_s, window_s)
    ahead = hazard_questions(timelines, hazards, settings.horizons_s, settings.stride_s, window_s)
    cache = config.features.cache or Path(config.out) / "cache"
    feature = config.features
    kept, features, report = encode(
        [*asked, *ahead.samples], extractors, cache, feature.batch_size, feature.workers, feature.bad_limit
    )
    encoded = time.perf_counter()
    readable = {sample.path for sample in kept}
    timelines = [timeline for timeline in timelines if timeline.path in readable]
    asked, ahead, sets_next, sets_hazard = _divide(asked, ahead, readable, extractors, features)
    folds = make_folds(
        [";".join(k for k, v in t.hazards.items() if v) or "-" for t in timelines],
        [t.group for t in timelines],
        [t.split for t in timelines],
        config.data.folds,
        config.data.val_share,
        config.split_seed,
    )
    names = [timeline.name for timeline in timelines]
    next_part = _next_action(config, asked, timelines, sets_next, _map_folds(folds, names, asked), kinds)
    moments = _map_folds(folds, names, ahead.samples)
    now_part, detector = evaluate_now(config, ahead.samples, sets_hazard, moments)
    hazard_part = _hazards(config, ahead, hazards, sets_hazard, moments, kinds, detector)
    results = {
        "schema": "jepa.probe.results/1",
        "task": "anticipate",
        "created": today(),
        "config": dataclasses.asdict(config),
        "anchor": "segment start",
        "window_s": window_s,
        "classes": next_part["classes"],
        "hazards": hazards,
        "horizons_s": list(settings.horizons_s),
        "data": data_card(Path(config.data.root).name, [*asked, *ahead.samples]),
        "encoder": {"sha256": main.sha256, "name": str(encoder.metadata.get("name", "encoder"))},
        "excluded": [dataclasses.asdict(bad) for bad in report.bad],
        "folds": [{"name": f.name, "videos": [len(f.train), len(f.val), len(f.test)]} for f in folds],
        "now": now_part,
        "next_action": next_part,
        "hazard": hazard_part,
        "decoded_videos": report.decoded,
        "seconds": {"features": encoded - started, "heads": time.perf_counter() - encoded},
    }
    write_json(Path(config.out) / "results.json", results)
    train, val = (folds[0].train, folds[0].val) if len(folds) == 1 else holdout(
        ["-"] * len(names), [t.group for t in timelines], config.data.val_share, config.split_seed
    )  # fmt: skip
    learnt, held = {names[i] for i in train}, {names[i] for i in val}
    save_forecaster(config, results, main, asked, ahead, sets_next, sets_hazard, learnt, held)
    if detector is not None:
        own = next(data for data in sets_hazard if data.name == ENCODER)
        save_observer(config, results, main, ahead.samples, own, learnt, held)
    print_anticipation(table_console(), results, report)
    return results


def _extractors(config: ProbeConfig, encoder: Any) -> list[Extractor]:
    from jepa.models import load_predictor
    from jepa.models.weights.native import PREDICTOR_FILE

    settings, feature = config.anticipate, config.features
    frames = encoder.preprocessing.num_frames
    fps = None if settings.context_s is None else frames / settings.context_s
    predictor = None
    if settings.predictor and (Path(config.encoder) / PREDICTOR_FILE).is_file():
        predictor = load_predictor(config.encoder)

    def tokens(name: str, model: Any, guesser: Any = None) -> EncoderTokens:
        return EncoderTokens(
            name,
            model,
            1,
            feature.max_tokens,
            None,
            str(choose_device(feature.device, "features.device")),
            fps,
            guesser,
            settings.future_slots,
        )

    extractors: list[Extractor] = [tokens(ENCODER, encoder, predictor)]
    if "untrained" in config.baselines:
        extractors.append(tokens(UNTRAINED, untrained_copy(encoder, config.split_seed)))
    if "one_frame" in config.baselines:
        extractors.append(OneFrame(last=True))
    if "motion" in config.baselines:
        extractors.append(Motion())
    return extractors


def _divide(
    asked: list[Sample],
    ahead: HazardQuestions,
    readable: set[Path],
    extractors: Sequence[Extractor],
    features: Sequence[Features],
) -> tuple[list[Sample], HazardQuestions, list[FeatureSet], list[FeatureSet]]:
    """Drops questions on unreadable videos and hands each task its rows; one set more with the predictor's
    guesses."""
    here = np.array([sample.path in readable for sample in ahead.samples], bool)
    asked = [sample for sample in asked if sample.path in readable]
    ahead = HazardQuestions(
        [s for s, ok in zip(ahead.samples, here, strict=True) if ok], ahead.event[here], ahead.observed[here]
    )
    sets: list[list[FeatureSet]] = []
    for part in (slice(0, len(asked)), slice(len(asked), len(asked) + len(ahead.samples))):
        made = []
        for extractor, rows in zip(extractors, features, strict=True):
            own = Features(rows.shards, rows.shard_of[part], rows.row_of[part])
            if not isinstance(extractor, EncoderTokens):
                made.append(FeatureSet(extractor.name, own))
                continue
            if extractor.slots:
                made.append(FeatureSet(WITH_FUTURE, own, extractor.grid()[0] + extractor.slots))
            t, h, w = extractor.grid()
            seen = Features([shard[:, :, : t * h * w] for shard in own.shards], own.shard_of, own.row_of)
            made.append(FeatureSet(extractor.name, seen, t))
        sets.append(made[::-1])  # plain things first, as in the tables
    return asked, ahead, sets[0], sets[1]


def _map_folds(folds: Sequence[Fold], names: Sequence[str], samples: Sequence[Sample]) -> list[Fold]:
    """Folds over videos as folds over their windows."""
    owner = {name: number for number, name in enumerate(names)}
    video = np.array([owner[sample.name] for sample in samples])
    mapped = [
        Fold(fold.name, *(np.flatnonzero(np.isin(video, part)) for part in (fold.train, fold.val, fold.test)))
        for fold in folds
    ]
    for fold in mapped:
        if not (len(fold.train) and len(fold.val) and len(fold.test)):
            raise UserError(
                f"Fold {fold.name!r} has a part without a single window to ask about. Use fewer folds, a "
                "longer list, or a shorter window (anticipate.context_s)."
            )
    return mapped


def _next_action(
    config: ProbeConfig,
    asked: Sequence[Sample],
    timelines: Sequence[Any],
    sets: Sequence[FeatureSet],
    folds: list[Fold],
    kinds: list[str],
) -> dict[str, Any]:
    classes = sorted({sample.label for sample in asked})
    targets = torch.tensor([classes.index(sample.label) for sample in asked])
    groups = [sample.group for sample in asked]
    by_name = {timeline.name: timeline for timeline in timelines}
    now = [by_name[sample.name].label_at(sample.end_s - 1e-3) for sample in asked if sample.end_s is not None]
    actions = sorted(set(now))
    present = np.array([actions.index(label) for label in now])
    runs = [majority(targets, len(classes), folds)]

    def after(name: str, belief: np.ndarray) -> HeadRun:
        p = next_after_action(belief, present, targets.numpy(), len(classes), folds)
        return HeadRun(name, "-", p, 0.0, [], 0.0)

    runs.append(after(NOW, as_belief(present, len(actions))))
    for data in sets:
        if data.name == ENCODER and len(actions) > 1:
            detector = evaluate_head(
                "linear", data, torch.from_numpy(present), len(actions), folds, config.heads, config.seeds
            )
            runs.append(after(DETECTOR, detector.probability))
        for kind in kinds if data.time_slots else ["ridge"]:
            runs.append(evaluate_head(kind, data, targets, len(classes), folds, config.heads, config.seeds))
    rows = [result_row(run, targets, groups, folds) for run in runs]
    return {"classes": classes, "tau_s": config.anticipate.tau_s, "questions": len(asked), "rows": rows,
            "comparison": compare(runs, rows, targets, groups, folds)}  # fmt: skip


def _hazards(
    config: ProbeConfig,
    ahead: HazardQuestions,
    categories: list[str],
    sets: Sequence[FeatureSet],
    folds: list[Fold],
    kinds: list[str],
    detector: HeadRun | None,
) -> dict[str, Any] | None:
    if not categories:
        return None
    horizons = config.anticipate.horizons_s
    event, observed = torch.from_numpy(ahead.event), torch.from_numpy(ahead.observed)
    targets = hazard_targets(event, observed, len(horizons))
    actions, labels = actions_of(ahead.samples)
    present = labels.numpy()
    groups = [sample.group for sample in ahead.samples]
    runs: list[HazardRun] = [base_rate_run(targets, folds)]
    runs.append(after_action_run(NOW, as_belief(present, len(actions)), present, targets, folds))
    for data in sets:
        if data.name == ENCODER and detector is not None:
            runs.append(after_action_run(DETECTOR, detector.probability, present, targets, folds))
        runs += [
            evaluate_hazards(kind, data, targets, folds, config.heads, config.seeds, groups)
            for kind in (kinds if data.time_slots else ["linear"])
        ]
    write_forecasts(Path(config.out) / FORECASTS_FILE, runs, ahead.samples, event, observed)
    rows = hazard_rows(runs, event, observed, groups, folds, horizons)
    known = known_outcome(event, observed, len(horizons))
    return {"questions": len(ahead.samples), "onsets": int((ahead.event < len(horizons)).sum()),
            "known": known.float().mean((0, 1)).tolist(), "rows": rows}  # fmt: skip
