"""Lists of videos in every form they come in, and what is said when they are wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jepa.data.manifest import Item, read_items
from jepa.errors import UserError


def test_a_folder_is_walked_in_byte_order(tmp_path):
    for name in ("b.mp4", "a/z.MKV", "a/B.webm", ".hidden.mp4", "notes.txt", "still.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [os.path.relpath(i.path, tmp_path) for i in read_items(tmp_path)]
    assert names == ["a/B.webm", "a/z.MKV", "b.mp4", "still.jpg"]
    assert len(read_items(tmp_path, limit=2)) == 2


def test_csv_with_a_header(tmp_path):
    (tmp_path / "labels.csv").write_text(
        '\ufeffpath,label,group,split,start_s,end_s,extra\nclips/a.mp4,kick,7,train,0.5,2,x\n"b, c.mp4",hug,,,,,\n'
    )
    expected = [
        Item(str(tmp_path / "clips/a.mp4"), "kick", 0.5, 2.0, "7", "train"),
        Item(str(tmp_path / "b, c.mp4"), "hug"),
    ]
    assert read_items(tmp_path / "labels.csv") == read_items(tmp_path) == expected


def test_lines_of_path_and_label(tmp_path):
    (tmp_path / "train.csv").write_text("/data/my clips/a.mp4 3\nb.mp4 hand shake\n\nc.mp4\n")
    items = read_items(tmp_path / "train.csv")
    assert [(i.path, i.label) for i in items] == [
        ("/data/my clips/a.mp4", "3"), (str(tmp_path / "b.mp4 hand"), "shake"), (str(tmp_path / "c.mp4"), None)
    ]  # fmt: skip


def test_json_lines_and_tabs_and_other_column_names(tmp_path):
    rows = [{"file": "a.mp4", "class": 4}, {"file": "b.mp4", "class": 0, "start": 1}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [(i.label, i.start_s) for i in read_items(tmp_path / "a.jsonl")] == [("4", None), ("0", 1.0)]
    (tmp_path / "b.tsv").write_text("video\twho\nx.mp4\tann\n")
    assert read_items(tmp_path / "b.tsv", columns={"group": "who"})[0].group == "ann"
    with pytest.raises(UserError, match="no column 'age'"):
        read_items(tmp_path / "b.tsv", columns={"group": "age"})
    with pytest.raises(UserError, match="'size'"):
        read_items(tmp_path / "b.tsv", columns={"size": "age"})


def test_a_name_without_its_ending_is_looked_up(tmp_path):
    (tmp_path / "film.one.mp4").touch()
    (tmp_path / "segments.csv").write_text("video,start_s,end_s,label\nfilm.one,1,2,walk\n")
    assert read_items(tmp_path / "segments.csv")[0].path == str(tmp_path / "film.one.mp4")


def test_a_name_that_is_not_utf8_survives(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"path,label\ncaf\xe9.mp4,x\n")
    item = read_items(tmp_path)[0]
    assert os.fsencode(item.path).endswith(b"caf\xe9.mp4")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "name,label\nx.mp4,1\n", "no `path` column.*name, label.*Rename"),
        ("a.csv", "", "names no video"),
        ("a.csv", "path,label\n", "names no video"),
        ("a.csv", "path,label\n,1\n", "row 2: the path is empty"),
        ("a.csv", "path,start_s\nx.mp4,soon\n", "start_s='soon' is not a time"),
        ("a.csv", "path,start_s,end_s\nx.mp4,2,1\n", "before it starts"),
        ("a.jsonl", '{"path": "x.mp4"}\n{"path"', "line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "not a JSON object"),
        ("a.doc", "x", "neither a folder nor a list"),
    ],
)
def test_a_wrong_list_is_explained(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_items(tmp_path / name)


def test_a_folder_without_videos_is_explained(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        read_items(tmp_path)
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("text")
    with pytest.raises(UserError, match="holds 3 files but no video"):
        read_items(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_items(tmp_path / "gone")


def test_parquet_or_what_it_needs(tmp_path):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        (tmp_path / "a.parquet").touch()
        with pytest.raises(UserError, match="pip install pyarrow"):
            read_items(tmp_path / "a.parquet")
        return
    table = pyarrow.table({"path": ["a.mp4", "b.mp4"], "label": ["x", None], "start_s": [0.5, None]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    items = read_items(tmp_path / "a.parquet")
    assert [(Path(i.path).name, i.label, i.start_s) for i in items] == [
        ("a.mp4", "x", 0.5),
        ("b.mp4", None, None),
    ]
