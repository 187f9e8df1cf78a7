"""Where numbers stand among all others, exactly: splitters part them, and each part is ranked by itself."""

import numpy as np

from tamis.kernels.arrow import Int64, UInt64


def part_of(keys: UInt64, splitters: UInt64) -> Int64:
    """The part of each key: 2i + 1 if it is the i-th splitter, 2i if it lies before that and after the one before.

    int64, (n). keys : uint64, (n). splitters : uint64, (k), ascending, no two equal; there are 2k + 1 parts.
    """
    place = np.searchsorted(splitters, keys)
    bounded = np.append(splitters, np.uint64(0))[place]  # beyond the last splitter is no key to be equal to
    return np.asarray(2 * place + ((bounded == keys) & (place < len(splitters))), np.int64)


def ranked(groups: UInt64, keys: UInt64) -> tuple[Int64, Int64]:
    """(how many keys of its group are smaller, how many are equal, itself included) of each of n keys: int64, (n).

    groups, keys : uint64, (n), in any order.
    """
    order = np.lexsort((keys, groups))
    group_starts = _starts(groups[order])
    runs = _starts(groups[order], keys[order])
    below, equal = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    below[order] = runs - group_starts
    equal[order] = _sizes(runs)
    return below, equal


def _starts(*columns: UInt64) -> Int64:
    """Where the run of equal rows that each row is in begins: int64, (n)."""
    n = len(columns[0])
    is_new = np.zeros(n, np.bool_)
    for values in columns:
        is_new[1:] |= values[1:] != values[:-1]
    return np.asarray(np.maximum.accumulate(np.where(is_new, np.arange(n), 0)), np.int64)


def _sizes(starts: Int64) -> Int64:
    """How many rows have the same start: int64, (n)."""
    return np.bincount(starts, minlength=len(starts))[starts]
