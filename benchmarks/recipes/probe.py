"""Label-efficiency probing in memory: test accuracy of heads on the frozen encoder with 100 or 400 labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from clips import FrameStore, StoredClips

from jepa.data import EvalClipConfig, Item, collate
from jepa.data.transforms import normalise
from jepa.models import VideoEncoder
from jepa.probes.config import HeadSettings
from jepa.probes.data.splits import Fold
from jepa.probes.evaluation.calibration import softmax_calibrator
from jepa.probes.evaluation.cross_validate import cross_validate
from jepa.probes.features.feature_set import FeatureSet
from jepa.probes.heads.base import class_targets, get_head


@dataclass
class Task:
    """Labelled clips of one question, in memory: the training part first, in the order of the list."""

    name: str
    video: torch.Tensor
    """uint8 [n, C, T, H, W]"""
    targets: torch.Tensor
    """class numbers [n]"""
    classes: int
    train: int
    """how many of the first clips are the training part; the rest is tested"""


def load_task(name: str, store: FrameStore, items: list[Item], config: EvalClipConfig, most: int) -> Task:
    """Takes the first `most` clips of the training part, and all clips of val and test."""
    names = sorted({str(item.label) for item in items})
    rows = [i for i, item in enumerate(items) if item.split == "train"][:most]
    train = len(rows)
    rows += [i for i, item in enumerate(items) if item.split in ("val", "test")]
    dataset = StoredClips(store, [items[i] for i in rows], config, seed=0)
    video = collate(dataset.__getitems__(list(range(len(rows)))))["video"]
    targets = torch.tensor([names.index(str(items[i].label)) for i in rows])
    return Task(name, video, targets, len(names), train)


@torch.inference_mode()
def encode(encoder: VideoEncoder, task: Task, config: EvalClipConfig) -> torch.Tensor:
    """Tokens of all clips, float16 [n, N, D]."""
    parts = [encoder(normalise(v, config.mean, config.std)).half() for v in task.video.split(64)]
    return torch.cat(parts)


def accuracy(
    tokens: torch.Tensor, time_steps: int, task: Task, labels: int, kinds: list[str], seeds: list[int]
) -> dict[str, Any]:
    """Test accuracy with the first `labels` labels; a fifth of them chooses head and settings.

    Returns:
        accuracy (mean over the heads' seeds), std (standard deviation over them), n of the test part, head (which).
    """
    settings = HeadSettings()
    known = np.arange(min(labels, task.train))
    val, train = known[: len(known) // 5], known[len(known) // 5 :]
    test = np.arange(task.train, len(tokens))
    targets = class_targets(task.targets, task.classes, softmax_calibrator("temperature"))
    features = FeatureSet.of("encoder", tokens, time_steps)
    groups = [str(i) for i in range(len(tokens))]
    folds = [Fold("test", train, val, test)]
    runs = [cross_validate(get_head(k), features, targets, groups, folds, settings, seeds) for k in kinds]
    best = max(runs, key=lambda run: run.val_score)
    right = best.prediction[:, test].argmax(-1) == task.targets.numpy()[test]
    each = right.mean(1)
    std = float(each.std(ddof=1)) if len(seeds) > 1 else 0.0
    return {"accuracy": float(each.mean()), "std": std, "n": len(test), "head": best.head}
