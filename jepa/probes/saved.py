"""Saved probes: a folder with a head's weights and the metadata that states what they may be used for.

probe.json             task, classes, window, encoder and data hashes, calibration, results
probe.safetensors      the head's weights, with a copy of probe.json in its header, which takes precedence
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from jepa.data.manifest import Item
from jepa.errors import UserError
from jepa.files import atomic_path, sha256_file, write_json
from jepa.models.weights.fingerprint import encoder_hash
from jepa.probes.data.labels import fingerprint
from jepa.probes.evaluation.domain import Domain, DomainScores
from jepa.probes.features.cache import Features
from jepa.probes.features.encoder_tokens import EncoderTokens, coarsen, coarsen_future
from jepa.probes.features.feature_set import FeatureSet
from jepa.probes.heads.base import FittedHeads, get_head

if TYPE_CHECKING:
    from jepa.models import Encoder

SCHEMA = "jepa.probe/3"
# Version 2 had no domain check. Version 1 stated the figure of heads that were fitted on more data than the saved one.
_OLDEST = "jepa.probe/1"
_READABLE = (SCHEMA, "jepa.probe/2", _OLDEST)
WEIGHTS_FILE, METADATA_FILE = "probe.safetensors", "probe.json"


@dataclass(frozen=True)
class Window:
    """One input of a head."""

    num_frames: int
    """frames"""
    fps: float
    """frames per second"""

    @property
    def duration_s(self) -> float:
        """Time that a window covers, in seconds.

        Example:
            >>> Window(16, 4.0).duration_s
            4.0
        """
        return self.num_frames / self.fps


class Probe(ABC):
    """A fitted probe: reads encoder tokens, returns calibrated predictions. docs/probes.md describes the fields.

    Args:
        metadata: what it was trained on, plain JSON values.
        weights: tensors of its heads.
        weights_sha256: hash of the weights file; empty for a probe that was never saved.
    """

    task: ClassVar[str]
    needs_future: bool = False

    def __init__(
        self, metadata: dict[str, Any], weights: dict[str, Tensor], weights_sha256: str = ""
    ) -> None:
        self.metadata, self.weights, self.weights_sha256 = metadata, weights, weights_sha256
        self.classes: tuple[str, ...] = tuple(metadata["classes"])
        self.domain: Domain | None = None
        """tells windows like those of training from others; None where there is no such check"""

    @property
    def window(self) -> Window:
        """The window of frames whose tokens it reads.

        Raises:
            UserError: the probe was fitted on arrays, and has no frame window.
        """
        if self.metadata.get("window") is None:
            raise UserError(
                "This probe was fitted on arrays, so it does not know which frames its features come from. Train one "
                "with `jepa probe` to read videos."
            )
        return Window(**self.metadata["window"])

    @abstractmethod
    def predict(self, tokens: Tensor, future: Tensor | None = None) -> Any:
        """Predictions for a batch of windows from their encoder tokens [B, N, D]."""

    def add_domain(self, domain: Domain | None) -> None:
        """Gives the probe a domain check, which it is saved with; None says that there is none."""
        self.domain = domain
        self.metadata = {**self.metadata, "domain": None if domain is None else domain.metadata}

    def domain_scores(self, tokens: Tensor) -> DomainScores | None:
        """How like the training windows these are; None without a domain check.

        Args:
            tokens: as `predict` takes them; the future plays no part.

        Raises:
            UserError: the number of tokens is not that of the probe's window.
        """
        return None if self.domain is None else self.domain.score(self._features(tokens).pooled())

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the probe for `jepa.load_probe`; the folder is made if needed."""
        path = save_probe(
            folder, self.metadata, self.weights | ({} if self.domain is None else self.domain.state())
        )
        self.weights_sha256 = sha256_file(path / WEIGHTS_FILE)
        return path

    def head(self, kind: str, prefix: str = "") -> FittedHeads:
        """One of its heads, rebuilt from the weights whose names begin with a prefix."""
        own = {name[len(prefix) :]: value for name, value in self.weights.items() if name.startswith(prefix)}
        return get_head(kind).from_state(own)

    def read(self, kind: str, tokens: Tensor, future: Tensor | None = None) -> Tensor:
        """Brings encoder tokens into the form that a saved head was trained on.

        Args:
            kind: name of the head's family.
            tokens: encoder output [B, N, D], or arrays of the shape that the probe was fitted on.
            future: the predictor's tokens [B, t * h * w, D], which follow the window's.

        Raises:
            UserError: the number of tokens is not that of the head's window.
        """
        return self._features(tokens, future).read(get_head(kind).reads)

    def _features(self, tokens: Tensor, future: Tensor | None = None) -> FeatureSet:
        """Encoder tokens as the features that the heads were fitted on."""
        from jepa.models import TokenGrid

        metadata = self.metadata
        if metadata.get("array_shape") is not None:
            if list(tokens.shape[1:]) != list(metadata["array_shape"]):
                raise UserError(
                    f"The probe was fitted on arrays of shape {metadata['array_shape']} per sample, and was given "
                    f"{list(tokens.shape[1:])}."
                )
            return FeatureSet.of("input", tokens, metadata["time_slots"])
        grid = TokenGrid(*metadata["grid"])
        if tokens.ndim != 3 or tokens.shape[1] != grid.size:
            raise UserError(
                f"The probe reads windows of {grid.size} tokens (grid {tuple(grid)}), and was given "
                f"{list(tokens.shape)}. Encode {self.window.num_frames} frames at {self.window.fps} fps with "
                "encoder.preprocess."
            )
        coarse, slots = coarsen(tokens.float().cpu(), grid, metadata["max_tokens"]), grid.t
        if future is not None:
            more = metadata["future_slots"]
            expected = coarsen_future(future.float().cpu(), grid, more, metadata["max_tokens"])
            coarse, slots = torch.cat([coarse, expected], dim=1), slots + more
        # Features were stored in half precision; the same rounding here keeps live and cached scores equal.
        return FeatureSet("input", Features.of(coarse.half().numpy()[:, None]), slots)


def data_metadata(name: str, samples: Sequence[Item]) -> dict[str, Any]:
    """What a set of samples is: counts, a hash of the videos' content and one of the labels."""
    content = sorted(map(fingerprint, {sample.path: sample for sample in samples}.values()))
    labels = [[s.name, s.label, s.group, s.split, s.start_s, s.end_s] for s in samples]
    return {
        "name": name,
        "videos": len({sample.path for sample in samples}),
        "samples": len(samples),
        "groups": len({sample.group for sample in samples}),
        "sha256": hashlib.sha256("".join(content).encode()).hexdigest(),
        "labels_sha256": hashlib.sha256(json.dumps(labels).encode()).hexdigest(),
    }


def encoder_metadata(encoder: Encoder, sha256: str, source: str) -> dict[str, Any]:
    """An encoder by name, hash and source, from which `jepa signals` finds it again."""
    named = encoder.metadata.get("name") or encoder.metadata.get("model") or Path(source).stem or "encoder"
    return {"name": str(named), "sha256": sha256, "source": source}


def window_metadata(extractor: EncoderTokens) -> dict[str, Any]:
    """What a head reads: the window, its grid of tokens and how many of them are kept."""
    return {
        "window": {"num_frames": extractor.window.num_frames, "fps": extractor.fps},
        "grid": list(extractor.window_grid()),
        "max_tokens": extractor.max_tokens,
    }


def calibration_metadata(samples: Sequence[Item]) -> dict[str, Any]:
    """What a head was calibrated on, and when."""
    val = data_metadata("val", samples)
    return {"videos": val["videos"], "groups": val["groups"], "set_sha256": val["sha256"], "fitted": today()}


def today() -> str:
    """The date in UTC, ISO 8601."""
    return datetime.now(timezone.utc).date().isoformat()


def save_probe(folder: str | os.PathLike[str], metadata: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    """Writes a probe that `load_probe` opens.

    Args:
        folder: made if needed, replaced file by file.
        metadata: plain JSON values; must hold task, classes, encoder, data and calibration.
        weights: tensors of the heads.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    document = {"schema": SCHEMA, "created": today(), **metadata}
    header = {"format": "pt", "jepa": json.dumps(document, allow_nan=False)}
    with atomic_path(folder / WEIGHTS_FILE) as partial:
        save_file({name: value.contiguous() for name, value in weights.items()}, partial, metadata=header)
    write_json(folder / METADATA_FILE, document)
    return folder


def read_probe(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """The metadata, the weights and the hash of the weights file of a saved probe.

    Raises:
        UserError: the folder holds no probe, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        raise UserError(
            f"{os.fspath(folder)!r} holds no probe: it has no {WEIGHTS_FILE}. `jepa probe` writes one to "
            "OUT/probe."
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise UserError(f"{str(path)!r} is damaged ({error}). Run `jepa probe` again.") from error
    metadata = json.loads(header.get("jepa", "{}"))
    if metadata.get("schema") not in _READABLE:
        raise UserError(
            f"{str(path)!r} states schema {metadata.get('schema')!r}; this version reads {', '.join(_READABLE)}. Train "
            "the probe again with `jepa probe`."
        )
    if metadata["schema"] == _OLDEST and "results" in metadata:
        old = metadata["results"]
        metadata["results"] = {"metric": old.get("metric"), "test": None, "cross_validation": old}
    return metadata, weights, sha256_file(path)


def check_encoder(metadata: dict[str, Any], encoder: Encoder) -> None:
    """Refuses an encoder that the probe was not trained on.

    Raises:
        UserError: the hashes differ, or the probe was fitted on arrays.
    """
    trained_on = metadata.get("encoder")
    if trained_on is None:
        raise UserError(
            "This probe was fitted on arrays, and does not say which encoder made them, so it cannot be checked "
            "against one. Load it without an encoder, or train one with `jepa probe`."
        )
    found, expected = encoder_hash(encoder), trained_on["sha256"]
    if found != expected:
        raise UserError(
            f"This probe was trained on the encoder {trained_on.get('name')!r} with hash {expected[:12]}, "
            f"and was given one with hash {found[:12]}. Its scores would mean nothing. Use the export it was "
            "trained on, or train the probe again with `jepa probe`."
        )
