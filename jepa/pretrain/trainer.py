"""Pretraining, readable top to bottom: `run` is the story, `_loop` the step loop, helpers follow in order of use.

Every random choice is a function of (seed, sample index), so a run that is killed and started again ends
bit-identical to one that was never stopped.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.data import DataLoader

from jepa.data import BadVideoLog, ClipDataset, Item, StreamSampler, collate, read_items
from jepa.data.transforms import normalise
from jepa.errors import UserError
from jepa.files import write_text
from jepa.masking import Mask, sample_masks
from jepa.models import VideoEncoder, create_model, create_predictor
from jepa.pretrain.checkpoint import newest_checkpoint, save_checkpoint
from jepa.pretrain.diagnostics import rank_me, spread_across_clips, spread_across_time
from jepa.pretrain.ema import TargetEncoder
from jepa.pretrain.journal import Journal
from jepa.pretrain.objective import MaskedPrediction, latent_targets, pixel_targets
from jepa.pretrain.schedules import linear, warmup_cosine
from jepa.pretrain.settings import OptimConfig, PretrainConfig


class State:
    """All that changes during a run: the two encoders, the predictor, the optimizer and a few counts."""

    def __init__(self, config: PretrainConfig, device: torch.device, precision: str) -> None:
        self.learner = build_learner(config).to(device)
        self.target = TargetEncoder(self.learner.encoder)
        self.optimizer = make_optimizer(self.learner, config.optim)
        self.bad_videos = BadVideoLog(config.data.max_bad_share)
        self.precision = precision
        self.finished = 0  # steps
        self.skipped = 0  # non-finite steps in a row

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, so that a checkpoint loads with `weights_only=True`."""
        return {
            "step": self.finished,
            "skipped": self.skipped,
            "precision": self.precision,
            "learner": self.learner.state_dict(),
            "target": self.target.encoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "bad_videos": self.bad_videos.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Takes over a saved state whole."""
        self.learner.load_state_dict(saved["learner"])
        self.target.encoder.load_state_dict(saved["target"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.bad_videos.load_state_dict(saved["bad_videos"])
        self.finished, self.skipped = saved["step"], saved["skipped"]


def run(config: PretrainConfig) -> Path:
    """Trains to `train.steps`, from the newest checkpoint in `out` if there is one; returns the run folder.

    Raises:
        UserError: the configuration or the data cannot be used as asked.
        RuntimeError: too many unreadable videos, or the loss stayed non-finite.
        SystemExit: 143 after SIGTERM and 130 after Ctrl-C, with the state saved.
    """
    refuse_many_processes()
    out = Path(config.out)
    items = read_items(config.data.root)
    saved, problems = newest_checkpoint(out)
    device = choose_device(config.train.device)
    state = State(config, device, saved["precision"] if saved else choose_precision(config, device))
    identity = {"config": asdict(config), "data": fingerprint(items, Path(config.data.root))}
    if saved:
        check_same_run(saved, identity, out)
        state.load_state_dict(saved)
    write_text(out / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False))

    batches = load_batches(items, config, start=state.finished, pin=device.type == "cuda")
    with (
        Journal(out, config.train.steps, state.finished, config.wandb, asdict(config)) as journal,
        stop_signals() as stop,
    ):
        for problem in problems:
            journal.say(f"warning: {problem}")
        journal.say(describe_start(config, state, device, len(items)))
        _loop(config, state, identity, batches, device, journal, stop)
    return out


def _loop(
    config: PretrainConfig,
    state: State,
    identity: dict[str, Any],
    batches: Iterator[dict[str, Any]],
    device: torch.device,
    journal: Journal,
    stop: list[int],
) -> None:
    """One pass: decode, hide, encode what is seen, guess what is hidden, step, let the target follow."""
    train, learner, target = config.train, state.learner, state.target
    for batch in batches:
        step = state.finished
        for event in state.bad_videos.count(batch["bad"], train.batch_size):
            journal.say(f"warning: {event}")
        video = normalise(batch["video"].to(device, non_blocking=True), config.data.mean, config.data.std)
        masks = draw_masks(config, learner.encoder, video, batch["index"])

        lr = warmup_cosine(
            step, train.steps, config.optim.warmup_steps, config.optim.lr, config.optim.final_lr
        )
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast(device.type, torch.bfloat16, enabled=state.precision == "bf16"):
            loss = learner(video, make_targets(config, target.encoder, video), masks)
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(learner.parameters(), config.optim.clip_grad)

        # A NaN never reaches the weights: a non-finite step is skipped whole, target included.
        momentum = linear(step, train.steps, *config.optim.ema)
        if torch.isfinite(loss.detach() + grad_norm):
            state.optimizer.step()
            target.update(momentum)
            state.skipped = 0
        else:
            state.skipped += 1
            journal.say(f"warning: step {step + 1} gave a non-finite loss or gradient and was skipped")
        state.optimizer.zero_grad(set_to_none=True)
        state.finished = step + 1

        last = state.finished == train.steps
        if state.finished % train.log_every == 0 or last:
            row = {"loss": loss.item(), "grad_norm": grad_norm.item(), "lr": lr, "ema": momentum}
            row |= look_inside(target.encoder, video) | {"bad_videos": state.bad_videos.bad}
            journal.log(state.finished, row, train.batch_size)
        if state.finished % train.save_every == 0 or last or stop:
            save_checkpoint(Path(config.out), state.state_dict() | identity, train.keep)
        if stop and not last:
            journal.say(f"saved after step {state.finished}; start the same command again to go on")
            raise SystemExit(128 + stop[0])
        if state.skipped > train.max_skipped:
            raise RuntimeError(
                f"The loss or its gradient was not finite in {state.skipped} steps in a row, up to step "
                f"{state.finished}. No weight was touched by them. Lower optim.lr or lengthen optim.warmup_steps."
            )


def refuse_many_processes() -> None:
    """Raises UserError under `torchrun`: a silent run of N equal copies would be the worst answer."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        raise UserError(
            f"WORLD_SIZE is {world}, but this version trains in one process: {world} copies would do the same work. "
            "Start `jepa pretrain` without torchrun, or unset WORLD_SIZE."
        )


def choose_device(name: str) -> torch.device:
    """Resolves `auto` to the first CUDA device, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"train.device={name!r} is not a device; use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"train.device={name} was asked for, but PyTorch sees no CUDA device; use train.device=cpu."
        )
    return device


def choose_precision(config: PretrainConfig, device: torch.device) -> str:
    """Resolves `auto`; the answer is kept in the checkpoint, so that a run never changes precision half-way."""
    if config.train.precision != "auto":
        return config.train.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def build_learner(config: PretrainConfig) -> MaskedPrediction:
    """Encoder, predictor and loss, initialised from the seed alone."""
    model, data, objective = config.model, config.data, config.objective
    for key, size, unit, name in (
        ("crop_px", data.crop_px, model.patch_px, "model.patch_px"),
        ("num_frames", data.num_frames, model.tubelet_frames, "model.tubelet_frames"),
    ):
        if size <= 0 or size % unit:
            near = max(unit, round(size / unit) * unit)
            raise UserError(
                f"data.{key}={size} is not a positive multiple of {name}={unit}: the clip does not divide into tokens. "
                f"Use data.{key}={near}, or change {name}."
            )
    # A fork keeps the caller's random state: building a model must not change what a notebook draws next.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(
            config.train.seed
        )  # torch.manual_seed would reach the GPUs' as well
        encoder = create_model(model.name, patch_px=model.patch_px, tubelet_frames=model.tubelet_frames)
        width = len(objective.levels) * encoder.embed_dim
        if objective.predict == "pixels":
            width = 3 * model.tubelet_frames * model.patch_px**2
        predictor = create_predictor(
            model.name,
            encoder_dim=encoder.embed_dim,
            dim=model.predictor_dim,
            depth=model.predictor_depth,
            num_heads=model.predictor_heads,
            mlp_dim=4 * model.predictor_dim,
            out_dim=width,
        )
    return MaskedPrediction(encoder, predictor, objective.distance)


def make_optimizer(learner: torch.nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, norms) are not decayed."""
    groups = [
        {"params": [p for p in learner.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learner.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.betas[0], config.betas[1]), fused=True)


def fingerprint(items: list[Item], root: Path) -> str:
    """SHA-256 of which videos there are and in which order; moving the folder as a whole does not change it."""
    digest = hashlib.sha256()
    for item in items:
        row = f"{os.path.relpath(item.path, root)}\t{item.start_s}\t{item.end_s}\n"
        digest.update(row.encode(errors="surrogateescape"))
    return digest.hexdigest()


# What may differ between two starts of one run: none of these changes a weight. More steps stretch the schedules.
_MAY_CHANGE = {
    "out", "data.root", "data.workers", "data.max_bad_share", "train.steps", "train.save_every", "train.keep",
    "train.log_every", "train.device", "train.max_skipped",
}  # fmt: skip


def check_same_run(saved: dict[str, Any], identity: dict[str, Any], out: Path) -> None:
    """Raises UserError when a run folder is asked to go on with other settings or other videos."""
    before, now = flatten(saved["config"]), flatten(identity["config"])
    changed = [
        f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in _MAY_CHANGE and not key.startswith("wandb.")
    ]
    if changed:
        raise UserError(
            f"The run in {out} was started with other settings ({'; '.join(changed)}). Continue it with the old ones, "
            "or give a new folder as out=."
        )
    if saved["data"] != identity["data"]:
        raise UserError(
            f"The run in {out} was started on another list of videos, so it cannot be continued exactly. Restore the "
            "videos, or give a new folder as out=."
        )


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists -> {"train.steps": 2000, "masks.0.kind": "slots", ...}."""
    if isinstance(tree, (list, tuple)):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def load_batches(
    items: list[Item], config: PretrainConfig, start: int, pin: bool
) -> Iterator[dict[str, Any]]:
    """Batches of the steps start .. train.steps - 1, the same for any number of workers."""
    dataset = ClipDataset(items, config.data, seed=config.train.seed)
    loader = DataLoader(
        dataset,
        batch_sampler=StreamSampler(config.train.batch_size, config.train.steps, start_step=start),
        num_workers=config.data.workers,
        collate_fn=collate,
        pin_memory=pin,
        prefetch_factor=4 if config.data.workers else None,
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


def make_targets(config: PretrainConfig, target_encoder: VideoEncoder, video: torch.Tensor) -> torch.Tensor:
    """What every token should be predicted as, [B, N, E]."""
    if config.objective.predict == "pixels":
        return pixel_targets(video, config.model.tubelet_frames, config.model.patch_px)
    return latent_targets(target_encoder, video, config.objective.levels)


@torch.no_grad()
def look_inside(target_encoder: VideoEncoder, video: torch.Tensor) -> dict[str, float]:
    """Signs of collapse in the target's features of this batch."""
    tokens = target_encoder(video)
    return {
        "rank": rank_me(tokens.flatten(0, 1)[:: max(1, tokens[..., 0].numel() // 1024)]),
        "spread_clips": spread_across_clips(tokens),
        "spread_time": spread_across_time(tokens, target_encoder.grid_of(video).t),
    }


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


def describe_start(config: PretrainConfig, state: State, device: torch.device, videos: int) -> str:
    """One line that says what is about to happen."""
    millions = sum(p.numel() for p in state.learner.encoder.parameters()) / 1e6
    begin = f"going on after step {state.finished}" if state.finished else "starting"
    return (
        f"{begin}: {config.model.name} ({millions:.1f} M parameters) on {videos} videos, {config.train.steps} steps of "
        f"{config.train.batch_size} clips of {config.data.num_frames} frames at {config.data.crop_px} px, "
        f"{device}, {state.precision}"
    )
