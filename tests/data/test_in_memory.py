"""Clips from Python in the trainer's order."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from jepa.data import collate, normalise, stream_of
from jepa.data.in_memory import ClipList
from jepa.errors import UserError

BYTES = [torch.full((4, 3, 8, 8), value, dtype=torch.uint8) for value in range(5)]


def test_every_epoch_shows_each_clip_once_in_another_order():
    clips = ClipList(BYTES, seed=3)
    first, second = ([clips[e * 5 + p]["item"] for p in range(5)] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(5)) and first != second
    sample = clips[7]
    assert torch.equal(sample["video"], BYTES[sample["item"]].transpose(0, 1)) and sample["bad"] == []


def test_float_clips_tuples_and_dicts_give_the_same_numbers_as_bytes():
    floats = [clip.float() / 255 for clip in BYTES]
    for other in (floats, TensorDataset(torch.stack(floats)), [{"video": clip} for clip in BYTES]):
        for index in range(5):
            mine, theirs = (normalise(ClipList(c, seed=3)[index]["video"]) for c in (BYTES, other))
            torch.testing.assert_close(mine, theirs)


def test_batches_are_those_of_any_other_stream():
    stream = stream_of(BYTES, seed=0, batch_size=4)
    loader = DataLoader(stream.dataset, batch_sampler=stream.sampler(3, start_step=1), collate_fn=collate)
    batches = list(loader)
    assert [b["index"].tolist() for b in batches] == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert batches[0]["video"].shape == (4, 3, 4, 8, 8)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([torch.zeros(3, 8, 8)], "torch.float32 .3, 8, 8.; a clip is a tensor"),
        ([torch.zeros(4, 3, 8, 8, dtype=torch.int64)], "torch.int64"),
        (["a.mp4"], "str; a clip"),
        ([torch.full((4, 3, 8, 8), 2.0)], "from 2 to 2; float clips must be between 0 and 1"),
        ([torch.full((4, 3, 8, 8), float("nan"))], "from nan"),
    ],
)
def test_what_is_no_clip_is_refused_by_its_number(clips, message):
    with pytest.raises(UserError, match=f"Clip 0 of the dataset is .*{message}"):
        ClipList(clips, seed=0)[0]


def test_clips_of_two_shapes_and_no_clips_are_refused():
    clips = ClipList([BYTES[0], torch.zeros(2, 3, 8, 8, dtype=torch.uint8)], seed=0)
    with pytest.raises(UserError, match="clips of one batch need one shape"):
        [clips[index] for index in range(2)]
    with pytest.raises(UserError, match="dataset is empty"):
        stream_of([], 0, 2)
