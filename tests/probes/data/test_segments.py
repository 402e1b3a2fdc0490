"""Lists of segments, and the windows with targets that come from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa.data.manifest import Item
from jepa.errors import UserError
from jepa.probes.config import AnticipateSettings, ProbeData
from jepa.probes.data.segments import Segment, Timeline, hazard_windows, next_action_windows, read_timelines


def timeline(**hazards: list[float]) -> Timeline:
    segments = [Segment(0, 4, "walk"), Segment(4, 6, "fall"), Segment(6, 10, "lie")]
    return Timeline(Item("v.mp4", "v", group="v"), segments, hazards)


def read(root: Path, text: str, **settings: list[str]) -> tuple[list[Timeline], list[str]]:
    for name in ("a.mp4", "b.mp4"):
        (root / name).write_bytes(b"x")
    (root / "segments.csv").write_text(text)
    return read_timelines(ProbeData(root=str(root)), AnticipateSettings(**settings))  # type: ignore[arg-type]


def test_next_action_windows_end_tau_before_the_start() -> None:
    windows = next_action_windows([timeline()], tau_s=1.0, window_s=2.0)
    assert [(s.label, s.start_s, s.end_s) for s in windows] == [("fall", 1.0, 3.0), ("lie", 3.0, 5.0)]


def test_hazard_bins_by_hand() -> None:
    windows = hazard_windows([timeline(fall=[4.0, 9.0])], ["fall"], [0.5, 1.0, 2.0], 1.0, 2.0)
    assert [s.end_s for s in windows.samples] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    # From 4 s on, the onset at 4 s has happened and the next one is at 9 s.
    assert windows.event[:, 0].tolist() == [3, 2, 1, 3, 3, 3, 2, 1, 3]
    assert windows.observed.tolist() == [3, 3, 3, 3, 3, 3, 3, 3, 2]
    assert [s.label for s in windows.samples] == ["walk"] * 3 + ["fall"] * 2 + ["lie"] * 4


def test_rows_of_kind_hazard_are_onsets_and_no_actions(tmp_path: Path) -> None:
    text = (
        "path,start_s,end_s,label,kind\na.mp4,0,2,walk,action\na.mp4,1.25,1.5,fire,hazard\nb.mp4,0,1,run,\n"
    )
    (first, second), categories = read(tmp_path, text)
    assert categories == ["fire"] and first.hazards == {"fire": [1.25]} and second.hazards == {"fire": []}
    assert first.segments == [Segment(0, 2, "walk")] and first.end_s == 2 and first.group == "a.mp4"
    with pytest.raises(UserError, match="'flood', which never occurs; the labels are fire, run, walk"):
        read(tmp_path, text, hazards=["flood"])


def test_actions_can_be_named_as_hazards(tmp_path: Path) -> None:
    text = "path,start,end,label\na.mp4,2,3,fall\na.mp4,0,2,walk\n"
    (line,), categories = read(tmp_path, text, hazards=["fall"])
    assert categories == ["fall"] and line.hazards == {"fall": [2.0]}
    assert [segment.label for segment in line.segments] == ["walk", "fall"]


def test_a_split_column_reaches_the_windows(tmp_path: Path) -> None:
    text = "path,start_s,end_s,label,split\na.mp4,0,2,walk,train\nb.mp4,0,2,walk,test_far\n"
    lines, _ = read(tmp_path, text)
    assert [line.split for line in lines] == ["train", "test_far"]
    windows = hazard_windows(lines, [], [1.0], 1.0, 1.0)
    assert [s.split for s in windows.samples] == ["train"] * 2 + ["test_far"] * 2


def test_truth_files_beside_a_list_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth/a.json").write_text('{"hazards": [{"onset_s": 1.25, "category": "fire"}]}')
    _, categories = read(tmp_path, "path,start_s,end_s,label\na.mp4,0,2,walk\n")
    assert categories == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,start_s,end_s,label\na.mp4,2,2,walk\n", "line 2: the part ends at 2 s"),
        ("path,start_s,end_s,label\na.mp4,3,2,walk\n", "before it starts"),
        ("path,start_s,end_s,label\na.mp4,nan,2,walk\n", "start_s='nan' is not a time"),
        (
            "path,label\na.mp4,walk\n",
            "reads segments: one row per action with the columns path, start_s, end_s",
        ),
        ("path,start_s,end_s,label,kind\na.mp4,0,2,x,scene\n", "kind 'scene'.*action or hazard"),
        (
            "path,start_s,end_s,label,split\na.mp4,0,2,x,train\na.mp4,2,3,y,test\n",
            "different groups or splits",
        ),
    ],
)
def test_a_list_that_cannot_be_used_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)
