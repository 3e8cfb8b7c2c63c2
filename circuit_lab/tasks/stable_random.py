"""Random choices that a seed fixes for good, whatever the numpy version.

numpy guarantees the raw stream of a seeded `PCG64` but not what `Generator` methods make of it, so every choice
here is derived from raw 64-bit draws. Each purpose has a stream of its own: changing how many draws one purpose
takes moves no other.
"""

from enum import IntEnum
from math import ceil

import numpy as np
from jaxtyping import Int, UInt64


class Purpose(IntEnum):
    """What a stream of draws decides. The values are part of the data's identity: append, never renumber."""

    RELATIONS = 0
    TAILS = 1
    OOD_FACTS = 2
    TEST_ID = 3
    TRAIN_INFERRED = 4
    HOP1_FACTS = 5
    HOP1_PARTNERS = 6
    HOP2_FACTS = 7
    HOP2_PARTNERS = 8
    LEAKED = 9
    SHUFFLED_ANSWERS = 10
    PROBES = 11
    TRAIN_PAIRS = 12
    RANDOM_LABELS = 13
    NAMING_PAIRS = 14
    NEW_FACTS = 15
    NEW_TAILS = 16
    KEPT_FACTS = 17


def raw_draws(n: int, *, seed: int, purpose: Purpose) -> UInt64[np.ndarray, " n"]:
    """`n` raw 64-bit draws of the stream that belongs to `(seed, purpose)`."""
    return np.random.PCG64([seed, int(purpose)]).random_raw(n)


def permutation(n: int, *, seed: int, purpose: Purpose) -> Int[np.ndarray, " n"]:
    """A random order of `0 .. n-1`; its prefix of length k is a random choice of k without replacement."""
    return np.argsort(raw_draws(n, seed=seed, purpose=purpose), kind="stable")


def rounded_share(share: float, n: int) -> int:
    """`share * n` rounded up, so that a positive share is never nothing.

    >>> rounded_share(0.005, 2054), rounded_share(0.1, 300)
    (11, 30)
    """
    # 0.1 * 300 is 30.000000000000004 in binary: strip that before rounding up.
    return max(ceil(round(share * n, 6)), int(share > 0 and n > 0))
