"""Training clips in several random versions: encoded live, kept in memory only, never in a validation or test part.

The versions of a clip follow the clean samples as further samples that only training parts name, so that every kind of
head learns from them without knowing it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from jepa.errors import UserError
from jepa.probes.config import ProbeConfig
from jepa.probes.data.labels import Sample
from jepa.probes.data.splits import Fold
from jepa.probes.evaluation.cross_validate import FeatureSet
from jepa.probes.features.cache import join
from jepa.probes.features.encode import EncodeReport, Extractor
from jepa.probes.features.perturbations import View
from jepa.probes.features.sources import encode_samples


def augmented(
    config: ProbeConfig,
    samples: Sequence[Sample],
    extractors: Sequence[Extractor],
    sets: Sequence[FeatureSet],
    targets: Tensor,
    folds: Sequence[Fold],
    report: EncodeReport,
) -> tuple[list[FeatureSet], Tensor, list[Fold]]:
    """Features, class numbers and folds with `features.augment` versions of every clip behind the clean ones.

    Args:
        config: the probe's.
        samples: the n readable samples.
        extractors: one for each of `sets`.
        sets: features of the clean clips.
        targets: class numbers [n].
        folds: divisions of the n samples.
        report: of the clean pass; the videos decoded here are added to it.

    Returns:
        All three unchanged with `features.augment=0`, else for n (1 + augment) samples.

    Raises:
        UserError: a video could be read for the clean clips and not again.
    """
    count = config.features.augment
    if not count:
        return list(sets), targets, list(folds)
    numbers = [config.split_seed * 1000 + version for version in range(count)]
    views: list[Extractor] = [View(base, "augmented", number) for base in extractors for number in numbers]
    kept, seen, live = encode_samples(config, samples, views, stored=False)
    report.decoded += live.decoded
    if len(kept) < len(samples):
        bad = live.bad[0]
        raise UserError(
            f"{bad.name!r} could be read once, but not again for features.augment={count} (cannot {bad.stage}: "
            f"{bad.reason}). Check the disk that it lies on, or remove the video."
        )
    wide = []
    for i, clean in enumerate(sets):
        own = [versions.features for versions in seen[i * count : (i + 1) * count]]
        wide.append(FeatureSet(clean.name, join([clean.features, *own]), clean.time_slots))
    made = [Fold(f.name, with_versions(f.train, len(samples), count), f.val, f.test) for f in folds]
    return wide, targets.repeat(1 + count), made


def with_versions(part: np.ndarray, samples: int, count: int) -> np.ndarray:
    """Indices of the samples of a part and of their `count` versions, of which each set is `samples` long."""
    return np.concatenate([part + samples * version for version in range(1 + count)])
