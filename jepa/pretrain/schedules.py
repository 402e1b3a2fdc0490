"""Learning rate, weight decay and EMA as functions of the step alone, so that a resumed run needs no replay."""

from __future__ import annotations

import math
from collections.abc import Callable


def warmup_cosine(step: int, steps: int, warmup_steps: int, peak: float, final: float) -> float:
    """Linear rise from peak/warmup_steps to `peak`, then half a cosine down to `final` at the last step.

    Args:
        step: 0-based, 0 <= step < steps.
        steps: length of the run. (The published schedules stretch this by 1.25 and never reach their final value.)
        warmup_steps: the step `warmup_steps - 1` is the first at `peak`; 0 for no rise.
        peak: highest value.
        final: value at step `steps - 1`.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def warmup_linear(step: int, steps: int, warmup_steps: int, peak: float, final: float) -> float:
    """The same rise, then a straight line to `final`: the cooldown of V-JEPA 2 (arXiv 2506.09985)."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return linear(step - warmup_steps, steps - warmup_steps, peak, final)


def warmup_constant(step: int, steps: int, warmup_steps: int, peak: float, final: float) -> float:
    """The same rise, then `peak` to the end, without regard to `final`: V-JEPA 2 before its cooldown."""
    return peak * min(1.0, (step + 1) / max(1, warmup_steps))


def linear(step: int, steps: int, start: float, end: float) -> float:
    """From `start` at step 0 to `end` at step `steps - 1`."""
    return start + (end - start) * min(1.0, step / max(1, steps - 1))


SCHEDULES: dict[str, Callable[[int, int, int, float, float], float]] = {
    "cosine": warmup_cosine,
    "linear": warmup_linear,
    "constant": warmup_constant,
}
