"""Shards: whole, resumable, checked, and read at random."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from jepa.data import shards
from jepa.data.manifest import RootConfig, read_items
from jepa.data.shards import ShardConfig, open_span, run, verify
from jepa.errors import UserError, VideoError


def pack(library, out, **more):
    return run(ShardConfig(data=RootConfig(str(library)), out=str(out), **{"shard_bytes": 6000, **more}))


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_every_file_comes_back_complete_and_a_shard_is_a_plain_tar(library, tmp_path):
    out = pack(library, tmp_path / "out", verify=True)
    items = read_items(out)
    originals = read_items(library)
    assert [i.path for i in items] == [Path(i.path).name for i in originals]
    for item, original in zip(items, originals, strict=True):
        with open_span(item) as file:
            assert file.read() == Path(original.path).read_bytes()
            file.seek(-4, os.SEEK_END)
            assert file.read(100) == Path(original.path).read_bytes()[-4:]
    names = []
    for shard in sorted(out.glob("*.tar")):
        with tarfile.open(shard) as tar:
            names += tar.getnames()
    assert names == [i.path for i in items] and len(list(out.glob("*.tar"))) > 1


def test_labels_and_parts_travel_along(library, tmp_path):
    rows = "".join(f"{library}/{i % 6}.mp4,c{i},{i / 10},{i / 10 + 0.5}\n" for i in range(12))
    (tmp_path / "list.csv").write_text("path,label,start_s,end_s\n" + rows)
    packed = read_items(pack(tmp_path / "list.csv", tmp_path / "out"))
    plain = read_items(tmp_path / "list.csv")
    assert [(i.label, i.start_s, i.end_s) for i in packed] == [(i.label, i.start_s, i.end_s) for i in plain]
    assert len({i.span for i in packed}) == 6  # a video that is named twice is stored once


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_run_that_was_killed_goes_on_to_the_same_result(library, tmp_path, monkeypatch, stop_after):
    whole = contents(pack(library, tmp_path / "whole"))
    original, calls = shards._pack, []

    def dying(*arguments):
        calls.append(0)
        if len(calls) > stop_after:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(shards, "_pack", dying)
    with pytest.raises(KeyboardInterrupt):
        pack(library, tmp_path / "out")
    assert not (tmp_path / "out" / "shards.jsonl").exists()
    monkeypatch.undo()
    resumed = contents(pack(library, tmp_path / "out"))
    # Tar headers hold no times of packing, so the shards are equal byte for byte.
    assert resumed == whole


def test_a_changed_byte_is_found(library, tmp_path):
    out = pack(library, tmp_path / "out")
    assert verify(out) == 6
    item = read_items(out)[3]
    with open(item.span.shard, "r+b") as file:
        file.seek(item.span.offset + 100)
        file.write(b"!")
    with pytest.raises(VideoError, match=r"3\.mp4.*not those that were packed"):
        verify(out)


def test_a_cut_shard_is_a_bad_video(library, tmp_path):
    out = pack(library, tmp_path / "out")
    item = read_items(out)[-1]
    os.truncate(item.span.shard, item.span.offset + 10)
    with pytest.raises(VideoError, match="cut off"):
        open_span(item)


def test_folders_are_not_mixed_up(library, clips, tmp_path):
    out = pack(library, tmp_path / "out")
    with pytest.raises(UserError, match="other files"):
        pack(clips, out)
    with pytest.raises(UserError, match="already holds shards"):
        pack(out, tmp_path / "again")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UserError, match="holds other files"):
        pack(library, tmp_path / "full")


def test_shards_behind_fsspec(library, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    out = pack(library, tmp_path / "out")
    memory = fsspec.filesystem("memory")
    for path in out.iterdir():
        memory.pipe(f"/jepa-shards/{path.name}", path.read_bytes())
    items = read_items("memory://jepa-shards")
    assert [i.path for i in items] == [i.path for i in read_items(out)]
    with open_span(items[2]) as file:
        assert file.read() == (library / "2.mp4").read_bytes()
    from jepa.data.video.reader import open_video

    with open_video(open_span(items[2])) as video:
        assert video.num_frames == 32
    with pytest.raises(UserError, match="only shards are read"):
        read_items("memory://nothing-here")


def test_the_index_is_lines_of_plain_json(library, tmp_path):
    rows = [
        json.loads(line) for line in (pack(library, tmp_path / "o") / "shards.jsonl").read_text().splitlines()
    ]
    assert set(rows[0]) == {"path", "shard", "offset", "size", "sha256"}
