"""Random streams of the toy world: a counter-based generator addressed by seed, video and purpose."""

from __future__ import annotations

import numpy as np

from jepa.rng import generator

PURPOSES = (
    "plan",
    "scene",
    "backdrop",
    "camera",
    "distractor",
    "temporal_noise",
    "words",
    "balance",
    "split",
    "film",
    "rare",
    "occluder",
)
"""What numbers are drawn for. A purpose has a stream of its own, so that drawing more for one moves no other.
Only append: the index in this list is the stream's number."""

_KEY = 0x6A65_7061_746F_7977


def stream(seed: int, index: int, purpose: str, attempt: int = 0) -> np.random.Generator:
    """A generator that is a pure function of its arguments (Philox: Salmon et al., "As easy as 1, 2, 3",
    2011).

    Args:
        seed: the world's seed.
        index: the video's number, or another counter that the purpose needs.
        purpose: one of `PURPOSES`.
        attempt: how often the same draw was rejected before.
    """
    return generator([seed, _KEY], [0, attempt, PURPOSES.index(purpose), index])


def balanced(seed: int, group: int, position: int, choices: int) -> int:
    """Choice number `position` of an endless sequence in which every run of `choices` holds each choice once.

    Random access: nothing before `position` is drawn. `group` names the sequence.
    """
    run, step = divmod(position, choices)
    return int(stream(seed, run, "balance", group).permutation(choices)[step])
