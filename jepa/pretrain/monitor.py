"""The monitor: diagnostics of a run on its log steps, and warnings in words: collapse, and a plateau at the mean.

`Monitor.measure` looks at one batch without gradients; `Monitor.warnings` turns the numbers into sentences with the
values and what to try. The thresholds come from measured runs: benchmarks/collapse.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jepa.errors import UserError
from jepa.masking import Mask
from jepa.models import TokenGrid, VideoEncoder
from jepa.pretrain import diagnostics
from jepa.pretrain.objectives import Objective

_NAMES = {
    "rank": "the target encoder's rank",
    "target_varies": "the part of the targets that differs between tokens",
}
_REMEDY = (
    "Tokens that are all alike are easy to predict, so the loss looks good. Try a smaller optim.lr, a longer "
    "optim.warmup_steps or a slower optim.ema (closer to 1), and see that no gradient flows into the targets."
)


@dataclass
class MonitorConfig:
    """Detection of representation collapse, and of runs that predict only the mean, while a run trains."""

    clips: int = 16
    """clips of the batch that are measured on a log step"""
    tokens: int = 1024
    """tokens of these clips that ranks and spectra are computed from"""
    min_rank: float = 0.25
    """warn when the encoder's rank falls below this fraction of its highest so far; 0 never warns"""
    min_varies: float = 0.1
    """warn when the part of the targets that differs between tokens falls below this fraction of its highest"""
    least_varies: float = 0.005
    """warn when that part is below this in any case, also without a higher value before; 0 never warns"""
    min_cover: float = 0.5
    """warn when masks use less than this fraction of the tokens that they use in the best time step; 0 never warns"""
    min_explained: float = 0.1
    """warn when the predictor explains less than this fraction of the targets' variance for `plateau_steps`, or at the
    end of the run; 0 never warns"""
    plateau_steps: int = 400
    """steps without `min_explained` before the warning"""

    def __post_init__(self) -> None:
        for name in ("clips", "tokens"):
            if getattr(self, name) < 2:
                raise UserError(
                    f"monitor.{name}={getattr(self, name)} has to be 2 or more: one has no variance."
                )
        if self.plateau_steps < 1:
            raise UserError(f"monitor.plateau_steps={self.plateau_steps} has to be 1 or more.")
        for name in ("min_rank", "min_varies", "least_varies", "min_cover", "min_explained"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"monitor.{name}={getattr(self, name)} has to be in [0, 1): it is a fraction."
                )


class Monitor:
    """Measures a run on its log steps and warns once for each fall; its state is a few plain values.

    It compares with the highest value so far, so it should see the first step as well: a run that collapses within
    `train.log_every` steps has nothing to fall from later.

    Args:
        config: how closely to measure.
    """

    def __init__(self, config: MonitorConfig) -> None:
        self.config = config
        self._highest: dict[str, list[float]] = {}  # name -> [step, value]
        self._active: list[str] = []  # warnings that still hold
        self._explained_at = 0  # last step at which more than the mean was predicted

    @torch.no_grad()
    def measure(
        self, objective: Objective, video: Tensor, targets: Tensor | None, masks: Sequence[Mask]
    ) -> dict[str, float]:
        """Numbers about the first `monitor.clips` clips of a batch, for one forward pass and a few small SVDs.

        Features are the target encoder's, or the context encoder's where there is none.

        Args:
            objective: as trained.
            video: [B, C, T, H, W], normalised.
            targets: [B, N, E] of this batch; None where the objective makes its own or has none.
            masks: the batch's masks.

        Returns:
            Numbers by name. Names with a slash belong together, as W&B groups them: `explained/time03`,
            `mask0/target_time03`, `spectrum/12` (the 12th eigenvalue's fraction of the variance).
        """
        few = slice(self.config.clips)
        video, masks = video[few], [Mask(*(part[few] for part in mask)) for mask in masks]
        targets = None if targets is None else targets[few]
        target = objective.target
        encoder = objective.encoder
        if target is not None and target.target_encoder is not None:
            encoder = target.target_encoder.encoder
        grid = encoder.grid_of(video)
        row = self._features(encoder, video, grid) | _mask_fractions(masks, grid)
        return row | objective.diagnose(video, targets, masks, self.config.tokens)

    def _features(self, encoder: VideoEncoder, video: Tensor, grid: TokenGrid) -> dict[str, float]:
        tokens = encoder(video).float()
        some = diagnostics.evenly_spaced(tokens.flatten(0, 1), self.config.tokens)
        std = diagnostics.std_per_dimension(some)
        values = diagnostics.covariance_spectrum(some)
        fraction = values / values.sum().clamp_min(1e-12)
        row = {
            "rank": diagnostics.rank_me(some),
            "std": float(std.mean()),
            "std_low": float(std.quantile(0.1)),
            "std_clips": diagnostics.std_across_clips(tokens),
        }
        if grid.t > 1:
            row["std_time"] = diagnostics.std_across_time(tokens, grid.t)
        return row | {f"spectrum/{k}": float(fraction[k - 1]) for k in _log_spaced(len(fraction))}

    def warnings(self, step: int, row: dict[str, float], last: bool = False) -> list[str]:
        """Sentences about what is newly wrong; a fall again only after a recovery, starved time steps once.

        Args:
            step: finished steps.
            row: what `measure` returned, alone or among other numbers.
            last: whether the run ends with this step, so that a plateau need not be longer to be named.
        """
        found = {
            "rank": self._fell("rank", self.config.min_rank, 0.0, step, row),
            "target_varies": self._fell(
                "target_varies", self.config.min_varies, self.config.least_varies, step, row
            ),
            "cover": self._starved_time_steps(row),
            "plateau": self._predicts_the_mean(step, row, last),
        }
        new = [sentence for name, sentence in found.items() if sentence and name not in self._active]
        self._active = [
            name for name, sentence in found.items() if sentence or (name == "cover" and name in self._active)
        ]
        return new

    def _fell(self, name: str, fraction: float, floor: float, step: int, row: dict[str, float]) -> str | None:
        """A sentence when a value is below a fraction of its highest so far, or below a floor that needs no history."""
        value = row.get(name)
        if value is None or value != value:
            return None
        at, highest = self._highest.setdefault(name, [step, value])
        if value > highest:
            self._highest[name] = [step, value]
        least = max(fraction * highest, floor)
        if value >= least:
            return None
        before, now = (f"{v:.3g}" if name == "rank" else f"{100 * v:.2g} %" for v in (highest, value))
        if value == highest:
            change = f"is only {now} at step {step}"
        else:
            change = f"fell from {before} to {now} between steps {at:.0f} and {step}"
        grade = "collapse" if value < 0.5 * least else "partial collapse"
        return f"{_NAMES[name]} {change}: {grade}. {_REMEDY}"

    def _predicts_the_mean(self, step: int, row: dict[str, float], last: bool) -> str | None:
        """A sentence when hardly more than the mean target has been predicted for long, or up to the end."""
        explained = row.get("explained")
        if explained is None or explained != explained or not self.config.min_explained:
            return None
        if explained >= self.config.min_explained:
            self._explained_at = step
            return None
        steps = step - self._explained_at
        if steps < self.config.plateau_steps and not last:
            return None
        return (
            f"the predictor has predicted little more than the mean for {steps} steps: at step {step} it explains "
            f"{max(0.0, 100 * explained):.0f} % of the targets' variance. Runs on this plateau learn little. Try a "
            "deeper predictor (model.predictor_depth), a higher optim.lr, or more steps."
        )

    def _starved_time_steps(self, row: dict[str, float]) -> str | None:
        """Time steps of which the masks drop most tokens, as batch truncation in raster order does."""
        starts = {name.partition("/")[0] for name in row if name.startswith("mask") and "_time" in name}
        for mask in sorted(starts):
            cover = [
                in_context + row[f"{mask}/target_time{k:02d}"]
                for k, in_context in enumerate(
                    row[name] for name in sorted(row) if name.startswith(f"{mask}/context_time")
                )
            ]
            worst = min(range(len(cover)), key=cover.__getitem__)
            if cover[worst] < self.config.min_cover * max(cover):
                return (
                    f"{mask} uses {100 * cover[worst]:.0f} % of the tokens of time step {worst}, as context or as "
                    f"target, and {100 * max(cover):.0f} % of the best time step's: that part of the clips is hardly "
                    "trained on. Cutting every clip to the batch's minimum does this (masks.kind=reference); the other "
                    "kinds drop no token."
                )
        return None

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for the checkpoint: a resumed run warns as one never stopped."""
        return {
            "highest": {name: list(pair) for name, pair in self._highest.items()},
            "active": list(self._active),
            "explained_at": self._explained_at,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        self._highest = {name: list(pair) for name, pair in saved["highest"].items()}
        self._active = list(saved.get("active", saved.get("said", [])))
        self._explained_at = int(saved.get("explained_at", 0))


def _mask_fractions(masks: Sequence[Mask], grid: TokenGrid) -> dict[str, float]:
    """Per mask, the fraction of tokens that is context and that is target, overall and per time step."""
    row = {}
    for i, mask in enumerate(masks):
        for name, index in zip(("context", "target"), mask, strict=True):
            fractions = diagnostics.token_fraction_per_time_step(index, grid)
            row[f"mask{i}/{name}"] = float(fractions.mean())
            row |= {f"mask{i}/{name}_time{k:02d}": float(fraction) for k, fraction in enumerate(fractions)}
    return row


def _log_spaced(count: int) -> list[int]:
    """1, 2, 3, 4, 6, 9, ... up to count: enough to draw a spectrum on a logarithmic axis."""
    numbers = [1]
    while numbers[-1] < count:
        numbers.append(min(count, max(numbers[-1] + 1, round(1.5 * numbers[-1]))))
    return numbers
