"""`jepa bench what=train|decode|probe|signals`: how fast this machine does each part, in a table and as JSON.

Every result names the hardware, the versions and the settings it was measured with, and repeats what it measures.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from itertools import islice
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import jepa
from jepa.data.manifest import RootConfig
from jepa.errors import UserError
from jepa.fields import path_key
from jepa.files import write_json

_PACKAGES = ("torch", "torchvision", "av", "torchcodec", "decord", "numpy")
_SYNTHETIC = 8  # videos that are made where no data is given


@dataclass
class BenchConfig:
    """What is measured, on what, and where the result goes; without data.root, on a few synthetic videos."""

    what: str = "decode"
    """train: steps of a recipe; decode: the loader beside others; probe: features and heads; signals: entire videos"""
    data: RootConfig = field(default_factory=lambda: RootConfig(""))
    out: str = path_key("")
    """JSON file for the result; empty is bench-WHAT.json"""
    repeats: int = 3
    """repetitions of each measurement"""
    batch_size: int = 8
    """clips per batch (decode, probe); train has its own in the settings"""
    workers: int = 1
    """loader processes (decode) or threads (probe); train has its own in the settings"""
    clips: int = 64
    """decode: clips per repetition"""
    num_frames: int = 16
    """decode: frames in a clip"""
    fps: int = 4
    """decode: their rate"""
    crop_px: int = 256
    """decode: side of a clip in pixels"""
    markdown: str = path_key("")
    """decode: a Markdown file for the tables too"""
    recipe: str = ""
    """train: settings that go together, as in `jepa pretrain recipe=NAME`; empty is the defaults"""
    settings: list[str] = field(default_factory=list)
    """train: more settings of `jepa pretrain`, as ["train.batch_size=32","model.name=vit_small"]"""
    steps: int = 20
    """train: steps that are timed, between three and one that are not"""
    model: str = "vit_tiny"
    """probe: an architecture with random weights; speed does not depend on weights"""
    encoder: str = path_key("")
    """probe: an exported encoder instead; signals: the one its probes were trained on, if not below them"""
    heads: int = 20
    """probe: heads trained at once"""
    device: str = "auto"
    """probe, signals: auto, cpu or cuda"""
    probes: str = path_key("")
    """signals: folder of probes"""
    policy: str = path_key("")
    """signals: a customer's policy"""

    def __post_init__(self) -> None:
        if self.what not in _MEASURES:
            raise UserError(f"what={self.what!r} is not one of {', '.join(_MEASURES)}.")
        for name in ("repeats", "batch_size", "clips", "num_frames", "fps", "crop_px", "steps", "heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} has to be at least 1.")
        for name, value in (("data.root", self.data.root), ("probes", self.probes), ("policy", self.policy)):
            if self.what == "signals" and not value:
                raise UserError(f"what=signals needs {name}=...; it measures entire videos with real probes.")


def run(config: BenchConfig) -> dict[str, Any]:
    """Measures, prints a table, writes JSON and returns what it holds.

    Raises:
        UserError: the settings do not fit, or there is nothing to measure on.
    """
    with tempfile.TemporaryDirectory() as folder:
        if not config.data.root:
            make_videos(Path(folder) / "videos", _SYNTHETIC)
        data = config.data.root or str(Path(folder) / "videos")
        result = _MEASURES[config.what](config, data, Path(folder))
    settings = {**asdict(config), "data": config.data.root or f"{_SYNTHETIC} synthetic videos"}
    result = {"what": config.what, "result": result, "machine": machine(), "settings": settings}
    out = Path(config.out or f"bench-{config.what}.json")
    write_json(out, result)
    Console().print(f"{_machine_line(result['machine'])}\nwritten to {out}", markup=False, highlight=False)
    return result


def machine() -> dict[str, Any]:
    """The hardware and the versions that measurements were made with."""
    versions = {"jepa": jepa.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus,
        "load": round(os.getloadavg()[0], 1), "system": platform.platform(), "versions": versions,
    }  # fmt: skip


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _machine_line(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    gpus = ", ".join(about["gpus"]) or "no GPU"
    return f"{about['processor']}, {about['cores']} cores, {gpus}, load {about['load']}; {versions}"


def make_videos(folder: Path, count: int, seconds: int = 4, size: tuple[int, int] = (320, 240)) -> None:
    """Writes textured, moving videos at 30 fps: as costly to decode as real ones of their size, not as varied."""
    import av

    folder.mkdir(parents=True, exist_ok=True)
    width, height = size
    for number in range(count):
        noise = np.random.default_rng(number)
        texture = noise.integers(0, 256, (height // 4 + 64, width // 4 + 64, 3), dtype=np.uint8)
        texture = texture.repeat(4, axis=0).repeat(4, axis=1)
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"preset": "fast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for frame in range(30 * seconds):
                top, left = (int(64 + 60 * f(frame / 20 + number)) for f in (np.sin, np.cos))
                picture = np.ascontiguousarray(texture[top : top + height, left : left + width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())


def _decode(config: BenchConfig, data: str, folder: Path) -> dict[str, Any]:
    from jepa.data.bench import DecodeBenchConfig, measure

    return measure(
        DecodeBenchConfig(
            data=data, num_frames=config.num_frames, fps=config.fps,
            crop_px=config.crop_px, workers=config.workers, batch_size=config.batch_size, clips=config.clips,
            repeats=config.repeats, out=config.markdown,
        )
    )  # fmt: skip


class _StepTimer:
    """When each micro-batch was requested and when it came."""

    def __init__(self) -> None:
        self.requested: list[float] = []
        self.came: list[float] = []

    def watch(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; the last request, which finds none, is noted as well."""
        while True:
            self.requested.append(time.perf_counter())
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.came.append(time.perf_counter())
            yield batch

    def summary(self, first: int, last: int) -> tuple[float, float]:
        """(seconds, fraction of them spent waiting for data) from one request to another, by number."""
        waited = sum(self.came[k] - self.requested[k] for k in range(first, last))
        lasted = self.requested[last] - self.requested[first]
        return lasted, waited / lasted


def _train(config: BenchConfig, data: str, folder: Path) -> dict[str, Any]:
    from jepa.config import compose_config, to_dataclass
    from jepa.fields import to_dict
    from jepa.pretrain import PretrainConfig, Trainer

    warm_up, rows = 3, []
    recipe = [f"recipe={config.recipe}"] if config.recipe else []
    composed = compose_config("pretrain", PretrainConfig, [*recipe, *config.settings])
    composed.data.root, composed.out = data, ""  # no run folder: only the steps are timed
    composed.train.steps = warm_up + config.steps
    settings = to_dataclass("pretrain", composed)
    for _ in range(config.repeats):
        timer = _StepTimer()
        with Trainer(settings) as trainer:
            batches = timer.watch(trainer.batches())
            while trainer.step < settings.train.steps:
                trainer.train_step(islice(batches, trainer.micro_steps))
                # A step lasts from one request for a batch to the next, and the device works on after the call.
                if trainer.step in (warm_up, settings.train.steps) and trainer.context.device.type == "cuda":
                    torch.cuda.synchronize()
            next(batches, None)
            first, last = warm_up * trainer.micro_steps, settings.train.steps * trainer.micro_steps
        lasted, waiting = timer.summary(first, last)
        rows.append(
            {
                "steps_per_s": config.steps / lasted,
                "clips_per_s": config.steps * settings.train.batch_size / lasted,
                "waiting_fraction": waiting,
            }
        )
    table = Table("train", "median", "+-", title=f"{config.steps} steps, {config.repeats} repetitions")
    for name, kind in (
        ("steps_per_s", "steps/s"), ("clips_per_s", "clips/s"),
        ("waiting_fraction", "fraction of time waiting for data"),
    ):  # fmt: skip
        values = [row[name] for row in rows]
        table.add_row(kind, f"{median(values):.3g}", f"{pstdev(values):.2g}")
    Console().print(table)
    return {"repetitions": rows, "pretrain": to_dict(settings)}


def _probe(config: BenchConfig, data: str, folder: Path) -> dict[str, Any]:
    from jepa.data.manifest import read_items
    from jepa.device import choose_device
    from jepa.models.registry import create_model
    from jepa.models.weights.load import load_encoder
    from jepa.probes.evaluation.calibration import softmax_calibrator
    from jepa.probes.features.encode import encode
    from jepa.probes.features.encoder_tokens import EncoderTokens
    from jepa.probes.heads.base import FitData, class_targets
    from jepa.probes.heads.stacked import Setting, StackedAttentive, train_stacked

    encoder = load_encoder(config.encoder) if config.encoder else create_model(config.model)
    extractor = EncoderTokens("encoder", encoder, device=str(choose_device(config.device)))
    samples = [replace(item, label=str(n % 2)) for n, item in enumerate(read_items(data))]
    speeds: dict[str, list[float]] = {"videos_per_s": [], "model_clips_per_s": [], "heads_per_s": []}
    for _ in range(config.repeats):
        begin = time.perf_counter()
        kept, (features,), _ = encode(samples, [extractor], None, config.batch_size, config.workers)
        speeds["videos_per_s"].append(len(kept) / (time.perf_counter() - begin))
        window = extractor.window
        batch = torch.zeros(config.batch_size, 3, window.num_frames, window.crop_px, window.crop_px)
        extractor.features(batch)
        begin = time.perf_counter()
        extractor.features(batch)
        speeds["model_clips_per_s"].append(config.batch_size / (time.perf_counter() - begin))
        tokens = features.rows().float().flatten(1, -2)
        heads = StackedAttentive(1, config.heads, tokens.shape[-1], 2)
        targets = class_targets(torch.arange(len(tokens)) % 2, 2, softmax_calibrator("temperature"))
        jobs = [(np.arange(len(tokens)), Setting(10**-e, 0.01)) for e in np.linspace(2, 4, config.heads)]
        begin = time.perf_counter()
        train_stacked(heads, FitData(tokens, targets), jobs, [0], steps=100, batch_size=32)
        speeds["heads_per_s"].append(config.heads / (time.perf_counter() - begin))
    table = Table("probe", "median", "+-", title=f"{len(kept)} videos, {config.repeats} repetitions")
    for name, kind in (
        ("videos_per_s", "videos/s, decoded and encoded"),
        ("model_clips_per_s", "clips/s through the encoder alone"),
        ("heads_per_s", f"attentive heads/s of 100 steps, {config.heads} at once"),
    ):
        table.add_row(kind, f"{median(speeds[name]):.3g}", f"{pstdev(speeds[name]):.2g}")
    Console().print(table)
    return {**speeds, "videos": len(kept), "tokens_per_video": tokens.shape[1], "channels": tokens.shape[2]}


def _signals(config: BenchConfig, data: str, folder: Path) -> dict[str, Any]:
    from jepa.signals.command import SignalsConfig
    from jepa.signals.command import run as process

    rows = []
    for repeat in range(config.repeats):
        summary = process(
            SignalsConfig(
                video=data, probes=config.probes, policy=config.policy, out=str(folder / f"signals{repeat}"),
                encoder=config.encoder or None, device=config.device, batch_size=config.batch_size,
            )
        )  # fmt: skip
        rows.append(
            {k: summary[k] for k in ("real_time_factor", "stage_fractions", "video_s", "wall_s", "counts")}
        )
    factors = [row["real_time_factor"] for row in rows]
    title = f"{rows[0]['video_s']:.0f} s of video, {config.repeats} repetitions"
    table = Table("signals", "median", "+-", title=title)
    table.add_row("wall time over video time", f"{median(factors):.3f}", f"{pstdev(factors):.2g}")
    for stage in rows[0]["stage_fractions"]:
        fractions = [row["stage_fractions"].get(stage, 0.0) for row in rows]
        table.add_row(f"fraction of {stage}", f"{mean(fractions):.1%}", f"{100 * pstdev(fractions):.1f}")
    Console().print(table)
    return {"repetitions": rows}


_MEASURES = {"train": _train, "decode": _decode, "probe": _probe, "signals": _signals}
