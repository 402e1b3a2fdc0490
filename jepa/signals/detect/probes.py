"""Saved probes and their encoder as one scorer. The only file here that knows what a probe folder looks
like."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa.device import choose_device
from jepa.errors import UserError
from jepa.models import Encoder, load_encoder
from jepa.models.weights.load import load_predictor
from jepa.probes import encoder_hash, load_probe
from jepa.probes.saved import WEIGHTS_FILE
from jepa.signals.detect.detector import ClipSpec, Signal, WindowScores
from jepa.signals.document.objects import Calibration, ProbeFacts

_ENCODER_FILE = "encoder.safetensors"


class ProbeScorer:
    """Loads every probe under a folder and the one encoder that they were trained on.

    Args:
        probes: a folder that `jepa probe` wrote, or one that holds several.
        encoder: the export that they were trained on; None looks for it under `probes`.
        device: "auto", "cpu" or "cuda".

    Raises:
        UserError: no probe, no encoder, a probe of another encoder, or probes with different horizons.
    """

    def __init__(self, probes: str | os.PathLike[str], encoder: str | None, device: str) -> None:
        root = Path(probes)
        folders = sorted(path.parent for path in root.rglob(WEIGHTS_FILE))
        if not folders:
            raise UserError(
                f"{str(root)!r} holds no probe: no {WEIGHTS_FILE} in it or below it. `jepa probe` "
                "writes them; "
                "`make demo` makes a set."
            )
        self._device = choose_device(device)
        self._encoder_folder = Path(encoder) if encoder is not None else _find_encoder(root)
        loaded: Encoder = load_encoder(self._encoder_folder)
        self._encoder = loaded.eval().requires_grad_(False).to(self._device)
        self.encoder_sha256 = encoder_hash(self._encoder)
        self._loaded: list[Any] = [load_probe(folder, self._encoder) for folder in folders]
        self.encoder_name = str(self._loaded[0].metadata["encoder"]["name"])
        self.probes: list[ProbeFacts] = []
        self.calibrations: list[Calibration] = []
        for name, probe in zip(_names(root, folders), self._loaded, strict=True):
            calibration = _calibration(name, probe.metadata.get("calibration"))
            self.calibrations += [calibration] if calibration else []
            self.probes.append(_facts(name, probe, calibration))
        self._read_signals()
        specs = [ClipSpec(probe.window.num_frames, float(probe.window.fps)) for probe in self._loaded]
        self.specs: list[ClipSpec] = list(dict.fromkeys(specs))
        self._spec_of = [self.specs.index(spec) for spec in specs]
        self._predictor = None
        if any(probe.needs_future for probe in self._loaded):
            self._predictor = load_predictor(self._encoder_folder).eval().to(self._device)

    def _read_signals(self) -> None:
        self.observed: list[Signal] = []
        self.anticipated: list[Signal] = []
        self.tags: list[Signal] = []
        rates: list[np.ndarray] = []
        horizons: dict[str, list[int]] = {}
        for facts, probe in zip(self.probes, self._loaded, strict=True):
            if probe.task == "anticipate":
                self.anticipated += [Signal(facts.id, name) for name in probe.hazards]
                rates.append(np.asarray(probe.base_rates, dtype=np.float64))
                horizons[facts.id] = [round(1000 * float(h)) for h in probe.horizons_s]
            else:
                signals = [Signal(facts.id, name) for name in probe.classes]
                self.observed += signals
                self.tags += signals
        if len({tuple(values) for values in horizons.values()}) > 1:
            raise UserError(
                f"the probes forecast within different times: {horizons}. Train them with the same "
                "anticipate.horizons_s, or use one of them."
            )
        self.horizons_ms = next(iter(horizons.values()), [])
        self.base_rates: np.ndarray = np.concatenate(rates) if rates else np.zeros((0, 0))

    def prepare(self, frame: Tensor) -> Tensor:
        """Resizes, crops and normalises one frame uint8 [C, H, W] to [C, h, w], as the encoder wants it."""
        return self._encoder.preprocess(frame[None])[:, 0]

    def score(self, clips: Sequence[Tensor]) -> WindowScores:
        """Calibrated probabilities of B windows; see `scores.Scorer`."""
        batch = clips[0].shape[0]
        seen = np.zeros((batch, 0))
        tags = np.zeros((batch, 0))
        foreseen = np.zeros((batch, 0, len(self.horizons_ms)))
        with torch.inference_mode():
            inputs = [clip.to(self._device) for clip in clips]
            tokens = [self._encoder(clip) for clip in inputs]
            for probe, which in zip(self._loaded, self._spec_of, strict=True):
                future = self._future(probe, tokens[which], inputs[which])
                prediction = probe.predict(tokens[which], future)
                if probe.task == "anticipate":
                    foreseen = np.concatenate([foreseen, _numbers(prediction.hazard)], axis=1)
                else:
                    p = prediction.probability if probe.task == "classify" else prediction.tags
                    seen = np.concatenate([seen, _numbers(p)], axis=1)
                    tags = np.concatenate([tags, _numbers(p)], axis=1)
        return WindowScores(seen, foreseen, tags)

    def _future(self, probe: Any, tokens: Tensor, clip: Tensor) -> Tensor | None:
        if not probe.needs_future:
            return None
        from jepa.probes import predict_future

        return predict_future(self._predictor, tokens, self._encoder.grid_of(clip), probe.future_slots)


def _numbers(p: Tensor) -> np.ndarray:
    return p.detach().cpu().double().numpy()


def _find_encoder(root: Path) -> Path:
    found = sorted(path.parent for path in root.rglob(_ENCODER_FILE))
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} of them ({', '.join(map(str, found))})" if found else "none"
    raise UserError(
        f"the encoder that the probes read was not named, and there is {what} under {str(root)!r}. "
        "Say which: encoder=DIR, a folder that `jepa export` wrote."
    )


def _names(root: Path, folders: Sequence[Path]) -> list[str]:
    """Short distinct ids: the folder's path below the root, without a last part that is only called probe."""
    names: list[str] = []
    for folder in folders:
        parts = folder.relative_to(root).parts
        parts = parts[:-1] if len(parts) > 1 and parts[-1] == "probe" else parts
        name = (
            re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts) or root.resolve().name).strip("-._") or "probe"
        )
        names.append(name if name not in names else f"{name}-{len(names)}")
    return names


def _calibration(name: str, about: dict[str, Any] | None) -> Calibration | None:
    if about is None:
        return None
    by_horizon = about.get("ece_by_horizon", {})
    return Calibration(
        id=f"cal-{name}",
        method=str(about["method"]),
        n_videos=about.get("videos"),
        set_sha256=about.get("set_sha256"),
        ece=about.get("ece_after"),
        ece_by_horizon={str(key): float(value) for key, value in by_horizon.items()},
    )


def _facts(name: str, probe: Any, calibration: Calibration | None) -> ProbeFacts:
    data, learnt = probe.metadata["data"], probe.metadata.get("trained_on")
    if learnt is None:
        raise UserError(
            f"The probe {name!r} does not say which videos it was trained on: an older version wrote it, and a "
            "document must say so. Train it again with `jepa probe`."
        )
    labels = list(probe.hazards) if probe.task == "anticipate" else list(probe.classes)
    return ProbeFacts(
        id=name,
        task=probe.task,
        weights_sha256=probe.weights_sha256,
        labels=labels,
        calibration=calibration.id if calibration else None,
        trained_on=f"{learnt['videos']} videos of {data['name']}",
    )
