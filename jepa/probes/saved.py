"""Probes on disk: a folder with weights and everything that says what they may be used for.

probe.json             task, classes, window, encoder and data hashes, calibration, results
probe.safetensors      the head's weights, with a copy of probe.json in its header that rules
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from jepa.errors import UserError
from jepa.files import atomic_path, sha256_file, write_json
from jepa.models.weights.fingerprint import encoder_hash
from jepa.probes.data.labels import Sample, fingerprint
from jepa.probes.features.encoder_tokens import EncoderTokens

if TYPE_CHECKING:
    from jepa.models import Encoder

SCHEMA = "jepa.probe/1"
WEIGHTS_FILE, CARD_FILE = "probe.safetensors", "probe.json"


@dataclass(frozen=True)
class Window:
    """One input of a head."""

    num_frames: int
    """frames"""
    fps: float
    """frames per second"""

    @property
    def duration_s(self) -> float:
        """Time that a window covers, in seconds."""
        return self.num_frames / self.fps


class Probe(Protocol):
    """What every saved probe can do; docs/probes.md describes the fields of a prediction."""

    task: str
    classes: tuple[str, ...]
    window: Window
    metadata: dict[str, Any]
    weights_sha256: str
    needs_future: bool

    def predict(self, tokens: torch.Tensor, future: torch.Tensor | None = None) -> Any:
        """Scores of a batch of windows from their encoder tokens [B, N, D]."""


def data_card(name: str, samples: list[Sample]) -> dict[str, Any]:
    """What a set of samples is: counts, a hash of the videos' content and one of the labels."""
    content = sorted({fingerprint(path) for path in {sample.path for sample in samples}})
    labels = [[s.name, s.label, s.group, s.split, s.start_s, s.end_s] for s in samples]
    return {
        "name": name,
        "videos": len({sample.path for sample in samples}),
        "samples": len(samples),
        "groups": len({sample.group for sample in samples}),
        "sha256": hashlib.sha256("".join(content).encode()).hexdigest(),
        "labels_sha256": hashlib.sha256(json.dumps(labels).encode()).hexdigest(),
    }


def window_card(extractor: EncoderTokens) -> dict[str, Any]:
    """What a head reads, for `save_probe`: the window, its grid of tokens and how many of them are kept."""
    return {
        "window": {"num_frames": extractor.window.num_frames, "fps": extractor.fps},
        "grid": list(extractor.window_grid()),
        "max_tokens": extractor.max_tokens,
    }


def calibration_card(samples: list[Sample]) -> dict[str, Any]:
    """What a head was calibrated on and when, for `save_probe`."""
    held_out = data_card("val", samples)
    return {
        "videos": held_out["videos"],
        "groups": held_out["groups"],
        "set_sha256": held_out["sha256"],
        "fitted": today(),
    }


def today() -> str:
    """The date in UTC, ISO 8601."""
    return datetime.now(timezone.utc).date().isoformat()


def save_probe(
    folder: str | os.PathLike[str], card: dict[str, Any], weights: dict[str, torch.Tensor]
) -> Path:
    """Writes a probe that `load_probe` opens.

    Args:
        folder: made if needed, replaced file by file.
        card: plain JSON values; must hold task, classes, window, grid, encoder, data and calibration.
        weights: tensors of the head.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    document = {"schema": SCHEMA, "created": today(), **card}
    header = {"format": "pt", "jepa": json.dumps(document, allow_nan=False)}
    with atomic_path(folder / WEIGHTS_FILE) as partial:
        save_file({name: value.contiguous() for name, value in weights.items()}, partial, metadata=header)
    write_json(folder / CARD_FILE, document)
    return folder


def read_probe(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor], str]:
    """The card, the weights and the hash of the weights file of a saved probe.

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
    card = json.loads(header.get("jepa", "{}"))
    if card.get("schema") != SCHEMA:
        raise UserError(f"{str(path)!r} states schema {card.get('schema')!r}; this version reads {SCHEMA!r}.")
    return card, weights, sha256_file(path)


def check_encoder(card: dict[str, Any], encoder: Encoder) -> None:
    """Refuses an encoder that the probe was not trained on.

    Raises:
        UserError: the hashes differ.
    """
    found, wanted = encoder_hash(encoder), card["encoder"]["sha256"]
    if found != wanted:
        raise UserError(
            f"This probe was trained on the encoder {card['encoder'].get('name')!r} with hash {wanted[:12]}, "
            f"and was given one with hash {found[:12]}. Its scores would mean nothing. Use the export it was "
            "trained on, or train the probe again with `jepa probe`."
        )


def load_probe(folder: str | os.PathLike[str], encoder: Encoder | None = None) -> Probe:
    """Opens a saved probe.

    Args:
        folder: what `jepa probe` wrote, OUT/probe.
        encoder: the encoder whose tokens it will read; checked against the one it was trained on.

    Raises:
        UserError: no probe there, a damaged one, or another encoder.
    """
    card, weights, sha256 = read_probe(folder)
    if encoder is not None:
        check_encoder(card, encoder)
    if card["task"] == "classify":
        from jepa.probes.tasks.classify import ClassifyProbe

        return ClassifyProbe(card, weights, sha256)
    if card["task"] == "anticipate":
        from jepa.probes.tasks.anticipate.probe import AnticipateProbe

        return AnticipateProbe(card, weights, sha256)
    if card["task"] == "describe":
        from jepa.probes.tasks.describe.probe import DescribeProbe

        return DescribeProbe(card, weights, sha256)
    raise UserError(
        f"{os.fspath(folder)!r} is a probe for the task {card['task']!r}, which this version does not know."
    )
