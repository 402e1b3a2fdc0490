"""Embedding: an encoder's features of every video of a folder or list, as an array or one file.

Several processes divide the work when `torchrun` or `srun` starts them: each encodes its part into the same cache, and
the first then writes the file. A probe that is given this cache decodes nothing.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch

from jepa.data.manifest import Item
from jepa.errors import UserError
from jepa.fields import path_key
from jepa.files import atomic_path, write_json, write_text
from jepa.probes.config import FeatureSettings
from jepa.probes.data.labels import read_videos
from jepa.probes.features.build import encoder_tokens, load_frozen_encoder
from jepa.probes.features.encode import EncodeReport, encode
from jepa.probes.features.encoder_tokens import EncoderTokens
from jepa.probes.features.feature_set import FeatureSet
from jepa.probes.saved import encoder_metadata

if TYPE_CHECKING:
    from jepa.models import Encoder

Clip: TypeAlias = "np.ndarray | torch.Tensor"
KINDS = ("mean", "stats", "tokens")
SCHEMA = "jepa.embeddings/1"


@dataclass
class EmbedData:
    """Which videos; labels are not needed."""

    root: str = path_key("???")
    """folder of videos, list of them (.csv, .jsonl, ...) or one video"""
    max_bad_fraction: float = 0.1
    """the run stops when more than this fraction of the videos cannot be read"""


@dataclass
class EmbedConfig:
    """The configuration of a file of embeddings."""

    data: EmbedData = field(default_factory=EmbedData)
    encoder: str = path_key("???")
    """folder that `jepa export` wrote, or anything else that load_encoder takes"""
    out: str = path_key("???")
    """file to write, .npz: features, names, start_s and end_s (NaN for entire videos); OUT.json states what they are"""
    kind: str = "mean"
    """mean or stats (mean, standard deviation and temporal change): one vector per video; tokens: all of them"""
    features: FeatureSettings = field(default_factory=FeatureSettings)


def embed(
    encoder: Encoder | str | os.PathLike[str],
    videos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Clip | Sequence[Clip] | None = None,
    kind: str = "mean",
    max_bad_fraction: float = 0.0,
    **features: Any,
) -> np.ndarray:
    """Embeds videos with a frozen encoder.

    Args:
        encoder: an encoder, or whatever `jepa.load_encoder` takes.
        videos: a folder, a list file (.csv, .jsonl, ...), one video, or a sequence of video files; or frames in memory,
            uint8 [T, C, H, W], [T, H, W, C] or [B, T, ...], as arrays or tensors, which are taken as they are sampled.
        kind: mean (average of the tokens), stats (mean, standard deviation and temporal change), or tokens.
        max_bad_fraction: largest tolerated fraction of unreadable videos; their rows are NaN.
        features: fields of `FeatureSettings`: clips, max_tokens, layers, batch_size, workers, device, cache, int8.

    Returns:
        float32 vectors [n, D] (3 D for stats), averaged over a video's clips, in the order of the videos; or tokens
        [n, clips, N, D].

    Raises:
        UserError: a setting cannot be used, or too many videos cannot be read.

    Example:
        >>> import tempfile, pathlib, jepa
        >>> from jepa.toyworld import ToyWorldConfig, write_world
        >>> world = tempfile.mkdtemp()
        >>> _ = write_world(ToyWorldConfig(out=world, videos=2))
        >>> embed(jepa.create_model("vit_nano"), sorted(pathlib.Path(world).rglob("*.mp4"))).shape
        (2, 128)
    """
    settings = _settings(features)
    _check(kind, settings)
    _check_order(encoder, videos)
    model = load_frozen_encoder(encoder) if isinstance(encoder, (str, os.PathLike)) else encoder
    extractor = encoder_tokens("encoder", model, settings)
    if (clips := _clips_in_memory(videos)) is not None:
        return np.stack([_embed_clip(extractor, clip, kind, settings) for clip in clips])
    samples = (
        read_videos(videos)
        if isinstance(videos, (str, os.PathLike))
        else [Item(os.fspath(path), os.fspath(path)) for path in cast("Sequence[str]", videos)]
    )
    if not samples:
        raise UserError("jepa.embed was given no video.")
    for sample in samples:
        if sample.span is None and not Path(sample.path).is_file():
            raise UserError(f"{sample.path!r} does not exist. Correct the path.")
    kept, values, report = _embed(samples, extractor, kind, settings, max_bad_fraction)
    if not kept:
        raise UserError(f"No video could be read; the first: {report.bad[0].reason}")
    row_of = {sample: row for row, sample in enumerate(kept)}
    out = np.full((len(samples), *values.shape[1:]), np.nan, np.float32)
    for row, sample in enumerate(samples):
        if sample in row_of:
            out[row] = values[row_of[sample]]
    return out


def _check_order(encoder: Any, videos: Any) -> None:
    from jepa.models import Encoder

    if videos is None:
        raise UserError("jepa.embed takes an encoder and then videos: jepa.embed(encoder, 'videos/').")
    if isinstance(videos, Encoder):
        raise UserError("The encoder comes first: jepa.embed(encoder, videos).")
    if not isinstance(encoder, (str, os.PathLike, Encoder)):
        raise UserError(
            f"jepa.embed takes an encoder first, or what jepa.load_encoder takes; got a {type(encoder).__name__}."
        )


def _clips_in_memory(videos: Any) -> Sequence[Any] | None:
    """The clips [T, ...] of frames in memory; None for files."""
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        if videos.ndim not in (4, 5):
            raise UserError(
                f"Frames in memory are [T, C, H, W], [T, H, W, C] or a batch of them; got {list(videos.shape)}."
            )
        return [videos] if videos.ndim == 4 else list(videos)
    first = (
        videos[0] if isinstance(videos, Sequence) and len(videos) and not isinstance(videos, str) else None
    )
    return list(videos) if isinstance(first, (np.ndarray, torch.Tensor)) else None


def _embed_clip(extractor: EncoderTokens, clip: Any, kind: str, settings: FeatureSettings) -> np.ndarray:
    """One clip as `embed` returns a video."""
    batch = extractor.prepare(clip)[None]
    tokens = extractor.features(batch).float().cpu()
    if kind == "tokens":
        return tokens.numpy()
    steps = extractor.encoder.grid_of(batch).t * max(1, len(settings.layers))
    data = FeatureSet.of("encoder", tokens, steps)
    return (data.pooled() if kind == "stats" else data.pooled_means())[0].numpy()


def _settings(features: dict[str, Any]) -> FeatureSettings:
    known = [entry.name for entry in dataclasses.fields(FeatureSettings)]
    for name in features:
        if name not in known:
            raise UserError(f"jepa.embed has no setting {name!r}; it takes {', '.join(known)}.")
    return FeatureSettings(**features)


def run(config: EmbedConfig) -> dict[str, Any]:
    """Encodes the videos and writes the file.

    Returns:
        The content of OUT.json; an empty dict on all processes but the first.

    Raises:
        UserError: a setting cannot be used, nothing could be read, or several processes have no cache in common.
    """
    settings = config.features
    _check(config.kind, settings)
    if Path(config.out).suffix != ".npz":
        raise UserError(f"out={config.out!r} must end in .npz, the format that numpy.load reads.")
    rank, size, local_rank = (
        int(os.environ.get(key, default))
        for key, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    if size > 1 and settings.cache is None:
        raise UserError(f"{size} processes divide their work through a cache: give features.cache=FOLDER.")
    samples = read_videos(config.data.root)
    encoder = load_frozen_encoder(config.encoder)
    extractor = encoder_tokens("encoder", encoder, settings, local_rank if size > 1 else None)
    limit = config.data.max_bad_fraction
    if size > 1 and settings.cache is not None:
        options = settings.batch_size, settings.workers, limit, rank, size, settings.int8
        encode(samples, [extractor], settings.cache, *options)
        if not _is_last_step_mine(Path(settings.cache), rank, size):
            return {}
    kept, values, report = _embed(samples, extractor, config.kind, settings, limit)
    if not kept:
        raise UserError(f"No video of {config.data.root!r} could be read.")
    times = {
        key: [np.nan if (t := getattr(s, key)) is None else t for s in kept] for key in ("start_s", "end_s")
    }
    with atomic_path(config.out) as partial, open(partial, "wb") as handle:
        np.savez(handle, features=values, names=np.array([s.name for s in kept]), **times)  # type: ignore[arg-type]
    metadata = {
        "schema": SCHEMA,
        "kind": config.kind,
        "shape": list(values.shape),
        "encoder": encoder_metadata(encoder, extractor.sha256, config.encoder),
        "window": {"num_frames": extractor.window.num_frames, "fps": extractor.fps, "clips": settings.clips},
        "grid": list(extractor.grid()),
        "layers": settings.layers,
        "excluded": [dataclasses.asdict(bad) for bad in report.bad],
        "int8_error": report.int8_error,
    }
    write_json(Path(f"{config.out}.json"), metadata)
    left_out = (
        f"; left out {len(report.bad)} unreadable, first {report.bad[0].name}; all in {config.out}.json"
        if report.bad
        else ""
    )
    print(f"{config.out}: {config.kind} of {len(kept)} videos, {list(values.shape)}{left_out}")
    return metadata


def _check(kind: str, settings: FeatureSettings) -> None:
    if kind not in KINDS:
        raise UserError(f"kind={kind!r} is unknown; choose from {', '.join(KINDS)}.")
    settings.check()


def _embed(
    samples: Sequence[Item], extractor: EncoderTokens, kind: str, settings: FeatureSettings, limit: float
) -> tuple[list[Item], np.ndarray, EncodeReport]:
    """The readable samples, their embeddings and a report."""
    kept, (rows,), report = encode(
        samples, [extractor], settings.cache, settings.batch_size, settings.workers, limit, int8=settings.int8
    )
    if not kept:
        return kept, np.zeros((0, 0), np.float32), report
    if kind == "tokens":
        return kept, rows.rows().numpy(), report
    data = FeatureSet("encoder", rows, extractor.grid()[0] * max(1, len(settings.layers)))
    vectors = data.pooled() if kind == "stats" else data.pooled_means()
    return kept, vectors.unflatten(0, (len(kept), data.clips)).mean(1).numpy(), report


def _is_last_step_mine(cache: Path, rank: int, size: int) -> bool:
    """Notes that this process has encoded its part; the first process waits until all others have.

    No process group is formed: what the processes have in common is the cache, and small files in it. One that an
    earlier run left behind does no harm, because the first process encodes whatever is still missing.
    """
    keys = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID")
    launch = re.sub(r"[^A-Za-z0-9-]+", "-", "-".join(os.environ.get(key, "") for key in keys))
    others = [cache / f".embed-{launch}-{number}.done" for number in range(1, size)]
    if rank:
        write_text(others[rank - 1], "")
        return False
    while not all(path.is_file() for path in others):
        time.sleep(0.2)
    for path in others:
        path.unlink()
    return True
