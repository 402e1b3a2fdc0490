"""`jepa embed`: what an encoder makes of every video of a folder or list, as one file.

Several processes share the work when `torchrun` starts them: each encodes its share into the same cache, and the
first then writes the file. A probe that is given this cache decodes nothing.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepa.device import choose_device
from jepa.errors import UserError
from jepa.files import atomic_path, write_json
from jepa.probes.config import FeatureSettings
from jepa.probes.data.labels import Sample
from jepa.probes.evaluation.cross_validate import FeatureSet
from jepa.probes.features.encode import encode
from jepa.probes.features.sources import encoder_tokens, load_frozen_encoder

KINDS = ("mean", "stats", "tokens")


@dataclass
class EmbedData:
    """Which videos; labels are not needed."""

    root: str = "???"
    """folder of videos, list of them (.csv, .jsonl, ...) or one video"""


@dataclass
class EmbedConfig:
    """Everything that decides a file of embeddings."""

    data: EmbedData = field(default_factory=EmbedData)
    encoder: str = "???"
    """folder that `jepa export` wrote"""
    out: str = "???"
    """file to write, .npz: features, names, start_s and end_s (NaN for whole videos); OUT.json says what they are"""
    kind: str = "mean"
    """mean or stats (mean, deviation and mean change over time): one vector per video; tokens: all of them"""
    features: FeatureSettings = field(default_factory=FeatureSettings)


def run(config: EmbedConfig) -> dict[str, Any]:
    """Encodes the videos and writes the file.

    Returns:
        What OUT.json says; an empty dict on all processes but the first.

    Raises:
        UserError: a setting cannot be used, nothing could be read, or several processes have no cache to share.
    """
    if config.kind not in KINDS:
        raise UserError(f"kind={config.kind!r} is unknown; choose from {', '.join(KINDS)}.")
    if Path(config.out).suffix != ".npz":
        raise UserError(f"out={config.out!r} must end in .npz, the format that numpy.load reads.")
    settings = config.features
    settings.check()
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and settings.cache is None:
        raise UserError(f"{world} processes share their work through a cache: give features.cache=FOLDER.")
    samples = _read(config.data.root)
    if world > 1 and choose_device(settings.device, "features.device").type == "cuda":
        # Each process of a machine has a GPU of its own; without this all would take the first.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    extractor = encoder_tokens("encoder", load_frozen_encoder(config.encoder), settings)
    options = (settings.batch_size, settings.workers, settings.bad_limit)
    if world > 1:
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
        try:
            encode(samples, [extractor], settings.cache, *options, rank, world, settings.int8)
            torch.distributed.barrier()
        finally:
            torch.distributed.destroy_process_group()
        if rank:
            return {}
    kept, (rows,), report = encode(samples, [extractor], settings.cache, *options, int8=settings.int8)
    if not kept:
        raise UserError(f"No video of {config.data.root!r} could be read.")
    data = FeatureSet("encoder", rows, extractor.grid()[0] * max(1, len(settings.layers)))
    if config.kind == "tokens":
        values = rows.rows()
    else:
        vectors = data.vectors() if config.kind == "stats" else data.means()
        values = vectors.unflatten(0, (len(kept), data.clips)).mean(1)
    times = {
        key: [np.nan if (t := getattr(s, key)) is None else t for s in kept] for key in ("start_s", "end_s")
    }
    with atomic_path(config.out) as partial, open(partial, "wb") as handle:
        np.savez(handle, features=values.numpy(), names=np.array([s.name for s in kept]), **times)  # type: ignore[arg-type]
    card = {
        "schema": "jepa.embeddings/1",
        "kind": config.kind,
        "shape": list(values.shape),
        "encoder": {"sha256": extractor.sha256, "source": config.encoder},
        "window": {"num_frames": extractor.window.num_frames, "fps": extractor.fps, "clips": settings.clips},
        "grid": list(extractor.grid()),
        "layers": settings.layers,
        "excluded": [dataclasses.asdict(bad) for bad in report.bad],
        "int8_error": report.int8_error,
    }
    write_json(Path(f"{config.out}.json"), card)
    left_out = f", left out {len(report.bad)} unreadable" if report.bad else ""
    print(f"{config.out}: {config.kind} of {len(kept)} videos, {list(values.shape)}{left_out}")
    return card


def _read(root: str) -> list[Sample]:
    from jepa.data.manifest import read_items

    base = Path(root) if Path(root).is_dir() else Path(root).parent
    out = []
    for item in read_items(root):
        if item.span is not None or "://" in item.path:
            raise UserError(
                f"jepa embed reads videos from files, and {item.path!r} lies in a shard or on a server."
            )
        path = Path(item.path)
        name = path.relative_to(base).as_posix() if path.is_relative_to(base) else item.path
        out.append(Sample(path, name, "", "", None, item.start_s, item.end_s))
    return out
