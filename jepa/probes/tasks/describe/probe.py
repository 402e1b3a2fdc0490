"""The saved tagging probe: tags, and an embedding comparable with sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jepa.probes.evaluation.calibration import SigmoidCalibration
from jepa.probes.saved import Probe
from jepa.probes.tasks.describe.targets import unit_length
from jepa.probes.tasks.describe.text import TextEncoder, restore_text_encoder


class Description(NamedTuple):
    """Predictions for a batch of windows."""

    tags: Tensor
    """[B, classes], calibrated, each tag by itself"""
    embedding: Tensor
    """[B, E], unit length, comparable with `DescribeProbe.encode_text`"""
    distance: Tensor | None = None
    """[B], how unlike the training windows, 1 is typical; None, as the next two, without a domain check"""
    domain_p: Tensor | None = None
    """[B], conformal p-values"""
    in_domain: Tensor | None = None
    """[B], bool; what is outside was not assessed, whatever the scores say"""


class DescribeProbe(Probe):
    """A saved pair of heads: tags, and an embedding beside sentences."""

    task = "describe"

    def __init__(
        self, metadata: dict[str, Any], weights: dict[str, Tensor], weights_sha256: str = ""
    ) -> None:
        super().__init__(metadata, weights, weights_sha256)
        self.captions: tuple[str, ...] = tuple(metadata["captions"])
        self.caption_vectors = weights["captions"]
        self.tag_head = self.head(metadata["head"], "tags.")
        self.text_head = self.head(metadata["head"], "aligned.")
        self.calibration = SigmoidCalibration(weights["calibration"])
        self._text: TextEncoder | None = None

    @torch.inference_mode()
    def predict(self, tokens: Tensor, future: Tensor | None = None) -> Description:
        """Tags and embedding of windows.

        Args:
            tokens: [B, N, D], the encoder's output for windows like `window`.
            future: not used by this task.

        Raises:
            UserError: tokens of another window size.
        """
        inputs = self.read(self.metadata["head"], tokens)
        tags = self.calibration(self.tag_head.logits(inputs)[0, 0])
        embedding = unit_length(self.text_head.logits(inputs)[0, 0])
        return Description(tags, embedding, *(self.domain_scores(tokens) or ()))

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Unit vectors [n, E] of sentences.

        Raises:
            UserError: the text encoder's package is missing, or a learned one knows no word of a sentence.
        """
        if self._text is None:
            self._text = restore_text_encoder(self.metadata["text_encoder"], self.weights)
        return self._text.encode(sentences)

    def nearest_captions(self, embedding: Tensor, count: int = 1) -> list[list[tuple[str, float]]]:
        """The captions known from training that are nearest to each embedding [B, E], with their cosines."""
        value, number = (embedding @ self.caption_vectors.T).topk(min(count, len(self.captions)), dim=-1)
        return [
            [(self.captions[i], v) for i, v in zip(numbers, values, strict=True)]
            for numbers, values in zip(number.tolist(), value.tolist(), strict=True)
        ]
