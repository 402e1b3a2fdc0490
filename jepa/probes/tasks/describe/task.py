"""Description: multi-label tags with calibrated probabilities, and text-to-video retrieval by a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jepa.data.manifest import Item
from jepa.errors import UserError
from jepa.probes.data.captions import LISTS, Words, read_words
from jepa.probes.data.labels import read_videos
from jepa.probes.data.splits import Fold, select_test_part
from jepa.probes.evaluation.calibration import SigmoidCalibration
from jepa.probes.evaluation.conformal import check_conformal, tag_report
from jepa.probes.evaluation.cross_validate import HeadRun
from jepa.probes.evaluation.metrics import brier, calibration_error, group_bootstrap, mean_and_std
from jepa.probes.evaluation.problem import Problem
from jepa.probes.features.build import ENCODER, Encoded
from jepa.probes.saved import Probe
from jepa.probes.tasks.base import Task, heads_for, register_task
from jepa.probes.tasks.describe.probe import DescribeProbe
from jepa.probes.tasks.describe.targets import retrieval_metrics, tag_targets, text_targets
from jepa.probes.tasks.describe.text import TextEncoder, make_text_encoder
from jepa.rng import generator

if TYPE_CHECKING:
    from jepa.models import Encoder

TAGS, SEARCH = "tags", "search"
SEARCH_COLUMNS = ("recall_1", "recall_5", "map", "map_std", "nearest_caption")
MIN_VIDEOS = 5
"""a tag must be on this many training videos, and off as many, to be learned"""


@register_task
class Describe(Task):
    """`jepa probe task=describe`."""

    name, probe = "describe", DescribeProbe
    words: Words
    tags: list[str]
    text: TextEncoder

    def check(self) -> None:
        """Heads must be fitted to tags, one window per video."""
        super().check()
        config = self.config
        config.refuse_unknown(
            "describe.text_encoder", [config.describe.text_encoder], ("auto", "minilm", "trained")
        )
        if not self.kinds or config.features.clips != 1:
            raise UserError("task=describe needs linear or attentive in heads.kinds, and features.clips=1.")

    @property
    def kinds(self) -> list[str]:
        """Those heads that can be fitted to tags."""
        return heads_for(self.config.heads.kinds, classes=False)

    def read(self, encoder: Encoder) -> Sequence[Item]:
        """Videos, or their shots where the list has one row per shot."""
        data = self.config.data
        listed = read_videos(data.root, data.label_column, data.group_column, data.path_column, LISTS)
        if data.folds is None:
            listed, _ = select_test_part(listed, data.test_split)
        return listed

    def problems(self, encoded: Encoded) -> list[Problem]:
        """Two on the same samples: tags, and vectors of their captions."""
        samples, config = encoded.samples, self.config
        self.words, folds = read_words(config.describe, samples), self.split(samples)
        self.tags = learnable_tags(self.words, folds)
        on = torch.tensor([[float(tag in own) for tag in self.tags] for own in self.words.tags])
        train = sorted({i for fold in folds for i in fold.train.tolist()})
        known = [caption for i in train for caption in self.words.captions[i]]
        self.text = make_text_encoder(config.describe.text_encoder, known)
        tagging = Problem(TAGS, samples, tag_targets(on), folds, encoded.sets)
        if config.conformal:
            check_conformal([tagging.groups[i] for i in tagging.tested if on[i].any()], config.conformal)
        p = np.full((1, *on.shape), np.nan)
        for fold in folds:
            p[0, fold.test] = _base(on, fold)
        tagging.runs.append(HeadRun("chance", "-", p, -float("inf")))
        vectors = caption_vectors(self.text, self.words)
        return [tagging, Problem(SEARCH, samples, text_targets(vectors), folds, encoded.sets)]

    def tables(self, problems: Sequence[Problem], encoded: Encoded) -> dict[str, Any]:
        """One row per head with both its tags and its search, chance first; and conformal sets of tags."""
        tagging, search = problems
        on, best = tagging.targets.values, search.best(ENCODER)
        found = {(run.features, run.head): run for run in search.runs}
        rows = []
        for run in tagging.runs:
            other = found.get((run.features, run.head))
            rows.append(
                {
                    "features": run.features,
                    "head": run.head,
                    "val_mrr": other.val_score if other else None,
                    **self._tag_metrics(run, tagging),
                    "search": self._search_metrics(other, search) if other else self._random_search(search),
                }
            )
        sets: list[dict[str, Any]] = []
        if self.config.conformal:
            run = next(r for r in tagging.runs if (r.features, r.head) == (ENCODER, best.head))
            tested, groups = tagging.tested, [tagging.groups[i] for i in tagging.tested]
            p = run.prediction[:, tested].mean(0)
            sets = tag_report(p, on[tested].bool().numpy(), groups, self.config.conformal)
        return {
            "tags": self.tags,
            "tag_fractions": on.mean(0).tolist(),
            "captions": len({c for own in self.words.captions for c in own}),
            "text_encoder": self.text.name,
            "folds": [
                {"name": f.name, "train": len(f.train), "val": len(f.val), "test": len(f.test)}
                for f in tagging.folds
            ],
            "rows": rows,
            "tag_sets": sets,
        }

    def _tag_metrics(self, run: HeadRun, problem: Problem) -> dict[str, Any]:
        """Mean over folds, tags and seeds, with the standard deviation over seeds, and the Brier score's interval."""
        on, per_seed = problem.targets.values, []
        for each in run.prediction:
            per_seed.append(tag_metrics([(each[f.test], on[f.test], _base(on, f)) for f in problem.folds]))
        out: dict[str, Any] = {}
        for name in per_seed[0]:
            out[name], out[f"{name}_std"] = mean_and_std([entry[name] for entry in per_seed])
        tested = problem.tested
        error = ((run.prediction[:, tested] - on[tested].numpy()) ** 2).mean((0, 2))
        out["brier"] = float(error.mean())
        out["brier_interval"] = list(group_bootstrap(error, [problem.groups[i] for i in tested]))
        return out

    def _search_metrics(self, run: HeadRun, problem: Problem) -> dict[str, float]:
        """Retrieval among the test samples by their captions: mean over folds and seeds."""
        per_seed = []
        for each in run.prediction:
            per_seed.append(_mean_of([self.search(each[fold.test], fold.test) for fold in problem.folds]))
        out: dict[str, float] = {}
        for name in per_seed[0]:
            out[name], out[f"{name}_std"] = mean_and_std([entry[name] for entry in per_seed])
        return out

    def search(self, embeddings: np.ndarray, test: np.ndarray) -> dict[str, float]:
        """Metrics of text-to-video retrieval among test samples with these embeddings [m, E]."""
        queries = sorted({caption for i in test for caption in self.words.captions[i]})
        vectors = self.text.encode(queries).numpy()
        return self._ranked((vectors @ embeddings.astype(np.float32).T), queries, test)

    def _ranked(self, scores: np.ndarray, queries: Sequence[str], test: np.ndarray) -> dict[str, float]:
        relevant = np.array([[query in self.words.captions[i] for i in test] for query in queries])
        metrics = retrieval_metrics(scores, relevant)
        nearest = scores.argmax(0)
        metrics["nearest_caption"] = float(np.mean(relevant[nearest, np.arange(len(test))]))
        return metrics

    def _random_search(self, problem: Problem) -> dict[str, float]:
        """Search in random order, the mean of 20 draws."""
        draws = []
        for draw in range(20):
            rng = generator([draw, 0x5EA7])
            for fold in problem.folds:
                queries = sorted({caption for i in fold.test for caption in self.words.captions[i]})
                draws.append(self._ranked(rng.random((len(queries), len(fold.test))), queries, fold.test))
        return _mean_of(draws)

    def probes(
        self, problems: Sequence[Problem], encoded: Encoded, results: dict[str, Any]
    ) -> dict[str, Probe]:
        """Both heads of the family that validation prefers for search."""
        tagging, search = problems
        aligned = search.best(ENCODER)
        run = next(r for r in tagging.runs if (r.features, r.head) == (ENCODER, aligned.head))
        row = next(r for r in results["rows"] if (r["features"], r["head"]) == (ENCODER, run.head))
        assert run.own is not None and isinstance(run.own.calibration, SigmoidCalibration)
        assert aligned.own is not None and aligned.own_prediction is not None
        assert run.own_val_logits is not None and run.own_prediction is not None
        fold, on, logits = tagging.folds[0], tagging.targets.values, run.own_val_logits
        known = sorted({caption for i in fold.train for caption in self.words.captions[i]})
        text_metadata, text_weights = self.text.state()
        weights = {
            **{f"tags.{k}": v for k, v in run.own.fitted.state().items()},
            **{f"aligned.{k}": v for k, v in aligned.own.fitted.state().items()},
            "calibration": run.own.calibration.maps,
            "captions": self.text.encode(known),
            **text_weights,
        }

        def ece(p: Tensor) -> float:
            return calibration_error(p.flatten().numpy(), on[fold.val].flatten().numpy())

        metadata = self.common_metadata([tagging], encoded, results)
        own = tag_metrics([(run.own_prediction, on[fold.test], _base(on, fold))])
        document = {
            "task": self.name,
            "classes": self.tags,
            "captions": known,
            "text_encoder": text_metadata,
            "head": run.head,
            **metadata,
            "calibration": {
                "method": "scale and offset per tag",
                **metadata["calibration"],
                "ece_before": ece(torch.sigmoid(logits)),
                "ece_after": ece(run.own.calibration(logits)),
                "search_mrr": aligned.val_score,
            },
            "results": {
                "metric": "tag average precision",
                "of": "the saved weights, on the test part of the first fold",
                "test": own["map"],
                "search": self.search(aligned.own_prediction, fold.test),
                "cross_validation": {key: row[key] for key in ("map", "map_std", "search")}
                | {"folds": len(tagging.folds)},
                "baselines": {r["features"]: r["map"] for r in results["rows"] if r["features"] != ENCODER},
            },
        }
        return {"probe": DescribeProbe(document, weights)}

    def show(self, console: Any, results: dict[str, Any], encoded: Encoded) -> None:
        """The table."""
        print_description(console, results)


def learnable_tags(words: Words, folds: Sequence[Fold]) -> list[str]:
    """Tags that enough training videos of every fold have, and enough have not.

    Raises:
        UserError: there is none.
    """
    tags = sorted({tag for own in words.tags for tag in own})
    kept = []
    for tag in tags:
        counts = [(sum(tag in words.tags[i] for i in fold.train), len(fold.train)) for fold in folds]
        if all(MIN_VIDEOS <= on <= total - MIN_VIDEOS for on, total in counts):
            kept.append(tag)
    if not kept:
        most = Counter(tag for own in words.tags for tag in own).most_common(3)
        raise UserError(
            f"No tag is on at least {MIN_VIDEOS} training videos and off as many (most frequent: {most}). "
            "Add videos, or name another column in describe.tag_columns."
        )
    return kept


def caption_vectors(text: TextEncoder, words: Words) -> Tensor:
    """One unit vector per sample, the direction of the mean of its captions: [n, E]."""
    return torch.stack([functional.normalize(text.encode(own).mean(0), dim=-1) for own in words.captions])


def tag_metrics(parts: Sequence[tuple[np.ndarray, Tensor, Tensor]]) -> dict[str, float]:
    """Means over folds and tags: average precision, AUC, Brier skill over the base rate, and ECE.

    Args:
        parts: for each fold, probabilities of tested samples [m, T], their tags [m, T] as 0 and 1, and the fraction of
            the training samples with each tag [T].
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    ap, auc, error, reference, ece = [], [], [], [], []
    for p, on, base in parts:
        for own, truth, rate in zip(p.T, on.T.numpy(), base.tolist(), strict=True):
            error.append(brier(own, truth))
            reference.append(brier(np.full(len(own), rate), truth))
            ece.append(calibration_error(own, truth))
            if 0 < truth.sum() < len(own):  # with one outcome alone nothing can be ranked
                ap.append(average_precision_score(truth, own))
                auc.append(roc_auc_score(truth, own))
    return {
        "map": float(np.mean(ap)) if ap else 0.0,
        "auc": float(np.mean(auc)) if auc else 0.5,
        "skill": float(1 - np.mean(error) / np.mean(reference)),
        "ece": float(np.mean(ece)),
    }


def _base(on: Tensor, fold: Fold) -> Tensor:
    """Fraction of a fold's training and validation samples with each tag [T]."""
    return on[np.concatenate([fold.train, fold.val])].mean(0)


def _mean_of(entries: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([entry[name] for entry in entries])) for name in entries[0]}


def print_description(console: Any, results: dict[str, Any]) -> None:
    """The table for the terminal, conformal sets and exclusions."""
    from rich import box
    from rich.table import Table

    tested = sum(fold["test"] for fold in results["folds"])
    console.print(
        f"{len(results['tags'])} tags, {results['captions']} captions, text encoder {results['text_encoder']}; "
        f"{tested} tested videos. Search ranks the tested videos by a sentence."
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("features", no_wrap=True)
    table.add_column("head", no_wrap=True)
    for name in ("tag AP", "seeds", "AUC", "skill", "ECE", "R@1", "R@5", "search AP", "seeds", "caption"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in results["rows"]:
        search = row["search"]
        table.add_row(
            row["features"],
            row["head"],
            *(f"{row[k]:.3f}" for k in ("map", "map_std", "auc", "skill", "ece")),
            *(f"{search.get(k, 0.0):.3f}" for k in SEARCH_COLUMNS),
        )
    console.print(table)
    for entry in results["tag_sets"]:
        console.print(
            f"sets with a nominal recall of {entry['level']:.0%} of a video's tags hold {entry['recall']:.1%} of them, "
            f"with {entry['mean_size']:.1f} tags where a video has {entry['mean_tags']:.1f}"
        )
    if results["excluded"]:
        console.print(f"left out {len(results['excluded'])} unreadable video(s)")
