"""Tags and captions of samples: columns of their list."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa.data.manifest import Item
from jepa.errors import UserError
from jepa.probes.config import DescribeSettings
from jepa.probes.data.captions import LISTS, Words, read_words
from jepa.probes.data.labels import read_videos


def test_a_list_of_shots_describes_each_shot_by_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"x")
    (tmp_path / "labels.csv").write_text("path,label\nvideo.mp4,all\n")
    (tmp_path / "shots.csv").write_text(
        "path,start_s,end_s,label,tags,caption,caption_2\n"
        "video.mp4,0,3,walker falls,red;figure,It falls.,Down it goes.\n"
        "video.mp4,3,6.5,walker gets_up,,,\n"
    )
    shots = read_videos(tmp_path, lists=LISTS)
    assert [(s.start_s, s.end_s) for s in shots] == [(0.0, 3.0), (3.0, 6.5)]
    words = read_words(DescribeSettings(), shots)
    assert words.tags == [["red", "figure"], ["walker gets_up"]]
    assert words.captions == [["It falls.", "Down it goes."], ["walker gets up"]]


def test_several_tag_columns_are_joined() -> None:
    item = Item("a.mp4", label="x", columns={"colour": "red", "tags": "ball; falls"})
    settings = DescribeSettings(tag_columns=["colour", "tags"])
    assert read_words(settings, [item]) == Words([["red", "ball", "falls"]], [["x"]])


def test_a_list_without_words_or_labels_says_which_columns_are_read() -> None:
    with pytest.raises(UserError, match=r"'a\.mp4' has neither words nor a label.*path, tags .*caption"):
        read_words(DescribeSettings(), [Item("a.mp4")])


def test_a_named_column_that_does_not_exist_is_refused() -> None:
    item = Item("a.mp4", label="x", columns={"words": "red"})
    with pytest.raises(UserError, match=r"describe\.tag_columns names 'wrods'.*other columns are words"):
        read_words(DescribeSettings(tag_columns=["wrods"]), [item])
    with pytest.raises(UserError, match=r"describe\.caption_column names 'sentence'"):
        read_words(DescribeSettings(caption_column="sentence"), [item])
