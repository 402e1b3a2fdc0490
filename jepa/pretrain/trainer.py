"""The trainer: `train_step` is one optimizer step, `fit` the run around it, `train` the `jepa pretrain` command.

Every random choice is a function of (seed, sample index), so a run that is killed and started again ends bit-identical
to one that was never stopped, and one process sees the same batch as many.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader

from jepa.data import Stream, collate, stream_of
from jepa.data.transforms import normalise
from jepa.errors import UserError
from jepa.fields import to_dict
from jepa.files import write_text
from jepa.masking import Mask, sample_masks
from jepa.models import VideoEncoder
from jepa.pretrain.callbacks import Callback, MonitorCallback
from jepa.pretrain.checkpoint import CheckpointWriter, newest_checkpoint
from jepa.pretrain.config import PretrainConfig
from jepa.pretrain.distributed import DistContext, clip_gradient, init_distributed, no_sync
from jepa.pretrain.factory import build_objective
from jepa.pretrain.logger import ConsoleLogger, Logger, NullLogger
from jepa.pretrain.nonfinite import MicroBatch, NonFiniteGuard, StepStatus
from jepa.pretrain.objectives import Objective
from jepa.pretrain.objectives.base import objective_class
from jepa.pretrain.optim import set_rates
from jepa.pretrain.resume import check_same_everywhere, check_same_run
from jepa.pretrain.state import TrainState


class MicroStep(NamedTuple):
    """What the last micro-step of an optimizer step saw, on the device."""

    video: Tensor
    """[B, C, T, H, W], normalised"""
    targets: Tensor | None
    """[B, N, E]"""
    masks: list[Mask]


class StepMetrics(NamedTuple):
    """One optimizer step. Tensors stay on the device: reading one waits for it."""

    step: int
    """finished steps, this one included"""
    losses: dict[str, Tensor]
    """scalars of this process by name, `loss` among them"""
    grad_norm: Tensor
    skipped: Tensor
    """1 where the step was not finite and changed no weight, else 0"""
    rates: dict[str, float]
    """learning rate, weight decay and EMA momentum"""
    last: MicroStep
    statuses: list[StepStatus]
    """steps whose outcome has become known on the host, which is one step late"""


class Trainer:
    """Pretrains an encoder.

    Args:
        config: everything that decides the run. With `out` it writes a run folder, and resumes from its newest
            checkpoint; without, no file is written.
        dataset: clips to train on, instead of `config.data.root`: a list of clips uint8 [T, C, H, W], or any map-style
            dataset of them, or a `jepa.data.Stream`.
        objective: a loss with its networks, instead of `config.objective`.
        callbacks: see `jepa.pretrain.callbacks`.

    Raises:
        UserError: the configuration or the data cannot be used.

    Example:
        >>> from jepa.pretrain import PretrainConfig, Trainer
        >>> config = PretrainConfig()
        >>> config.model.name, config.model.patch_px = "vit_nano", 8
        >>> config.data.num_frames, config.data.crop_px = 4, 32
        >>> config.train.steps, config.train.batch_size, config.train.device = 1, 2, "cpu"
        >>> trainer = Trainer(config, dataset=[torch.zeros(4, 3, 32, 32, dtype=torch.uint8)] * 2)
        >>> trainer.fit()
        >>> trainer.step
        1
    """

    def __init__(
        self,
        config: PretrainConfig,
        dataset: Any = None,
        objective: Objective | None = None,
        callbacks: Iterable[Callback] = (),
    ) -> None:
        self.config = config
        self.callbacks = [MonitorCallback(), *callbacks]
        self.logger: Logger | NullLogger = NullLogger()
        self._signals: list[int] = []
        self._stop = False
        with ExitStack() as opened:
            self.context = opened.enter_context(init_distributed(config.train.device, config.train.timeout_s))
            self._set_up(dataset, objective)
            self._open = opened.pop_all()  # from here on, `close` leaves the process group

    def _set_up(self, dataset: Any, objective: Objective | None) -> None:
        """Data, networks, optimizer, and the state of the newest checkpoint."""
        config, train = self.config, self.config.train
        self.micro_steps = count_micro_steps(config, self.context)
        if isinstance(dataset, Stream):
            self.stream = dataset
        elif dataset is not None:
            self.stream = stream_of(dataset, train.seed, train.batch_size)
        else:
            kind = objective_class(config.objective) if objective is None else type(objective)
            self.stream = kind.open_data(config)
        check_same_everywhere(self.context, self.stream.fingerprint, config.data.root or "data.mix")
        out = config.run_folder
        # One process looks, so that all resume from the same state.
        nothing: tuple[Path | None, dict[str, Any], list[str]] = None, {}, []
        found = newest_checkpoint(out) if out is not None and self.context.is_main else nothing
        path, saved, self._problems = self.context.gather(found)[0]
        precision = saved.get("precision") or choose_precision(config, self.context.device)
        objective = objective if objective is not None else build_objective(config)
        objective.attach(self.stream.dataset, config.data.workers)
        self.state = TrainState(config, objective, self.context, self.stream.fingerprint, precision)
        if path is not None and out is not None:
            check_same_run(saved, config, self.stream.fingerprint, out)
            self.state.load(path, saved)
        elif train.init_from:
            self.state.begin_from(Path(train.init_from))
        self.guard = NonFiniteGuard(self.context, out, saved.get("skipped", 0))

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def objective(self) -> Objective:
        """The trained networks and their loss."""
        return self.state.objective

    @property
    def encoder(self) -> VideoEncoder:
        """The encoder that an export would hold: the EMA where there is one."""
        encoders = self.objective.exportable()
        return encoders.get("target", encoders["context"])

    @property
    def step(self) -> int:
        """Finished optimizer steps."""
        return self.state.step

    def train_step(self, micro_batches: Iterable[dict[str, Any]]) -> StepMetrics:
        """One optimizer step: normalise, masks, targets, loss, backward; clip, guard, optimizer, EMA.

        Args:
            micro_batches: what `collate` makes of clips: "video" uint8 [B, C, T, H, W] and "index" [B], the samples'
                numbers in the run; there are `self.micro_steps` of them.

        Raises:
            UserError: there are more or fewer micro-batches than `self.micro_steps`.
            RuntimeError: too many steps in a row were not finite.
        """
        config, state, objective, device = self.config, self.state, self.objective, self.context.device
        rates = set_rates(state.optimizer, config.optim, state.step, config.train.steps)
        losses: dict[str, Tensor] = {}
        used: list[MicroBatch] = []
        for number, batch in enumerate(micro_batches, start=1):
            video = normalise(batch["video"].to(device, non_blocking=True), config.data.mean, config.data.std)
            masks = self._draw_masks(video, batch["index"])
            # Gradients of all but the last micro-step are added up locally, and averaged over the processes once.
            with no_sync(state.model, enabled=number < self.micro_steps):
                with torch.autocast(device.type, torch.bfloat16, enabled=state.precision == "bf16"):
                    targets = objective.make_targets(video)
                    extra = {
                        key: batch[key].to(device, non_blocking=True)
                        for key in objective.batch_keys
                        if key in batch
                    }
                    row = state.model(video, targets, masks, state.step / config.train.steps, **extra)
                (row["loss"] / self.micro_steps).backward()
            losses = {k: losses.get(k, 0.0) + v.detach() / self.micro_steps for k, v in row.items()}
            used.append(MicroBatch(batch, masks))
        if len(used) != self.micro_steps:
            raise UserError(
                f"train_step got {len(used)} micro-batches, and a step of this run has {self.micro_steps}."
            )
        grad_norm = clip_gradient(objective, config.optim.clip_grad)

        # A NaN never reaches a weight: where found_inf is 1, AdamW changes nothing, without a host sync.
        skipped = self.guard.check(state.step + 1, losses, grad_norm, bool(self._signals), used)
        state.optimizer.found_inf = skipped  # type: ignore[attr-defined]
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        objective.update_targets(rates["ema"])
        state.step += 1
        statuses = self._read_statuses()
        last = MicroStep(video, targets, masks)
        return StepMetrics(state.step, losses, grad_norm, skipped, rates, last, statuses)

    def fit(self) -> None:
        """Trains to `train.steps`; resumes where the state is.

        Raises:
            RuntimeError: too many unreadable videos, the loss stayed non-finite, or a checkpoint could not be written.
            SystemExit: 143 after SIGTERM and 130 after Ctrl-C, with the state saved.
        """
        config, state = self.config, self.state
        with ExitStack() as open_files, stop_signals() as self._signals:
            writer = self._open_files(open_files)
            for callback in self.callbacks:
                callback.on_start(self)
            batches = self.batches()
            while state.step < config.train.steps and not self._stop:
                metrics = self.train_step(islice(batches, self.micro_steps))
                self._after_step(metrics, writer)
            for callback in self.callbacks:
                callback.on_end(self)

    def stop(self) -> None:
        """Ends `fit` after this step, with a checkpoint; for callbacks, on all processes alike."""
        self._stop = True

    def batches(self) -> Iterator[dict[str, Any]]:
        """This process's micro-batches of the remaining steps.

        A micro-step of all processes together is a run of consecutive samples. So the same clips meet in it for any
        number of processes, if train.micro_batch is set, and for any number of workers in any case.
        """
        train, workers, context = self.config.train, self.config.data.workers, self.context
        sampler = self.stream.sampler(
            train.steps, self.state.step, context.rank, context.size, self.micro_steps
        )
        loader = DataLoader(
            self.stream.dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=context.device.type == "cuda",
            prefetch_factor=4 if workers else None,
            worker_init_fn=_ignore_signals,
        )
        for batch in loader:
            self.state.note_bad(batch["bad"], train.batch_size // self.micro_steps)
            yield batch

    def close(self) -> None:
        """Leaves the process group, if this trainer formed it."""
        self._open.close()

    def _draw_masks(self, video: Tensor, index: Tensor) -> list[Mask]:
        """One mask pair per entry of `masks`, for the samples of this batch."""
        if not self.objective.uses_masks:
            return []
        grid = self.objective.encoder.grid_of(video)
        drawn = [
            sample_masks(mask, grid, self.config.train.seed, index.tolist(), stream)
            for stream, mask in enumerate(self.config.masks)
        ]
        return [Mask(*(part.to(video.device, non_blocking=True) for part in mask)) for mask in drawn]

    def _open_files(self, stack: ExitStack) -> CheckpointWriter | None:
        """The checkpoint writer; on the main process also the log and config.yaml."""
        config, out = self.config, self.config.run_folder
        writer = None
        if out is not None:
            writer = stack.enter_context(CheckpointWriter(out, config.train.keep, self.context))
            if self.context.is_main:
                write_text(out / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))
                logger = Logger(out, config.train.steps, self.step, config.wandb, to_dict(config))
                self.logger = stack.enter_context(logger)
        elif self.context.is_main:
            self.logger = ConsoleLogger()
        for problem in self._problems:
            self.logger.warn(self.step, problem)
        self.logger.info(describe_start(self))
        return writer

    def _after_step(self, metrics: StepMetrics, writer: CheckpointWriter | None) -> None:
        """Statuses, callbacks, log and checkpoint of the step that has just been taken."""
        train, state = self.config.train, self.state
        for callback in self.callbacks:
            callback.on_step(self, metrics)
        last = metrics.step == train.steps or self._stop
        log, save = (last or metrics.step % every == 0 for every in (train.log_every, train.save_every))
        statuses = metrics.statuses + (self._read_statuses(last=True) if log or save else [])
        leave = any(status.stop for status in statuses) and not last
        if leave:
            statuses += self._read_statuses(last=True)
        if log or save or leave:
            for event in state.count_bad():
                self.logger.warn(metrics.step, str(event))
        if log:
            self._log(metrics, statuses[-1])
        if writer is not None and (save or leave):
            writer.save(metrics.step, state.tensors(), state.values(self.guard.skipped))
            for callback in self.callbacks:
                callback.on_save(self)
        if last and writer is not None:
            writer.wait()
            self.logger.info(
                f"finished after step {metrics.step}: {self.config.out}; next: jepa report, jepa export"
            )
        if leave:
            if writer is not None:
                writer.wait()
                self.logger.info(f"saved after step {metrics.step}; start the same command again to resume")
            raise SystemExit(128 + (self._signals[0] if self._signals else signal.SIGTERM))

    def _log(self, metrics: StepMetrics, status: StepStatus) -> None:
        row = status.numbers | metrics.rates | {"bad_videos": self.state.bad_videos.bad}
        for callback in self.callbacks:
            # What is not finite has no rank.
            if not (status.skipped and isinstance(callback, MonitorCallback)):
                row |= callback.on_log(self, metrics)
        self.logger.log(metrics.step, row, self.config.train.batch_size)

    def _read_statuses(self, last: bool = False) -> list[StepStatus]:
        """Steps that are known to be over; warns of skipped ones, and raises when there are too many in a row."""
        statuses = self.guard.statuses(last)
        for status in statuses:
            if status.skipped:
                where = f"; its clips and masks are in {status.kept}" if status.kept else ""
                self.logger.warn(
                    status.step,
                    f"step {status.step} gave a non-finite loss or gradient and was skipped{where}",
                )
        if self.guard.skipped > self.config.train.max_skipped:
            kept = f"; their clips and masks are in {self.guard.run / 'nonfinite'}" if self.guard.run else ""
            raise RuntimeError(
                f"The loss or its gradient was not finite in {self.guard.skipped} steps in a row, up to step "
                f"{statuses[-1].step}. They changed no weight{kept}. Lower optim.lr or lengthen optim.warmup_steps."
            )
        return statuses


def train(config: PretrainConfig, callbacks: Iterable[Callback] = ()) -> Path:
    """`jepa pretrain`: trains to `train.steps`, from the newest checkpoint in `out` if there is one.

    Returns:
        The run folder.

    Raises:
        UserError: the configuration or the data cannot be used.
        RuntimeError: too many unreadable videos, the loss stayed non-finite, or a checkpoint could not be written.
        SystemExit: 143 after SIGTERM and 130 after Ctrl-C, with the state saved.
    """
    out = config.run_folder
    if out is None:
        raise UserError("`jepa pretrain` needs out=FOLDER.")
    with Trainer(config, callbacks=callbacks) as trainer:
        trainer.fit()
    return out


def count_micro_steps(config: PretrainConfig, context: DistContext) -> int:
    """Micro-steps that each process takes in one optimizer step (gradient accumulation).

    Raises:
        UserError: the batch does not divide.
    """
    train = config.train
    own, rest = divmod(train.batch_size, context.size)
    if rest:
        raise UserError(
            f"train.batch_size={train.batch_size} clips cannot be divided among {context.size} processes; use a "
            f"multiple of {context.size}."
        )
    micro_steps, rest = divmod(own, train.micro_batch or own)
    if rest:
        raise UserError(
            f"Each of {context.size} processes has {own} of the train.batch_size={train.batch_size} clips, which "
            f"train.micro_batch={train.micro_batch} does not divide; choose a divisor of {own}."
        )
    return micro_steps


def choose_precision(config: PretrainConfig, device: torch.device) -> str:
    """Resolves `auto`; the answer is kept in the checkpoint, so that a run never changes precision half-way."""
    if config.train.precision != "auto":
        return config.train.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def describe_start(trainer: Trainer) -> str:
    """One line about what begins."""
    config, context, train = trainer.config, trainer.context, trainer.config.train
    millions = sum(p.numel() for p in trainer.objective.encoder.parameters()) / 1e6
    begin = f"resuming after step {trainer.step}" if trainer.step else "starting"
    if trainer.step >= train.steps:
        return (
            f"finished before: {trainer.step} of {train.steps} steps are done; raise train.steps to train on"
        )
    where = f"{context.size} processes ({train.strategy}), " if context.size > 1 else ""
    return (
        f"{begin}: {config.model.name} ({millions:.1f} M parameters) on {len(trainer.stream.items)} videos, "
        f"{train.steps} steps of {train.batch_size} clips of {config.data.num_frames} frames at {config.data.crop_px} "
        f"px, {where}{context.device}, {trainer.state.precision}"
    )


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and Ctrl-C in a list while the loop runs, and restores the old handlers afterwards."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # Python delivers signals to the main thread only
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda n, _: received.append(n))
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals(worker: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach the entire process group; a worker that died of it would take the save
    # down with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
