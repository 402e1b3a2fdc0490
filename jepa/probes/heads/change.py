"""Heads on temporal change: linear heads that see what changes most, for frame encoders and for events in a corner.

They read the mean of the tokens, their mean change over time and the largest change of a spatial position. `linear` and
`ridge` read the standard deviation over all tokens in its place, which mixes space and time. On frame encoders, whose
tokens hold no motion, the largest change is worth most (docs/moderation.md).
"""

from __future__ import annotations

from jepa.probes.heads.base import register_head
from jepa.probes.heads.closed_form import RidgeHead
from jepa.probes.heads.stacked import LinearHead


@register_head
class ChangeLinearHead(LinearHead):
    """One linear layer on mean, mean change and largest change."""

    name, reads = "change_linear", "changes"


@register_head
class ChangeRidgeHead(RidgeHead):
    """Ridge regression on mean, mean change and largest change."""

    name, reads = "change_ridge", "changes"
