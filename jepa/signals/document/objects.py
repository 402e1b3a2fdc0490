"""The signals document (`jepa.signals/3`): one pydantic model for each object that it is made of.

Rules, checked here field by field and in `invariants.py` between objects:

- times are integer milliseconds from the start of the video, intervals are half-open `[start_ms, end_ms)`;
- frames are counted from 0 in the order in which they are shown;
- every probability is in `[0, 1]` and names its calibration; a number that is no probability is not called `p`;
- a null score means that its head did not assess that window: it opens no span, issues no forecast and settles none;
- observed and anticipated signals live in separate arrays and never mix;
- an unknown field is an error, in every object.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from jepa.signals.document.fields import Action, Count, Id, Ms, Part, Probability, Sha256, Text, Unit
from jepa.signals.document.run import Calibration, Run
from jepa.signals.document.tracks import Tracks

SCHEMA_ID = "jepa.signals/3"


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
    safety.

    Where a head left windows of this video out, `head` names it, `spans_ms` are the times, and `fraction` is how many
    of the video's windows that is.
    """

    what: Text
    why: Text
    head: Id | None = None
    spans_ms: list[tuple[Ms, Ms]] = Field(default_factory=list)
    fraction: Unit | None = None


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

    `visual_change` is how unlike the shots before its colours are (0 same, 1 nothing in common). `score` is what the
    network of `run.shots` gives its beginning, not calibrated; null where there is none.
    """

    start_frame: Count
    end_frame: Annotated[int, Field(gt=0)]
    kind: Literal["start", "cut", "fade", "dissolve"]
    visual_change: Unit | None = None
    score: Unit | None = None


class Scene(Span):
    """Neighbouring shots that look alike and are joined by cuts. `visual_change` is how unlike the next shot is
    (0 same, 1 nothing in common)."""

    shots: list[Id]
    visual_change: Unit | None


class Pause(Span):
    """A stretch of little motion. `stillness` is 1 minus motion relative to the video so far."""

    stillness: Unit


class Sound(Part):
    """The sound track that was assessed: which of the file's, how loud it is, and where it holds nothing.

    `integrated_lufs` and `loudness_range_lu` are by EBU R128, null where nothing is loud enough to be counted or no
    detector measured it. `gaps` lists stretches without sound in the file, in which a player is silent; `unheard` those
    that could not be decoded, about which nothing is known.
    """

    track: Count
    tracks: Count
    codec: Text
    sample_rate: Count
    channels: Count
    integrated_lufs: float | None
    loudness_range_lu: float | None
    gaps: list[tuple[Ms, Ms]]
    unheard: list[tuple[Ms, Ms]]


class Silence(Span):
    """A stretch in which the momentary loudness (400 ms) stays below the level that its detector states.

    `loudest_lufs` is its highest value there, null for digital silence.
    """

    loudest_lufs: float | None


class Speech(Span):
    """A stretch in which somebody speaks; `p` is the mean probability."""

    p: Probability


class Timeline(Part):
    """How the video is cut, and what is heard. `silences` and `speech` are null where no detector assessed them, and
    `sound` is null where nobody listened or the file has no sound track."""

    shots: list[Shot]
    scenes: list[Scene]
    pauses: list[Pause]
    sound: Sound | None = None
    silences: list[Silence] | None = None
    speech: list[Speech] | None = None


class Observed(Span):
    """Something observed. `p` is its highest calibrated probability, reached at `peak_ms`.

    `cat` is the IAB id that the policy gives to the head's `label`, or null.
    """

    head: Id
    label: Text
    cat: Text | None
    p: Probability
    peak_ms: Ms
    calibration: Id | None
    evidence: list[Id]


class CurvePoint(Part):
    """The probability that it has started within this time."""

    within_ms: Annotated[int, Field(gt=0)]
    p: Probability


class Resolution(Part):
    """What became of a forecast. `expired`: the video ended before the horizon did. `open`: no head observed its label
    in all of its horizon. `by` names what confirmed it."""

    status: Literal["open", "confirmed", "refuted", "expired"]
    by: Text | None = None
    onset_ms: Ms | None = None
    lead_ms: Ms | None = None


class Anticipated(Part):
    """A forecast: made at `issued_at_ms` from the frames in `context_ms`, none of them later.

    `base_rate` is how often this starts within `horizon_ms` anyway, null where nobody counted.
    """

    id: Id
    head: Id
    label: Text
    cat: Text | None
    issued_at_ms: Ms
    context_ms: tuple[Ms, Ms]
    last_frame: Count
    horizon_ms: Annotated[int, Field(gt=0)]
    curve: Annotated[list[CurvePoint], Field(min_length=1)]
    base_rate: Probability | None
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
    """One of a head's own labels."""

    label: Text
    p: Probability


class Suitability(Part):
    """A brand-safety category observed in a scene."""

    category: Id
    p: Probability


class Segment(Part):
    """What one scene shows: IAB categories and plain tags, each averaged over the third of its windows where it is
    likeliest (two seconds at least); risks from what was observed."""

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


class MaxRisk(Part):
    """The likeliest risk on one side of a break."""

    label: Text
    cat: Text | None
    p: Probability


class Before(Part):
    """The side already shown."""

    window_ms: tuple[Ms, Ms]
    max_risk: MaxRisk | None


class After(Part):
    """The side to come: forecast, or looked up when the video is complete and `run.causal` is false.

    `forecast` is the one in force at the break, if one had been issued.
    """

    source: Literal["anticipated", "observed"]
    window_ms: tuple[Ms, Ms]
    forecast: Id | None
    max_risk: MaxRisk | None


BoundaryType = Literal["start", "shot", "scene", "pause"]


class Break(Part):
    """A time at which an advertisement could go. `score` is the sum of the factors' parts."""

    id: Id
    at_ms: Ms
    at_frame: Count
    boundary_types: list[BoundaryType]
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
    reason: Text
    review: Review | None
    to: Id | None = None


class Evidence(Part):
    """A frame that can be decoded again: `frame_sha256` covers its height, width and RGB bytes."""

    id: Id
    kind: Literal["frame"]
    start_ms: Ms
    end_ms: Ms
    frame: Count
    frame_sha256: Sha256


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


class SignalsDocument(Part):
    """One video, one document: what was observed, forecast and decided, by what, and on which evidence.

    `schema.parse_document` and `hash_chain.seal` also check what must hold between the parts.
    """

    schema_id: Annotated[Literal["jepa.signals/3"], Field(alias="schema")]
    asset: Asset
    run: Run
    calibrations: list[Calibration]
    taxonomies: list[Taxonomy]
    not_assessed: list[NotAssessed]
    notices: list[Text]
    timeline: Timeline
    tracks: Tracks
    observed: list[Observed]
    anticipated: list[Anticipated]
    ads: Ads
    decisions: list[Decision]
    evidence: list[Evidence]
    log: Log

    model_config = ConfigDict(populate_by_name=True)
