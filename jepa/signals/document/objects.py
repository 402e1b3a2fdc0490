"""The objects that a `jepa.signals/1` document is made of.

Rules of the house, checked here field by field and in `invariants.py` between objects:

- times are integer milliseconds from the start of the video, intervals are half-open `[start_ms, end_ms)`;
- frames are counted from 0 in the order in which they are shown;
- every probability lies in `[0, 1]` and names its calibration; a number that is none is not called `p`;
- observed and anticipated signals live in separate arrays and never mix;
- an unknown field is an error, in every object.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Ms = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Unit = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, StringConstraints(max_length=4000)]

Action = Literal["allow", "move", "hold", "review", "skip", "label", "demote", "remove"]
# When several rules fire, the action furthest to the right wins. `skip` declines a break for layout reasons.
ACTION_ORDER: tuple[Action, ...] = ("allow", "skip", "move", "hold", "review", "label", "demote", "remove")
# A forecast may hold a break, move it or ask a person. It may never act on content that has not happened.
ANTICIPATED_ACTIONS: frozenset[Action] = frozenset({"allow", "move", "hold", "review"})
FINAL_ACTIONS: frozenset[Action] = frozenset({"label", "demote", "remove"})


class Part(BaseModel):
    """Base of every object: immutable, no unknown fields, no silent conversion, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Asset(Part):
    """The video. `fps` is the average frame rate as a fraction; `name` is for people, `sha256` for
    machines."""

    id: Id
    name: Text
    sha256: Sha256
    duration_ms: Annotated[int, Field(gt=0)]
    fps: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
    frames: Annotated[int, Field(gt=0)]
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]


class EncoderFacts(Part):
    """The frozen encoder and the windows it sees: `clip_frames` frames at `clip_fps`, one every
    `stride_ms`."""

    name: Text
    weights_sha256: Sha256
    frozen: Literal[True] = True
    clip_frames: Annotated[int, Field(gt=0)]
    clip_fps: Annotated[float, Field(gt=0)]
    stride_ms: Annotated[int, Field(gt=0)]


class ProbeFacts(Part):
    """One probe. `groups` names sets of its labels that the policy counts as one; `trained_on` says in words
    which videos it learnt from, so what it cannot know."""

    id: Id
    task: Literal["anticipate", "describe", "classify"]
    weights_sha256: Sha256
    labels: list[Text]
    groups: dict[str, list[Text]] = {}
    calibration: Id | None
    trained_on: Text


class Run(Part):
    """What made the document. `causal`: every number about time t used frames up to t only.

    `tolerance` is how far a replayed probability may differ: sums in another order, or on other hardware,
    round differently.
    """

    run_id: Id
    tool: Text
    decoder: Text
    config_sha256: Sha256
    causal: bool
    tolerance: Annotated[float, Field(ge=0, le=0.01)]
    encoder: EncoderFacts
    probes: list[ProbeFacts]


class Calibration(Part):
    """How scores became probabilities, on how many videos, and how far off they are (ECE) per horizon."""

    id: Id
    method: Text
    parameters: dict[str, float] = {}
    n_videos: Count | None = None
    set_sha256: Sha256 | None = None
    ece: Unit | None = None
    ece_by_horizon: dict[str, Unit] = {}


class Taxonomy(Part):
    """A set of ids in use. `order` lists levels from mildest to worst."""

    key: Id
    name: Text | None = None
    version: Text | None = None
    cattax: int | None = None
    order: list[Id] | None = None
    sha256: Sha256 | None = None


class NotAssessed(Part):
    """Something a reader might take for granted and that nobody looked at. Absence of a signal is not
    safety."""

    what: Text
    why: Text


class Span(Part):
    """Base of everything with a start and an end."""

    id: Id
    start_ms: Ms
    end_ms: Ms

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if self.end_ms <= self.start_ms:
            raise ValueError(f"{self.id}: end_ms {self.end_ms} is not after start_ms {self.start_ms}")
        return self


class Shot(Span):
    """One camera take; `kind` says how it begins; frames are half-open too.

    `change` is how unlike the shots before its colours are (0 same, 1 nothing in common).
    """

    start_frame: Count
    end_frame: Annotated[int, Field(gt=0)]
    kind: Literal["start", "cut", "fade", "dissolve"]
    change: Unit | None = None


class Scene(Span):
    """Neighbouring shots that look alike and are joined by cuts. `change` is how unlike the next shot is (0 same,
    1 nothing in common)."""

    shots: list[Id]
    change: Unit | None


class Pause(Span):
    """A stretch of little motion. `stillness` is 1 minus motion relative to the video so far."""

    stillness: Unit


class Timeline(Part):
    """How the video is cut."""

    shots: list[Shot]
    scenes: list[Scene]
    pauses: list[Pause]


class ObservedTrack(Part):
    """The probability that `label` is happening, at the end of each window."""

    probe: Id
    label: Text
    p: list[Probability]


class AnticipatedTrack(Part):
    """The probability that `label` starts within `within_ms` after the end of each window."""

    probe: Id
    label: Text
    within_ms: Annotated[int, Field(gt=0)]
    p: list[Probability]


class Tracks(Part):
    """Scores over time. Window i ends at `window_end_ms[i]` and its last frame is `last_frame[i]`."""

    window_end_ms: list[Ms]
    last_frame: list[Count]
    observed: list[ObservedTrack]
    anticipated: list[AnticipatedTrack]


class Observed(Span):
    """Something seen. `p` is its highest calibrated probability, reached at `peak_ms`.

    `cat` is the IAB id that the policy gives to the probe's `label`, or null; `level` spreads over the four
    risk levels, where a probe tells them apart.
    """

    probe: Id
    label: Text
    cat: Text | None
    p: Probability
    peak_ms: Ms
    level: dict[str, Probability] | None = None
    calibration: Id | None
    evidence: list[Id]


class CurvePoint(Part):
    """The probability that it has started within this time."""

    within_ms: Annotated[int, Field(gt=0)]
    p: Probability


class Resolution(Part):
    """What became of a forecast. `expired`: the video ended before the horizon did. `by` names what confirmed
    it."""

    status: Literal["open", "confirmed", "refuted", "expired"]
    by: Text | None = None
    onset_ms: Ms | None = None
    lead_ms: Ms | None = None


class Anticipated(Part):
    """A forecast: made at `issued_at_ms` from the frames in `context_ms`, none of them later.

    `base_rate` is how often this happens within the longest horizon anyway; `spread` is the disagreement
    between seeds, where there are several.
    """

    id: Id
    probe: Id
    label: Text
    cat: Text | None
    issued_at_ms: Ms
    context_ms: tuple[Ms, Ms]
    last_frame: Count
    horizon_ms: Annotated[int, Field(gt=0)]
    curve: Annotated[list[CurvePoint], Field(min_length=1)]
    base_rate: Probability | None
    spread: Unit | None = None
    calibration: Id | None
    evidence: list[Id]
    resolution: Resolution


class CategoryScore(Part):
    """One IAB category and where it came from."""

    id: Id
    path: list[Text]
    label: Text
    p: Probability


class TagScore(Part):
    """One of the probe's own words."""

    label: Text
    p: Probability


class Suitability(Part):
    """A brand-safety category seen in a scene; `level` stays null unless a probe tells levels apart."""

    category: Id
    level: Literal["bsr001", "bsr002", "bsr003", "bsr004"] | None
    p: Probability


class Segment(Part):
    """What one scene is about: IAB categories and plain tags from the description probe, risks from what was
    seen."""

    scene: Id
    cats: list[CategoryScore]
    tags: list[TagScore]
    suitability: list[Suitability]


class Factor(Part):
    """One term of a break's score: `part = value * weight`."""

    name: Id
    value: Unit
    weight: float
    part: float


class Worst(Part):
    """The likeliest risk on one side of a break."""

    label: Text
    cat: Text | None
    p: Probability


class Before(Part):
    """The side already shown."""

    window_ms: tuple[Ms, Ms]
    worst: Worst | None


class After(Part):
    """The side to come: forecast, or looked up when the video is complete and `run.causal` is false.

    `ref` is the forecast in force at the break, if one had been issued.
    """

    source: Literal["anticipated", "observed"]
    window_ms: tuple[Ms, Ms]
    ref: Id | None
    worst: Worst | None


class Break(Part):
    """A place where an advertisement could go. `score` is the sum of the factors' parts."""

    id: Id
    at_ms: Ms
    at_frame: Count
    snap: list[Literal["shot", "scene", "pause"]]
    score: float
    factors: list[Factor]
    before: Before
    after: After
    verdict: Action
    decision: Id


class Ads(Part):
    """What advertising needs: what each scene is about, and where a break could go."""

    segments: list[Segment]
    breaks: list[Break]


class Guarantee(Part):
    """A statistical promise about a decision, e.g. from conformal risk control."""

    risk: Text
    alpha: Probability
    method: Text
    n: Count


class Review(Part):
    """Where a person looks at it."""

    queue: Text
    state: Literal["open", "upheld", "overturned"]


class Decision(Part):
    """What the policy did, by which rule, and by what margin (`value - threshold`).

    `basis` says what kind of signal the rule read. `to` names the break that replaces one that is moved.
    """

    id: Id
    subject: Id
    action: Action
    policy: Id
    policy_version: Text
    policy_sha256: Sha256
    rule_id: Id
    rule: Text
    value: float | None
    threshold: float | None
    margin: float | None
    basis: Literal["observed", "anticipated", "layout", "not_assessed"]
    automated: Literal["not", "partially", "fully"]
    human: Literal["required", "not_required"]
    guarantee: Guarantee | None = None
    reason: Text
    review: Review | None
    to: Id | None = None
    appeal: Text | None = None


class Evidence(Part):
    """A frame that can be decoded again: `frame_sha256` covers its height, width and RGB bytes.

    `box` is the region, as left, top, width and height in parts of the frame, that matters most by `method`;
    `delta_p` is how the probability changes when it is hidden.
    """

    id: Id
    kind: Literal["frame"]
    start_ms: Ms
    end_ms: Ms
    frame: Count
    frame_sha256: Sha256
    box: tuple[Unit, Unit, Unit, Unit] | None = None
    method: Text | None = None
    delta_p: Annotated[float, Field(ge=-1, le=1)] | None = None


class LogEntry(Part):
    """One link: `hash = sha256(previous hash, canonical JSON of kind, id and the object)`."""

    seq: Annotated[int, Field(gt=0)]
    kind: Id
    id: Id
    hash: Sha256


class Log(Part):
    """The chain over the whole document; `hash` is its last link."""

    seq: Count
    prev: Sha256
    hash: Sha256
    entries: list[LogEntry]
