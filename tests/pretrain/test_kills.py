"""A run that is killed loses nothing: the newest whole state is found, named, and leads to the same end."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.pretrain.conftest import TINY, checkpoints, differences, losses, saved_values

KEYS = ("train.steps=20", "train.save_every=2", "train.log_every=2", "train.keep=3")


class Launcher:
    """Starts trainings on one folder by fork."""

    def __init__(self, videos, out, *keys, slow_s=0.0):
        root = Path(__file__).parents[2]
        self.out = Path(out)
        self.process = subprocess.Popen(
            [
                sys.executable, Path(__file__).with_name("forked.py"), str(slow_s), f"data.root={videos}",
                f"out={out}", *TINY, *KEYS, *keys,
            ],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.report = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stderr:
            self.report.append(line)

    def start(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self):
        """Exit code of the training that was started last."""
        return int(self.process.stdout.readline())

    def run(self):
        self.start()
        return self.end()

    def wait_for(self, pattern, seconds=60):
        deadline = time.monotonic() + seconds
        while not list(self.out.glob(pattern)):
            assert time.monotonic() < deadline, "".join(self.report)
            time.sleep(0.002)


@pytest.fixture
def launch(video_folder, tmp_path):
    started = []

    def make(name, *keys, slow_s=0.0):
        started.append(Launcher(video_folder, tmp_path / name, *keys, slow_s=slow_s))
        return started[-1]

    yield make
    for launcher in started:
        launcher.process.stdin.close()
        launcher.process.wait(30)


@pytest.mark.slow
def test_killed_at_random_times_20_times_a_run_ends_bit_identical(launch):
    whole, killed = launch("whole", "train.steps=60"), launch("killed", "train.steps=60")
    times = []
    for _ in range(2):  # the second start finds the run finished: what a start costs
        begin = time.monotonic()
        assert whole.run() == 0
        times.append(time.monotonic() - begin)
    length, start = times[0] - times[1], times[1]
    rng, left_half, reached = random.Random(0), 0, [0]
    for kills_left in range(20, 0, -1):
        child = killed.start()
        remaining = 1 - reached[-1] / 60
        # From before the first step on, with enough left to train for the kills that follow. The times may have been
        # measured on a busier machine than this is now, so a checkpoint that is too late ends the wait as well.
        wait_s = start * rng.uniform(0.2, 1) + length * remaining * rng.uniform(0, 1.4) / (kills_left + 1)
        deadline, latest = time.monotonic() + wait_s, f"step_{60 - 2 * (kills_left + 1):08d}"
        while time.monotonic() < deadline:
            if any(path.name >= latest for path in checkpoints(killed.out)):
                break
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        assert killed.end() == -signal.SIGKILL
        left_half += bool(list(killed.out.glob("checkpoints/.*.partial")))
        reached.append(saved_values(killed.out)["step"] if checkpoints(killed.out) else 0)
    assert killed.run() == 0
    assert len(set(reached)) > 3, reached  # the kills fell into the run, not before it
    print(f"steps reached: {reached}; {left_half} kills left half a checkpoint")
    assert differences(whole.out, killed.out) == []
    assert losses(whole.out) == losses(killed.out)
    assert saved_values(whole.out)["bad_videos"] == saved_values(killed.out)["bad_videos"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_a_save_waits_for_it_and_saves_where_it_stands(launch, number, code):
    whole = launch("whole")
    assert whole.run() == 0
    run = launch("run", slow_s=0.2)
    child = run.start()
    run.wait_for("checkpoints/.step_00000004.partial")
    os.killpg(child, number)  # as a scheduler or a terminal does
    assert run.end() == code
    step = saved_values(run.out)["step"]
    assert f"saved after step {step};" in "".join(run.report)
    assert not list(run.out.glob("checkpoints/.*.partial"))
    again = launch("run")
    assert again.run() == 0
    assert f"resuming after step {step}" in "".join(again.report)
    assert differences(whole.out, run.out) == []


@pytest.mark.slow
def test_a_kill_during_a_save_leaves_the_one_before(launch):
    run = launch("run", slow_s=0.5)
    child = run.start()
    run.wait_for("checkpoints/.step_00000006.partial")
    os.kill(child, signal.SIGKILL)
    run.end()
    assert [path.name for path in checkpoints(run.out)][-1] == "step_00000004"
    again = launch("run")
    assert again.run() == 0
    assert "resuming after step 4" in "".join(again.report)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(launch, tmp_path):
    """A real file system that is too small for the second checkpoint."""
    whole = launch("whole")
    assert whole.run() == 0
    size = sum(path.stat().st_size for path in checkpoints(whole.out)[0].iterdir())
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(1.5 * size)}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        run = launch("disk")
        assert run.run() == 1
        report = "".join(run.report)
        assert "No space left" in report and "The last good one is step_00000002" in report
        subprocess.run(["mount", "-o", f"remount,size={20 * size}", str(disk)], check=True)
        again = launch("disk")
        assert again.run() == 0
        assert "resuming after step 2" in "".join(again.report)
        assert differences(whole.out, disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
