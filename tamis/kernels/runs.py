"""Runs of tokens: hashes of all of a length, and the fingerprints that stand for them.

A *run* of n tokens is what lies between the start of its first token and the end of its last: their bytes and the
white space between them. A run is hashed as a polynomial modulo the prime 2^61 - 1 whose coefficients are the hashes
of its tokens, each but the first with the white space before it, so the next run takes three multiplications
whatever n. Two runs of equal length that differ have equal hashes for at most n in 2^61 bases (Karp and Rabin 1987);
modulo 2^64 some texts of two words would collide for every base (Thue-Morse sequences of 2,048 tokens).
"""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from tamis.kernels.arrow import Int64, UInt64
from tamis.kernels.bits import GOLDEN, MIX_B, mix
from tamis.kernels.kernel import kernel
from tamis.kernels.written import Written

PRIME = np.uint64(2**61 - 1)
BASES = (GOLDEN >> np.uint64(3), MIX_B >> np.uint64(3))  # of the two hashes of a run; any two numbers below the prime
SHIFTS = (np.uint64(0), np.uint64(3))  # which 61 bits of a token's hash each takes in: together all 64


@intrinsic  # type: ignore[untyped-decorator]
def _times(_: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
    """The product of two uint64 below 2^61, as a number below 2^62 with the same remainder modulo 2^61 - 1."""

    def generate(_: Any, builder: Any, __: Any, values: Any) -> Any:
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(builder.zext(values[0], wide), builder.zext(values[1], wide))
        low = builder.and_(builder.trunc(product, word), ir.Constant(word, 2**61 - 1))
        return builder.add(low, builder.trunc(builder.lshr(product, ir.Constant(wide, 61)), word))

    return types.uint64(types.uint64, types.uint64), generate


@kernel
def _reduced(x: np.uint64) -> np.uint64:
    """The remainder modulo 2^61 - 1."""
    x = (x & PRIME) + (x >> np.uint64(61))
    return x - PRIME if x >= PRIME else x


@kernel
def hash_runs(tokens: Written, n: int, which: int) -> UInt64:
    """The hash of the run of n tokens that begins at each token: uint64, (t); 0 where the document ends before.

    which : 0 or 1, which of two independent hashes.
    """
    out = np.zeros(len(tokens.alone), np.uint64)
    base, shift = BASES[which], SHIFTS[which]
    lead = np.uint64(1)
    for _ in range(n - 1):
        lead = _reduced(_times(lead, base))
    for d in range(len(tokens.document) - 1):
        first, end = tokens.document[d], tokens.document[d + 1]
        if end - first < n:
            continue
        rest = np.uint64(0)  # of all but the run's first token
        for i in range(first + 1, first + n):
            rest = _reduced(_times(rest, base) + (tokens.joined[i] >> shift & PRIME))
        for i in range(first, end - n + 1):
            out[i] = mix(_reduced(_times(tokens.alone[i] >> shift & PRIME, lead) + rest))
            if i + n < end:
                leaves = _reduced(_times(tokens.joined[i + 1] >> shift & PRIME, lead))
                rest = _reduced(_times(rest, base) + (tokens.joined[i + n] >> shift & PRIME) + PRIME - leaves)
    return out


@kernel
def lowest(hashes: UInt64, i: int, width: int, at: int) -> int:
    """The place of the lowest of hashes[i:i + width], the last of equal ones. at : the place for i - 1, or below i."""
    last = i + width - 1
    if at < i:
        at = i
        for j in range(i + 1, last + 1):
            if hashes[j] <= hashes[at]:
                at = j
    elif hashes[last] <= hashes[at]:
        at = last
    return at


@kernel
def fingerprints(document: Int64, hashes: UInt64, n: int, k: int) -> tuple[Int64, UInt64]:
    """(document, keys): the lowest hash of k tokens in each run of n tokens: int64, (documents + 1) and uint64, (f).

    Document i has keys[document[i]:document[i + 1]], one per place that is lowest for some run; of more than two equal
    ones in a row, two. Two equal runs have equal lowest hashes at different places, whatever surrounds them, since of
    equal hashes the last counts.
    document : int64, (documents + 1), tokens. hashes : uint64, (t), of the runs of k tokens.
    Source: Schleimer, Wilkerson, Aiken 2003, Winnowing (its window is n - k + 1).
    """
    offsets, out, count = np.zeros(len(document), np.int64), np.empty(len(hashes), np.uint64), 0
    for d in range(len(document) - 1):
        begun, at = count, -1
        for i in range(document[d], document[d + 1] - n + 1):
            place = lowest(hashes, i, n - k + 1, at)
            if place == at:
                continue
            at = place
            key = hashes[at]
            if count < begun + 2 or out[count - 1] != key or out[count - 2] != key:
                out[count] = key
                count += 1
        offsets[d + 1] = count
    return offsets, out[:count]


@kernel
def _is_among(values: UInt64, low: int, high: int, key: np.uint64) -> bool:
    """Whether the key is in values[low:high], which are sorted."""
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < key:
            low = middle + 1
        elif values[middle] > key:
            high = middle
        else:
            return True
    return False


@kernel
def runs_with(
    document: Int64, hashes: UInt64, n: int, k: int, shared: tuple[Int64, UInt64]
) -> tuple[Int64, UInt64, Int64, Int64]:
    """The runs of n tokens whose lowest hash is among those shared: stretches of runs that have it at the same place.

    Returns (documents, lowest hashes, first runs: the token that each begins with, numbers of runs), (s) each.
    document, hashes, n, k : as for `fingerprints`. Tokens count through all documents.
    shared : (int64, (documents + 1); uint64, (s)): document i has shared[1][shared[0][i]:shared[0][i + 1]], sorted.
    """
    size = len(hashes)
    whose, key = np.empty(size, np.int64), np.empty(size, np.uint64)
    first, runs, count = np.empty(size, np.int64), np.zeros(size, np.int64), 0
    for d in range(len(document) - 1):
        at, is_shared = -1, False
        for i in range(document[d], document[d + 1] - n + 1):
            place = lowest(hashes, i, n - k + 1, at)
            if place != at:
                at = place
                is_shared = _is_among(shared[1], shared[0][d], shared[0][d + 1], hashes[at])
                if is_shared:
                    whose[count], key[count], first[count] = d, hashes[at], i
                    count += 1
            if is_shared:
                runs[count - 1] += 1
    return whose[:count], key[:count], first[:count], runs[:count]
