"""Loading saved probes: the metadata names the task, and its registry entry the class."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from jepa.probes.evaluation.domain import PREFIX, Domain
from jepa.probes.saved import Probe, check_encoder, read_probe
from jepa.probes.tasks.base import get_task

if TYPE_CHECKING:
    from jepa.models import Encoder


def load_probe(folder: str | os.PathLike[str], encoder: Encoder | None = None) -> Probe:
    """Opens a saved probe.

    Args:
        folder: what `jepa probe` wrote (OUT/probe), or `Probe.save`.
        encoder: the encoder whose tokens it will read; checked against the one it was trained on.

    Raises:
        UserError: no probe there, a damaged one, one of an unknown task, or another encoder.

    Example:
        >>> import tempfile, numpy as np, jepa
        >>> labels = ["a", "b"] * 20
        >>> features = np.random.default_rng(0).normal(size=(40, 4)) + [[3.0 * (label == "a")] for label in labels]
        >>> results, probe = jepa.probes.fit(features, labels, heads=("ridge",))
        >>> folder = probe.save(tempfile.mkdtemp())
        >>> load_probe(folder).classes
        ('a', 'b')
    """
    metadata, weights, sha256 = read_probe(folder)
    if encoder is not None:
        check_encoder(metadata, encoder)
    # A probe's class, which may be of another project, sees the weights of its heads only.
    own = {name: value for name, value in weights.items() if not name.startswith(PREFIX)}
    probe = get_task(metadata["task"]).probe(metadata, own, sha256)
    if metadata.get("domain"):
        probe.domain = Domain.from_state(metadata["domain"], weights)
    return probe
