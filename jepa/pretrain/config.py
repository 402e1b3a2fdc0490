"""The configuration of a pretraining run, with the meaning of each key under it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jepa.data import StreamConfig
from jepa.errors import UserError
from jepa.fields import path_key
from jepa.masking import MaskConfig
from jepa.pretrain.distributed import ACTIVATION_CHECKPOINTING, STRATEGIES
from jepa.pretrain.logger import WandbConfig
from jepa.pretrain.monitor import MonitorConfig
from jepa.pretrain.objectives import MaskedPredictionConfig, objective_configs
from jepa.pretrain.schedules import SCHEDULES


@dataclass
class DataConfig(StreamConfig):
    """Which videos, and how a clip is cut from one."""

    num_frames: int = 8
    """frames in a clip; V-JEPA 2 trains on 16"""
    crop_px: int = 128
    """side of the square that a clip has in the end, in pixels; V-JEPA 2 trains on 256"""
    workers: int = 2
    """processes that decode; 0 decodes in the training process. The result is the same for any number"""
    max_bad_fraction: float = 0.1
    """the run stops when more than this fraction of the clips came from unreadable videos"""


@dataclass
class ModelConfig:
    """Which encoder, and the predictor that goes with it."""

    name: str = "vit_tiny"
    """an architecture by name; `jepa.list_models()` lists them"""
    patch_px: int = 16
    """side of a patch in pixels"""
    tubelet_frames: int = 2
    """frames in one token"""
    predictor_dim: int | None = None
    """width of the predictor; null takes the architecture's"""
    predictor_depth: int | None = None
    """blocks of the predictor; null takes the architecture's"""
    predictor_heads: int | None = None
    """attention heads of the predictor; null takes the architecture's"""
    weights: str = path_key("")
    """start from these weights: an export, a published file, or anything else that jepa.load_encoder reads; empty
    starts randomly. The predictor's are taken where they are stored and fit"""


@dataclass
class OptimConfig:
    """AdamW and its schedules."""

    lr: float = 5e-4
    """highest learning rate, reached after the warm-up"""
    schedule: str = "cosine"
    """from lr to final_lr after the warm-up: cosine (half of one), linear (a cooldown), or constant (stays at lr)"""
    final_lr: float = 1e-6
    """learning rate of the last step"""
    warmup_steps: int = 100
    """steps of linear rise"""
    weight_decay: float = 0.04
    """decoupled decay of matrices at the first step; biases and norms have none"""
    final_weight_decay: float | None = None
    """decay at the last step, half a cosine away (V-JEPA 1: 0.04 to 0.4); null keeps it constant"""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and the second moment"""
    clip_grad: float = 1.0
    """gradient norm above which the gradient is scaled down"""
    ema: tuple[float, float] = (0.99, 0.999)
    """momentum of the target encoder at the first and the last step, linear between them; twice the same is constant"""

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UserError(
                f"optim.schedule={self.schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}."
            )
        if not all(0 <= momentum <= 1 for momentum in self.ema):
            raise UserError(f"optim.ema={list(self.ema)} must hold two momenta between 0 and 1.")


@dataclass
class TrainConfig:
    """The loop."""

    steps: int = 2000
    """optimizer steps"""
    batch_size: int = 16
    """clips per step, over all processes"""
    micro_batch: int | None = None
    """clips in one micro-step of one process (gradient accumulation); null: all clips of a process at once"""
    seed: int = 0
    """the only source of randomness"""
    save_every: int = 500
    """steps between checkpoints; the last step is always saved"""
    keep: int = 2
    """newest checkpoints that stay on disk"""
    log_every: int = 50
    """steps between rows of metrics.jsonl"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    precision: str = "auto"
    """auto, bf16 or fp32; auto is bf16 on GPUs that compute in it, else fp32"""
    max_skipped: int = 10
    """steps in a row with a non-finite loss or gradient that are tolerated; none of them changes a weight"""
    init_from: str | None = path_key(None)
    """another run's folder: begin with its newest weights, target encoder and optimizer, at step 0 (a cooldown)"""
    strategy: str = "ddp"
    """under torchrun: ddp, each process holds everything; fsdp, weights, gradients and optimizer are sharded (FSDP2)"""
    activation_checkpointing: str = "none"
    """recompute in the backward pass to save memory: none, selective (all but matrix products and attention), full"""
    compile: bool = False
    """torch.compile for each block: faster on GPUs, after a minute"""
    timeout_s: float = 600.0
    """seconds that processes wait for one another before the run fails"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every", "keep", "log_every", "micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"train.{name}={value} has to be at least 1.")
        for name, allowed in (
            ("strategy", STRATEGIES),
            ("activation_checkpointing", ACTIVATION_CHECKPOINTING),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"train.{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}."
                )
        if self.seed < 0:
            raise UserError(f"train.seed={self.seed} has to be 0 or more.")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise UserError(f"train.precision={self.precision!r} is unknown; choose auto, bf16 or fp32.")


@dataclass
class PretrainConfig:
    """Everything that decides a run."""

    out: str = path_key("???")
    """run folder; started again on the same folder, a run resumes where it stopped"""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    masks: list[MaskConfig] = field(default_factory=lambda: [MaskConfig("blocks", 0.6)])
    """masks of each clip; every one costs a forward pass of encoder and predictor"""
    objective: Any = field(default_factory=MaskedPredictionConfig, metadata={"choices": objective_configs})
    """what is predicted, and the loss"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Checks across sections: clips divide into tokens, single frames being images, and there are masks.

        Raises:
            UserError: with the nearest size that does.
        """
        if not self.masks:
            raise UserError("masks is empty, so there would be nothing to predict; give at least one mask.")
        model, data = self.model, self.data
        sizes = [("data", data.crop_px, data.num_frames)]
        for number, source in enumerate(data.mix):
            own = source.crop_px or data.crop_px, source.num_frames or data.num_frames
            sizes.append((f"data.mix.{number}", *own))
        for owner, crop_px, num_frames in sizes:
            for key, size, unit, name in (
                ("crop_px", crop_px, model.patch_px, "model.patch_px"),
                ("num_frames", num_frames, model.tubelet_frames, "model.tubelet_frames"),
            ):
                if size <= 0 or (size % unit and not (key == "num_frames" and size == 1)):
                    near = max(unit, round(size / unit) * unit)
                    raise UserError(
                        f"{owner}.{key}={size} is not a positive multiple of {name}={unit}: the clip does not divide "
                        f"into tokens. Use {owner}.{key}={near}, or change {name}."
                    )
            if getattr(self.objective, "pca_components", 0) and num_frames <= model.tubelet_frames:
                raise UserError(
                    f"{owner}.num_frames={num_frames} makes one time step of a clip, and objective.pca_components "
                    f"needs several. Use at least {2 * model.tubelet_frames} frames, or drop it."
                )

    @property
    def run_folder(self) -> Path | None:
        """Where files go; None for a run from Python that writes none."""
        return None if self.out in ("", "???") else Path(self.out)
