"""Untrusted files: damaged, disguised, or built to make a decoder crash, hang or open something else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa.data.check import ScanConfig, scan, summary
from jepa.data.manifest import Item, RootConfig
from jepa.data.video import subprocess as isolated
from jepa.data.video.limits import LimitsConfig
from jepa.data.video.reader import open_video
from jepa.errors import UserError, VideoError

ISOLATED = LimitsConfig(isolate=True, max_decode_s=20)


def read(source, **more):
    with open_video(source, **more) as video:
        return video.frames_at([0.0, video.duration_s / 2, video.duration_s])


def mutate(data: bytes, how: str, rng: np.random.Generator) -> bytes:
    raw = bytearray(data)
    if how == "truncated":
        return bytes(raw[: rng.integers(1, len(raw))])
    if how == "flipped":
        for at in rng.integers(0, len(raw), 20):
            raw[at] ^= 1 << int(rng.integers(0, 8))
        return bytes(raw)
    a, b = sorted(rng.integers(0, len(raw), 2).tolist())
    where = int(rng.integers(0, len(raw)))
    return bytes(raw[:where] + raw[a:b] + raw[where:])  # spliced


@pytest.mark.parametrize("how", ["truncated", "flipped", "spliced"])
@pytest.mark.parametrize("name", ["plain.mp4", "plain.mkv", "vp9.webm", "plain.avi"])
def test_a_mutated_file_gives_frames_or_a_video_error(clips, name, how):
    data = (clips / name).read_bytes()
    rng = np.random.default_rng(len(name))
    failed = 0
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(15):
        broken = mutate(data, how, rng)
        for lenient in (False, True):
            try:
                read(broken, lenient=lenient, limits=LimitsConfig(max_decode_s=20))
            except VideoError as error:
                failed += 1
                assert error.stage in ("open", "probe", "seek", "decode", "convert") and error.reason
    assert len(os.listdir("/proc/self/fd")) == before
    assert failed or how != "truncated"


def test_a_cut_off_file_says_where_it_ends_and_leniently_gives_what_it_has(clips, tmp_path, number_of):
    path = tmp_path / "cut.mkv"
    path.write_bytes((clips / "plain.mkv").read_bytes()[:-6000])
    whole = tmp_path / "front.mp4"
    data = (clips / "long.mp4").read_bytes()
    # moov first, so that the tables survive and only the pictures are missing.
    moov = data.index(b"moov") - 4
    end = moov + int.from_bytes(data[moov : moov + 4], "big")
    assert end == len(data)
    whole.write_bytes(data[: moov // 2] + bytes(moov - moov // 2) + data[moov:])
    with pytest.raises(VideoError):
        read(whole)
    with open_video(whole, lenient=True) as video:
        assert number_of(video.frames_at([0.5]).data[0]) == 10
        assert video.frames_at([9.5]).times[0] < 9.5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"),
        (
            "movie.mp4",
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/x.ts\n#EXT-X-ENDLIST\n",
        ),
        ("movie.mkv", "ffconcat version 1.0\nfile '{target}'\n"),
        ("movie.webm", "\n  \nffconcat version 1.0\nfile 'http://127.0.0.1:{port}/x'\n"),
        ("movie.mpd", '<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:{port}/</BaseURL></MPD>'),
        ("movie.avi", "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\n"),
        ("movie.mov", "http://127.0.0.1:{port}/x.mp4\n"),
    ],
)
def test_a_file_that_names_another_is_refused_and_nothing_is_opened(clips, tmp_path, name, text):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        path = tmp_path / name
        path.write_text(text.format(target=clips / "plain.mp4", port=port))
        for backend in ("auto", "torchcodec", "decord"):
            try:
                with pytest.raises(VideoError) as error:
                    read(path, backend=backend)
                assert error.value.stage == "open"
            except UserError:
                continue  # that reader is not installed
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_playlist_behind_a_fake_head_opens_nothing(clips, tmp_path):
    # FFmpeg probes the container by the content; the allow list holds even where our own look is fooled.
    import av

    path = tmp_path / "x.ts"
    path.write_text(f"#EXTM3U\n#EXTINF:1,\n{clips / 'plain.mp4'}\n")
    with pytest.raises(av.error.FFmpegError):
        av.open(f"file:{path}", options={"format_whitelist": "mov,mpegts", "protocol_whitelist": "file"})


@pytest.mark.parametrize(
    "name", ["http://x/a.mp4", "concat:a|b", "/dev/zero", "/proc/self", "gone.mp4", "a\0b"]
)
def test_only_regular_local_files(name):
    with pytest.raises(VideoError) as error:
        open_video(name)
    assert error.value.stage == "open"


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="regular file"):
        open_video(tmp_path / "pipe.mp4")


def test_a_child_gives_the_same_frames(clips):
    for name in ("plain.mp4", "tall.mp4", "wide.mp4"):
        with open_video(clips / name) as here, open_video(clips / name, limits=ISOLATED) as there:
            assert here.info == there.info and here.num_frames == there.num_frames
            expected = [here.num_frames - 1, 0, 0]
            assert torch.equal(here.frames(expected).data, there.frames(expected).data)
            for (a, t), (b, u) in zip(here, there, strict=True):
                assert torch.equal(a, b) and t == u
    data = (clips / "plain.mp4").read_bytes()
    assert torch.equal(read(data).data, read(data, limits=ISOLATED).data)


def test_a_child_reports_errors_and_serves_on(clips):
    for _ in range(3):
        with pytest.raises(VideoError, match="no such local file"):
            read(clips / "gone.mp4", limits=ISOLATED)
        assert len(read(clips / "plain.mp4", limits=ISOLATED).data) == 3


@pytest.mark.parametrize(("blow", "message"), [(signal.SIGSEGV, "crashed"), (signal.SIGSTOP, "longer than")])
def test_a_crash_or_a_hang_is_an_error_and_not_the_end(clips, blow, message):
    limits = LimitsConfig(isolate=True, max_decode_s=0.5)
    with open_video(clips / "plain.mp4", limits=limits) as video:
        frames = iter(video)
        next(frames)
        os.kill(video._file._child.process.pid, blow)
        begin = time.monotonic()
        with pytest.raises(VideoError, match=message):
            for _ in frames:
                pass
        assert time.monotonic() - begin < 5
    assert len(read(clips / "plain.mp4", limits=ISOLATED).data) == 3


def test_memory_is_bounded(clips, write_video, tmp_path):
    big = write_video(tmp_path / "big.mp4", count=1, size=(4096, 4096), options={"preset": "ultrafast"})
    tight = LimitsConfig(isolate=True, max_memory_bytes=200 << 20)
    with pytest.raises(VideoError):
        read(big, limits=tight)
    assert read(big, limits=ISOLATED).data.shape[-2:] == (4096, 4096)


def test_what_a_child_sends_is_checked(clips, monkeypatch):
    with open_video(clips / "plain.mp4", limits=ISOLATED) as video:
        original = isolated._Child.ask

        def lying(self, request, payload, limits):
            answer, data = original(self, request, payload, limits)
            return (
                ({**answer, "height": 10**6, "width": 10**6}, data) if "height" in answer else (answer, data)
            )

        monkeypatch.setattr(isolated._Child, "ask", lying)
        with pytest.raises(VideoError, match="wrong size"):
            video.frames([0])


def test_children_end_with_their_parent(clips):
    code = (
        "import sys; from jepa.data.video.reader import open_video; from jepa.data.video.limits import LimitsConfig\n"
        f"v = open_video({str(clips / 'plain.mp4')!r}, limits=LimitsConfig(isolate=True))\n"
        "print(v._file._child.process.pid, flush=True); import os; os._exit(0)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return
        time.sleep(0.1)
    pytest.fail("the child is still there")


def test_threads_do_not_share_a_child(clips):
    results = []

    def work():
        for _ in range(5):
            results.append(read(clips / "plain.mp4", limits=ISOLATED).data)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 15 and all(torch.equal(r, results[0]) for r in results)


def test_a_scan_finds_what_is_wrong(library, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.mp4").write_bytes((library / f"{number}.mp4").read_bytes())
    (folder / "cut.mp4").write_bytes((library / "0.mp4").read_bytes()[:900])
    (folder / "text.mp4").write_text("hello")
    for full in (True, False):
        rows = scan(
            ScanConfig(data=RootConfig(str(folder)), out=str(tmp_path / "scan.jsonl"), workers=2, full=full)
        )
        assert [Path(r.path).name for r in rows] == ["cut.mp4", "text.mp4", "0.mp4", "1.mp4", "2.mp4"]
        assert all(r.reason for r in rows[:2]) and [r.frames for r in rows[2:]] == [24, 28, 32]
        written = [json.loads(line) for line in (tmp_path / "scan.jsonl").read_text().splitlines()]
        assert [w["path"] for w in written] == [r.path for r in rows]
    text = summary(rows, "scan.jsonl")
    assert "5 files, 2 of them unreadable" in text and "cut.mp4" in text and "96x64 (3)" in text


def test_items_in_a_dataset_can_be_isolated(library):
    from jepa.data.dataset import ClipDataset, TrainClipConfig

    items = [Item(str(library / "0.mp4"))]
    plain, safe = (
        TrainClipConfig(num_frames=2, crop_px=16, limits=limits) for limits in (LimitsConfig(), ISOLATED)
    )
    assert torch.equal(ClipDataset(items, plain, 0)[0]["video"], ClipDataset(items, safe, 0)[0]["video"])
