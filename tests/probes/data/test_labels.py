from __future__ import annotations

from pathlib import Path

import pytest

from jepa.data.manifest import Item, RootConfig
from jepa.data.shards import ShardConfig
from jepa.data.shards import run as make_shards
from jepa.errors import UserError
from jepa.probes.data.labels import class_names, fingerprint, read_labelled


def table(root: Path, text: str, names: tuple[str, ...] = ("a.mp4", "b.mp4")) -> Path:
    for name in names:
        (root / name).write_bytes(name.encode())
    (root / "labels.csv").write_text(text)
    return root


def test_reads_usual_columns_and_groups(tmp_path: Path) -> None:
    root = table(tmp_path, "file,label,scene\na.mp4,x,1\nb.mp4,y,1\n")
    alone = read_labelled(root)
    assert [s.label for s in alone] == ["x", "y"]
    assert [s.group for s in alone] == ["a.mp4", "b.mp4"]  # every video by itself
    assert [s.group for s in read_labelled(root, group_column="scene")] == ["1", "1"]


def test_segment_times_and_missing_suffix(tmp_path: Path) -> None:
    root = table(tmp_path, "video,start_s,end_s,label\na,0.5,2,x\na,2,,y\n")
    first, second = read_labelled(root)
    assert (first.start_s, first.end_s, second.end_s) == (0.5, 2.0, None)
    assert first.path == str(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file,lable\na.mp4,x\n", "label"),
        ("file,label\nmissing.mp4,x\n", "missing.mp4"),
        ("file,label\na.mp4,\n", "empty"),
        ("file,label\na.mp4\n", "line 2"),
        ("file,label\n", "names no video"),
        ("file,label,start_s\na.mp4,x,soon\n", "soon"),
    ],
)
def test_mistakes_in_the_table_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_labelled(table(tmp_path, text))


def test_a_misspelt_column_is_suggested(tmp_path: Path) -> None:
    root = table(tmp_path, "file,label,sequence\na.mp4,x,1\n")
    with pytest.raises(UserError, match="Did you mean 'sequence'"):
        read_labelled(root, group_column="sequense")


def test_class_folders(tmp_path: Path) -> None:
    for name in ("cat/1.mp4", "dog/2.mkv", "dog/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [(s.name, s.label) for s in read_labelled(tmp_path)] == [
        ("cat/1.mp4", "cat"),
        ("dog/2.mkv", "dog"),
    ]


def samples(labels: str) -> list[Item]:
    return [Item("v", f"v{i}", label, "g") for i, label in enumerate(labels.split())]


def test_typo_in_a_label_is_refused_with_its_line() -> None:
    with pytest.raises(UserError, match=r"'psuh' of 'v4'.*looks like 'push'"):
        class_names(samples("push push push kick psuh"))
    # A rare class that resembles nothing is no typo, and a declared one never is.
    assert class_names(samples("push push push jump")) == ["jump", "push"]
    assert "psuh" in class_names(samples("push push push psuh"), ["push", "psuh"])


def test_undeclared_label_and_single_class() -> None:
    with pytest.raises(UserError, match="Did you mean 'kick'"):
        class_names(samples("kick kik"), ["kick", "push"])
    with pytest.raises(UserError, match="two classes"):
        class_names(samples("kick kick"))


def test_fingerprint_sees_middle_and_end(tmp_path: Path) -> None:
    base = bytearray(1 << 20)
    for offset in (0, 1 << 19, (1 << 20) - 1):
        (tmp_path / "a").write_bytes(base)
        before = fingerprint(tmp_path / "a")
        changed = bytearray(base)
        changed[offset] = 1
        (tmp_path / "a").write_bytes(changed)
        assert fingerprint(tmp_path / "a") != before


def test_the_exact_name_comes_before_one_with_a_suffix(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    root = table(tmp_path, "path,label\na,x\nb,y\n")
    assert [Path(item.path).name for item in read_labelled(root)] == ["a", "b.mp4"]


def test_a_list_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    root = table(tmp_path, ",path , label\n0, a.mp4 , x \n1,b.mp4,y\n")
    assert [(item.name, item.label, item.columns) for item in read_labelled(root)] == [
        ("a.mp4", "x", {}),
        ("b.mp4", "y", {}),
    ]


def test_every_kind_of_list_that_pretrains_can_be_probed(tmp_path: Path) -> None:
    table(tmp_path, "path,label,start,end\na.mp4,x,0,1\na.mp4,y,1,2\n")
    (tmp_path / "lines.txt").write_text("'a.mp4' x\nb.mp4 y\n")
    (tmp_path / "lines.jsonl").write_text('{"video": "a.mp4", "class": 1}\n{"video": "b.mp4", "class": 2}\n')
    (tmp_path / "tabs.tsv").write_text("path\tlabel\na.mp4\tx\nb.mp4\ty\n")
    assert [(s.label, s.start_s, s.end_s) for s in read_labelled(tmp_path)] == [("x", 0, 1), ("y", 1, 2)]
    for name, labels in (("lines.txt", ["x", "y"]), ("lines.jsonl", ["1", "2"]), ("tabs.tsv", ["x", "y"])):
        assert [item.label for item in read_labelled(tmp_path / name)] == labels


def test_shards_keep_labels_columns_and_fingerprints(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    table(root, "path,label,group,caption\na.mp4,x,1,A sentence.\nb.mp4,y,2,\n")
    make_shards(ShardConfig(RootConfig(str(root)), str(tmp_path / "shards")))
    plain, packed = read_labelled(root), read_labelled(tmp_path / "shards")
    assert [(s.name, s.label, s.group, s.columns) for s in packed] == [
        (s.name, s.label, s.group, s.columns) for s in plain
    ]
    assert (
        [fingerprint(s) for s in packed]
        == [fingerprint(s) for s in plain]
        == [fingerprint(s.path) for s in plain]
    )
