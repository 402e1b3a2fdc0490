"""One stream from a data set or from a mixture: weights, shapes, and the same batches however they are read."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from jepa.data import collate, open_stream
from jepa.data.dataset import ClipDataset, TrainClipConfig
from jepa.data.manifest import RootConfig, read_items
from jepa.data.mixture import MixtureDataset
from jepa.data.shards import ShardConfig
from jepa.data.shards import run as make_shards
from jepa.data.stream import SourceConfig, StreamConfig
from jepa.data.video import pyav
from jepa.errors import UserError

BATCH = 4
KEYS = ("video", "times", "index", "item", "clip", "source")


def settings(**changes):
    return StreamConfig(**{"num_frames": 4, "fps": 8.0, "crop_px": 32, **changes})


def clip(**changes):
    return TrainClipConfig(**{"num_frames": 4, "fps": 8.0, "crop_px": 32, **changes})


def batches(stream, steps, workers=0, **ranks):
    sampler = stream.sampler(steps, **ranks)
    loader = DataLoader(stream.dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate)
    return [{key: batch[key] for key in KEYS} for batch in loader]


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x[key], y[key]) for x, y in zip(a, b, strict=True) for key in KEYS
    )


@pytest.fixture(scope="module")
def two(library, tmp_path_factory) -> tuple[Path, Path]:
    """The library in two folders, the second with two pictures."""
    base = tmp_path_factory.mktemp("two")
    for number, path in enumerate(sorted(library.iterdir())):
        folder = base / ("a" if number < 2 else "b")
        folder.mkdir(exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    for number in range(2):
        Image.new("RGB", (50, 40), (200, 10 * number, 30)).save(base / "b" / f"still{number}.png")
    return base / "a", base / "b"


@pytest.fixture(scope="module")
def packed(two, tmp_path_factory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("packed")
    return tuple(
        make_shards(ShardConfig(data=RootConfig(str(folder)), out=str(base / folder.name), shard_bytes=6000))
        for folder in two
    )


def mixed(folders, **changes):
    """Three sources of two shapes; pictures among the videos of the second and third."""
    first, second = map(str, folders)
    mix = [
        SourceConfig(first, 2.0),
        SourceConfig(second, 1.0, clips_per_video=2),
        SourceConfig(second, 1.0, num_frames=2, crop_px=16),
    ]
    return open_stream(settings(mix=mix, **changes), seed=3, batch_size=BATCH)


@pytest.fixture(scope="module")
def reference(two):
    return batches(mixed(two), steps=8)


@pytest.mark.parametrize("workers", [1, 4])
def test_a_mixture_is_the_same_for_any_number_of_workers(two, reference, workers):
    assert same(reference, batches(mixed(two), steps=8, workers=workers))
    assert {b["video"].shape[2:] for b in reference} == {(4, 32, 32), (2, 16, 16)}
    assert set(torch.cat([b["source"] for b in reference]).tolist()) == {0, 1, 2}


@pytest.mark.parametrize("workers", [0, 1])
def test_two_ranks_read_the_halves_of_each_batch(two, reference, workers):
    halves = [batches(mixed(two), steps=8, workers=workers, rank=r, size=2) for r in range(2)]
    joined = [{k: torch.cat([a[k], b[k]]) for k in KEYS} for a, b in zip(*halves, strict=True)]
    assert same(reference, joined)


@pytest.mark.parametrize("workers", [0, 4])
def test_shards_give_the_mixture_of_the_folders(packed, reference, workers):
    halves = [batches(mixed(packed), steps=8, workers=workers, rank=r, size=2) for r in range(2)]
    assert same(reference, batches(mixed(packed), steps=8, workers=workers))
    assert same(reference, [{k: torch.cat([a[k], b[k]]) for k in KEYS} for a, b in zip(*halves, strict=True)])


def test_shards_behind_fsspec_and_a_parquet_list_give_it_too(two, packed, reference, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for folder in packed:
        for path in folder.iterdir():
            memory.pipe(f"/jepa-mix/{folder.name}/{path.name}", path.read_bytes())
    remote = mixed(("memory://jepa-mix/a", "memory://jepa-mix/b"))
    assert same(reference[:3], batches(remote, steps=3))
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lists = []
    for folder in two:
        paths = [item.path for item in read_items(folder)]
        lists.append(tmp_path / f"{folder.name}.parquet")
        parquet.write_table(
            pyarrow.table({"video": paths, "label": range(len(paths)), "start": [None] * len(paths)}),
            lists[-1],
        )
    assert same(reference[:3], batches(mixed(lists), steps=3))
    assert read_items(lists[0])[1].label == "1"


def test_a_later_start_continues_a_mixture(two, reference):
    assert same(reference[5:], batches(mixed(two), steps=8, start_step=5))


def test_one_folder_is_the_data_set_itself(library):
    stream = open_stream(settings(root=str(library)), seed=3, batch_size=BATCH)
    plain = ClipDataset(read_items(library), clip(), seed=3)
    assert torch.equal(stream.dataset[5]["video"], plain[5]["video"])
    assert [i.path for i in stream.items] == [i.path for i in plain.items]
    assert batches(stream, steps=1)[0]["source"].tolist() == [0] * BATCH


def test_the_fingerprint_knows_the_videos_and_not_where_they_lie(two, packed, tmp_path):
    here = mixed(two).fingerprint
    assert mixed(packed).fingerprint == here
    for folder in two:
        (tmp_path / folder.name).mkdir()
        for path in folder.iterdir():
            (tmp_path / folder.name / path.name).symlink_to(path)
    moved = (tmp_path / "a", tmp_path / "b")
    assert mixed(moved).fingerprint == here
    (tmp_path / "b" / "still0.png").unlink()
    assert mixed(moved).fingerprint != here
    assert open_stream(settings(root=str(two[0])), 0, 4).fingerprint != here


def test_weights_are_met_and_every_source_walks_without_gaps(library):
    items = read_items(library)
    sources = [ClipDataset(items[:2], clip(), 1), ClipDataset(items[2:], clip(), 2)]
    mixture = MixtureDataset(sources, [3, 1], seed=5, batch_size=BATCH)
    origins = [mixture.origin(i) for i in range(4000)]
    counts = [[p.sample for p in origins if p.source == s] for s in (0, 1)]
    assert counts == [list(range(3000)), list(range(1000))]
    first = [p.source for p in origins[:1000]]
    assert 100 < sum(a != b for a, b in itertools.pairwise(first)) < 700  # neither blocks nor a comb
    assert mixture.origin(17) == MixtureDataset(sources, [3, 1], 5, BATCH).origin(17)
    assert [mixture.origin(i).source for i in range(50)] != [
        MixtureDataset(sources, [3, 1], 6, BATCH).origin(i).source for i in range(50)
    ]


def test_a_step_holds_one_shape_and_shapes_have_their_fraction(library):
    items = read_items(library)
    sources = [ClipDataset(items, clip(num_frames=n), 1) for n in (4, 4, 8)]
    mixture = MixtureDataset(sources, [1, 2, 1], seed=5, batch_size=BATCH)
    steps = [[mixture.origin(s * BATCH + i).source for i in range(BATCH)] for s in range(1000)]
    assert all(set(step) <= {0, 1} or set(step) == {2} for step in steps)
    assert sum(set(step) == {2} for step in steps) == 250
    flat = [source for step in steps for source in step]
    assert flat.count(0) / len(flat) == pytest.approx(0.25, abs=0.002)
    assert any(set(step) == {0, 1} for step in steps)  # data sets of one shape are in the same batches


def test_clips_of_one_visit_share_one_open_file_in_a_mixture(two, monkeypatch):
    opened = []
    original = pyav.PyAvFile._open
    monkeypatch.setattr(pyav.PyAvFile, "_open", lambda self: opened.append(self.name) or original(self))
    mix = [SourceConfig(str(two[0]), 1.0, clips_per_video=8), SourceConfig(str(two[0]), 1.0)]
    stream = open_stream(settings(mix=mix), seed=1, batch_size=16)
    samples = stream.dataset.__getitems__(list(range(16)))
    visits = {s["item"] for s in samples if s["source"] == 0}
    alone = sum(s["source"] == 1 for s in samples)
    assert 4 <= alone <= 12 and len(opened) <= len(visits) + alone + 1


def test_two_sources_of_one_folder_draw_different_crops(two):
    mix = [SourceConfig(str(two[0])), SourceConfig(str(two[0]))]
    mixture = open_stream(settings(mix=mix), seed=1, batch_size=2).dataset
    first = [source[0]["video"] for source in mixture.sources]
    assert not torch.equal(*first)


def test_a_bad_video_in_a_mixture_is_reported_under_the_mixtures_index(two, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "good.mp4").write_bytes((two[0] / "0.mp4").read_bytes())
    stream = open_stream(settings(mix=[SourceConfig(str(tmp_path)), SourceConfig(str(two[0]))]), 1, BATCH)
    samples = [stream.dataset[i] for i in range(24)]
    events = [(event, sample) for sample in samples for event in sample["bad"]]
    assert events and all(
        event.index == sample["index"] and sample["source"] == 0 for event, sample in events
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "neither given"),
        ({"root": "x", "mix": [SourceConfig("x")]}, "both given"),
        ({"mix": [SourceConfig("gone")]}, "'gone' does not exist"),
    ],
)
def test_what_cannot_be_opened_is_explained(changes, message):
    with pytest.raises(UserError, match=message):
        open_stream(settings(**changes), 0, BATCH)


def test_wrong_mixtures_are_explained(two):
    for weights, message in (
        ((1.0, 0.0), "above 0"),
        ((1.0, float("nan")), "above 0"),
        ((1.0, 1e-6), "thousandth"),
    ):
        with pytest.raises(UserError, match=message):
            open_stream(
                settings(mix=[SourceConfig(str(f), w) for f, w in zip(two, weights, strict=True)]), 0, BATCH
            )
    with pytest.raises(UserError, match="one weight"):
        MixtureDataset([ClipDataset(read_items(two[0]), clip(), 0)], [1, 2], 0, BATCH)
    with pytest.raises(UserError, match="fps=-1"):
        open_stream(settings(mix=[SourceConfig(str(two[0]), fps=-1.0)]), 0, BATCH)


def test_a_mixture_comes_from_the_command_line(two):
    from jepa.config import compose_config, to_dataclass

    text = f"mix=[{{root:{two[0]},weight:3}},{{root:{two[1]},num_frames:2}}]"
    config = to_dataclass("stream", compose_config("stream", StreamConfig, [text]))
    stream = open_stream(config, 0, 8)
    assert [s.config.num_frames for s in stream.dataset.sources] == [16, 2]
