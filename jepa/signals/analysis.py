"""Analysis: one video in, one signals document out. Nothing is written.

detectors (what scores windows) + policy (what follows from scores) -> Analyser -> SignalsDocument per video
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import av

import jepa
from jepa.data import LimitsConfig
from jepa.errors import UserError, VideoError
from jepa.files import sha256_file
from jepa.signals.assemble import assemble
from jepa.signals.decide.events import EventTracker, check_horizons
from jepa.signals.decide.evidence import EvidenceFrame, EvidenceKeeper
from jepa.signals.detect.detector import Detector, DetectorSet
from jepa.signals.detect.risks import risks_of
from jepa.signals.detect.scan import Scan, scan
from jepa.signals.detect.transnetv2 import LICENCE, TransNetV2, load_transnetv2
from jepa.signals.document.hash_chain import digest
from jepa.signals.document.objects import SCHEMA_ID, Asset, SignalsDocument
from jepa.signals.document.run import Run, ShotDetectorMetadata
from jepa.signals.policy import Policy, read_policy

# How far a replayed probability may be off: forward passes in other batches, or on other hardware, round
# otherwise.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class AnalysisResult:
    """A document, and what made it that no document keeps: pictures for the report, and times."""

    document: SignalsDocument
    """the sealed document"""
    policy: Policy
    """the policy that decided"""
    scan: Scan
    """what the pass over the video brought"""
    evidence: Mapping[int, EvidenceFrame]
    """evidence by window, with pictures"""


class Analyser:
    """Detectors and a policy, ready for any number of videos.

    Args:
        detectors: one or more; they run side by side in one pass over each video.
        policy: a policy, or the path of its YAML file.
        stride_ms: time between the ends of two windows, in milliseconds.
        causal: judge a break only by what was known at that time, as a live stream needs it; False looks up what
            comes after it.
        batch_size: windows per forward pass.
        lenient: pass over what does not decode instead of refusing the video; a notice in the document says so.
        limits: what a file may cost.
        shots: what finds cuts and dissolves: "pyscenedetect", or "transnetv2", which finds more and costs more.

    Raises:
        UserError: a policy that cannot be read, detectors that do not go together, horizons that none of them
            forecasts, or a number outside its limits.

    Example:
        >>> from jepa.signals import Analyser, ProbeDetector, render
        >>> analyser = Analyser(ProbeDetector("probes/"), "policy.yaml", stride_ms=250)    # doctest: +SKIP
        >>> for path in Path("videos").glob("*.mp4"):                                      # doctest: +SKIP
        ...     page = render(analyser.run(path))
    """

    def __init__(
        self,
        detectors: Detector | Sequence[Detector],
        policy: Policy | str | os.PathLike[str],
        *,
        stride_ms: int = 500,
        causal: bool = False,
        batch_size: int = 8,
        lenient: bool = False,
        limits: LimitsConfig | None = None,
        shots: str = "pyscenedetect",
    ) -> None:
        for key, value, low, high in (
            ("stride_ms", stride_ms, 20, 60_000),
            ("batch_size", batch_size, 1, 4096),
        ):
            if not low <= value <= high:
                raise UserError(f"{key}={value} is outside its limits, {low} to {high}.")
        self.detectors = DetectorSet.of(detectors)
        self.policy = policy if isinstance(policy, Policy) else read_policy(policy)
        self.stride_ms, self.causal, self.batch_size = stride_ms, causal, batch_size
        self.lenient, self.limits = lenient, limits
        self.shots, self._transnetv2 = _shot_detector(shots)
        # Wrong horizons are one mistake in the policy, not one per video.
        check_horizons(self.policy, self.detectors.horizons_ms)
        self.risks = risks_of(self.policy, self.detectors)
        self.config_sha256 = digest(
            {
                "schema": SCHEMA_ID,
                "tool": jepa.__version__,
                "decoder": decoder_name(),
                "detectors": [item.model_dump(mode="json") for item in self.risks.detectors],
                "policy": self.policy.sha256(),
                "stride_ms": stride_ms,
                "causal": causal,
                "lenient": lenient,
                "shots": self.shots.model_dump(mode="json"),
            }
        )
        """hash of everything besides the video that decides what a document says"""

    def run(
        self, video: str | os.PathLike[str], *, sha256: str | None = None, identifier: str | None = None
    ) -> AnalysisResult:
        """Analyses one video.

        Args:
            video: path of the video.
            sha256: the file's hash where it is known already; None computes it.
            identifier: the document's asset id; None makes one from the file's name and hash.

        Raises:
            VideoError: the video cannot be read.
            UserError: a detector's scores break an invariant of the document.
        """
        path = Path(video)
        try:
            sha256 = sha256 or sha256_file(path)
        except OSError as error:
            raise VideoError(path, "open", error.strerror or str(error)) from error
        evidence = EvidenceKeeper(
            EventTracker(
                self.policy, self.risks.signals, self.detectors.anticipated, self.detectors.horizons_ms
            )
        )
        found = scan(
            path,
            self.detectors,
            self.risks,
            self.stride_ms,
            self.batch_size,
            self.limits,
            self.lenient,
            evidence.push,
            self._transnetv2,
        )
        asset = Asset(
            id=identifier or asset_id(path, sha256),
            name=printable(path.name),
            sha256=sha256,
            duration_ms=found.duration_ms,
            fps=(found.fps.numerator, found.fps.denominator),
            frames=found.frames,
            width=found.size[0],
            height=found.size[1],
        )
        run = self._run_of(asset)
        document = assemble(asset, run, self.policy, self.detectors, self.risks, found, evidence)
        return AnalysisResult(document, self.policy, found, evidence.frames)

    def _run_of(self, asset: Asset) -> Run:
        return Run(
            run_id=f"r-{digest([self.config_sha256, asset.sha256, asset.name])[:12]}",
            tool=f"jepa {jepa.__version__}",
            decoder=decoder_name(),
            config_sha256=self.config_sha256,
            causal=self.causal,
            lenient=self.lenient,
            stride_ms=self.stride_ms,
            tolerance=TOLERANCE,
            shots=self.shots,
            detectors=list(self.risks.detectors),
        )


def analyse(
    video: str | os.PathLike[str],
    detectors: Detector | Sequence[Detector],
    policy: Policy | str | os.PathLike[str],
    *,
    stride_ms: int = 500,
    causal: bool = False,
    batch_size: int = 8,
    lenient: bool = False,
    limits: LimitsConfig | None = None,
    shots: str = "pyscenedetect",
) -> SignalsDocument:
    """Analyses one video: what was observed, what is forecast, where ad breaks could go, what the policy decides.

    Args:
        video: path of the video.
        detectors: one or more, such as `ProbeDetector("probes/")`; they run side by side in one pass.
        policy: a policy, or the path of its YAML file.
        stride_ms: time between the ends of two windows, in milliseconds.
        causal: judge a break only by what was known at that time; False looks up what comes after it.
        batch_size: windows per forward pass.
        lenient: pass over what does not decode; a notice in the document says so.
        limits: what the file may cost.
        shots: what finds cuts and dissolves: "pyscenedetect" or "transnetv2".

    Raises:
        VideoError: the video cannot be read.
        UserError: see `Analyser`.

    Example:
        >>> from jepa.signals import ProbeDetector, analyse
        >>> document = analyse("clip.mp4", ProbeDetector("probes/"), "policy.yaml")    # doctest: +SKIP
        >>> [(item.at_ms, item.verdict) for item in document.ads.breaks]               # doctest: +SKIP
        [(3040, 'allow'), (7520, 'hold')]
    """
    analyser = Analyser(
        detectors,
        policy,
        stride_ms=stride_ms,
        causal=causal,
        batch_size=batch_size,
        lenient=lenient,
        limits=limits,
        shots=shots,
    )
    return analyser.run(video).document


def _shot_detector(name: str) -> tuple[ShotDetectorMetadata, TransNetV2 | None]:
    if name == "pyscenedetect":
        return ShotDetectorMetadata(kind="pyscenedetect"), None
    if name != "transnetv2":
        raise UserError(f"shots={name!r} is no shot detector. Choose pyscenedetect or transnetv2.")
    model, sha256 = load_transnetv2()
    return ShotDetectorMetadata(kind="transnetv2", licence=LICENCE, weights_sha256=sha256), model


def decoder_name() -> str:
    """PyAV and the FFmpeg libraries in it: another decoder may round colours otherwise."""
    libraries = " ".join(
        f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in ("libavcodec", "libswscale")
    )
    return f"PyAV {metadata.version('av')}, {libraries}"


def asset_id(path: Path, sha256: str) -> str:
    """A name made of safe characters: the file's stem and the start of its hash.

    Example:
        >>> asset_id(Path("my clip (1).mp4"), "0123456789abcdef")
        'my-clip-1-01234567'
    """
    stem = re.sub(r"[^A-Za-z0-9]+", "-", path.stem).strip("-")[:60] or "video"
    return f"{stem}-{sha256[:8]}"


def printable(name: str) -> str:
    """A file name as text that any file and terminal can hold: undecodable bytes and control characters are escaped.

    Example:
        >>> printable("two\\nlines.mp4")
        'two\\\\nlines.mp4'
    """
    clean = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in clean)
