"""Every kind of source that `encoder=` takes, from the command line to signals that find the encoder again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import jepa
from jepa.cli import main
from jepa.errors import UserError
from jepa.models import EncoderConfig, Preprocessing, VideoEncoder, register_model, save_encoder, save_hf
from jepa.models.architectures import ENTRIES
from jepa.models.weights import timm_images
from jepa.probes import encoder_hash
from jepa.signals.detect.probes import ProbeDetector

INPUT = Preprocessing(num_frames=4, fps=8.0, resize_px=32, crop_px=32)
ARCHITECTURE = EncoderConfig(128, depth=4, num_heads=4, mlp_dim=512, position="tiled")
NAME = "vit_any_encoder_test"


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """A published architecture small enough to run here; what a Meta file holds is told by its shapes."""
    register_model(NAME, ARCHITECTURE, preprocessing=INPUT, url="https://nowhere.invalid/weights.pt")
    yield
    del ENTRIES[NAME]


def made() -> VideoEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = VideoEncoder(ARCHITECTURE)
        encoder.init_weights(torch.Generator().manual_seed(0))
    encoder.preprocessing = INPUT
    return encoder.eval()


def export(folder: Path) -> str:
    save_encoder(folder / "export", made(), INPUT, {"name": "tiny"})
    return str(folder / "export")


def meta_file(folder: Path) -> str:
    """The layout of the published files: module.backbone. before every name, and the optimizer beside it."""
    state = {f"module.backbone.{name}": value for name, value in made().state_dict().items()}
    torch.save({"encoder": state, "opt": {"param_groups": []}, "epoch": 3}, folder / "latest.pt")
    return str(folder / "latest.pt")


def hugging_face(folder: Path) -> str:
    pytest.importorskip("transformers")
    save_hf(folder / "hf", made(), INPUT, custom_code=True)
    return str(folder / "hf")


def zoo(folder: Path) -> str:
    torch.save(made().state_dict(), folder / "bare.pt")  # states no architecture: the name does
    return f"{NAME}:{folder / 'bare.pt'}"


def timm_name(folder: Path) -> str:
    pytest.importorskip("timm")
    return "timm:test_efficientnet"


@pytest.fixture
def random_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's tiny test model; the same random weights on every call stand for those of the hub."""

    def same(name: str) -> tuple[torch.nn.Module, str, str]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return pytest.importorskip("timm").create_model(name, num_classes=0), "here", name

    monkeypatch.setattr(timm_images, "_pretrained", same)
    monkeypatch.setattr(timm_images, "preprocessing_of", lambda model: INPUT)


@pytest.mark.parametrize("make", [export, meta_file, hugging_face, zoo, timm_name])
def test_a_probe_is_trained_on_any_encoder_and_signals_find_it_again(
    make, squares: Path, tmp_path: Path, random_timm: None
) -> None:
    source = make(tmp_path)
    assert jepa.embed(source, squares, max_tokens=256)[:, :3].std() > 0
    arguments = [f"encoder={source}", f"data.root={squares}"]
    assert main(["embed", *arguments, f"out={tmp_path / 'x.npz'}"]) == 0
    heads = ["heads.kinds=[ridge]", "seeds=[0]", "baselines=[]", "data.group_column=scene", "data.folds=2"]
    assert main(["probe", *arguments, f"out={tmp_path / 'out'}", *heads]) == 0
    probe = jepa.load_probe(tmp_path / "out/probe")
    stated = probe.metadata["encoder"]
    assert stated["source"] == source and stated["sha256"] == encoder_hash(jepa.load_encoder(source))
    detector = ProbeDetector(tmp_path / "out/probe", device="cpu")
    with jepa.open_video(squares / "clips/00.mp4") as video:  # of its domain, which noise would not be
        times_s = [i / probe.window.fps for i in range(probe.window.num_frames)]
        frames = video.frames_at(times_s).data
    clip = torch.stack([detector.prepare(frame) for frame in frames], dim=1)
    assert detector.score([clip[None]]).observed.sum() == pytest.approx(1.0)


def test_windows_of_another_length_reach_the_probe(squares: Path, tmp_path: Path) -> None:
    source, out = export(tmp_path), tmp_path / "out"
    assert jepa.embed(source, squares, kind="tokens", num_frames=8).shape[2] == 4 * 2 * 2
    keys = [
        "features.num_frames=8",
        "features.window_s=0.5",
        "heads.kinds=[ridge]",
        "baselines=[]",
        "seeds=[0]",
    ]
    assert main(["probe", f"encoder={source}", f"data.root={squares}", f"out={out}", *keys]) == 0
    window = jepa.load_probe(out / "probe").window
    assert (window.num_frames, window.fps, window.duration_s) == (8, 16.0, 0.5)
    (clip,) = ProbeDetector(out / "probe", device="cpu").metadata.clips
    assert (clip.num_frames, clip.fps) == (8, 16.0)


def test_an_encoder_that_moved_is_named_in_the_refusal(squares: Path, tmp_path: Path) -> None:
    source, out = export(tmp_path), tmp_path / "out"
    keys = ["heads.kinds=[ridge]", "baselines=[]", "seeds=[0]"]
    assert main(["probe", f"encoder={source}", f"data.root={squares}", f"out={out}", *keys]) == 0
    shutil.move(source, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"trained with '.*export', which is not here.*encoder=DIR"):
        ProbeDetector(out / "probe", device="cpu")
    ProbeDetector(out / "probe", tmp_path / "elsewhere", device="cpu")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothere", "there is no file or folder 'nothere'"),
        ("HERE/export", "there is no file or folder .*HERE"),  # its folder is here, so no hub is asked
        ("owner/latest.pt", "there is no file or folder 'owner/latest.pt'"),
        ("vjepa2_vit_larg_256", "Did you mean vjepa2_vit_large_256?"),
        ("vit_nano", "vit_nano:FILE"),
        ("vit_nano:nothere.pt", "there is no file or folder 'nothere.pt'"),
    ],
)
def test_a_path_that_is_not_there_is_said_to_be_missing_without_asking_a_hub(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def asked(*args, **options):
        raise AssertionError("asked the hub")

    monkeypatch.setattr(hub, "snapshot_download", asked)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "HERE").mkdir()
    with pytest.raises(UserError, match=message):
        jepa.load_encoder(source)
