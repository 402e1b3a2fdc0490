"""The registry of detectors: a name for each kind, so that a document says how to make its detectors again."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping

from jepa.errors import UserError
from jepa.signals.detect.detector import Detector

Builder = Callable[[Mapping[str, str], str], Detector]
_BUILDERS: dict[str, Builder] = {}
PROBES = "probes"


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
    if kind == PROBES or _BUILDERS.get(kind, build) is not build:
        raise UserError(f"a detector called {kind} is registered already. Choose another name.")
    _BUILDERS[kind] = build


def list_detectors() -> list[str]:
    """The kinds that are known, in alphabetical order."""
    return sorted([PROBES, *_BUILDERS])


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


def _of_sound(name: str) -> Builder:
    """A builder of `detect/audio.py`, imported when it is asked for."""

    def build(source: Mapping[str, str], device: str) -> Detector:
        from jepa.signals.detect import audio

        return getattr(audio, name)(source, device)

    return build


_BUILDERS.update(loudness=_of_sound("build_loudness"), speech=_of_sound("build_speech"))


def build_detector(name: str, source: Mapping[str, str] | None = None, device: str = "auto") -> Detector:
    """Makes a detector.

    Args:
        name: a registered kind, or `package.module:KIND`, which imports the module that registers it first.
        source: what its builder needs, for `probes` the folders `probes` and, if it is not below them, `encoder`.
        device: "auto", "cpu" or "cuda".

    Raises:
        UserError: the kind is not registered, or the module cannot be imported.
    """
    kind, source = load_kind(name), source or {}
    if kind == PROBES:
        from jepa.signals.detect.probes import ProbeDetector

        return ProbeDetector(source["probes"], source.get("encoder"), device, source.get("id"))
    if kind not in _BUILDERS:
        raise UserError(
            f"no detector called {kind!r} is registered; known are {', '.join(list_detectors())}. Import the module "
            "that calls register_detector, or name it: detectors=[package.module:KIND]."
        )
    return _BUILDERS[kind](source, device)
