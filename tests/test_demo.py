"""Every step of `make demo`, on next to nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_step_of_the_demo_runs(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--tiny", "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for page in ("report.html", "direction/latents/report.html", "signals/*/report.html"):
        assert list((tmp_path / "demo").glob(page)), page
    assert "documents are sound" in done.stdout
