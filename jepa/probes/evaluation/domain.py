"""Out-of-distribution detection: is a window like the videos that a probe was trained on? With a conformal guarantee.

A frozen encoder gives tokens for anything, and a head answers on any tokens. So a saved probe carries a description of
its training windows, and a window far from them is outside its domain: not assessed.

Distance: pooled tokens (mean, standard deviation and temporal change, `pool_stats`) under a Gaussian of low rank plus
isotropic noise (probabilistic PCA; Tipping and Bishop, 1999). Its Mahalanobis distance (Lee et al., 2018) holds what
lies inside the principal subspace and what is left over outside it (as ViM does; Wang et al., 2022). Divided by the
square root of the number of features, so that 1 is typical.

Threshold: a conformal p-value (Bates et al., 2023) against groups that the description was not fitted on. Windows of
one video are not exchangeable, videos are; so each group counts for one, its windows sharing its weight (Lee, Barber
and Willett, 2023). For a window of a further group that is exchangeable with them, P(outside) <= alpha. It is a promise
about videos like the training videos, on average over calibration sets. It is none about which other videos are found
to be outside: that has to be measured (benchmarks/domain.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jepa.probes.evaluation.metrics import group_bootstrap

ALPHA = 0.02
"""nominal fraction of windows of further videos of the same kind that are put outside"""
WORST_ALPHA = 0.1
"""few groups allow no small alpha; one above this is no promise worth making"""
COMPONENTS = 200
MIN_WINDOWS = 8
PARTS = 5
PREFIX = "domain."


class DomainScores(NamedTuple):
    """How B windows compare with those of training."""

    distance: Tensor
    """[B], 1 is typical of training windows"""
    p: Tensor
    """[B], conformal p-values: small where few windows of held-out videos are as far away"""
    inside: Tensor
    """[B], bool: `p` is above alpha, which is to say `distance` is not above the threshold"""


class Domain:
    """The description of a probe's training windows, and the threshold that goes with it.

    Args:
        metadata: plain JSON values: method, alpha, threshold, counts, and the measured rate.
        weights: tensors of the Gaussian, and the calibration scores with their p-values.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> vectors = torch.from_numpy(rng.normal(size=(300, 6))).float()
        >>> domain = fit_domain(vectors, [str(i) for i in range(300)], np.arange(150), np.arange(150, 300))
        >>> domain.score(torch.tensor([[0.0] * 6, [9.0] * 6])).inside.tolist()
        [True, False]
    """

    def __init__(self, metadata: dict[str, Any], weights: dict[str, Tensor]) -> None:
        self.metadata, self.weights = metadata, weights

    @property
    def threshold(self) -> float:
        """The largest distance that is inside."""
        return float(self.metadata["threshold"])

    def score(self, vectors: Tensor) -> DomainScores:
        """Distances, p-values and verdicts of windows.

        Args:
            vectors: pooled tokens [B, F].
        """
        distance = distances(vectors, self.weights)
        # Ascending scores; `tail` is the p-value of a window exactly as far away as each.
        scores, tail = self.weights["scores"].numpy(), self.weights["tail"].numpy()
        at = np.searchsorted(scores, distance, side="left")
        p = np.append(tail, 1.0 / (self.metadata["groups"] + 1))[at]
        return DomainScores(
            torch.from_numpy(distance), torch.from_numpy(p), torch.from_numpy(distance <= self.threshold)
        )

    def state(self) -> dict[str, Tensor]:
        """The weights under the names that a saved probe keeps them by."""
        return {f"{PREFIX}{name}": value for name, value in self.weights.items()}

    @classmethod
    def from_state(cls, metadata: dict[str, Any], weights: dict[str, Tensor]) -> Domain:
        """The domain in the weights of a saved probe."""
        own = {name[len(PREFIX) :]: value for name, value in weights.items() if name.startswith(PREFIX)}
        return cls(metadata, own)


def fit_domain(
    vectors: Tensor,
    groups: Sequence[str],
    train: np.ndarray,
    calibrate: np.ndarray,
    alpha: float = ALPHA,
) -> Domain | None:
    """Describes training windows, and finds the threshold on other groups.

    With G groups to calibrate on, no alpha below 1 / (G + 1) can be promised: then the smallest that can is taken, and
    from 0.1 on nothing is promised.

    Args:
        vectors: pooled tokens of all windows [n, F].
        groups: group of each window.
        train: indices of the windows that the probe was trained on.
        calibrate: indices of windows of other groups.
        alpha: nominal fraction of windows of further groups that are put outside.

    Returns:
        The domain; None where there are fewer than eight training windows or nothing to calibrate on.
    """
    if len(train) < MIN_WINDOWS or not len(calibrate):
        return None
    names = np.asarray(groups)
    weights = _gaussian(vectors[train].double())
    found = distances(vectors[calibrate], weights)
    own = names[calibrate]
    count = len(set(own.tolist()))
    reached = max(alpha, 1 / (count + 1))
    scores, tail = _tail(found, own)
    metadata = {
        "method": f"Mahalanobis distance, Gaussian of rank {weights['basis'].shape[1]} plus noise",
        "alpha": reached,
        "threshold": _threshold(scores, tail, reached),
        "groups": count,
        "windows": len(calibrate),
        "promised": reached <= WORST_ALPHA,
        "fitted_on": {"groups": len(set(names[train].tolist())), "windows": len(train)},
        "measured": _measured(found, own, reached),
    }
    return Domain(metadata, weights | {"scores": torch.from_numpy(scores), "tail": torch.from_numpy(tail)})


def _gaussian(vectors: Tensor) -> dict[str, Tensor]:
    """Mean, scale, principal directions with their variances, and the variance of the rest: of training vectors."""
    count, features = vectors.shape
    mean, scale = vectors.mean(0), vectors.std(0, correction=0)
    # A feature that never varied in training would turn rounding into distance.
    scale = scale.clamp_min(1e-3 * float(scale.median()) + 1e-6)
    centred = (vectors - mean) / scale
    # A basis as large as the sample would leave nothing outside of it.
    rank = max(1, min(COMPONENTS, count // 3, features - 1)) if features > 1 else 1
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    variance = singular**2 / count
    rest = float(variance[rank:].sum()) / max(1, features - rank)
    floor = max(rest, 1e-3)
    return {
        "mean": mean.float(),
        "scale": scale.float(),
        "basis": directions[:rank].T.contiguous().float(),
        "variance": variance[:rank].clamp_min(floor).float(),
        "noise": torch.tensor([floor]).float(),
    }


def distances(vectors: Tensor, weights: dict[str, Tensor]) -> np.ndarray:
    """Mahalanobis distances of pooled tokens [B, F] over the square root of F: [B], six significant digits."""
    centred = (vectors.double() - weights["mean"].double()) / weights["scale"].double()
    inside = centred @ weights["basis"].double()
    rest = (centred.square().sum(1) - inside.square().sum(1)).clamp_min(0)
    squared = (inside.square() / weights["variance"].double()).sum(1) + rest / float(weights["noise"])
    values = (squared / vectors.shape[1]).sqrt().tolist()
    # Rounded here, so that a document that keeps six digits leads to the same verdict.
    return np.array([float(f"{value:.6g}") for value in values])


def _tail(found: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending scores [m] and the p-value of a window exactly as far away as each [m].

    p(s) = (1 + sum over groups of the fraction of the group's windows at s or further) / (groups + 1)
    """
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(found, kind="stable")
    scores, share = found[order], (1 / sizes[number])[order]
    behind = np.cumsum(share[::-1])[::-1]
    # Equal scores count together.
    first = np.searchsorted(scores, scores, side="left")
    return scores, (1 + behind[first]) / (len(sizes) + 1)


def _threshold(scores: np.ndarray, tail: np.ndarray, alpha: float) -> float:
    """The largest score whose p-value is above alpha; p-values fall with the score."""
    return float(scores[np.flatnonzero(tail > alpha)[-1]])


def _measured(found: np.ndarray, groups: np.ndarray, alpha: float) -> dict[str, Any] | None:
    """How many windows are inside when their groups neither fitted nor calibrated: in turn, each fifth of the groups is
    held against a threshold from the others. The mean over groups, with its interval; None for fewer than two groups.
    """
    names = np.unique(groups)
    if len(names) < 2:
        return None
    parts = min(PARTS, len(names))
    part_of = {name: i % parts for i, name in enumerate(names.tolist())}
    part = np.array([part_of[name] for name in groups.tolist()])
    inside = np.zeros(len(found))
    for held in range(parts):
        others = groups[part != held]
        scores, tail = _tail(found[part != held], others)
        level = max(alpha, 1 / (len(set(others.tolist())) + 1))
        inside[part == held] = found[part == held] <= _threshold(scores, tail, level)
    by_group = np.array([inside[groups == name].mean() for name in names])
    return {
        "inside": float(by_group.mean()),
        "interval": list(group_bootstrap(by_group, names.tolist())),
        "parts": parts,
    }


def describe(domain: Domain | None) -> str:
    """One sentence for a person."""
    if domain is None:
        return "No domain check: too few training videos to describe them, so the probe answers on any video."
    about = domain.metadata
    promise = (
        f"windows of further videos of the same kind are inside at a rate of {1 - about['alpha']:.3g} or more"
        if about["promised"]
        else f"nothing is promised, with {about['groups']} groups to calibrate on"
    )
    measured = about["measured"]
    seen = "" if measured is None else f"; measured {measured['inside']:.3f} on groups held out in turn"
    return f"Domain check: {promise}{seen}."
