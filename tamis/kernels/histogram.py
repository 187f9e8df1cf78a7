"""Mass by digit of 64-bit keys: one round of an exact cut without a sort."""

import numpy as np

from tamis.kernels.arrow import Int64, UInt64
from tamis.kernels.kernel import kernel

BINS = 65536
ROUNDS = 4


def digit_histogram(keys: UInt64, weights: Int64, prefix: int, digit: int) -> Int64:
    """Weight by value of one 16-bit digit, of the keys whose higher digits are `prefix`: int64, (65536).

    keys : uint64, (n). weights : int64, (n). digit : 0 for the most significant, to 3. prefix : the higher digits
    as one number, 0 for digit 0.
    Raises ValueError if there is no such digit or prefix.
    Source: radix selection; sums of integers, so any split of the keys gives the same histogram.
    """
    if not 0 <= digit < ROUNDS or not 0 <= prefix < BINS**digit:
        raise ValueError(f"digit_histogram: digit is 0 to 3 and prefix below 65536^digit, got {digit} and {prefix}")
    return _digit_histogram(keys, weights, np.uint64(prefix), digit)


@kernel
def _digit_histogram(keys: UInt64, weights: Int64, prefix: np.uint64, digit: int) -> Int64:
    out = np.zeros(BINS, np.int64)
    shift = np.uint64(48 - 16 * digit)
    for i in range(len(keys)):
        key = keys[i] >> shift
        if key >> np.uint64(16) == prefix:
            out[key & np.uint64(0xFFFF)] += weights[i]
    return out
