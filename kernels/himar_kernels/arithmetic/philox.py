"""Implements Philox4x32-10, a counter-based random number generator.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A counter of four 32-bit words
and a 64-bit key give four random 32-bit words, without any state: any machine computes the number at any
counter on its own. Every operation is exact, so NumPy, C++ and CUDA agree bit for bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MULTIPLIERS = tuple(np.uint64(each) for each in MULTIPLIERS)
_KEY_STEPS = tuple(np.uint64(each) for each in KEY_STEPS)
_WORD = 0xFFFFFFFF
_LOW_WORD = np.uint64(_WORD)
_WORD_BITS = np.uint64(32)

Key = int | NDArray[np.uint64]
"""A seed, 0 … 2^64-1, or seeds that broadcast against the counters' words."""

Words = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]


def philox4x32(counter: NDArray[np.uint32], key: int) -> NDArray[np.uint32]:
    """Return four random words for every counter.

    Args:
        counter: uint32 (…, 4), words c0 … c3.
        key: 0 … 2^64-1; its low 32 bits are key word 0.

    Returns: uint32 (…, 4).
    """
    c0, c1, c2, c3 = (counter[..., word].astype(np.uint64) for word in range(4))
    return np.stack(philox_words(c0, c1, c2, c3, key), axis=-1).astype(np.uint32)


def philox_words(
    c0: NDArray[np.uint64], c1: NDArray[np.uint64], c2: NDArray[np.uint64], c3: NDArray[np.uint64], key: Key
) -> Words:
    """Return the four random words of counters given as separate words, each a 32-bit value in 64 bits.

    The words, and the keys where there are several, broadcast against each other, so a word that is the same for many
    counters stays small in the first rounds. The inputs are left unchanged.
    """
    keys = np.asarray(key, np.uint64)
    key0, key1 = keys & _LOW_WORD, keys >> _WORD_BITS
    for _ in range(ROUNDS):
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0 = (product1 >> _WORD_BITS) ^ c1 ^ key0
        c1 = product1 & _LOW_WORD
        c2 = (product0 >> _WORD_BITS) ^ c3 ^ key1
        c3 = product0 & _LOW_WORD
        key0 = (key0 + _KEY_STEPS[0]) & _LOW_WORD
        key1 = (key1 + _KEY_STEPS[1]) & _LOW_WORD
    return c0, c1, c2, c3
