"""What decides an objective."""

from __future__ import annotations

from dataclasses import dataclass, field

from jepa.errors import UserError
from jepa.fields import path_key
from jepa.pretrain.objectives.targets import DISTANCES

TEACHERS = ("ema", "frozen", "none")
DEEP_LEVELS = 4


@dataclass
class ContextLossConfig:
    """V-JEPA 2.1's second term: the predictor also says again what was seen (arXiv 2603.14482, equation 3)."""

    weight: float = 0.0
    """its weight beside the loss at the hidden tokens; 0 leaves it out; V-JEPA 2.1: 0.5"""
    image_weight: float | None = None
    """the weight for images; null for the same; V-JEPA 2.1's paper: 0.7"""
    warmup: tuple[float, float] = (0.0, 0.0)
    """shares of the run: 0 until the first, then rising linearly up to the second; V-JEPA 2.1: [0.05, 0.1]"""
    by_distance: bool = True
    """a token counts 1 / sqrt(its distance to the nearest hidden token), in tokens; V-JEPA 2.1's cooldown: false"""

    def __post_init__(self) -> None:
        if self.weight < 0 or (self.image_weight or 0.0) < 0:
            raise UserError(
                "objective.context.weight and image_weight cannot be negative; 0 switches it off."
            )
        if self.image_weight is not None and self.weight == 0:
            raise UserError(
                "objective.context.image_weight is set, but objective.context.weight is 0: set both."
            )
        if not 0 <= self.warmup[0] <= self.warmup[1] <= 1:
            raise UserError(
                f"objective.context.warmup={list(self.warmup)} must be two rising shares of the run, 0 to 1."
            )


@dataclass
class SIGRegConfig:
    """Against collapse without a second network: features are pushed to a standard Gaussian (arXiv 2511.08544)."""

    weight: float = 0.0
    """views: the loss is (1 - weight) * invariance + weight * SIGReg (LeJEPA 0.05, LeVJEPA 0.02);
    latents with teacher=none: prediction + weight * SIGReg (LeWorldModel 0.1); small batches need more; 0: off"""
    slices: int = 1024
    """random directions of a step; each is one test for normality"""
    tokens: int = 64
    """latents only: tokens of each clip that are tested, drawn anew in each step"""
    global_views: int = 1
    """views only: how many masks, from the first, make up the centre that all views should meet"""
    hidden_dim: int = 2048
    """views only: width of the projector's two hidden layers"""
    out_dim: int = 128
    """views only: channels of the projected vector"""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < 1:
            raise UserError(f"objective.sigreg.weight={self.weight} must lie in [0, 1).")
        for name in ("slices", "tokens", "global_views", "hidden_dim", "out_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"objective.sigreg.{name}={getattr(self, name)} has to be at least 1.")


@dataclass
class ObjectiveConfig:
    """What is predicted, who says what is right, and how a miss is measured."""

    predict: str = "latents"
    """latents: features of the hidden tokens (V-JEPA); pixels: the patches themselves (masked autoencoding);
    views: one vector per mask, alike for all masks of a clip (LeJEPA); needs teacher=none and two masks or more"""
    levels: list[int] = field(default_factory=lambda: [-1])
    """predicted depths, rising; 0 the patch embedding, k the output of block k, -1 the last (V-JEPA 2); not for
    pixels or views"""
    deep: bool = False
    """latents only: the encoder norms four levels each on its own, the predictor reads and predicts all
    four (V-JEPA 2.1); takes the place of levels"""
    changes: bool = False
    """latents only: guess each level minus its mean over the clip's moments at each place, so that copying what stands
    still earns nothing; for fixed cameras and backgrounds (docs/small_scale.md)"""
    components: int = 0
    """changes only: instead of norming each token, keep this many principal directions of each level's changes, all
    tokens on one scale; 0: layer norm and all directions. Needs a teacher (ema or frozen); 8 in recipe=small"""
    image_tokenizer: bool = False
    """single frames get a patch embedding of their own, and a learned vector tells images from videos (V-JEPA 2.1)"""
    distance: str = "l1"
    """l1, l2 (mean squared) or smooth_l1, averaged over tokens and channels"""
    teacher: str = "ema"
    """ema: latents of an average of the encoder over its recent past; frozen: of the encoder in teacher_from (SALT,
    distillation); none: of the encoder itself, with gradient, which collapses unless sigreg.weight holds it"""
    teacher_from: str = path_key("")
    """frozen only: an export's folder, or anything else that jepa.load_encoder reads"""
    context: ContextLossConfig = field(default_factory=ContextLossConfig)
    sigreg: SIGRegConfig = field(default_factory=SIGRegConfig)

    def __post_init__(self) -> None:
        choices = (
            ("predict", self.predict, ("latents", "pixels", "views")),
            ("distance", self.distance, tuple(DISTANCES)),
            ("teacher", self.teacher, TEACHERS),
        )
        for name, value, known in choices:
            if value not in known:
                raise UserError(f"objective.{name}={value!r} is unknown; choose one of {', '.join(known)}.")
        if not self.levels:
            raise UserError(
                "objective.levels is empty; name at least one block, for example [-1] for the last."
            )
        for wrong, why in (
            (
                (self.teacher == "frozen") != bool(self.teacher_from),
                "objective.teacher=frozen and objective.teacher_from=FOLDER belong together: give both or neither.",
            ),
            (
                self.teacher == "frozen" and self.predict != "latents",
                f"objective.predict={self.predict} asks no teacher; drop objective.teacher=frozen.",
            ),
            (
                self.predict == "views" and (self.teacher != "none" or self.sigreg.weight == 0),
                "objective.predict=views has no target network: set objective.teacher=none and "
                "objective.sigreg.weight, for example to 0.05.",
            ),
            (
                self.predict != "latents" and self.deep,
                f"objective.deep names latents; drop it for objective.predict={self.predict}.",
            ),
            (
                self.predict != "latents" and self.changes,
                f"objective.changes names latents; drop it for objective.predict={self.predict}.",
            ),
            (
                self.components < 0,
                f"objective.components={self.components} cannot be negative; 0 keeps all directions.",
            ),
            (
                self.components > 0 and (not self.changes or self.teacher == "none"),
                f"objective.components={self.components} keeps principal directions of a teacher's changes: set "
                "objective.changes=true and objective.teacher=ema or frozen, or drop it.",
            ),
            (
                self.deep and self.levels != [-1],
                "objective.deep predicts the encoder's own four levels; drop objective.levels.",
            ),
            (
                self.predict == "views" and self.context.weight > 0,
                "objective.context belongs to a predictor, and objective.predict=views has none; drop it.",
            ),
            (
                self.sigreg.weight > 0 and self.teacher != "none",
                f"objective.sigreg holds an encoder without a teacher; with objective.teacher={self.teacher} set "
                "objective.sigreg.weight=0, or use objective.teacher=none.",
            ),
        ):
            if wrong:
                raise UserError(why)

    @property
    def num_levels(self) -> int:
        """How many depths are predicted."""
        return DEEP_LEVELS if self.deep else len(self.levels)
