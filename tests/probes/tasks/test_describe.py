from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from jepa.errors import UserError
from jepa.models import load_encoder
from jepa.probes import ProbeConfig, load_probe, run
from jepa.probes.config import DescribeSettings, FeatureSettings, HeadSettings, ProbeData
from jepa.probes.tasks.describe.targets import contrastive_loss, retrieval_metrics
from jepa.probes.tasks.describe.text import Learned

WORDS = {
    "left": "A square glides to the left.",
    "right": "A square moves right.",
    "rest": "Nothing moves at all.",
}


def test_contrast_is_cross_entropy_and_equal_texts_are_all_right() -> None:
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(1, 1, 4, 6, generator=generator)
    texts = functional.normalize(torch.randn(1, 4, 6, generator=generator), dim=-1)
    scores = functional.normalize(video[0, 0], dim=-1) @ texts[0].T / 0.07
    expected = functional.cross_entropy(scores, torch.arange(4), reduction="none")
    torch.testing.assert_close(contrastive_loss(video, texts)[0, 0], expected)
    texts[0, 1] = texts[0, 0]
    p = (functional.normalize(video[0, 0], dim=-1) @ texts[0].T / 0.07).softmax(-1)
    torch.testing.assert_close(contrastive_loss(video, texts)[0, 0, 0], -torch.log(p[0, 0] + p[0, 1]))


def test_retrieval_metrics_by_hand() -> None:
    similar = np.array([[0.9, 0.5, 0.1], [0.2, 0.9, 0.8]])
    relevant = np.array([[True, False, True], [False, False, True]])
    metrics = retrieval_metrics(similar, relevant)
    assert metrics["recall_1"] == 0.5 and metrics["recall_5"] == 1.0
    assert metrics["mrr"] == pytest.approx((1 + 1 / 2) / 2) and metrics["median_rank"] == 1.5
    assert metrics["map"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)


def test_learned_text_puts_shared_words_together_and_refuses_unknown_words() -> None:
    text = Learned.fit([*WORDS.values(), "A ball falls.", "A tower falls down."] * 2)
    a, b, c = text.encode(["a square moves right", "square moves", "a tower falls"])
    torch.testing.assert_close(a.norm(), torch.tensor(1.0))
    assert a @ b > a @ c
    with pytest.raises(UserError, match="'zebra'"):
        text.encode(["zebra"])


@pytest.fixture(scope="module")
def described(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The moving squares with columns of tags and captions."""
    root = tmp_path_factory.mktemp("described")
    shutil.copytree(squares / "clips", root / "clips")
    with open(squares / "labels.csv", newline="") as handle:
        head, *rows = csv.reader(handle)
    for i, row in enumerate(rows):
        label = row[1]
        tags = [label, "still" if label == "rest" else "motion", *(["rare"] if i == 0 else [])]
        row += [";".join(tags), WORDS[label]]
    with open(root / "labels.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([[*head, "tags", "caption"], *rows])
    return root


def config(root: Path, export: Path, out: Path) -> ProbeConfig:
    return ProbeConfig(
        task="describe",
        encoder=str(export),
        out=str(out),
        data=ProbeData(root=str(root), group_column="scene", folds=3),
        features=FeatureSettings(cache=str(export / "cache")),
        heads=HeadSettings(kinds=["linear"], steps=60, lrs=[0.02], weight_decays=[0.1]),
        describe=DescribeSettings(text_encoder="trained"),
        conformal=[0.8],
        seeds=[0, 1],
    )


@pytest.fixture(scope="module")
def done(
    described: Path, export: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("describe")
    return out, run(config(described, export, out))


def test_tags_and_search_beside_chance_and_random_weights(done: tuple[Path, dict[str, Any]]) -> None:
    _, results = done
    assert results["tags"] == ["left", "motion", "rest", "right", "still"]  # "rare" cannot be learned
    rows = {r["features"]: r for r in results["rows"]}
    assert set(rows) == {"chance", "one frame", "motion", "random init", "encoder"}
    assert rows["chance"]["map"] == pytest.approx(np.mean([1 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3]), abs=0.1)
    assert rows["chance"]["auc"] == pytest.approx(0.5)
    assert rows["motion"]["map"] > rows["chance"]["map"] + 0.2
    assert 0.2 < rows["chance"]["search"]["map"] < 0.6
    for row in results["rows"]:
        assert 0 <= row["search"]["nearest_caption"] <= 1


def test_sets_of_tags_are_reported_with_what_they_held(done: tuple[Path, dict[str, Any]]) -> None:
    (entry,) = done[1]["tag_sets"]
    assert entry["level"] == 0.8 and entry["videos"] == 36 and entry["mean_tags"] == pytest.approx(2)
    assert 0.6 < entry["recall"] <= 1 and 1 < entry["mean_size"] <= 5


def test_saved_tagging_probe_answers_in_one_space(done: tuple[Path, dict[str, Any]], export: Path) -> None:
    probe: Any = load_probe(done[0] / "probe", load_encoder(export))
    assert probe.captions == tuple(sorted(WORDS.values()))
    out = probe.predict(torch.randn(2, 64, 24, generator=torch.Generator().manual_seed(0)))
    assert out.tags.shape == (2, 5) and out.tags.min() >= 0 and out.tags.max() <= 1
    torch.testing.assert_close(out.embedding.norm(dim=-1), torch.ones(2))
    sentence = probe.encode_text(["A square moves right."])
    assert sentence.shape[1] == out.embedding.shape[1]
    torch.testing.assert_close(
        sentence[0], probe.caption_vectors[probe.captions.index("A square moves right.")]
    )
    (nearest,) = probe.nearest_captions(sentence, 2)
    assert nearest[0][0] == "A square moves right." and nearest[0][1] == pytest.approx(1, abs=1e-4)


def test_a_list_without_words_uses_its_labels(squares: Path, export: Path, tmp_path: Path) -> None:
    settings = config(squares, export, tmp_path)
    settings.features.int8, settings.baselines, settings.seeds = True, [], [0]
    results = run(settings)
    assert results["tags"] == ["left", "rest", "right"] and results["captions"] == 3
    assert 0 < results["int8_error"] < 0.01
