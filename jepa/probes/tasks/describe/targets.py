"""Targets of description: multi-label tags, and text vectors aligned by a contrastive loss (InfoNCE)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jepa.probes.evaluation.calibration import SigmoidCalibration
from jepa.probes.heads.base import Calibration, Targets


def multi_label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy summed over tags [S, G, B] of logits [S, G, B, T] against [S, B, T].

    Example:
        >>> multi_label_loss(torch.zeros(1, 1, 3, 4), torch.ones(1, 3, 4)).shape
        torch.Size([1, 1, 3])
    """
    expanded = targets.unsqueeze(1).expand_as(logits)
    return functional.binary_cross_entropy_with_logits(logits, expanded, reduction="none").sum(-1)


def tag_targets(tags: Tensor) -> Targets:
    """Tags as targets of heads: started at their base rates, calibrated by Platt scaling per tag.

    Args:
        tags: [n, T] as 0 and 1.

    Example:
        >>> tag_targets(torch.tensor([[1.0, 0.0], [0.0, 0.0]])).outputs
        2
    """

    def score(logits: Tensor, targets: Tensor, clips: int) -> tuple[Tensor, Tensor]:
        loss = multi_label_loss(logits.unsqueeze(0), targets.unsqueeze(0))[0].mean(-1)
        return -loss, loss

    def bias(train: Tensor) -> Tensor:
        return torch.logit((train.sum(0) + 1) / (len(train) + 2))

    # Not in common with other folds: the initial bias is that of a head's own training part.
    return Targets(
        tags,
        tags.shape[1],
        multi_label_loss,
        score,
        SigmoidCalibration.fit,
        initial_bias=bias,
        share_batches=False,
    )


def unit_length(logits: Tensor) -> Tensor:
    """Embeddings [..., E] of unit length from a head's outputs.

    Example:
        >>> unit_length(torch.tensor([[3.0, 4.0]])).norm().item()
        1.0
    """
    return functional.normalize(logits, dim=-1)


def text_targets(vectors: Tensor) -> Targets:
    """Caption vectors as targets of heads: aligned by InfoNCE, chosen by mean reciprocal rank.

    Args:
        vectors: unit vectors [n, E].

    Example:
        >>> text_targets(torch.eye(3)).share_batches
        False
    """

    def score(logits: Tensor, targets: Tensor, clips: int) -> tuple[Tensor, Tensor]:
        relevant = ((targets @ targets.T) > 1 - 1e-4).numpy()
        embeddings = unit_length(logits)
        ranks = [retrieval_metrics((targets @ each.T).numpy(), relevant)["mrr"] for each in embeddings]
        return torch.tensor(ranks), torch.zeros(len(ranks))

    def calibrate(logits: Tensor, targets: Tensor, groups: Sequence[str]) -> Calibration:
        return unit_length

    return Targets(vectors, vectors.shape[1], contrastive_loss, score, calibrate, share_batches=False)


def contrastive_loss(logits: Tensor, targets: Tensor, temperature: float = 0.07) -> Tensor:
    """InfoNCE from video to text within a batch (van den Oord et al., 2018); equal texts are all
    positives.

    Args:
        logits: video embeddings before normalisation [S, G, B, E].
        targets: unit text vectors [S, B, E].
        temperature: divides the cosine.

    Returns:
        Loss per sample [S, G, B].

    Example:
        >>> contrastive_loss(torch.eye(2)[None, None], torch.eye(2)[None]).shape
        torch.Size([1, 1, 2])
    """
    video = functional.normalize(logits, dim=-1)
    scores = torch.einsum("sgbe,sce->sgbc", video, targets) / temperature
    same = torch.einsum("sbe,sce->sbc", targets, targets) > 1 - 1e-4
    right = scores.masked_fill(~same.unsqueeze(1), -torch.inf).logsumexp(-1)
    return scores.logsumexp(-1) - right


def retrieval_metrics(similar: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    """How well queries find their items.

    Args:
        similar: [queries, items], larger is nearer.
        relevant: [queries, items] bool; every query has at least one.

    Returns:
        recall_1, recall_5, recall_10 (a relevant item among the first k), median_rank (of the first relevant
        item, 1 is best), mrr (mean reciprocal rank of it) and map (mean average precision).

    Example:
        >>> retrieval_metrics(np.array([[0.1, 0.9]]), np.array([[True, False]]))["mrr"]
        0.5
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
