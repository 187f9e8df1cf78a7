"""The order of 64-bit keys, by digits: stable, and in time that grows with the keys alone."""

import numpy as np

from tamis.kernels.arrow import Int64, UInt64
from tamis.kernels.kernel import kernel

DIGIT_BITS = 11
DIGITS = 6  # 6 × 11 bits hold 64
BINS = 1 << DIGIT_BITS


@kernel
def radix_order(keys: UInt64) -> Int64:
    """The places that sort the keys, equal ones in the order they came: int64, (n).

    keys : uint64, (n). Digits that are the same in all keys cost nothing.
    Source: Knuth, The Art of Computer Programming 3, section 5.2.5 (least significant digit first).
    """
    n = len(keys)
    counts = np.zeros((DIGITS, BINS), np.int64)
    mask = np.uint64(BINS - 1)
    for i in range(n):
        key = keys[i]
        for d in range(DIGITS):
            counts[d, np.int64(key >> np.uint64(DIGIT_BITS * d) & mask)] += 1
    order, key_of = np.arange(n), keys.copy()
    other_order, other_key = np.empty(n, np.int64), np.empty(n, np.uint64)
    for d in range(DIGITS):
        shift = np.uint64(DIGIT_BITS * d)
        if n == 0 or counts[d, np.int64(key_of[0] >> shift & mask)] == n:
            continue
        at = np.zeros(BINS, np.int64)
        for b in range(1, BINS):
            at[b] = at[b - 1] + counts[d, b - 1]
        for i in range(n):
            bin_ = np.int64(key_of[i] >> shift & mask)
            other_key[at[bin_]] = key_of[i]
            other_order[at[bin_]] = order[i]
            at[bin_] += 1
        order, other_order = other_order, order
        key_of, other_key = other_key, key_of
    return order


@kernel
def group_starts(keys: UInt64) -> Int64:
    """Where runs of equal keys begin, and the end: int64, (groups + 1). keys : sorted."""
    groups = 0
    for i in range(len(keys)):
        groups += i == 0 or keys[i] != keys[i - 1]
    starts = np.full(groups + 1, len(keys), np.int64)
    groups = 0
    for i in range(len(keys)):
        if i == 0 or keys[i] != keys[i - 1]:
            starts[groups] = i
            groups += 1
    return starts
