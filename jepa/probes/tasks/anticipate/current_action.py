"""What is going on at a window's end: the observer that comes with a forecaster.

It is trained on the same windows as the forecast, which end at any moment of an action. A classifier of whole
segments would not do: its windows stop at the segment's borders, and those of a running video do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepa.probes.config import ProbeConfig
from jepa.probes.data.labels import Sample
from jepa.probes.data.splits import Fold
from jepa.probes.evaluation.cross_validate import (
    FeatureSet,
    HeadRun,
    choose,
    evaluate_head,
    fit_heads,
    make_grid,
)
from jepa.probes.evaluation.metrics import calibration_error
from jepa.probes.evaluation.results import majority, result_row
from jepa.probes.features.encoder_tokens import EncoderTokens
from jepa.probes.features.sources import ENCODER
from jepa.probes.heads.stacked import bank_logits, take_head
from jepa.probes.saved import calibration_card, data_card, save_probe, window_card

HEAD = "linear"


def actions_of(samples: Sequence[Sample]) -> tuple[list[str], torch.Tensor]:
    """The labels that windows end in, sorted, and the number of each window's own, [n]."""
    actions = sorted({sample.label for sample in samples})
    return actions, torch.tensor([actions.index(sample.label) for sample in samples])


def evaluate_now(
    config: ProbeConfig, samples: Sequence[Sample], sets: Sequence[FeatureSet], folds: list[Fold]
) -> tuple[dict[str, Any], HeadRun | None]:
    """How well each set of features tells what is going on, and the encoder's own run.

    Args:
        config: heads and seeds.
        samples: windows, labelled with the action at their end.
        sets: features of the windows.
        folds: divisions of the windows.

    Returns:
        Classes and one row per set, majority first; the run is None where there is one action only.
    """
    actions, targets = actions_of(samples)
    if len(actions) < 2:
        return {"classes": actions, "rows": []}, None
    runs = [majority(targets, len(actions), folds)]
    for data in sets:
        kind = HEAD if data.time_slots else "ridge"
        runs.append(evaluate_head(kind, data, targets, len(actions), folds, config.heads, config.seeds))
    groups = [sample.group for sample in samples]
    own = next(run for run in runs if run.features == ENCODER)
    return {"classes": actions, "rows": [result_row(run, targets, groups, folds) for run in runs]}, own


def save_observer(
    config: ProbeConfig,
    results: dict[str, Any],
    extractor: EncoderTokens,
    samples: Sequence[Sample],
    data: FeatureSet,
    train: set[str],
    val: set[str],
) -> None:
    """Fits the observer on the training videos, chooses and calibrates it on the validation videos, and saves
    it to OUT/now as a classifier that `load_probe` opens."""
    actions, targets = actions_of(samples)
    fit, held = (
        np.array([i for i, sample in enumerate(samples) if sample.name in names]) for names in (train, val)
    )
    inputs, grid = data.vectors().half(), make_grid(config.heads)
    jobs = [(fit, setting) for setting in grid]
    bank = fit_heads(HEAD, inputs, targets, len(actions), config.heads, config.seeds[:1], jobs, 1)
    logits = bank_logits(bank, inputs)[0]
    best, accuracy, temperature = choose(logits, targets, targets, held, 1)
    held_logits = logits[best, held]
    right = (held_logits.argmax(-1) == targets[held]).numpy()

    def ece(t: float) -> float:
        return calibration_error((held_logits / t).softmax(-1).amax(-1).numpy(), right)

    rows = {row["features"]: row["accuracy"] for row in results["now"]["rows"]}
    card = {
        "task": "classify",
        "classes": actions,
        "head": HEAD,
        **window_card(extractor),
        "encoder": results["encoder"],
        "data": results["data"],
        "trained_on": data_card("train", [samples[i] for i in fit]),
        "calibration": {
            "method": "temperature",
            "temperature": temperature,
            **calibration_card([samples[i] for i in held]),
            "ece_before": ece(1.0),
            "ece_after": ece(temperature),
            "accuracy": accuracy,
        },
        "results": {
            "metric": "accuracy at the window's end",
            "test": rows[ENCODER],
            "baselines": {name: value for name, value in rows.items() if name != ENCODER},
        },
    }
    save_probe(Path(config.out) / "now", card, dict(take_head(bank, 0, best).state_dict()))
