from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jepa.data.dataset
import jepa.probes.features.encode
from jepa.data import TooManyBadVideosError
from jepa.data.manifest import Item
from jepa.errors import UserError
from jepa.models import TokenGrid
from jepa.models.weights.fingerprint import encoder_hash
from jepa.probes.data.labels import read_labelled
from jepa.probes.features.baselines import Motion, OneFrame, random_init_copy
from jepa.probes.features.cache import Store, from_int8, to_int8
from jepa.probes.features.encode import encode
from jepa.probes.features.encoder_tokens import (
    EncoderTokens,
    coarsen,
)

from ..conftest import tiny_encoder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos that were opened."""
    names: list[str] = []
    real = jepa.data.dataset.open_video

    def counting(path: Any, *args: Any, **kwargs: Any) -> Any:
        names.append(Path(path).name)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(jepa.data.dataset, "open_video", counting)
    return names


def few(squares: Path, count: int = 5) -> list[Item]:
    return read_labelled(squares)[:count]


def test_rows_are_what_the_encoder_says(squares: Path, tmp_path: Path) -> None:
    encoder = tiny_encoder()
    extractor = EncoderTokens("e", encoder, clips=2)
    samples, (features,), _ = encode(few(squares), [extractor], tmp_path, batch_size=3)
    assert features.shape == (5, 2, 64, 24)
    with jepa.data.open_video(samples[3].path) as reader:
        frames = reader.frames_at([i / 8 for i in range(8)]).data
    with torch.inference_mode():
        expected = encoder(encoder.preprocess(frames)[None])[0]
    torch.testing.assert_close(features.rows([3])[0, 0].float(), expected, rtol=2e-3, atol=2e-3)
    assert torch.equal(features.rows([4, 0, 4])[1], features.rows()[0])


def test_second_run_opens_no_video_and_gives_the_same(
    squares: Path, tmp_path: Path, opened: list[str]
) -> None:
    extractors = [EncoderTokens("e", tiny_encoder()), OneFrame(), Motion()]
    _, first, report = encode(few(squares), extractors, tmp_path)
    assert report.decoded == 5 and len(opened) == 5  # one decode for all three
    opened.clear()
    _, second, report = encode(few(squares), extractors, tmp_path)
    assert opened == [] and report.cached == 5
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.rows(), b.rows())
    _, _, report = encode(few(squares, 7), extractors, tmp_path)
    assert len(opened) == 2  # only what was added


def test_another_encoder_crop_or_file_is_never_read_from_old_rows(
    squares: Path, tmp_path: Path, opened: list[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(squares, data)
    encode(few(data), [EncoderTokens("e", tiny_encoder())], tmp_path / "c")
    other = tiny_encoder()
    with torch.no_grad():
        other.norm.bias[0] += 1e-3
    opened.clear()
    encode(few(data), [EncoderTokens("e", other)], tmp_path / "c")
    assert len(opened) == 5
    opened.clear()
    shutil.copy(data / "clips/20.mp4", data / "clips/01.mp4")
    encode(few(data), [EncoderTokens("e", tiny_encoder())], tmp_path / "c")
    assert opened == ["01.mp4"]


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_row_is_found_and_made_again(squares: Path, tmp_path: Path, damage: str) -> None:
    extractor = OneFrame()
    _, (before,), _ = encode(few(squares), [extractor], tmp_path)
    expected = before.rows().clone()
    (shard,) = (tmp_path / extractor.key).glob("*.npy")
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[-5] ^= 0xFF
    else:
        content = content[:-100]
    shard.unlink()
    shard.write_bytes(content)
    _, (after,), report = encode(few(squares), [extractor], tmp_path)
    assert report.damaged >= 1 and report.decoded >= 1
    assert torch.equal(after.rows(), expected)


def test_a_shard_without_its_index_does_not_exist(squares: Path, tmp_path: Path, opened: list[str]) -> None:
    extractor = OneFrame()
    encode(few(squares), [extractor], tmp_path)
    (index,) = (tmp_path / extractor.key).glob("*.json")
    index.unlink()  # as after a kill between the two writes
    opened.clear()
    encode(few(squares), [extractor], tmp_path)
    assert len(opened) == 5


def test_interrupted_pass_keeps_its_finished_rows(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    class Stops(OneFrame):
        calls = 0

        def features(self, batch: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls > 2:
                raise KeyboardInterrupt
            return super().features(batch)

    with pytest.raises(KeyboardInterrupt):
        encode(few(squares), [Stops()], tmp_path, batch_size=1)
    opened.clear()
    encode(few(squares), [OneFrame()], tmp_path)
    assert len(opened) == 3


def test_unreadable_video_is_counted_and_left_out(squares: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(squares, data)
    (data / "clips/02.mp4").write_bytes(b"this is text")
    samples, (features,), report = encode(read_labelled(data), [OneFrame()], tmp_path / "c")
    assert [bad.name for bad in report.bad] == ["clips/02.mp4"]
    assert len(samples) == len(features) == 35 and "clips/02.mp4" not in [s.name for s in samples]
    with pytest.raises(TooManyBadVideosError, match=r"1 of 36 samples.*clips/02\.mp4"):
        encode(read_labelled(data), [OneFrame()], tmp_path / "d", max_bad_fraction=0.01)


def test_several_processes_share_the_work(squares: Path, tmp_path: Path, opened: list[str]) -> None:
    for rank in range(2):
        encode(few(squares, 6), [OneFrame()], tmp_path, rank=rank, size=2)
    assert len(opened) == 6
    _, (features,), report = encode(few(squares, 6), [OneFrame()], tmp_path)
    assert report.decoded == 0 and len(features) == 6


def test_segments_of_one_file_share_a_decode(squares: Path, tmp_path: Path, opened: list[str]) -> None:
    whole = few(squares, 1)[0]
    parts = [Item(whole.path, whole.name, "x", "g", None, start, start + 0.5) for start in (0.0, 0.25, 0.5)]
    _, (features,), _ = encode(parts, [OneFrame()], tmp_path)
    assert len(opened) == 1 and features.shape[0] == 3
    assert not torch.equal(features.rows()[0], features.rows()[2])


def test_a_long_video_is_read_in_groups_with_the_same_features(
    squares: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    whole = read_labelled(squares)[0]
    parts = [replace(whole, start_s=0.1 * k, end_s=0.1 * k + 0.5) for k in range(5)]
    _, (at_once,), report = encode(parts, [EncoderTokens("e", tiny_encoder())], None)
    assert report.decoded == 1 and len(opened) == 1
    monkeypatch.setattr(jepa.probes.features.encode, "_GROUP", 2)
    _, (in_groups,), report = encode(parts, [EncoderTokens("e", tiny_encoder())], None)
    assert report.decoded == 1 and len(opened) == 4
    assert torch.equal(at_once.rows(), in_groups.rows())


def test_index_is_plain_json_with_a_checksum_per_row(squares: Path, tmp_path: Path) -> None:
    extractor = OneFrame()
    encode(few(squares), [extractor], tmp_path)
    (index,) = (tmp_path / extractor.key).glob("*.json")
    saved_values = json.loads(index.read_text())
    assert len(saved_values["keys"]) == len(saved_values["crc32"]) == 5


def test_hash_covers_weights_config_and_preprocessing() -> None:
    base = encoder_hash(tiny_encoder())
    assert base == encoder_hash(tiny_encoder()) != encoder_hash(tiny_encoder(1))
    faster = tiny_encoder()
    faster.preprocessing = type(faster.preprocessing)(num_frames=8, fps=4, resize_px=32, crop_px=32)  # type: ignore[misc]
    assert encoder_hash(faster) != base


def test_random_init_copy_differs_repeats_and_leaves_global_randomness_alone() -> None:
    encoder = tiny_encoder()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    fresh = random_init_copy(encoder, 5)
    assert torch.equal(torch.rand(3), expected)
    assert encoder_hash(fresh) == encoder_hash(random_init_copy(encoder, 5)) != encoder_hash(encoder)
    assert all(torch.isfinite(p).all() for p in fresh.parameters())


def test_coarsen_averages_blocks_in_space_and_keeps_time() -> None:
    grid = TokenGrid(2, 4, 4)
    tokens = torch.arange(32.0).view(1, 32, 1)
    out = coarsen(tokens, grid, 8)
    assert out.shape == (1, 8, 1)
    assert out[0, 0, 0] == np.mean([0, 1, 4, 5]) and out[0, 4, 0] == np.mean([16, 17, 20, 21])
    assert coarsen(tokens, grid, 32) is tokens
    with pytest.raises(UserError, match="time steps"):
        coarsen(tokens, grid, 1)


def test_pixel_baselines_on_known_frames() -> None:
    frames = torch.zeros(16, 3, 64, 64, dtype=torch.uint8)
    frames[8:, :, :32] = 255  # upper half lights up between frame 7 and 8
    motion = Motion()
    out = motion.features(motion.prepare(frames)[None])[0].view(15, 8, 8)
    assert out[7, :4].min() > 0.99 and out[7, 4:].max() == 0 and out[torch.arange(15) != 7].max() == 0
    one = OneFrame()
    assert one.times(1.0, 3.0).tolist() == [[2.0]]
    assert one.features(one.prepare(frames[8:9])[None]).view(32, 32)[:16].min() > 0.99


def test_int8_keeps_every_vector_to_half_a_step() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(5, 3, 40)) * np.array([1e-3, 1.0, 300.0])[:, None]).astype(np.float16)
    rows[0, 0] = 0
    back = from_int8(to_int8(rows))
    assert back.dtype == np.float16 and back.shape == rows.shape
    step = np.abs(rows.astype(float)).max(-1, keepdims=True) / 127
    # Half a step, and what half precision rounds the scale and the value to.
    assert (np.abs(back.astype(float) - rows) <= 0.52 * step + 1e-3 * np.abs(rows) + 1e-6).all()
    assert (back[0, 0] == 0).all()


def test_int8_rows_lie_beside_float16_ones_and_take_half_the_room(squares: Path, tmp_path: Path) -> None:
    extractor = EncoderTokens("e", tiny_encoder())
    _, (exact,), report = encode(few(squares), [extractor], tmp_path)
    assert report.int8_error is None
    _, (small,), report = encode(few(squares), [extractor], tmp_path, int8=True)
    assert report.decoded == 5 and report.int8_error is not None and 0 < report.int8_error < 0.01
    assert small.shape == exact.shape and small.rows([2]).dtype == torch.float16
    assert small.shards[0].nbytes < 0.6 * exact.shards[0].nbytes
    torch.testing.assert_close(small.rows(), exact.rows(), rtol=0.1, atol=0.03)


def test_a_shard_is_written_whenever_enough_rows_have_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepa.probes.features.cache.SHARD_BYTES", 2 * 80)
    store = Store(tmp_path)
    for i in range(5):
        store.add(str(i), np.full((1, 40), i, np.float16))
    assert len(list(tmp_path.glob("shard-*.json"))) == 2
    store.write_shard()
    assert store.features(["4", "0", "3"]).rows()[:, 0, 0].tolist() == [4, 0, 3]


def test_without_a_cache_nothing_is_written(squares: Path, tmp_path: Path, opened: list[str]) -> None:
    _, (kept,), _ = encode(few(squares), [OneFrame()], tmp_path)
    opened.clear()
    _, (live,), report = encode(few(squares), [OneFrame()], None)
    assert report.decoded == len(opened) == 5 and torch.equal(live.rows(), kept.rows())
