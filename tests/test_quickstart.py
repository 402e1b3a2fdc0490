"""The four short cells of the notebook: embed a folder, fit a probe, pretrain on tensors, analyse a video."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("pydantic")
import jepa.signals
from jepa.signals import ClipMetadata, Detector, DetectorMetadata, HeadMetadata, WindowScores

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "first_look.ipynb"


def cells(tag):
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if tag in cell["metadata"].get("tags", [])]


class Brightness(Detector):
    """Stands for the demo's probes, which take minutes to train."""

    metadata = DetectorMetadata(
        id="brightness",
        kind="brightness",
        clips=[ClipMetadata(num_frames=1, fps=4.0)],
        heads=[
            HeadMetadata(
                id="brightness",
                task="describe",
                labels=["light"],
                weights_sha256="0" * 64,
                calibration=None,
                trained_on="nothing: it is the mean grey level",
            )
        ],
    )

    def __init__(self, *folders):
        self.folders = folders

    def score(self, clips):
        return WindowScores(clips[0].float().mean(dim=(1, 2, 3, 4))[:, None].numpy() / 255)


def write_scenes(path, shades, seconds=6, fps=8):
    """One scene after the other, each of one shade."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for shade in shades:
            for _ in range(seconds * fps):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def names():
    """What the cells before have defined, as in a notebook."""
    defined = {}
    exec(cells("setup")[0], defined)
    return defined


def test_there_are_four_cells_of_at_most_ten_lines():
    assert len(cells("quickstart")) == 4
    assert max(len([line for line in cell.splitlines() if line]) for cell in cells("quickstart")) <= 10


def test_the_notebook_is_small():
    assert NOTEBOOK.stat().st_size < 1_000_000


def test_a_folder_is_embedded_and_a_probe_fitted_on_the_arrays(names, capsys):
    embed, fit, _, _ = cells("quickstart")
    exec(embed, names)
    assert names["vectors"].shape == (24, 128)
    assert np.isfinite(names["vectors"]).all()
    exec(fit, names)
    assert "accuracy" in str(names["results"])
    assert names["probe"].metadata["results"]["test"] >= 0


def test_an_encoder_is_pretrained_on_a_list_of_tensors(names, capsys):
    exec(cells("quickstart")[2], names)
    assert capsys.readouterr().out.endswith("20 steps, 128 channels\n")


def test_a_video_is_analysed_and_its_breaks_printed(names, capsys, tmp_path, monkeypatch):
    (tmp_path / "demo" / "unseen" / "videos").mkdir(parents=True)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_scenes(tmp_path / "demo" / "unseen" / "videos" / "000000.mp4", [40, 200, 90])
    monkeypatch.setattr(jepa.signals, "ProbeDetector", Brightness)
    monkeypatch.chdir(tmp_path)
    exec(cells("quickstart")[3], names)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(names["document"].ads.breaks) > 0
