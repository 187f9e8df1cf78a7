"""Sets of 64-bit hashes that text is checked against: a small bit filter first, then a binary search."""

from typing import NamedTuple

import numpy as np

from tamis.kernels.arrow import Int64, UInt64
from tamis.kernels.bits import MIX_A, mix
from tamis.kernels.kernel import kernel
from tamis.kernels.words import Tokens

BITS_PER_MEMBER = 16  # one absent hash in about sixteen passes the filter


class Members(NamedTuple):
    """A set of hashes.

    hashes : uint64, (k), sorted, no two equal. filter : uint64, (a power of two), bit `hash & mask` of it is set.
    """

    hashes: UInt64
    filter: UInt64


def members_of(hashes: UInt64) -> Members:
    """The set of `hashes`: uint64, (k), sorted, no two equal."""
    bits = 64
    while bits < BITS_PER_MEMBER * len(hashes):
        bits *= 2
    filled = np.zeros(bits // 64, np.uint64)
    low = hashes & np.uint64(bits - 1)
    np.bitwise_or.at(filled, (low >> np.uint64(6)).astype(np.int64), np.uint64(1) << (low & np.uint64(63)))
    return Members(np.ascontiguousarray(hashes), filled)


@kernel
def is_member(members: Members, key: np.uint64) -> bool:
    """Whether `key` is in the set."""
    low = key & np.uint64(64 * len(members.filter) - 1)
    if members.filter[low >> np.uint64(6)] >> (low & np.uint64(63)) & np.uint64(1) == 0:
        return False
    at = np.searchsorted(members.hashes, key)
    return bool(at < len(members.hashes) and members.hashes[at] == key)


@kernel
def word_ngrams(tokens: Tokens, n: int) -> tuple[Int64, UInt64]:
    """(document, hash) of all n-grams of words in a row, over punctuation: int64, (n + 1) and uint64, (k).

    Document i has the hashes document[i] to document[i + 1]. An n-gram's hash is `mix` of the polynomial in MIX_A
    with its words' hashes as coefficients, so the next one takes two multiplications whatever n.
    """
    document = np.zeros(len(tokens.document), np.int64)
    hashes = np.empty(len(tokens.hash), np.uint64)
    recent = np.empty(n, np.uint64)
    leading = np.uint64(1)
    for _ in range(n):
        leading *= MIX_A
    total = 0
    for d in range(len(document) - 1):
        words, gram, oldest = 0, np.uint64(0), 0
        for i in range(tokens.document[d], tokens.document[d + 1]):
            if not tokens.is_word[i]:
                continue
            gram = gram * MIX_A + tokens.hash[i]
            if words >= n:
                gram -= recent[oldest] * leading
            recent[oldest] = tokens.hash[i]
            oldest = oldest + 1 if oldest + 1 < n else 0
            words += 1
            if words >= n:
                hashes[total] = mix(gram)
                total += 1
        document[d + 1] = total
    return document, hashes[:total]


@kernel
def count_members(document: Int64, hashes: UInt64, members: Members) -> Int64:
    """How many of each document's hashes are in the set: int64, (n)."""
    out = np.zeros(len(document) - 1, np.int64)
    for d in range(len(out)):
        for i in range(document[d], document[d + 1]):
            out[d] += is_member(members, hashes[i])
    return out
