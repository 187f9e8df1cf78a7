"""Sets of 64-bit hashes that text is checked against: a bit filter, then a look."""

from typing import NamedTuple

import numpy as np

from tamis.kernels.arrow import Int64, UInt64
from tamis.kernels.bits import longest, trailing_zeros
from tamis.kernels.kernel import kernel
from tamis.kernels.shingles import Units, fill_shingles
from tamis.kernels.words import Bool, Int32

BITS_PER_MEMBER = 16  # one absent hash in about sixteen passes the filter


class Members(NamedTuple):
    """A set of hashes.

    hashes : uint64, (k), sorted, no two equal. filter : uint64, (f), f a power of two, one bit in sixteen set: a hash
    has bit `hash & 64 f - 1`. places : int32, (2^b + 1), the hashes whose highest b bits are x lie from places[x] on.
    """

    hashes: UInt64
    filter: UInt64
    places: Int32


def members_of(hashes: UInt64) -> Members:
    """The set of `hashes`: uint64, (k), sorted, no two equal."""
    bits = max(6, (BITS_PER_MEMBER * len(hashes)).bit_length())
    filled = np.zeros(2 ** (bits - 6), np.uint64)
    low = hashes & np.uint64(2**bits - 1)
    np.bitwise_or.at(filled, (low >> np.uint64(6)).astype(np.int64), np.uint64(1) << (low & np.uint64(63)))
    top = max(1, len(hashes).bit_length())
    starts = np.arange(2**top, dtype=np.uint64) << np.uint64(64 - top)
    places = np.append(np.searchsorted(hashes, starts), len(hashes)).astype(np.int32)
    return Members(np.ascontiguousarray(hashes), filled, places)


@kernel
def are_members(members: Members, keys: UInt64) -> Bool:
    """Which of the keys are in the set: bool, (k)."""
    found = np.zeros(len(keys), np.bool_)
    bits, hashes, places = members.filter, members.hashes, members.places
    mask = np.uint64(64 * len(bits) - 1)
    shift = np.uint64(64) - trailing_zeros(np.uint64(len(places) - 1))
    for k in range(len(keys)):
        key = keys[k]
        low = key & mask
        if bits[low >> np.uint64(6)] >> (low & np.uint64(63)) & np.uint64(1):
            x = np.int64(key >> shift)
            i, end = places[x], places[x + 1]
            while i < end and hashes[i] < key:
                i += 1
            found[k] = i < end and hashes[i] == key
    return found


@kernel
def _fill_ngrams(units: Units, d: int, n: int, out: UInt64) -> int:
    """How many n-grams document d has; their hashes go to `out`."""
    return fill_shingles(units, d, n, out) if units.document[d + 1] - units.document[d] >= n else 0


@kernel
def ngrams_of(units: Units, n: int) -> tuple[Int64, UInt64]:
    """(document, hash) of all n-grams of units in a row: int64, (documents + 1) and uint64, (k).

    Document i has the hashes document[i] to document[i + 1], none if it has fewer than n units.
    """
    document = np.zeros(len(units.document), np.int64)
    hashes = np.empty(len(units.hash), np.uint64)
    for d in range(len(document) - 1):
        document[d + 1] = document[d] + _fill_ngrams(units, d, n, hashes[document[d] :])
    return document, hashes[: document[-1]]


@kernel
def count_shared_ngrams(units: Units, n: int, members: Members) -> Int64:
    """At how many places each document has an n-gram of units that is in the set: int64, (documents)."""
    out = np.zeros(len(units.document) - 1, np.int64)
    hashes = np.empty(longest(units.document), np.uint64)
    for d in range(len(out)):
        count = _fill_ngrams(units, d, n, hashes)
        out[d] = are_members(members, hashes[:count]).sum()
    return out
