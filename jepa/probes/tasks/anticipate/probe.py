"""The saved forecaster: two heads with their calibration, as `jepa.probes.load_probe` opens it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.probes.config import ProbeConfig
from jepa.probes.data.labels import Sample
from jepa.probes.data.segments import HazardQuestions
from jepa.probes.evaluation.cross_validate import FeatureSet, choose, fit_heads, make_grid
from jepa.probes.evaluation.metrics import calibration_error
from jepa.probes.features.encoder_tokens import EncoderTokens
from jepa.probes.features.sources import ENCODER
from jepa.probes.heads.stacked import bank_logits, take_head
from jepa.probes.saved import Window, calibration_card, data_card, save_probe, window_card
from jepa.probes.tasks.anticipate.evaluate import (
    choose_hazard,
    fit_hazard_bank,
    head_input,
)
from jepa.probes.tasks.anticipate.hazard import (
    apply_calibration,
    base_logits,
    calibrate_hazards,
    cumulative,
    hazard_targets,
    known_outcome,
)
from jepa.probes.tasks.classify import bank_from_state, class_prefix, head_inputs

WITH_FUTURE = "encoder + predictor"


class Anticipation(NamedTuple):
    """Forecasts for a batch of windows."""

    next_action: Tensor
    """[B, classes], rows sum to 1"""
    hazard: Tensor
    """[B, hazards, horizons], never decreasing along the last axis"""


class AnticipateProbe:
    """A saved pair of heads: the next action, and the hazards over the horizons."""

    task = "anticipate"

    def __init__(self, card: dict[str, Any], weights: dict[str, Tensor], sha256: str) -> None:
        self.metadata, self.weights_sha256 = card, sha256
        self.classes = tuple(card["classes"])
        self.window = Window(**card["window"])
        self.tau_s = float(card["tau_s"])
        self.hazards, self.horizons_s = tuple(card["hazards"]), tuple(card["horizons_s"])
        self.base_rates = np.array(card["base_rates"], dtype=float).reshape(
            len(self.hazards), len(self.horizons_s)
        )
        self.future_slots = int(card["future_slots"])
        self.needs_future = self.future_slots > 0
        self.next_bank = bank_from_state(class_prefix(weights, "next."))
        self.hazard_bank = bank_from_state(class_prefix(weights, "hazard.")) if self.hazards else None
        self.calibration = weights["calibration"]

    @torch.inference_mode()
    def predict(self, tokens: Tensor, future: Tensor | None = None) -> Anticipation:
        """Forecasts from windows.

        Args:
            tokens: [B, N, D], the encoder's output for windows like `window`.
            future: [B, slots * h * w, D] from `predict_future`, needed if `needs_future`.

        Raises:
            UserError: tokens of another window size, or the future is missing.
        """
        if self.needs_future and future is None:
            raise UserError(
                "This probe also reads the predictor's guess of the future. Give "
                "future=jepa.probes.predict_future(predictor, tokens, grid, probe.future_slots)."
            )
        future = future if self.needs_future else None
        temperature = float(self.metadata["calibration"]["temperature"])
        inputs = head_inputs(self.metadata, tokens, self.metadata["next_head"], future)
        following = (bank_logits(self.next_bank, inputs)[0, 0] / temperature).softmax(-1)
        shape = (len(self.hazards), len(self.horizons_s))
        if self.hazard_bank is None:
            return Anticipation(following, torch.zeros(len(tokens), *shape))
        inputs = head_inputs(self.metadata, tokens, self.metadata["hazard_head"], future)
        logits = bank_logits(self.hazard_bank, inputs)[0, 0].unflatten(-1, shape)
        return Anticipation(following, cumulative(apply_calibration(logits, self.calibration)))


def save_forecaster(
    config: ProbeConfig,
    results: dict[str, Any],
    extractor: EncoderTokens,
    asked: list[Sample],
    ahead: HazardQuestions,
    sets_next: Sequence[FeatureSet],
    sets_hazard: Sequence[FeatureSet],
    train: set[str],
    val: set[str],
) -> None:
    """Fits both heads on the training videos, calibrates them on the validation videos, and saves them."""
    rows = results["next_action"]["rows"] if not results["hazards"] else results["hazard"]["rows"]
    own = [row for row in rows if row["features"] in (ENCODER, WITH_FUTURE)]
    best = (
        min(own, key=lambda r: r["val_loss"])
        if results["hazards"]
        else max(own, key=lambda r: r["val_accuracy"])
    )
    source = best["features"]
    own_next = [row for row in results["next_action"]["rows"] if row["features"] == source]
    next_kind = max(own_next, key=lambda row: row["val_accuracy"])["head"]

    def part(samples: Sequence[Sample], names: set[str]) -> np.ndarray:
        return np.array([i for i, sample in enumerate(samples) if sample.name in names])

    grid, seeds = make_grid(config.heads), config.seeds[:1]
    data = next(d for d in sets_next if d.name == source)
    classes = results["classes"]
    targets = torch.tensor([classes.index(sample.label) for sample in asked])
    inputs = head_input(next_kind, data)
    fit, held = part(asked, train), part(asked, val)
    bank = fit_heads(
        next_kind, inputs, targets, len(classes), config.heads, seeds, [(fit, s) for s in grid], 1
    )
    choice, accuracy, temperature = choose(bank_logits(bank, inputs)[0], targets, targets, held, 1)
    weights = {f"next.{k}": v for k, v in take_head(bank, 0, choice).state_dict().items()}
    weights["calibration"] = torch.zeros(0, 2)
    hazards, horizons = results["hazards"], results["horizons_s"]
    base: list[Any] = []
    ece: dict[str, float] = {}
    before = after = None
    if hazards:
        data = next(d for d in sets_hazard if d.name == source)
        event, observed = torch.from_numpy(ahead.event), torch.from_numpy(ahead.observed)
        aims = hazard_targets(event, observed, len(horizons))
        inputs = head_input(best["head"], data)
        fit, held = part(ahead.samples, train), part(ahead.samples, val)
        bank = fit_hazard_bank(best["head"], inputs, aims, config.heads, seeds, [(fit, s) for s in grid])
        logits = bank_logits(bank, inputs)[0]
        number, _ = choose_hazard(logits, aims, held)
        scores = logits[number, held].unflatten(-1, (len(hazards), len(horizons)))
        weights["calibration"] = calibrate_hazards(scores, aims[held], [ahead.samples[i].group for i in held])
        weights |= {f"hazard.{k}": v for k, v in take_head(bank, 0, number).state_dict().items()}
        base = cumulative(base_logits(aims[fit])).tolist()
        known = known_outcome(event[held], observed[held], len(horizons)).numpy()
        happened = event[held].unsqueeze(-1).numpy() <= np.arange(len(horizons))
        raw, tuned = (
            cumulative(scores).numpy(),
            cumulative(apply_calibration(scores, weights["calibration"])).numpy(),
        )
        before, after = (
            calibration_error(raw[known], happened[known]),
            calibration_error(tuned[known], happened[known]),
        )
        ece = {
            str(round(1000 * h)): calibration_error(
                tuned[..., k][known[..., k]], happened[..., k][known[..., k]]
            )
            for k, h in enumerate(horizons)
        }
    card = {
        "task": "anticipate",
        "classes": classes,
        "hazards": hazards,
        "horizons_s": horizons,
        "tau_s": config.anticipate.tau_s,
        "anchor": results["anchor"],
        "base_rates": base,
        "next_head": next_kind,
        "hazard_head": best["head"],
        "future_slots": extractor.slots if source == WITH_FUTURE else 0,
        **window_card(extractor),
        "encoder": results["encoder"],
        "data": results["data"],
        "trained_on": data_card("train", [s for s in [*asked, *ahead.samples] if s.name in train]),
        "calibration": {
            "method": "temperature for actions; scale and offset of the hazard per category where they help",
            "temperature": temperature,
            **calibration_card([s for s in [*asked, *ahead.samples] if s.name in val]),
            "ece_before": before,
            "ece_after": after,
            "ece_by_horizon": ece,
            "next_action_accuracy": accuracy,
        },
        "results": {"next_action": max(own_next, key=lambda r: r["val_accuracy"])["accuracy"],
                    "hazard": best.get("mean")},
    }  # fmt: skip
    save_probe(Path(config.out) / "probe", card, weights)
