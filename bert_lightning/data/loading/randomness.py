"""Random numbers as pure functions: any draw for any sample in any epoch, without computing earlier draws.

Numbers come from the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators") applied to a key and a counter; all functions work on whole arrays.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]
# The odd constants of SplitMix64: the golden ratio's increment and the two multipliers of its finaliser.
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_FEISTEL_ROUNDS = 6
# A Feistel network for so few items would favour some permutations. They are sorted by random numbers instead.
_FEW = 256


def derive_key(*values: object) -> int:
    """Hash values to a 64-bit key by their `repr`.

    >>> derive_key(0, 3, "masking") == derive_key(0, 3, "masking") != derive_key(0, 4, "masking")
    True
    """
    text = "\x1f".join(map(repr, values))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def random_bits(key: int | UInt64, counters: NDArray[np.generic]) -> UInt64:
    """Return 64 random bits for each counter; `key` and `counters` broadcast against each other."""
    start = np.uint64(key) if isinstance(key, int) else key
    # All arithmetic is modulo 2^64, as arrays of this type compute.
    state = start + (counters.astype(np.uint64) + np.uint64(1)) * _INCREMENT
    state = (state ^ (state >> np.uint64(30))) * _MULTIPLIERS[0]
    state = (state ^ (state >> np.uint64(27))) * _MULTIPLIERS[1]
    return state ^ (state >> np.uint64(31))


def uniforms(key: int | UInt64, counters: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each counter, with 53 random bits."""
    return (random_bits(key, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(key: int, length: int, positions: NDArray[np.generic]) -> NDArray[np.int64]:
    """Apply a random permutation of `range(length)` to each position.

    For more than `_FEW` items, no array of `length` is made. Each value goes through a Feistel network over the next
    even power of two until it is inside the range again. This takes fewer than four passes on average. Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains".

    >>> sorted(permute(1, 5, np.arange(5)).tolist())
    [0, 1, 2, 3, 4]
    """
    if length <= _FEW:
        order: NDArray[np.int64] = np.argsort(random_bits(key, np.arange(length)), kind="stable")
        return order[positions]
    round_keys = [derive_key(key, number) for number in range(_FEISTEL_ROUNDS)]
    half_bits = np.uint64(max(1, (max(length - 1, 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left, right = values[outside] >> half_bits, values[outside] & mask
        for round_key in round_keys:
            left, right = right, left ^ (random_bits(round_key, right) & mask)
        values[outside] = (left << half_bits) | right
        outside[outside] = values[outside] >= np.uint64(length)
    return values.astype(np.int64)
