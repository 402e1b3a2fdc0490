"""The saved anticipation probe: next action and hazards over the horizons."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.probes.evaluation.calibration import SoftmaxCalibration
from jepa.probes.saved import Probe
from jepa.probes.tasks.anticipate.hazard import HazardCalibration


class Anticipation(NamedTuple):
    """Forecasts for a batch of windows."""

    next_action: Tensor
    """[B, classes], rows sum to 1"""
    hazard: Tensor
    """[B, hazards, horizons], never decreasing along the last axis"""
    distance: Tensor | None = None
    """[B], how unlike the training windows, 1 is typical; None, as the next two, without a domain check"""
    domain_p: Tensor | None = None
    """[B], conformal p-values"""
    in_domain: Tensor | None = None
    """[B], bool; what is outside was not assessed, whatever the scores say"""


class AnticipateProbe(Probe):
    """A saved pair of heads: the next action, and the hazards over the horizons."""

    task = "anticipate"

    def __init__(
        self, metadata: dict[str, Any], weights: dict[str, Tensor], weights_sha256: str = ""
    ) -> None:
        super().__init__(metadata, weights, weights_sha256)
        self.tau_s = float(metadata["tau_s"])
        self.hazards, self.horizons_s = tuple(metadata["hazards"]), tuple(metadata["horizons_s"])
        self.base_rates = np.array(metadata["base_rates"], dtype=float).reshape(
            len(self.hazards), len(self.horizons_s)
        )
        self.future_slots = int(metadata["future_slots"])
        self.needs_future = self.future_slots > 0
        self.next_head = self.head(metadata["next_head"], "next.")
        self.hazard_head = self.head(metadata["hazard_head"], "hazard.") if self.hazards else None
        self.next_calibration = SoftmaxCalibration(float(metadata["calibration"]["temperature"]))
        self.hazard_calibration = HazardCalibration(weights["calibration"], len(self.horizons_s))

    @torch.inference_mode()
    def predict(self, tokens: Tensor, future: Tensor | None = None) -> Anticipation:
        """Forecasts from windows.

        Args:
            tokens: [B, N, D], the encoder's output for windows like `window`.
            future: [B, t * h * w, D] from `predict_future`, needed if `needs_future`.

        Raises:
            UserError: tokens of another window size, or the future is missing.
        """
        if self.needs_future and future is None:
            raise UserError(
                "This probe also reads the predictor's tokens for the future. Give "
                "future=jepa.probes.predict_future(predictor, tokens, grid, probe.future_slots)."
            )
        future = future if self.needs_future else None
        kind = self.metadata["next_head"]
        following = self.next_calibration(self.next_head.logits(self.read(kind, tokens, future))[0, 0])
        domain = self.domain_scores(tokens) or ()
        if self.hazard_head is None:
            return Anticipation(following, torch.zeros(len(tokens), 0, len(self.horizons_s)), *domain)
        logits = self.hazard_head.logits(self.read(self.metadata["hazard_head"], tokens, future))[0, 0]
        return Anticipation(following, self.hazard_calibration(logits), *domain)
