"""Random numbers as pure functions of (seed, index): the counter-based generator behind every random choice.

Nothing here keeps state. Sample 123456 of a run draws the same numbers after a resume, on another rank and in any
worker. The generator is Philox (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jepa.errors import UserError

_MASK = (1 << 64) - 1


def generator(key: Sequence[int], counter: Sequence[int] = (0, 0, 0, 0)) -> np.random.Generator:
    """A NumPy generator addressed by two key words and up to four counter words.

    Args:
        key: two integers; the seed and what the stream is for, as a rule.
        counter: where in the stream to begin; the first word counts the numbers drawn, so leave it 0.

    Source: numpy.random.Philox, whose key and counter are these words.

    Example:
        >>> generator([0, 7]).integers(10) == generator([0, 7]).integers(10)
        np.True_
    """
    words = [np.array([word & _MASK for word in part], np.uint64) for part in (key, counter)]
    return np.random.Generator(np.random.Philox(key=words[0], counter=words[1]))


def uniforms(seed: int, index: int, purpose: int, count: int) -> list[float]:
    """`count` numbers in [0, 1) for one purpose of one sample.

    Only raw bits are used, which NumPy keeps stable between versions, unlike its distributions.

    Example:
        >>> uniforms(seed=0, index=3, purpose=1, count=2) == uniforms(seed=0, index=3, purpose=1, count=2)
        True
    """
    bits = np.random.Philox(key=[seed & _MASK, index & _MASK], counter=[0, 0, 0, purpose])
    return [int(word >> 11) * 2.0**-53 for word in bits.random_raw(count).tolist()]


def permuted(position: int, size: int, seed: int, epoch: int, purpose: int) -> int:
    """Where `position` of 0..size-1 goes in the permutation of (seed, epoch), in constant time and memory.

    A Feistel network over the smallest even number of bits that holds `size`, applied again while the result lies
    outside (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).

    Raises:
        UserError: the position is outside 0..size-1.

    Example:
        >>> sorted(permuted(p, 5, seed=0, epoch=0, purpose=1) for p in range(5))
        [0, 1, 2, 3, 4]
    """
    if not 0 <= position < size:
        raise UserError(f"position {position} is outside 0..{size - 1}.")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = [_splitmix(_splitmix(_splitmix(seed) ^ epoch) ^ (purpose << 8 | r)) for r in range(6)]
    value = position
    while True:
        left, right = value >> half, value & mask
        for key in keys:
            left, right = right, left ^ (_splitmix(key ^ right) & mask)
        value = left << half | right
        if value < size:
            return value


def derive_seed(seed: int, part: int) -> int:
    """A seed for part number `part` of a run, so that equal sample indices in two parts draw different numbers.

    Example:
        >>> derive_seed(0, 1) != derive_seed(0, 2)
        True
    """
    return _splitmix(_splitmix(seed) ^ part)


def _splitmix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every input bit reaches every output bit."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31
