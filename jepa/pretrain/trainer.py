"""Pretraining, readable top to bottom: `run` is the story, `_loop` the step loop, helpers follow in order of use.

Every random choice is a function of (seed, sample index), so a run that is killed and started again ends
bit-identical to one that was never stopped, and one process sees the same batch as many.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.data import DataLoader

from jepa.data import Stream, StreamSampler, collate, open_stream
from jepa.data.transforms import normalise
from jepa.files import write_text
from jepa.masking import Mask, sample_masks
from jepa.models import VideoEncoder
from jepa.pretrain.checkpoint import Saver, newest_checkpoint
from jepa.pretrain.config import PretrainConfig
from jepa.pretrain.distributed import World, clip_gradient, exchanging, join
from jepa.pretrain.logger import Journal
from jepa.pretrain.nonfinite import Guard, Piece, Verdict
from jepa.pretrain.state import (
    State,
    check_same_everywhere,
    check_same_run,
    choose_precision,
    count_passes,
    set_rates,
)

OnLog = Callable[[int, VideoEncoder], dict[str, float]]


def run(config: PretrainConfig, on_log: OnLog | None = None) -> Path:
    """Trains to `train.steps`, from the newest checkpoint in `out` if there is one; returns the run folder.

    Args:
        config: everything that decides the run.
        on_log: called on log steps, on every process, with the finished steps and the encoder that an export would
            hold; what it returns goes into the journal. For probes, which this room does not know.

    Raises:
        UserError: the configuration or the data cannot be used as asked.
        RuntimeError: too many unreadable videos, the loss stayed non-finite, or a checkpoint could not be written.
        SystemExit: 143 after SIGTERM and 130 after Ctrl-C, with the state saved.
    """
    with join(config.train.device, config.train.timeout_s) as world:
        out = Path(config.out)
        passes = count_passes(config, world)
        stream = open_stream(config.data, config.train.seed, config.train.batch_size)
        check_same_everywhere(world, stream.fingerprint, config.data.root or "data.mix")
        # One process looks, so that all continue from the same state.
        path, saved, problems = world.gather(newest_checkpoint(out) if world.leads else None)[0]
        precision = saved.get("precision") or choose_precision(config, world.device)
        state = State(config, world, stream.fingerprint, precision)
        if path:
            check_same_run(saved, config, stream.fingerprint, out)
            state.load(path, saved)
        elif config.train.init_from:
            state.begin_from(Path(config.train.init_from))
        with (
            Saver(out, config.train.keep, world) as saver,
            open_journal(config, state, world) as journal,
            stop_signals() as stop,
        ):
            for problem in problems:
                journal.warn(state.finished, problem)
            journal.say(describe_start(config, state, len(stream.items)))
            guard = Guard(world, out, saved.get("skipped", 0))
            batches = load_batches(stream, config, world, state.finished, passes)
            _loop(
                config, state, batches, passes, Aftermath(config, state, guard, saver, journal, stop, on_log)
            )
    return out


def _loop(
    config: PretrainConfig, state: State, batches: Iterator[dict[str, Any]], passes: int, after: Aftermath
) -> None:
    """One pass: decode, hide, encode what is seen, guess what is hidden; then step, and let the target follow."""
    train, optimizer, teacher, device = config.train, state.optimizer, state.teacher, state.world.device
    for step in range(state.finished, train.steps):
        rates = set_rates(optimizer, config, step)
        sums: dict[str, torch.Tensor] = {}
        pieces: list[Piece] = []
        for number in range(passes):
            batch = next(batches)
            state.note_bad(batch["bad"], train.batch_size // passes)
            video = normalise(batch["video"].to(device, non_blocking=True), config.data.mean, config.data.std)
            masks = draw_masks(config, state.learner.encoder, video, batch["index"])
            with exchanging(state.model, now=number == passes - 1):
                with torch.autocast(device.type, torch.bfloat16, enabled=state.precision == "bf16"):
                    targets = teacher.targets(video) if teacher else None
                    losses = state.model(video, targets, masks, step / train.steps)
                (losses["loss"] / passes).backward()
            sums = {name: sums.get(name, 0.0) + value.detach() / passes for name, value in losses.items()}
            pieces.append(Piece(batch, masks))
        grad_norm = clip_gradient(state.learner, config.optim.clip_grad)

        # A NaN never reaches a weight: where found_inf is 1, AdamW leaves everything as it is, and nobody waits to see.
        optimizer.found_inf = after.guard.judge(step + 1, sums, grad_norm, bool(after.stop), pieces)  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if teacher:
            teacher.follow(rates["ema"])
        state.finished = step + 1
        after.step(rates, video, masks, targets)


@dataclass
class Aftermath:
    """What follows a step: verdicts, the journal, checkpoints, and leaving when asked to."""

    config: PretrainConfig
    state: State
    guard: Guard
    saver: Saver
    journal: Journal | Muted
    stop: list[int]
    """signals that this process received"""
    on_log: OnLog | None

    def step(
        self, rates: dict[str, float], video: torch.Tensor, masks: list[Mask], targets: torch.Tensor | None
    ) -> None:
        """Looks after the step that has just been taken, with what its last pass saw.

        Raises:
            RuntimeError: too many steps in a row were not finite, or too many videos are unreadable.
            SystemExit: a process was asked to stop; the state is saved.
        """
        train, state, journal = self.config.train, self.state, self.journal
        last = state.finished == train.steps
        log, save = (last or state.finished % every == 0 for every in (train.log_every, train.save_every))
        verdicts = self.guard.verdicts(last=log or save)
        leave = any(verdict.stop for verdict in verdicts) and not last
        if leave:
            verdicts += self.guard.verdicts(last=True)
        self._report(verdicts)
        if log or save or leave:
            for event in state.count_bad():
                journal.warn(state.finished, str(event))
        if log:
            row = verdicts[-1].numbers | rates | {"bad_videos": state.bad_videos.bad}
            if not verdicts[-1].skipped:  # what is not finite has no rank
                row |= state.watch.look(state.learner, state.teacher, video, masks, targets)
                for sentence in state.watch.warnings(state.finished, row):
                    journal.warn(state.finished, sentence)
            row |= self.on_log(state.finished, state.encoder) if self.on_log else {}
            journal.log(state.finished, row, train.batch_size)
        if save or leave:
            self.saver.save(state.finished, state.tensors(), state.facts(self.guard.skipped))
        if leave:
            self.saver.wait()
            journal.say(f"saved after step {state.finished}; start the same command again to go on")
            raise SystemExit(128 + (self.stop[0] if self.stop else signal.SIGTERM))

    def _report(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.skipped:
                where = f"; its clips and masks lie in {verdict.kept}" if verdict.kept else ""
                self.journal.warn(
                    verdict.step,
                    f"step {verdict.step} gave a non-finite loss or gradient and was skipped{where}",
                )
        if self.guard.skipped > self.config.train.max_skipped:
            raise RuntimeError(
                f"The loss or its gradient was not finite in {self.guard.skipped} steps in a row, up to step "
                f"{verdicts[-1].step}. No weight was touched by them; their clips and masks lie in "
                f"{self.guard.run / 'nonfinite'}. Lower optim.lr or lengthen optim.warmup_steps."
            )


class Muted:
    """The journal of a process that does not lead: says nothing, writes nothing."""

    def say(self, sentence: str) -> None:
        """Nothing."""

    def warn(self, step: int, sentence: str) -> None:
        """Nothing."""

    def log(self, step: int, row: dict[str, float], clips_per_step: int) -> None:
        """Nothing."""


def open_journal(
    config: PretrainConfig, state: State, world: World
) -> AbstractContextManager[Journal | Muted]:
    """The run's journal and settings file on the process that leads, silence elsewhere."""
    if not world.leads:
        return nullcontext(Muted())
    out = Path(config.out)
    write_text(out / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False))
    return Journal(out, config.train.steps, state.finished, config.wandb, asdict(config))


def load_batches(
    stream: Stream, config: PretrainConfig, world: World, start: int, passes: int
) -> Iterator[dict[str, Any]]:
    """What this process reads in the steps start .. train.steps - 1, pass by pass.

    A pass of all processes together is a run of consecutive samples. So the same clips meet in a pass for any number
    of processes, if train.micro_batch is set, and for any number of workers in any case.
    """
    sampler = StreamSampler(
        config.train.batch_size // passes, config.train.steps * passes, start * passes, world.rank, world.size
    )
    workers = config.data.workers
    loader = DataLoader(
        stream.dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=world.device.type == "cuda",
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_trainer,
    )
    return iter(loader)


def _leave_signals_to_the_trainer(worker: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group; a worker that died of it would take the save
    # down with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def draw_masks(
    config: PretrainConfig, encoder: VideoEncoder, video: torch.Tensor, index: torch.Tensor
) -> list[Mask]:
    """One mask pair per entry of `masks`, for the samples of this batch."""
    grid = encoder.grid_of(video)
    drawn = [
        sample_masks(mask, grid, config.train.seed, index.tolist(), stream)
        for stream, mask in enumerate(config.masks)
    ]
    return [Mask(*(part.to(video.device, non_blocking=True) for part in mask)) for mask in drawn]


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


def describe_start(config: PretrainConfig, state: State, videos: int) -> str:
    """One line that says what is about to happen."""
    world = state.world
    millions = sum(p.numel() for p in state.learner.encoder.parameters()) / 1e6
    begin = f"going on after step {state.finished}" if state.finished else "starting"
    where = f"{world.size} processes ({config.train.strategy}), " if world.size > 1 else ""
    return (
        f"{begin}: {config.model.name} ({millions:.1f} M parameters) on {videos} videos, {config.train.steps} steps of "
        f"{config.train.batch_size} clips of {config.data.num_frames} frames at {config.data.crop_px} px, "
        f"{where}{world.device}, {state.precision}"
    )
