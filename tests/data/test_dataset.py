"""The stream of samples: the same batches however they are read, and bad files as events."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from jepa.data.crops import Cut
from jepa.data.dataset import (
    ClipConfig,
    ClipDataset,
    EvalClipConfig,
    StreamSampler,
    TrainClipConfig,
    collate,
    open_item,
)  # fmt: skip
from jepa.data.manifest import Item, RootConfig, read_items
from jepa.data.shards import ShardConfig
from jepa.data.shards import run as make_shards
from jepa.data.video import pyav
from jepa.errors import UserError, VideoError


def config(**changes):
    return TrainClipConfig(**{"num_frames": 4, "fps": 8.0, "crop_px": 32, **changes})


def evaluation(**changes):
    return EvalClipConfig(**{"num_frames": 4, "fps": 8.0, "crop_px": 32, **changes})


def batches(dataset, steps=3, batch_size=4, workers=0, **ranks):
    sampler = StreamSampler(batch_size, steps, **ranks)
    return list(DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate))


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x[k], y[k])
        for x, y in zip(a, b, strict=True)
        for k in ("video", "times", "index", "item")
    )


def test_a_sample_has_the_agreed_form(library):
    dataset = ClipDataset(read_items(library), config(), seed=3)
    sample = dataset[7]
    assert sample["video"].shape == (3, 4, 32, 32) and sample["video"].dtype == torch.uint8
    assert sample["index"] == 7 and sample["bad"] == [] and sample["times"].dtype == torch.float64
    assert sample["times"].diff().numpy() == pytest.approx([0.125] * 3, abs=0.051)
    batch = collate([dataset[0], sample])
    assert batch["video"].shape == (2, 3, 4, 32, 32)
    assert batch["video"].is_contiguous()
    assert torch.equal(batch["video"][1], sample["video"]) and batch["index"].tolist() == [0, 7]
    assert len(dataset) == 6


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(library, workers):
    dataset = ClipDataset(read_items(library), config(), seed=3)
    assert same(batches(dataset), batches(dataset, workers=workers))


def test_ranks_split_the_same_global_batch(library):
    dataset = ClipDataset(read_items(library), config(), seed=3)
    whole = batches(dataset)
    halves = [batches(dataset, rank=r, size=2) for r in range(2)]
    for step, batch in enumerate(whole):
        assert torch.equal(batch["video"], torch.cat([h[step]["video"] for h in halves]))
    with pytest.raises(UserError, match="multiple of 3"):
        StreamSampler(4, 1, size=3)


def test_a_later_start_continues_the_stream(library):
    dataset = ClipDataset(read_items(library), config(), seed=3)
    assert same(batches(dataset, steps=4)[2:], batches(dataset, steps=4, start_step=2))


def test_shards_give_the_same_batches_as_the_folder(library, tmp_path):
    make_shards(ShardConfig(data=RootConfig(str(library)), out=str(tmp_path / "s"), shard_bytes=6000))
    packed = read_items(tmp_path / "s")
    assert len({i.span.shard for i in packed}) > 1
    plain, packed = (ClipDataset(i, config(), seed=3) for i in (read_items(library), packed))
    assert same(batches(plain), batches(packed, workers=1))


def test_seeds_and_epochs_differ(library):
    items = read_items(library)
    dataset = ClipDataset(items, config(), seed=3)
    first, second = ([dataset.item_of(e * 6 + p) for p in range(6)] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(6)) and first != second
    assert not torch.equal(dataset[0]["video"], ClipDataset(items, config(), seed=4)[0]["video"])


def test_several_clips_of_one_visit_share_one_open_file(library, monkeypatch):
    opened = []
    original = pyav.PyAvFile._open
    monkeypatch.setattr(pyav.PyAvFile, "_open", lambda self: opened.append(self.name) or original(self))
    dataset = ClipDataset(read_items(library), config(clips_per_video=3), seed=3)
    together = dataset.__getitems__([6, 7, 8])
    assert (
        len(opened) == 1
        and len({s["item"] for s in together}) == 1
        and [s["clip"] for s in together] == [0, 1, 2]
    )
    for sample in together:
        assert torch.equal(sample["video"], dataset[sample["index"]]["video"])
    starts = [float(s["times"][0]) for s in together]
    assert starts == sorted(starts)


def test_evaluation_goes_in_order_and_repeats_exactly(library):
    items = read_items(library)
    dataset = ClipDataset(items, evaluation(clips_per_video=2), seed=3)
    samples = [dataset[i] for i in range(len(dataset))]
    assert [(s["item"], s["clip"]) for s in samples] == [(i, c) for i in range(6) for c in range(2)]
    other = ClipDataset(items, evaluation(clips_per_video=2), seed=99)
    assert all(torch.equal(s["video"], other[i]["video"]) for i, s in enumerate(samples))


def test_segments_bound_the_times(clips):
    items = [Item(str(clips / "long.mp4"), start_s=4.0, end_s=5.0)]
    for index in range(20):
        times = ClipDataset(items, config(), seed=0)[index]["times"]
        assert times.min() >= 4.0 - 1e-9 and times.max() < 5.0
    outside = [Item(str(clips / "long.mp4"), start_s=11.0, end_s=12.0)]
    with pytest.raises(VideoError, match="outside the video"):
        ClipDataset(outside, config(), seed=0)[0]


def test_rates_above_the_source_repeat_frames(clips):
    sample = ClipDataset([Item(str(clips / "plain.mp4"))], config(fps=80.0, num_frames=8), seed=0)[0]
    assert len(sample["times"].unique()) == 2 or len(sample["times"].unique()) == 3


def test_images_among_videos(library, tmp_path):
    Image.new("RGBA", (50, 40), (200, 10, 30, 128)).save(tmp_path / "still.png")
    sample = ClipDataset([Item(str(tmp_path / "still.png"))], config(), seed=0)[0]
    assert sample["video"].shape == (3, 4, 32, 32)
    assert sample["video"].flatten(1).float().mean(1).tolist() == pytest.approx([200, 10, 30])
    assert (sample["video"] == sample["video"][:, :1]).all()
    mixed = ClipDataset([*read_items(library), Item(str(tmp_path / "still.png"))], config(), seed=0)
    assert collate([mixed[i] for i in range(7)])["video"].shape[0] == 7


@pytest.fixture
def half_bad(library, tmp_path):
    items = read_items(library)
    (tmp_path / "cut.mp4").write_bytes((library / "0.mp4").read_bytes()[:700])
    (tmp_path / "text.mp4").write_text("not a video")
    return [
        *items,
        Item(str(tmp_path / "cut.mp4")),
        Item(str(tmp_path / "text.mp4")),
        Item(str(tmp_path / "none.mp4")),
    ]


def test_a_bad_video_is_replaced_and_reported_the_same_way_each_time(half_bad):
    runs = [batches(ClipDataset(half_bad, config(), seed=1), steps=5, workers=w) for w in (0, 2)]
    assert same(*runs)
    events = [[e for b in r for e in b["bad"]] for r in runs]
    assert events[0] == events[1] and {e.path for e in events[0]} == {i.path for i in half_bad[-3:]}
    assert all(b["video"].shape[0] == 4 for b in runs[0])
    shown = torch.cat([b["item"] for b in runs[0]])
    assert shown.max() < 6
    assert all(pickle.loads(pickle.dumps(e)) == e for e in events[0])


def test_evaluation_never_replaces_a_video(half_bad):
    dataset = ClipDataset(half_bad, evaluation(), seed=1)
    batch = collate([dataset[i] for i in range(len(dataset))])
    assert batch["item"].tolist() == [0, 1, 2, 3, 4, 5] and len(batch["video"]) == 6
    assert [e.index for e in batch["bad"]] == [6, 7, 8]
    empty = collate([dataset[7]])
    assert len(empty["video"]) == 0 and len(empty["bad"]) == 1


def test_nothing_but_bad_videos_is_an_error(half_bad):
    with pytest.raises(VideoError, match="replacements failed"):
        ClipDataset(half_bad[-2:], config(), seed=1)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_px": 0}, "crop_px=0"),
        ({"crop_px": 32.5}, "crop_px=32.5"),
        ({"crop_px": 100_000}, "usual values"),
        ({"num_frames": -1}, "num_frames"),
        ({"fps": 0}, "fps"),
        ({"scale": (0.5, 0.3)}, "scale"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"short": "pad"}, "short='pad'"),
        ({"backend": "cv2"}, "backend='cv2'"),
        ({"hflip": 2.0}, "hflip"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(UserError, match=message):
        config(**change)


def test_evaluation_settings_are_apart_from_those_of_training():
    with pytest.raises(UserError, match="resize_px=16"):
        evaluation(resize_px=16)
    with pytest.raises(TypeError, match="mode"):
        config(mode="eval")
    with pytest.raises(TypeError, match="resize_px"):
        config(resize_px=64)
    with pytest.raises(TypeError, match="hflip"):
        evaluation(hflip=0.5)
    with pytest.raises(UserError, match="TrainClipConfig or an EvalClipConfig"):
        ClipDataset([Item("a.mp4")], ClipConfig(), seed=0)


def test_an_image_opens_as_a_video_of_one_frame(tmp_path):
    Image.new("RGB", (50, 40), (200, 10, 30)).save(tmp_path / "still.png")
    with open_item(Item(str(tmp_path / "still.png"))) as video:
        assert (video.num_frames, video.duration_s, video.info.width) == (1, 1.0, 50)
        assert video.frames_at([0.0, 0.9]).data.shape == (2, 3, 40, 50)
        assert [time_s for _, time_s in video] == [0.0]
        cut = Cut((1.0, 1.0), (1.0, 1.0), 0.0, 0, 0, 16)
        assert video.frames_at([0.0], cut=cut).data.shape == (1, 3, 16, 16)


def test_every_setting_is_documented():
    import inspect

    source = "".join(map(inspect.getsource, (ClipConfig, TrainClipConfig, EvalClipConfig)))
    for field in [*dataclasses.fields(TrainClipConfig), *dataclasses.fields(EvalClipConfig)]:
        after = source.split(f"    {field.name}: ", 1)[1].splitlines()
        assert after[1].strip().startswith('"""'), field.name
