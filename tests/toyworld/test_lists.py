"""The manifests of a toy world: ordinary lists, complete, in order, and in agreement with the ground truth."""

import csv
import json

import pytest

from jepa.toyworld import ToyWorldConfig, write_world


def rows(path):
    return list(csv.DictReader(path.open()))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    config = ToyWorldConfig(
        out=str(tmp_path_factory.mktemp("films")), family="film", videos=6, duration_s=12.0, fps=8.0,
        height_px=64, width_px=64, seed=1,
    )  # fmt: skip
    return write_world(config)


def truths(folder):
    return {f"videos/{p.stem}.mp4": json.loads(p.read_text()) for p in (folder / "truth").glob("*.json")}


def test_every_shot_of_a_video_is_a_row_with_tags_and_captions(films):
    shots = rows(films / "shots.csv")
    for path, truth in truths(films).items():
        own = [row for row in shots if row["path"] == path]
        assert [float(row["start_s"]) for row in own] == [shot["start_s"] for shot in truth["shots"]]
        for row, shot in zip(own, truth["shots"], strict=True):
            assert row["label"] == f"{shot['family']} {shot['outcome']}"
            assert row["tags"].split(";") == [
                shot["colour"],
                shot["shape"],
                shot["outcome"].replace("_", " "),
            ]
            captions = [row["caption"], row["caption_2"], row["caption_3"]]
            assert [caption for caption in captions if caption] == shot["captions"]


def test_a_video_of_one_shot_is_one_row_with_the_captions_of_the_video(tmp_path):
    config = ToyWorldConfig(str(tmp_path / "w"), videos=2, height_px=64, width_px=64, duration_s=1.0)
    folder = write_world(config)
    labels, shots = rows(folder / "labels.csv"), rows(folder / "shots.csv")
    for video, shot in zip(labels, shots, strict=True):
        assert {name: video[name] for name in shot if name in video} | {
            "start_s": "0.0",
            "end_s": "1.0",
        } == shot


def test_segments_hold_actions_and_hazards_whose_start_is_the_onset(films):
    segments = rows(films / "segments.csv")
    assert {row["kind"] for row in segments} == {"action", "hazard"}
    for path, truth in truths(films).items():
        own = [row for row in segments if row["path"] == path]
        assert all(0 <= float(row["start_s"]) < float(row["end_s"]) <= 12 for row in own)
        hazards = [(float(r["start_s"]), r["label"]) for r in own if r["kind"] == "hazard"]
        assert hazards == [(h["onset_s"], h["category"]) for h in truth["hazards"]]
        actions = [(float(r["start_s"]), r["label"]) for r in own if r["kind"] == "action"]
        assert actions == [(s["start_s"], f"{s['verb']} {s['noun']}") for s in truth["segments"]]


def test_annotations_name_hazards_near_misses_scenes_and_good_breaks(films):
    notes = rows(films / "annotations.csv")
    assert {row["kind"] for row in notes} == {"hazard", "near_miss", "scene", "good_break"}
    for path, truth in truths(films).items():
        own = {
            kind: [float(r["start_s"]) for r in notes if r["path"] == path and r["kind"] == kind]
            for kind in ("hazard", "near_miss", "scene", "good_break")
        }
        assert own["hazard"] == [hazard["onset_s"] for hazard in truth["hazards"]]
        assert own["near_miss"] == [shot["event_s"] for shot in truth["shots"] if shot["decoy"]]
        assert own["scene"] == [scene["start_s"] for scene in truth["scenes"]]
        assert own["good_break"] == [item["time_s"] for item in truth["breaks"] if item["good"]]


def test_a_world_with_truth_files_of_an_earlier_schema_is_continued_with_the_same_videos(tmp_path):
    config = ToyWorldConfig(str(tmp_path / "w"), videos=1, height_px=64, width_px=64, duration_s=1.0)
    folder = write_world(config)
    new = (folder / "truth/000000.json").read_text()
    old = new.replace("truth/2", "truth/1").replace('"event_s"', '"moment_s"')
    (folder / "truth/000000.json").write_text(old)
    kept = (folder / "videos/000000.mp4").stat().st_mtime_ns
    write_world(config)
    assert (folder / "truth/000000.json").read_text() == new
    assert (folder / "videos/000000.mp4").stat().st_mtime_ns == kept
