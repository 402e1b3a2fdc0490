"""Lists of videos in every form they come in, and the messages when they are wrong."""

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
        Item(
            str(tmp_path / "clips/a.mp4"),
            "clips/a.mp4",
            "kick",
            "7",
            "train",
            0.5,
            2.0,
            columns={"extra": "x"},
        ),
        Item(str(tmp_path / "b, c.mp4"), "b, c.mp4", "hug"),
    ]
    assert read_items(tmp_path / "labels.csv") == read_items(tmp_path) == expected


def test_lines_of_path_and_label(tmp_path):
    (tmp_path / "train.csv").write_text("/data/my clips/a.mp4 3\nb.mp4 hand shake\n\nc.mp4\n")
    items = read_items(tmp_path / "train.csv")
    assert [(i.path, i.label) for i in items] == [
        ("/data/my clips/a.mp4", "3"), (str(tmp_path / "b.mp4"), "hand shake"), (str(tmp_path / "c.mp4"), "")
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
    (tmp_path / "clip.one.mp4").touch()
    (tmp_path / "segments.csv").write_text("video,start_s,end_s,label\nclip.one,1,2,walk\n")
    assert read_items(tmp_path / "segments.csv")[0].path == str(tmp_path / "clip.one.mp4")


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
        ("a.csv", "path,label\n,1\n", "line 2: the path is empty"),
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
        ("b.mp4", "", None),
    ]


def read(folder, name, text):
    data = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(data)
    return [(i.name, i.label) for i in read_items(folder / name)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("pandas.csv", ",path,label\n0,a.mp4,x\n1,b.mp4,y\n", [("a.mp4", "x"), ("b.mp4", "y")]),
        ("pandas.csv", "Unnamed: 0,path,label\n0,a.mp4,x\n", [("a.mp4", "x")]),
        ("excel.csv", "path;label\na.mp4;x\n", [("a.mp4", "x")]),
        ("tabs.csv", "path\tlabel\na, b.mp4\tx\n", [("a, b.mp4", "x")]),
        ("spaces.csv", " path , label \n a.mp4 , x \n\n", [("a.mp4", "x")]),
        ("capitals.csv", "Path,Label\na.mp4,x\n", [("a.mp4", "x")]),
        ("trailing.csv", "path,label\na.mp4,x,,\n", [("a.mp4", "x")]),
        ("quoted.txt", "\"my clip.mp4\" 1\n'it is.mp4' 2\n", [("my clip.mp4", "1"), ("it is.mp4", "2")]),
        ("colons.txt", "d/a.mp4::0\nd/b.mp4::1\n", [("d/a.mp4", "0"), ("d/b.mp4", "1")]),
        ("semicolons.txt", "a.mp4;0\nb.mp4;1\n", [("a.mp4", "0"), ("b.mp4", "1")]),
        ("tabs.txt", "a.mp4\tx y\n", [("a.mp4", "x y")]),
        ("commas.csv", "a.mp4,x\nb.mp4,y\n", [("a.mp4", "x"), ("b.mp4", "y")]),
        ("comma_in_name.txt", "d/my, clip.mp4 3\n", [("d/my, clip.mp4", "3")]),
        ("no_suffix.txt", "d/clip 1 3\n", [("d/clip 1", "3")]),
        ("windows.csv", "path,label\r\na.mp4,x\r\n", [("a.mp4", "x")]),
        ("one_column.csv", "video\na.mp4\n", [("a.mp4", "")]),
    ],
)
def test_lists_as_other_programs_write_them(tmp_path, name, text, expected):
    assert read(tmp_path, name, text) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "path,label\na.mp4,x\n".encode("utf-16"), "UTF-16 text. Save it as UTF-8"),
        ("a.csv", "path,label\na.mp4,x\n".encode("utf-16-le"), "UTF-16 text without a mark"),
        ("a.csv", "path,label\na.mp4,x\n".encode("utf-32"), "UTF-32"),
        ("a.jsonl", '{"path": "a.mp4"}'.encode("utf-16"), "UTF-16"),
        ("a.csv", b"path,label\na.mp4,caf\xe9\n", "not UTF-8"),
        ("a.csv", "path,start_s\na.mp4,nan\n", "start_s='nan' is not a time"),
        ("a.csv", "path,end\na.mp4,inf\n", "end='inf' is not a time"),
        ("a.csv", "path,start,end\na.mp4,3,2\n", "line 2: the part ends at 2 s, before it starts at 3 s"),
        ("a.jsonl", '{"path": "a.mp4", "start": NaN}', "is not a time"),
        ("a.csv", "path,label\na.mp4,x,y\n", "line 2 has 3 fields and the header has 2"),
        ("a.csv", "path,label\na.mp4\n", "line 2 has 1 fields"),
        ("a.csv", 'path,label\n"a.mp4,x\n', "cannot be read"),
        ("a.csv", "path,label,label\na.mp4,x,y\n", "column 'label' twice"),
        ("a.txt", "a.mp4 120 3\n", "line 1 has several fields after the path"),
        ("a.csv", "a.mp4,x,train\n", "several fields after the path"),
        ("a.csv", "name;label\nx.mp4;1\n", "no `path` column.*name, label"),
        ("a.parquet", b"PAR1 no", "cannot be read as Parquet|needs pyarrow"),
        ("shards.jsonl", '{"path": "a.mp4", "shard": "s.tar"}', "without an integer `offset`"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused_by_name(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, name, text)


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_class_folders_take_every_video_suffix_and_nested_folders(tmp_path):
    make(tmp_path, "cat/1.mp4", "cat/._1.mp4", "cat/day 2/2.MTS", "dog/3.vob", "dog/4.png", "dog/notes.txt")
    assert [(i.name, i.label) for i in read_items(tmp_path)] == [
        ("cat/1.mp4", "cat"), ("cat/day 2/2.MTS", "cat"), ("dog/3.vob", "dog"), ("dog/4.png", "dog")
    ]  # fmt: skip


def test_folders_named_for_splits_hold_class_folders(tmp_path):
    make(tmp_path, "train/cat/1.mp4", "validation/cat/2.mp4", "test/dog/3.mp4")
    assert [(i.label, i.split) for i in read_items(tmp_path)] == [
        ("dog", "test"),
        ("cat", "train"),
        ("cat", "val"),
    ]


def test_linked_folders_are_followed_and_cycles_are_not(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    make(root, "cat/1.mp4")
    make(elsewhere, "2.mp4", "deep/3.mp4")
    (root / "dog").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    (root / "cat" / "up").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    assert [(i.name, i.label) for i in read_items(root)] == [
        ("cat/1.mp4", "cat"), ("dog/2.mp4", "dog"), ("dog/deep/3.mp4", "dog")
    ]  # fmt: skip


def test_the_other_columns_come_along(tmp_path):
    (tmp_path / "labels.csv").write_text("path,tags,caption,start_s\na.mp4,red;ball,It falls.,1\nb.mp4,,,\n")
    first, second = read_items(tmp_path)
    assert first.columns == {"tags": "red;ball", "caption": "It falls."} and second.columns == {}
    assert hash(first) != hash(second)


def test_lists_of_tags_in_json_are_those_of_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"path": "a.mp4", "tags": ["red", "ball"], "score": null}')
    assert read_items(tmp_path / "a.jsonl")[0].columns == {"tags": "red;ball"}


def test_a_folder_gives_the_first_of_the_requested_lists(tmp_path):
    (tmp_path / "labels.csv").write_text("path\na.mp4\n")
    (tmp_path / "shots.csv").write_text("path\nb.mp4\n")
    assert [i.name for i in read_items(tmp_path, lists=("shots.csv", "labels.csv"))] == ["b.mp4"]
    assert [i.name for i in read_items(tmp_path)] == ["a.mp4"]
