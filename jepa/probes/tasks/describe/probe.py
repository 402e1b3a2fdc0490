"""The saved describer: tag head, embedding head and text encoder, as `jepa.probes.load_probe` opens it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from jepa.probes.config import ProbeConfig
from jepa.probes.data.labels import Sample
from jepa.probes.data.splits import Fold, holdout
from jepa.probes.evaluation.cross_validate import FeatureSet, make_grid
from jepa.probes.evaluation.metrics import calibration_error
from jepa.probes.features.encode import Extractor
from jepa.probes.features.encoder_tokens import EncoderTokens
from jepa.probes.heads.stacked import bank_logits, take_head
from jepa.probes.saved import Window, calibration_card, data_card, save_probe, window_card
from jepa.probes.tasks.anticipate.evaluate import head_input
from jepa.probes.tasks.classify import bank_from_state, class_prefix, head_inputs
from jepa.probes.tasks.describe.text import TextEncoder, restore_text_encoder

if TYPE_CHECKING:
    import numpy as np


class Description(NamedTuple):
    """What is said about a batch of windows."""

    tags: Tensor
    """[B, classes], calibrated, each tag by itself"""
    embedding: Tensor
    """[B, E], unit length, comparable with `DescribeProbe.encode_text`"""


class DescribeProbe:
    """A saved pair of heads: tags, and an embedding beside sentences."""

    task = "describe"
    needs_future = False

    def __init__(self, card: dict[str, Any], weights: dict[str, Tensor], sha256: str) -> None:
        self.metadata, self.weights_sha256 = card, sha256
        self.classes = tuple(card["classes"])
        self.window = Window(**card["window"])
        self.captions: tuple[str, ...] = tuple(card["captions"])
        self.caption_vectors = weights["captions"]
        self.tag_bank = bank_from_state(class_prefix(weights, "tags."))
        self.text_bank = bank_from_state(class_prefix(weights, "aligned."))
        self.calibration, self._weights = weights["calibration"], weights
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
        inputs = head_inputs(self.metadata, tokens, self.metadata["head"])
        logits = bank_logits(self.tag_bank, inputs)[0, 0]
        tags = torch.sigmoid(logits * self.calibration[:, 0] + self.calibration[:, 1])
        return Description(tags, functional.normalize(bank_logits(self.text_bank, inputs)[0, 0], dim=-1))

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Unit vectors [n, E] of sentences.

        Raises:
            UserError: the text encoder's package is missing, or a learned one knows no word of a sentence.
        """
        if self._text is None:
            self._text = restore_text_encoder(self.metadata["text_encoder"], self._weights)
        return self._text.encode(sentences)

    def nearest_captions(self, embedding: Tensor, count: int = 1) -> list[list[tuple[str, float]]]:
        """The captions known from training that lie nearest to each embedding [B, E], with their cosines."""
        value, place = (embedding @ self.caption_vectors.T).topk(min(count, len(self.captions)), dim=-1)
        return [
            [(self.captions[i], v) for i, v in zip(places, values, strict=True)]
            for places, values in zip(place.tolist(), value.tolist(), strict=True)
        ]


def save_describer(
    config: ProbeConfig,
    results: dict[str, Any],
    extractor: Extractor,
    samples: Sequence[Sample],
    data: FeatureSet,
    aims: Tensor,
    vectors: Tensor,
    captions: Sequence[Sequence[str]],
    text: TextEncoder,
    folds: Sequence[Fold],
    kind: str,
) -> None:
    """Fits both heads on the training part, chooses and calibrates them on the validation part, and saves
    them."""
    from jepa.probes.tasks.describe.task import choose_aligned, fit_bank, multi_label_loss, tag_calibration

    assert isinstance(extractor, EncoderTokens)
    if len(folds) == 1:
        train, val = folds[0].train, folds[0].val
    else:
        labels, groups = [s.label for s in samples], [s.group for s in samples]
        train, val = holdout(labels, groups, config.data.val_share, config.split_seed)
    inputs, grid, seeds = head_input(kind, data), make_grid(config.heads), config.seeds[:1]
    jobs: list[tuple[np.ndarray, Any]] = [(train, setting) for setting in grid]
    tag_bank = fit_bank(kind, inputs, aims, config.heads, seeds, jobs, False)
    logits = bank_logits(tag_bank, inputs)
    best = int(multi_label_loss(logits[:, :, val], aims[None, val]).mean(-1).argmin())
    held = logits[0, best, val]
    calibration = tag_calibration(held, aims[val])
    weights = {f"tags.{k}": v for k, v in take_head(tag_bank, 0, best).state_dict().items()}
    aligned = fit_bank(kind, inputs, vectors, config.heads, seeds, jobs, True)
    choice, mrr = choose_aligned(bank_logits(aligned, inputs)[0], vectors, val)
    weights |= {f"aligned.{k}": v for k, v in take_head(aligned, 0, choice).state_dict().items()}
    known = sorted({caption for i in train for caption in captions[i]})
    facts, text_weights = text.state()
    weights |= {"calibration": calibration, "captions": text.encode(known), **text_weights}

    def ece(p: Tensor) -> float:
        return calibration_error(p.flatten().numpy(), aims[val].flatten().numpy())

    row = next(r for r in results["rows"] if r["features"] == data.name and r["head"] == kind)
    card = {
        "task": "describe",
        "classes": results["tags"],
        "captions": known,
        "text_encoder": facts,
        "head": kind,
        **window_card(extractor),
        "encoder": results["encoder"],
        "data": results["data"],
        "trained_on": data_card("train", [samples[i] for i in train]),
        "calibration": {
            "method": "scale and offset per tag",
            **calibration_card([samples[i] for i in val]),
            "ece_before": ece(torch.sigmoid(held)),
            "ece_after": ece(torch.sigmoid(held * calibration[:, 0] + calibration[:, 1])),
            "search_mrr": mrr,
        },
        "results": {"metric": "tag average precision", "test": row["map"], "spread": row["map_spread"],
                    "search": row["search"],
                    "baselines": {r["features"]: r["map"] for r in results["rows"] if r["features"] !=
                    data.name}},
    }  # fmt: skip
    save_probe(Path(config.out) / "probe", card, weights)
