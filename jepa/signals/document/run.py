"""What made a document: the run, its detectors with their heads, clips and domains, and their calibrations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jepa.signals.document.fields import Count, Id, Part, Probability, Sha256, Text, Unit


class EncoderMetadata(Part):
    """A frozen encoder: its architecture's name, and a hash of its configuration and weights."""

    name: Text
    weights_sha256: Sha256
    frozen: Literal[True] = True


class ClipMetadata(Part):
    """Frames that a detector reads: `num_frames` of them at `fps`, the last one at the window's end."""

    num_frames: Annotated[int, Field(gt=0)]
    fps: Annotated[float, Field(gt=0)]


class DomainMetadata(Part):
    """What a head counts as the kind of video that it was trained on: windows up to `threshold` of `method`'s distance.

    `alpha` is the nominal fraction of videos like its training videos whose windows would be put outside, found on
    `groups` of them that the description was not fitted on. `promised` is false where those were too few to promise
    it.
    """

    method: Text
    alpha: Annotated[float, Field(gt=0, lt=1)]
    threshold: Annotated[float, Field(ge=0)]
    groups: Count
    promised: bool


class AudioMetadata(Part):
    """The sound that a detector hears: samples a second, and whether channels are mixed into one."""

    sample_rate: Annotated[int, Field(gt=0)]
    mono: bool


class HeadMetadata(Part):
    """One output of a detector, such as one probe, and what may be concluded from it.

    `task` says how to read the labels: `classify` (they exclude each other), `describe` (they are independent) or
    `anticipate` (each starts within `horizons_ms`; `base_rates` says how often that happens anyway, by label).
    `groups` names sets of labels that the policy counts as one. `categories` gives labels their ids in the IAB Content
    Taxonomy, for the labels that the policy does not name. `trained_on` says in words which videos it learnt from, so
    what it cannot know. `domain` says which windows are like those; null where nothing checks it.
    """

    id: Id
    task: Literal["anticipate", "describe", "classify"]
    weights_sha256: Sha256
    labels: Annotated[list[Text], Field(min_length=1)]
    groups: dict[str, list[Text]] = Field(default_factory=dict)
    categories: dict[str, Id] = Field(default_factory=dict)
    horizons_ms: list[Annotated[int, Field(gt=0)]] = Field(default_factory=list)
    base_rates: dict[str, list[Probability]] = Field(default_factory=dict)
    calibration: Id | None
    trained_on: Text
    domain: DomainMetadata | None = None


class DetectorMetadata(Part):
    """One detector. `kind` is the name under which `register_detector` knows it, and `settings` are what its builder
    needs besides files of this machine; `encoder` is null for a detector that has none. `licence` is the SPDX
    expression of a model that somebody else packaged, null for other detectors. A detector reads `clips` or hears
    `audio`."""

    id: Id
    kind: Id
    settings: dict[str, Text] = Field(default_factory=dict)
    licence: Text | None = None
    encoder: EncoderMetadata | None = None
    clips: list[ClipMetadata] = Field(default_factory=list)
    audio: AudioMetadata | None = None
    heads: Annotated[list[HeadMetadata], Field(min_length=1)]

    @model_validator(mode="after")
    def _reads(self) -> DetectorMetadata:
        if not self.clips and self.audio is None:
            raise ValueError(f"{self.id}: a detector needs clips or audio to read")
        return self


class ShotDetectorMetadata(Part):
    """What found the shots; `licence` and `weights_sha256` are of its network, null where it has none."""

    kind: Literal["pyscenedetect", "transnetv2"]
    licence: Text | None = None
    weights_sha256: Sha256 | None = None


class Run(Part):
    """What made the document. A window ends every `stride_ms`. `causal`: every score about time t used frames up to t
    only. `lenient`: what did not decode was passed over, and a notice says so.

    `tolerance` is how far a replayed probability may differ: sums in another order, or on other hardware,
    round differently.
    """

    run_id: Id
    tool: Text
    decoder: Text
    config_sha256: Sha256
    causal: bool
    lenient: bool
    stride_ms: Annotated[int, Field(gt=0)]
    tolerance: Annotated[float, Field(ge=0, le=0.01)]
    shots: ShotDetectorMetadata = ShotDetectorMetadata(kind="pyscenedetect")
    detectors: list[DetectorMetadata]

    @property
    def heads(self) -> list[HeadMetadata]:
        """The heads of all detectors."""
        return [head for detector in self.detectors for head in detector.heads]


class Calibration(Part):
    """How scores became probabilities, on how many videos, and how far off they are (ECE) per horizon."""

    id: Id
    method: Text
    n_videos: Count | None = None
    set_sha256: Sha256 | None = None
    ece: Unit | None = None
    ece_by_horizon: dict[str, Unit] = Field(default_factory=dict)
