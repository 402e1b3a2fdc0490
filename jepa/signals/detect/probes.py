"""Saved probes on one frozen encoder, as a detector. The only file here that reads probe folders."""

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
from jepa.models.image_backbone import PREFIX as TIMM
from jepa.models.weights.load import load_predictor, zoo_name
from jepa.probes import encoder_hash, load_probe, predict_future
from jepa.probes.saved import WEIGHTS_FILE, read_probe
from jepa.signals.detect.detector import DIGITS, ClipSpec, Detector, WindowScores
from jepa.signals.document.run import (
    Calibration,
    ClipMetadata,
    DetectorMetadata,
    DomainMetadata,
    EncoderMetadata,
    HeadMetadata,
)

_ENCODER_FILE = "encoder.safetensors"


class ProbeDetector(Detector):
    """Every probe under a folder, with the one encoder that they were trained on, which runs once per window.

    Args:
        probes: a folder that `jepa probe` wrote, or one that holds several.
        encoder: what they were trained on, whatever `jepa.load_encoder` takes. None takes the model that they name,
            such as timm:NAME, or the export under `probes`, or the path that they were trained with.
        device: "auto", "cpu" or "cuda".
        id: the detector's id, put before its heads' ids; needed when two such detectors run side by side.

    Raises:
        UserError: no probe, no encoder, or a probe of another encoder.

    Example:
        >>> detector = ProbeDetector("probes/", encoder="export/", device="cpu")    # doctest: +SKIP
        >>> [head.id for head in detector.metadata.heads]                           # doctest: +SKIP
        ['anticipate', 'anticipate-now', 'describe']
    """

    def __init__(
        self,
        probes: str | os.PathLike[str],
        encoder: str | os.PathLike[str] | None = None,
        device: str = "auto",
        id: str | None = None,
    ) -> None:
        root = Path(probes)
        folders = sorted(path.parent for path in root.rglob(WEIGHTS_FILE))
        if not folders:
            raise UserError(
                f"{str(root)!r} holds no probe: no {WEIGHTS_FILE} in it or below it. `jepa probe` "
                "writes them; "
                "`make demo` makes a set."
            )
        self._device = choose_device(device)
        export = str(encoder) if encoder is not None else _find_encoder(root, folders)
        export = str(Path(export).absolute()) if Path(export).exists() else export
        loaded: Encoder = load_encoder(export)
        self._encoder = loaded.eval().requires_grad_(False).to(self._device)
        self._probes: list[Any] = [load_probe(folder, self._encoder) for folder in folders]
        self.source = {"probes": str(root.absolute()), "encoder": export}
        specs = [ClipSpec(probe.window.num_frames, float(probe.window.fps)) for probe in self._probes]
        distinct = list(dict.fromkeys(specs))
        self._clip_of = [distinct.index(spec) for spec in specs]
        calibrations, heads = [], []
        for name, probe in zip(_names(root, folders), self._probes, strict=True):
            full_name = name if id is None else f"{id}-{name}"
            calibration = _calibration(full_name, probe.metadata.get("calibration"))
            calibrations += [calibration] if calibration else []
            heads.append(_head(full_name, probe, calibration))
        self.calibrations = calibrations
        self.metadata = DetectorMetadata(
            id=id or "probes",
            kind="probes",
            settings={} if id is None else {"id": id},
            encoder=EncoderMetadata(
                name=str(self._probes[0].metadata["encoder"]["name"]),
                weights_sha256=encoder_hash(self._encoder),
            ),
            clips=[ClipMetadata(num_frames=spec.num_frames, fps=spec.fps) for spec in distinct],
            heads=heads,
        )
        self._horizons = max((len(head.horizons_ms) for head in heads), default=0)
        self._reasons = {
            head.id: f"These windows are outside the domain of probe {head.id}, which was trained on "
            f"{head.trained_on}."
            for head in heads
            if head.domain is not None
        }
        self._predictor = None
        if any(probe.needs_future for probe in self._probes):
            self._predictor = load_predictor(export).eval().to(self._device)

    def prepare(self, frame: Tensor) -> Tensor:
        """Resizes, crops and normalises one frame uint8 [C, H, W] to [C, h, w], as the encoder expects it."""
        return self._encoder.preprocess(frame[None])[:, 0]

    def score(self, clips: Sequence[Tensor]) -> WindowScores:
        """Calibrated probabilities of B windows, given as one clip tensor [B, C, T, h, w] per clip rate; NaN for the
        windows outside a probe's domain."""
        distances: dict[str, np.ndarray] = {}
        observed: list[np.ndarray] = [np.zeros((clips[0].shape[0], 0))]
        anticipated: list[np.ndarray] = [np.zeros((clips[0].shape[0], 0, self._horizons))]
        with torch.inference_mode():
            inputs = [clip.to(self._device) for clip in clips]
            tokens = [self._encoder(clip) for clip in inputs]
            for probe, head, which in zip(self._probes, self.metadata.heads, self._clip_of, strict=True):
                future = self._future(probe, tokens[which], inputs[which])
                prediction = probe.predict(tokens[which], future)
                if probe.task == "anticipate":
                    p, into = _numbers(prediction.hazard), anticipated
                else:
                    p = prediction.probability if probe.task == "classify" else prediction.tags
                    p, into = _numbers(p), observed
                if prediction.in_domain is not None:
                    p[~prediction.in_domain.numpy()] = np.nan
                    distances[head.id] = prediction.distance.numpy()
                into.append(p)
        return WindowScores(
            np.concatenate(observed, axis=1), np.concatenate(anticipated, axis=1), self._reasons, distances
        )

    def _future(self, probe: Any, tokens: Tensor, clip: Tensor) -> Tensor | None:
        if not probe.needs_future:
            return None
        assert self._predictor is not None
        return predict_future(self._predictor, tokens, self._encoder.grid_of(clip), probe.future_slots)


def _numbers(p: Tensor) -> np.ndarray:
    return p.detach().cpu().double().numpy()


def _find_encoder(root: Path, folders: Sequence[Path]) -> str:
    """The source of the encoder that the probes were trained on."""
    stated = {(read_probe(folder)[0].get("encoder") or {}).get("source", "") for folder in folders}
    source = stated.pop() if len(stated) == 1 else ""
    if source.startswith(TIMM) or zoo_name(source) is not None:
        return source
    found = sorted(path.parent for path in root.rglob(_ENCODER_FILE))
    if len(found) == 1:
        return str(found[0])
    if source and Path(source).exists():
        return source
    what = f"{len(found)} of them ({', '.join(map(str, found))})" if found else "none"
    there = f" They were trained with {source!r}, which is not here." if source else ""
    raise UserError(
        f"the encoder that the probes read was not named, and there is {what} under {str(root)!r}.{there} "
        "Say which: encoder=DIR, or whatever else load_encoder takes."
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


def _calibration(name: str, stated: dict[str, Any] | None) -> Calibration | None:
    if stated is None:
        return None
    by_horizon = stated.get("ece_by_horizon", {})
    return Calibration(
        id=f"cal-{name}",
        method=str(stated["method"]),
        n_videos=stated.get("videos"),
        set_sha256=stated.get("set_sha256"),
        ece=stated.get("ece_after"),
        ece_by_horizon={str(key): float(value) for key, value in by_horizon.items()},
    )


def _head(name: str, probe: Any, calibration: Calibration | None) -> HeadMetadata:
    data, trained_on = probe.metadata["data"], probe.metadata.get("trained_on")
    if trained_on is None:
        raise UserError(
            f"The probe {name!r} does not state which videos it was trained on: an older version wrote it, and a "
            "document must state them. Train it again with `jepa probe`."
        )
    ahead = probe.task == "anticipate"
    labels = list(probe.hazards) if ahead else list(probe.classes)
    if not labels:
        raise UserError(
            f"The probe {name!r} knows no hazard: the segments that it was trained on have none, or no column `kind` "
            "that says which labels are. Train it again with anticipate.hazards=[...], or leave it out of probes=."
        )
    rates = np.round(np.asarray(probe.base_rates, dtype=np.float64), DIGITS).tolist() if ahead else []
    return HeadMetadata(
        id=name,
        task=probe.task,
        weights_sha256=probe.weights_sha256,
        labels=labels,
        horizons_ms=[round(1000 * float(h)) for h in probe.horizons_s] if ahead else [],
        base_rates=dict(zip(labels, rates, strict=True)) if ahead else {},
        calibration=calibration.id if calibration else None,
        trained_on=f"{trained_on['videos']} videos of {data['name']}",
        domain=_domain(probe.metadata.get("domain")),
    )


def _domain(stated: dict[str, Any] | None) -> DomainMetadata | None:
    if stated is None:
        return None
    return DomainMetadata(
        method=str(stated["method"]),
        alpha=float(stated["alpha"]),
        threshold=float(stated["threshold"]),
        groups=int(stated["groups"]),
        promised=bool(stated["promised"]),
    )
