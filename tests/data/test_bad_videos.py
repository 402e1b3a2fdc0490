"""Unreadable videos: counted, named once, and never another video's trouble."""

from __future__ import annotations

import json
import logging

import pytest

from jepa.data import check, dataset
from jepa.data.bad_videos import BadVideo, BadVideoLog, TooManyBadVideosError, as_video_error
from jepa.data.dataset import ClipDataset, EvalClipConfig, TrainClipConfig, collate
from jepa.data.manifest import Item, RootConfig, read_items
from jepa.errors import UserError, VideoError


def test_the_log_names_each_file_once_and_stops_the_run(tmp_path):
    log = BadVideoLog(0.25, quarantine=tmp_path / "bad.jsonl")
    a, b = BadVideo("a.mp4", "open", "gone", 1), BadVideo("b.mp4", "decode", "cut", 2)
    assert log.count([a, b, a], 16) == [a, b] and log.count([a], 16) == []
    assert (log.bad, log.samples, log.fraction, log.videos) == (4, 32, 4 / 32, [a, b])
    rows = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [r["path"] for r in rows] == ["a.mp4", "b.mp4"]
    again = BadVideoLog(0.25)
    again.load_state_dict(json.loads(json.dumps(log.state_dict())))
    assert again.count([a], 0) == [] and again.bad == 5
    with pytest.raises(TooManyBadVideosError, match=r"a\.mp4.*data\.max_bad_fraction"):
        for _ in range(20):
            again.count([a, b], 4)


def test_the_state_of_an_earlier_version_loads():
    log = BadVideoLog(0.5)
    known = {"path": "a.mp4", "stage": "open", "reason": "gone", "index": 3}
    log.load_state_dict({"bad": 1, "samples": 9, "known": [known]})
    assert log.videos == [BadVideo("a.mp4", "open", "gone", 3)]


def test_a_known_total_is_what_the_fraction_is_of():
    log = BadVideoLog(0.1, grace=0, total=20)
    log.count([BadVideo("a", "open", "x"), BadVideo("b", "open", "x")], 2)
    with pytest.raises(TooManyBadVideosError, match="3 of 20 samples"):
        log.count([BadVideo("c", "open", "x")], 1)
    with pytest.raises(UserError, match="max_bad_fraction=2"):
        BadVideoLog(2)


def test_any_exception_becomes_the_videos_failure_and_its_traceback_is_logged(caplog):
    with caplog.at_level(logging.WARNING):
        try:
            _ = 1 // 0
        except ZeroDivisionError as error:
            failure = as_video_error("a.mp4", error)
    assert (
        isinstance(failure, VideoError) and "ZeroDivisionError" in failure.reason and failure.path == "a.mp4"
    )
    assert "Traceback" in caplog.text and "1 // 0" in caplog.text
    known = VideoError("a.mp4", "open", "gone")
    assert as_video_error("a.mp4", known) is known


@pytest.fixture
def breaks(monkeypatch):
    """Opening a file whose name holds "1" raises what nobody foresaw."""
    real = dataset.open_video

    def opening(source, *args, **kwargs):
        if "1" in str(source).rpartition("/")[2]:
            raise ValueError("29 is not a valid Type")
        return real(source, *args, **kwargs)

    monkeypatch.setattr(dataset, "open_video", opening)


def test_a_foreign_exception_ends_no_stream(library, breaks):
    items = read_items(library)
    training = ClipDataset(items, TrainClipConfig(num_frames=2, crop_px=16), seed=0)
    samples = [training[i] for i in range(6)]
    (bad,) = [event for sample in samples for event in sample["bad"]]
    assert bad.name == "1.mp4" and "29 is not a valid Type" in bad.reason
    assert all(sample["item"] != 1 for sample in samples)
    testing = ClipDataset(items, EvalClipConfig(num_frames=2, crop_px=16), seed=0)
    batch = collate([testing[i] for i in range(6)])
    assert batch["item"].tolist() == [0, 2, 3, 4, 5] and len(batch["bad"]) == 1


def test_a_foreign_exception_is_one_row_of_the_check(library, breaks, tmp_path):
    out = tmp_path / "scan.jsonl"
    rows = check.scan(check.ScanConfig(RootConfig(str(library)), str(out), full=False, workers=2))
    assert [bool(row.stage) for row in rows] == [True] + [False] * 5 and "ValueError" in rows[0].reason


def test_a_mistake_in_the_settings_is_not_blamed_on_a_video(library, monkeypatch):
    def refuse(*args, **kwargs):
        raise UserError("backend=decord is not installed")

    monkeypatch.setattr(dataset, "open_video", refuse)
    with pytest.raises(UserError, match="not installed"):
        ClipDataset([Item(str(library / "0.mp4"))], TrainClipConfig(), seed=0)[0]
