"""What a run is asked while it trains, and which answers deserve a warning.

`Watch.look` measures one batch without gradients; `Watch.warnings` reads the numbers and says in words what is wrong,
with the figures and what to try. The thresholds come from measured runs: benchmarks/collapse.md.
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
from jepa.pretrain.objectives import Learner, MaskedPrediction, gather_tokens
from jepa.pretrain.target_encoder import Teacher

_NAMES = {
    "rank": "the target encoder's rank",
    "target_varies": "the part of the targets that differs between tokens",
}
_REMEDY = (
    "Tokens that are all alike are easy to guess, so the loss looks good. Try a smaller optim.lr, a longer "
    "optim.warmup_steps or a slower optim.ema (closer to 1), and see that no gradient flows into the targets."
)


@dataclass
class WatchConfig:
    """How closely a run is watched."""

    clips: int = 16
    """clips of the batch that are looked at on a log step"""
    tokens: int = 1024
    """tokens of these clips that ranks and spectra are computed from"""
    min_rank: float = 0.25
    """warn when the encoder's rank falls below this share of its highest so far; 0 never warns"""
    min_varies: float = 0.1
    """warn when the part of the targets that differs between tokens falls below this share of its highest; 0 never"""
    least_varies: float = 0.005
    """warn when that part is below this in any case, for a run whose first log step came too late; 0 never warns"""
    min_cover: float = 0.5
    """warn when masks use less than this share of the tokens that they use in the best time slot; 0 never warns"""

    def __post_init__(self) -> None:
        for name in ("clips", "tokens"):
            if getattr(self, name) < 2:
                raise UserError(f"watch.{name}={getattr(self, name)} has to be 2 or more: one has no spread.")
        for name in ("min_rank", "min_varies", "least_varies", "min_cover"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"watch.{name}={getattr(self, name)} has to lie in [0, 1): it is a share.")


class Watch:
    """Looks at a run on its log steps and warns, once for each fall; what it remembers is small and plain.

    It compares with the highest value that it has seen, so it should see the first step as well: a run that collapses
    within `train.log_every` steps has nothing to fall from later.

    Args:
        config: how closely to look.
    """

    def __init__(self, config: WatchConfig) -> None:
        self.config = config
        self._highest: dict[str, list[float]] = {}  # name -> [step, value]
        self._said: list[str] = []  # what was warned of and still holds

    @torch.no_grad()
    def look(
        self,
        learner: Learner,
        teacher: Teacher | None,
        video: Tensor,
        masks: Sequence[Mask],
        targets: Tensor | None,
    ) -> dict[str, float]:
        """Numbers about the first `watch.clips` clips of a batch, for one forward pass over them and a few small SVDs.

        Features are the target encoder's, or the encoder's own where there is no teacher.

        Args:
            learner: as trained.
            teacher: its teacher, if it has one.
            video: [B, C, T, H, W], normalised.
            masks: the batch's masks.
            targets: [B, N, E] of this batch; None where the learner makes its own or has none.

        Returns:
            Numbers by name. Names with a slash belong together, as W&B groups them: `unexplained/slot03`,
            `mask0/target_slot03`, `spectrum/12` (the 12th eigenvalue's share of the variance).
        """
        few = slice(self.config.clips)
        video, masks = video[few], [Mask(*(part[few] for part in mask)) for mask in masks]
        encoder = learner.encoder if teacher is None else teacher.encoder
        grid = encoder.grid_of(video)
        row = self._features(encoder, video, grid) | _mask_shares(masks, grid)
        if not isinstance(learner, MaskedPrediction):
            pooled = torch.stack([learner.encoder(video, keep=mask.context).mean(1) for mask in masks], 1)
            return row | {"lidar": diagnostics.lidar(pooled)}
        if targets is None:
            assert learner.own_targets is not None  # else the learner could not have made its loss
            targets = learner.own_targets(learner.encoder, video)
        return row | self._guesses(learner, video, masks, targets[few], grid)

    def _features(self, encoder: VideoEncoder, video: Tensor, grid: TokenGrid) -> dict[str, float]:
        tokens = encoder(video).float()
        some = _evenly(tokens.flatten(0, 1), self.config.tokens)
        spread = diagnostics.spread_per_dimension(some)
        values = diagnostics.covariance_spectrum(some)
        share = values / values.sum().clamp_min(1e-12)
        row = {
            "rank": diagnostics.rank_me(some),
            "spread": float(spread.mean()),
            "spread_least": float(spread.quantile(0.1)),
            "spread_clips": diagnostics.spread_across_clips(tokens),
        }
        if grid.t > 1:
            row["spread_time"] = diagnostics.spread_across_time(tokens, grid.t)
        return row | {f"spectrum/{k}": float(share[k - 1]) for k in _log_spaced(len(share))}

    def _guesses(
        self,
        learner: MaskedPrediction,
        video: Tensor,
        masks: Sequence[Mask],
        targets: Tensor,
        grid: TokenGrid,
    ) -> dict[str, float]:
        """What the guesses explain. LiDAR takes a hidden token for a sample, its guess and its target for two views:
        the pair that the objective brings together."""
        pairs = [(learner.guess(video, mask).float(), gather_tokens(targets, mask.target)) for mask in masks]
        row = {f"unexplained/mask{i}": diagnostics.unexplained_share(*pair) for i, pair in enumerate(pairs)}
        guess, target = (torch.cat(part, 1) for part in zip(*pairs, strict=True))
        index = torch.cat([mask.target for mask in masks], 1)
        slots = diagnostics.unexplained_per_slot(guess, target, index, grid)
        views = torch.stack([guess, target], 2).flatten(0, 1)[..., -learner.encoder.embed_dim :]
        return row | {
            "target_varies": diagnostics.varying_share(targets),
            "guess_varies": diagnostics.varying_share(guess),
            "unexplained": diagnostics.unexplained_share(guess, target),
            "lidar": diagnostics.lidar(_evenly(views, self.config.tokens)),
            **{f"unexplained/slot{k:02d}": float(value) for k, value in enumerate(slots)},
        }

    def warnings(self, step: int, row: dict[str, float]) -> list[str]:
        """Sentences about what is newly wrong; a fall again only after a recovery, starved time slots once.

        Args:
            step: finished steps.
            row: what `look` returned, alone or among other numbers.
        """
        found = {
            "rank": self._fell("rank", self.config.min_rank, 0.0, step, row),
            "target_varies": self._fell(
                "target_varies", self.config.min_varies, self.config.least_varies, step, row
            ),
            "cover": self._starved_slots(row),
        }
        new = [sentence for name, sentence in found.items() if sentence and name not in self._said]
        self._said = [
            name for name, sentence in found.items() if sentence or (name == "cover" and name in self._said)
        ]
        return new

    def _fell(self, name: str, share: float, floor: float, step: int, row: dict[str, float]) -> str | None:
        """A sentence when a value is below a share of its highest so far, or below a floor that needs no history."""
        value = row.get(name)
        if value is None or value != value:
            return None
        at, highest = self._highest.setdefault(name, [step, value])
        if value > highest:
            self._highest[name] = [step, value]
        least = max(share * highest, floor)
        if value >= least:
            return None
        before, now = (f"{v:.3g}" if name == "rank" else f"{100 * v:.2g} %" for v in (highest, value))
        if value == highest:
            change = f"is only {now} at step {step}"
        else:
            change = f"fell from {before} to {now} between steps {at:.0f} and {step}"
        grade = "collapse" if value < 0.5 * least else "partial collapse"
        return f"{_NAMES[name]} {change}: {grade}. {_REMEDY}"

    def _starved_slots(self, row: dict[str, float]) -> str | None:
        """Time slots of which the masks throw most tokens away, as batch truncation in raster order does."""
        starts = {name.partition("/")[0] for name in row if name.startswith("mask") and "_slot" in name}
        for mask in sorted(starts):
            cover = [
                seen + row[f"{mask}/target_slot{k:02d}"]
                for k, seen in enumerate(
                    row[name] for name in sorted(row) if name.startswith(f"{mask}/context_slot")
                )
            ]
            worst = min(range(len(cover)), key=cover.__getitem__)
            if cover[worst] < self.config.min_cover * max(cover):
                return (
                    f"{mask} uses {100 * cover[worst]:.0f} % of the tokens of time slot {worst}, as context or as "
                    f"target, and {100 * max(cover):.0f} % of the best slot's: that moment of the clips is hardly "
                    "trained on. Cutting every clip to the batch's minimum does this (masks.kind=reference); the other "
                    "kinds throw no token away."
                )
        return None

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for the checkpoint: a resumed run warns as one never stopped."""
        return {
            "highest": {name: list(pair) for name, pair in self._highest.items()},
            "said": list(self._said),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        self._highest = {name: list(pair) for name, pair in saved["highest"].items()}
        self._said = list(saved["said"])


def _mask_shares(masks: Sequence[Mask], grid: TokenGrid) -> dict[str, float]:
    """Per mask, the share of the tokens that is seen and that is guessed, in all and per time slot."""
    row = {}
    for i, mask in enumerate(masks):
        for name, index in zip(("context", "target"), mask, strict=True):
            shares = diagnostics.slot_shares(index, grid)
            row[f"mask{i}/{name}"] = float(shares.mean())
            row |= {f"mask{i}/{name}_slot{k:02d}": float(share) for k, share in enumerate(shares)}
    return row


def _evenly(rows: Tensor, most: int) -> Tensor:
    """At most `most` of the rows, evenly spaced."""
    return rows if len(rows) <= most else rows[torch.linspace(0, len(rows) - 1, most).long()]


def _log_spaced(count: int) -> list[int]:
    """1, 2, 3, 4, 6, 9, ... up to count: enough to draw a spectrum on a logarithmic axis."""
    numbers = [1]
    while numbers[-1] < count:
        numbers.append(min(count, max(numbers[-1] + 1, round(1.5 * numbers[-1]))))
    return numbers
