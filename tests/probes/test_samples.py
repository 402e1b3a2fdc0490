from __future__ import annotations

from pathlib import Path

import pytest

from jepa.errors import UserError
from jepa.probes.data.labels import Sample, class_names, find_video, fingerprint, read_samples


def table(root: Path, text: str, names: tuple[str, ...] = ("a.mp4", "b.mp4")) -> Path:
    for name in names:
        (root / name).write_bytes(name.encode())
    (root / "labels.csv").write_text(text)
    return root


def test_reads_usual_columns_and_groups(tmp_path: Path) -> None:
    root = table(tmp_path, "file,label,scene\na.mp4,x,1\nb.mp4,y,1\n")
    alone = read_samples(root)
    assert [s.label for s in alone] == ["x", "y"]
    assert [s.group for s in alone] == ["a.mp4", "b.mp4"]  # every video by itself
    assert [s.group for s in read_samples(root, group_column="scene")] == ["1", "1"]


def test_segment_times_and_missing_suffix(tmp_path: Path) -> None:
    root = table(tmp_path, "video,start_s,end_s,label\na,0.5,2,x\na,2,,y\n")
    first, second = read_samples(root)
    assert (first.start_s, first.end_s, second.end_s) == (0.5, 2.0, None)
    assert first.path == tmp_path / "a.mp4"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file,lable\na.mp4,x\n", "label"),
        ("file,label\nmissing.mp4,x\n", "missing.mp4"),
        ("file,label\na.mp4,\n", "empty"),
        ("file,label\na.mp4\n", "Line 2"),
        ("file,label\n", "no line"),
        ("file,label,start_s\na.mp4,x,soon\n", "soon"),
    ],
)
def test_mistakes_in_the_table_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_samples(table(tmp_path, text))


def test_a_misspelt_column_is_suggested(tmp_path: Path) -> None:
    root = table(tmp_path, "file,label,sequence\na.mp4,x,1\n")
    with pytest.raises(UserError, match="Did you mean 'sequence'"):
        read_samples(root, group_column="sequense")


def test_class_folders(tmp_path: Path) -> None:
    for name in ("cat/1.mp4", "dog/2.mkv", "dog/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [(s.name, s.label) for s in read_samples(tmp_path)] == [("cat/1.mp4", "cat"), ("dog/2.mkv", "dog")]


def samples(labels: str) -> list[Sample]:
    return [Sample(Path("v"), f"v{i}", label, "g") for i, label in enumerate(labels.split())]


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
    for place in (0, 1 << 19, (1 << 20) - 1):
        (tmp_path / "a").write_bytes(base)
        before = fingerprint(tmp_path / "a")
        changed = bytearray(base)
        changed[place] = 1
        (tmp_path / "a").write_bytes(changed)
        assert fingerprint(tmp_path / "a") != before


def test_find_video_prefers_the_exact_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "a.mp4").write_bytes(b"2")
    assert find_video(tmp_path, "a").name == "a"
