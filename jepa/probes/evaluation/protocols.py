"""Beyond one accuracy: with fewer labels, from the beginning of a clip, and on worse video.

Each protocol asks the head that validation preferred for a set of features; hyper-parameters are chosen anew, on the
validation part of what is left. Heads learn from whole, clean clips and are asked about changed ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from jepa.errors import UserError
from jepa.probes.config import ProbeConfig
from jepa.probes.data.labels import Sample
from jepa.probes.data.splits import Fold, tested_samples
from jepa.probes.evaluation.cross_validate import FeatureSet, HeadRun, evaluate_head
from jepa.probes.evaluation.metrics import group_bootstrap
from jepa.probes.features.cache import join
from jepa.probes.features.encode import Extractor
from jepa.probes.features.perturbations import DEGRADATIONS, EARLY, View
from jepa.probes.features.sources import encode_samples
from jepa.rng import generator

LABEL_SHARES = (0.01, 0.05, 0.1, 0.5, 1.0)


def run_protocols(
    config: ProbeConfig,
    samples: Sequence[Sample],
    extractors: Sequence[Extractor],
    sets: Sequence[FeatureSet],
    runs: Sequence[HeadRun],
    targets: Tensor,
    classes: int,
    folds: Sequence[Fold],
) -> dict[str, list[dict[str, Any]]]:
    """The protocols that the config names.

    Args:
        config: the probe's.
        samples: the readable samples.
        extractors: one for each of `sets`.
        sets: features of the whole, clean clips.
        runs: what the heads did on them; decides the head of each set.
        targets: class numbers [n].
        classes: number of classes.
        folds: divisions of the samples.

    Returns:
        For each protocol, a list with one entry per set of features (and degradation): features, head, unit,
        and points with at, accuracy and a 95 % interval over groups.

    Raises:
        UserError: a sample has frames that the main table did not need and that cannot be read.
    """
    out: dict[str, list[dict[str, Any]]] = {}
    groups = [sample.group for sample in samples]
    best: dict[str, HeadRun] = {}
    for run in runs:
        if run.features not in best or run.val_accuracy > best[run.features].val_accuracy:
            best[run.features] = run
    if "label_efficiency" in config.protocols:
        out["label_efficiency"] = [
            _label_efficiency(best[s.name].head, s, targets, classes, groups, folds, config) for s in sets
        ]
    wanted: list[tuple[str, float]] = []
    if "early" in config.protocols:
        wanted += [("early", share) for share in EARLY]
    if "robustness" in config.protocols:
        wanted += [(kind, level) for kind, facts in DEGRADATIONS.items() for level in facts["levels"]]
    if not wanted:
        return out
    views: list[Extractor] = [View(base, kind, level) for base in extractors for kind, level in wanted]
    kept, seen, report = encode_samples(config, samples, views)
    if len(kept) < len(samples):
        bad = report.bad[0]
        raise UserError(
            f"{bad.name!r} could be read for the main table, but not all of the frames that protocols="
            f"{config.protocols} ask for (cannot {bad.stage}: {bad.reason}). Remove the video or the protocols."
        )
    for number, clean in enumerate(sets):
        own = seen[number * len(wanted) : (number + 1) * len(wanted)]
        kind = best[clean.name].head
        points = _asked(kind, clean, own, targets, classes, groups, folds, config)
        if "early" in config.protocols:
            line = [{"at": share, **points[1 + i]} for i, share in enumerate(EARLY)]
            out.setdefault("early", []).append(
                _entry(clean.name, kind, "share of the clip", [*line, {"at": 1.0, **points[0]}])
            )
        for name, facts in DEGRADATIONS.items() if "robustness" in config.protocols else ():
            line = [{"at": level, **points[1 + wanted.index((name, level))]} for level in facts["levels"]]
            entry = _entry(clean.name, kind, facts["unit"], [{"at": None, **points[0]}, *line])
            out.setdefault("robustness", []).append({**entry, "degradation": name})
    return out


def _entry(features: str, head: str, unit: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    return {"features": features, "head": head, "unit": unit, "points": points}


def _asked(
    kind: str,
    clean: FeatureSet,
    views: Sequence[FeatureSet],
    targets: Tensor,
    classes: int,
    groups: Sequence[str],
    folds: Sequence[Fold],
    config: ProbeConfig,
) -> list[dict[str, Any]]:
    """Accuracy on the clean clips and on each view of heads that learnt from clean ones.

    The views follow the clean samples as further samples that only test parts name, so that a head is fitted once.
    """
    count, copies = len(targets), 1 + len(views)
    together = FeatureSet(clean.name, join([clean.features, *(v.features for v in views)]), clean.time_slots)
    shifted = [
        Fold(f.name, f.train, f.val, np.concatenate([f.test + count * i for i in range(copies)]))
        for f in folds
    ]
    run = evaluate_head(kind, together, targets.repeat(copies), classes, shifted, config.heads, config.seeds)
    tested = tested_samples(folds)
    return [_point(run.probability[:, tested + count * i], targets, tested, groups) for i in range(copies)]


def _point(
    probability: np.ndarray, targets: Tensor, tested: np.ndarray, groups: Sequence[str]
) -> dict[str, Any]:
    right = (probability.argmax(-1) == targets.numpy()[tested]).mean(0)
    return {
        "accuracy": float(right.mean()),
        "interval": list(group_bootstrap(right, [groups[i] for i in tested])),
    }


def _label_efficiency(
    kind: str,
    data: FeatureSet,
    targets: Tensor,
    classes: int,
    groups: Sequence[str],
    folds: Sequence[Fold],
    config: ProbeConfig,
) -> dict[str, Any]:
    points = []
    tested = tested_samples(folds)
    for share in LABEL_SHARES:
        fewer = [
            Fold(
                f.name,
                thin(f.train, targets, share, config.split_seed),
                thin(f.val, targets, share, config.split_seed),
                f.test,
            )
            for f in folds
        ]
        run = evaluate_head(kind, data, targets, classes, fewer, config.heads, config.seeds)
        labels = float(np.mean([len(f.train) + len(f.val) for f in fewer]))
        point = _point(run.probability[:, tested], targets, tested, groups)
        points.append({"at": share, "labels": labels, **point})
    return _entry(data.name, kind, "share of the labels", points)


def thin(part: np.ndarray, targets: Tensor, share: float, seed: int) -> np.ndarray:
    """A share of the samples of a part, the same share of every class and at least one of each.

    Smaller shares are contained in larger ones: each sample has a rank of its own that decides.

    Args:
        part: indices of samples.
        targets: class numbers of all samples [n].
        share: in (0, 1].
        seed: decides the ranks.
    """
    rank = generator([seed, 0x1ABE1]).permutation(len(targets))
    labels, kept = targets.numpy()[part], []
    for label in np.unique(labels):
        members = part[labels == label]
        members = members[np.argsort(rank[members])]
        kept.append(members[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(kept))
