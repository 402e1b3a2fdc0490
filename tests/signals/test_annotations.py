"""Lists of annotations: paths against the list's folder, points and spans, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa.errors import UserError
from jepa.signals.annotations import Annotation, read_annotations

HEAD = "path,start_s,end_s,kind,label\n"


def test_annotations_are_found_by_the_video_they_are_about(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "marks.csv").write_text(
        f"{HEAD}videos/a.mp4,1.5,2,hazard,fall\nvideos/a.mp4,3,,good_break,calm\nvideos/b.mp4,0,1,scene,x\n"
    )
    (tmp_path / "link").symlink_to(tmp_path / "videos")
    found = read_annotations(tmp_path / "marks.csv")
    assert found.of(tmp_path / "link/a.mp4") == [
        Annotation(1.5, 2.0, "hazard", "fall"),
        Annotation(3.0, 3.0, "good_break", "calm"),
    ]
    assert found.of(tmp_path / "videos/c.mp4") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,start_s,end_s,kind\na.mp4,0,1,scene\n", "row 2 has no label"),
        (f"{HEAD}a.mp4,soon,1,scene,x\n", "row 2: 'soon' is not a time"),
        (f"{HEAD}a.mp4,0,nan,scene,x\n", "row 2: 'nan' is not a time"),
    ],
)
def test_mistakes_in_a_list_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "marks.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_annotations(tmp_path / "marks.csv")
    with pytest.raises(UserError, match="cannot be read"):
        read_annotations(tmp_path / "gone.csv")
