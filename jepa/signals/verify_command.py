"""`jepa verify`: checks a signals document, or a folder that `jepa signals` wrote, and prints what does not fit."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from jepa.data import LimitsConfig
from jepa.errors import UserError
from jepa.fields import path_key
from jepa.files import sha256_file
from jepa.signals.command import DOCUMENT, POLICY_COPY, SUMMARY, find_videos
from jepa.signals.detect.detector import Detector
from jepa.signals.detect.registry import PROBES, load_kind
from jepa.signals.document.hash_chain import folder_faults
from jepa.signals.document.objects import SignalsDocument
from jepa.signals.document.schema import parse_document
from jepa.signals.policy import Policy, read_policy
from jepa.signals.verification import Findings, rebuild_detectors, verify


@dataclass
class VerifyConfig:
    """`jepa verify`."""

    path: str = path_key("???")
    """a signals.json, or a folder that `jepa signals` wrote"""
    video: str | None = path_key(None)
    """the video, or a folder that holds it; null asks summary.json"""
    policy: str | None = path_key(None)
    """the policy file; null takes the copy beside the summary"""
    probes: str | None = path_key(None)
    """folder of the probes; null asks summary.json"""
    encoder: str | None = path_key(None)
    """export that the probes were trained on; null asks summary.json, then looks under `probes`"""
    detectors: list[str] = field(default_factory=list)
    """package.module:KIND of detectors that a module has to register first; empty asks summary.json"""
    replay: bool = True
    """score again from the video; false checks the documents alone"""
    every: bool = False
    """score every window again, not only those of forecasts and spans"""
    device: str = "auto"
    """where the encoder runs: auto, cpu or cuda"""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """what a video may cost"""


class Unverified(RuntimeError):
    """A document, or what it is about, has been changed."""


def run(config: VerifyConfig) -> dict[str, Any]:
    """Checks one document or a folder of them, prints what was found and returns it by path.

    Raises:
        UserError: no document there, or the video, policy or detectors it needs are not at hand.
        Unverified: something does not fit; the message counts, the lines above it name.
    """
    paths, top = _documents(config.path)
    checker = _Checker(config, top)
    found = {path: checker.check(path) for path in paths}
    heads = {path.parent.name: _head(path) for path in paths}
    chain = folder_faults(top, {name: head for name, head in heads.items() if head is not None})
    for path, findings in found.items():
        _print(path, findings, config.replay)
    for fault in chain:
        print(f"  {fault}")
    count = sum(len(findings.faults) for findings in found.values()) + len(chain)
    if count:
        raise Unverified(f"{count} faults in {len(found)} documents; each is named above")
    print(f"{len(found)} documents are sound.")
    return {"documents": len(found), "findings": found}


def _documents(path: str) -> tuple[list[Path], Path]:
    """The documents to check, and the folder that `jepa signals` wrote.

    Raises:
        UserError: none there.
    """
    where = Path(path)
    if (where / DOCUMENT).is_file():  # the folder of one document
        return [where / DOCUMENT], where.parent
    if where.is_file():
        return [where], where.parent.parent
    paths = sorted(where.glob(f"*/{DOCUMENT}"))
    if paths:
        return paths, where
    summary = _read_summary(where)
    failed = summary.get("counts", {}).get("failed", 0)
    if failed and failed == summary.get("videos"):
        reasons = "; ".join(summary.get("reasons", {}))
        raise UserError(
            f"path={path!r} holds no document, because all {failed} videos failed: {reasons}. There is nothing to "
            "verify; run `jepa signals` again with videos that can be read."
        )
    raise UserError(f"path={path!r} holds no {DOCUMENT}. Give what `jepa signals` wrote, or one document.")


def _read_summary(top: Path) -> dict[str, Any]:
    try:
        found = json.loads((top / SUMMARY).read_text("utf-8"))
    except OSError:
        return {}
    except ValueError as error:
        raise UserError(
            f"{top / SUMMARY} is damaged: {error}. Restore it, or process the folder anew."
        ) from error
    return found if isinstance(found, dict) else {}


class _Checker:
    """Finds policy, videos and detectors, where the caller says or else where the summary says, and checks."""

    def __init__(self, config: VerifyConfig, top: Path) -> None:
        self.config = config
        self._summary = _read_summary(top)
        self._rows = {row["id"]: row for row in self._summary.get("rows", []) if row["id"]}
        self._policy_file = Path(config.policy) if config.policy is not None else top / POLICY_COPY
        if not self._policy_file.exists():
            raise UserError(
                f"the policy {str(self._policy_file)!r} is missing, without which no decision can be checked. Say "
                "policy=FILE."
            )
        self._detectors: dict[str, list[Detector]] = {}
        self._modules_are_loaded = False

    @functools.cached_property
    def policy(self) -> Policy:
        """Read at the first document that can be checked against it."""
        return read_policy(self._policy_file)

    def check(self, path: Path) -> Findings:
        """One document, with its video where `replay` asks for it."""
        try:
            document = parse_document(path.read_bytes(), path.parent.name)
        except UserError:
            return verify(path, self._policy_file)  # its faults say why, and need no policy
        video = self._video_of(document) if self.config.replay else None
        if not isinstance(video, Path):
            found = verify(path, self.policy)
            found.faults += [video] if video is not None else []
            return found
        return verify(
            path,
            self.policy,
            video=video,
            detectors=self._detectors_of(document),
            every=self.config.every,
            limits=self.config.limits,
        )

    def _detectors_of(self, document: SignalsDocument) -> list[Detector]:
        """The document's detectors; those of one folder are mostly the same, and loaded once."""
        if not self._modules_are_loaded:
            for name in self.config.detectors or self._summary.get("modules", []):
                load_kind(name)
            self._modules_are_loaded = True
        sources: dict[str, dict[str, str]] = {
            item["id"]: dict(item["source"]) for item in self._summary.get("detectors", [])
        }
        for stated in document.run.detectors:
            if stated.kind == PROBES and self.config.probes is not None:
                sources[stated.id] = {"probes": self.config.probes}
            if stated.kind == PROBES and self.config.encoder is not None:
                sources.setdefault(stated.id, {})["encoder"] = self.config.encoder
        key = json.dumps([[item.id, item.kind, item.settings] for item in document.run.detectors])
        if key not in self._detectors:
            self._detectors[key] = rebuild_detectors(document, sources, self.config.device)
        return self._detectors[key]

    def _video_of(self, document: SignalsDocument) -> Path | str:
        """The file with the document's hash; or, as a sentence, why there is none."""
        options = self._options(document)
        for path in options:
            if path.is_file() and sha256_file(path) == document.asset.sha256:
                return path
        looked = ", ".join(map(repr, map(str, options[:3]))) or "nowhere, since summary.json does not list it"
        return (
            f"the video of {document.asset.id} with hash {document.asset.sha256[:12]} was not found "
            f"(looked at {looked}): it was moved or changed. Say video=FILE, or replay=false."
        )

    def _options(self, document: SignalsDocument) -> Sequence[Path]:
        if self.config.video is not None:
            return find_videos(Path(self.config.video))
        row = self._rows.get(document.asset.id)
        return [] if row is None else [_path_of(row)]


def _path_of(row: Mapping[str, str]) -> Path:
    """A video's path from its row. Names may hold newlines and bytes that are no UTF-8, which only the URI keeps."""
    return Path(os.fsdecode(unquote_to_bytes(urlsplit(row["uri"]).path)))


def _head(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_bytes())["log"]["hash"])
    except (ValueError, KeyError, TypeError):
        return None  # the document's own faults say so


def _print(path: Path, found: Findings, replayed: bool) -> None:
    name = path.parent.name
    if found.faults:
        print(f"{name}: {len(found.faults)} faults")
        for fault in found.faults:
            print(f"  {fault}")
        return
    again = "not replayed"
    if replayed:
        again = (
            f"{found.frames} evidence frames, {found.replayed} windows replayed ({found.forecasts} forecasts), "
            f"largest difference {found.difference:.1e}"
        )
    print(f"{name}: sound; {found.entries} log entries, {again}")
