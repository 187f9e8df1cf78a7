"""Hashed n-grams of consecutive tokens: counting, weighing and embedding documents in one loop each.

An n-gram's hash is its tokens' hashes taken in by `extend`, left to right; its bucket among B is the upper 32 bits
of the hash, scaled down to B.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Int64
from tamis.kernels.bits import GOLDEN
from tamis.kernels.kernel import kernel
from tamis.kernels.words import Tokens

LONGEST = 3  # the longest n-gram that is counted
SIGN_BIT = np.uint64(1 << 31)  # below the bits that choose the bucket


@kernel
def extend(gram: np.uint64, token: np.uint64) -> np.uint64:
    """The hash of an n-gram with one more token at its end."""
    h = (((gram << np.uint64(23)) | (gram >> np.uint64(41))) ^ token) * GOLDEN
    return h ^ (h >> np.uint64(29))


@kernel
def bucket(gram: np.uint64, buckets: np.uint64) -> np.uint64:
    """Where an n-gram is counted: 0 to buckets - 1 (at most 2³² of them)."""
    return ((gram >> np.uint64(32)) * buckets) >> np.uint64(32)


@kernel
def count_ngrams(tokens: Tokens, longest: int, buckets: int) -> Int64:
    """How many 1- to `longest`-grams of all documents fall in each bucket: int64, (buckets). longest : 1, 2 or 3."""
    counts = np.zeros(buckets, np.int64)
    size = np.uint64(buckets)
    for d in range(len(tokens.document) - 1):
        one, two = np.uint64(0), np.uint64(0)
        begin = tokens.document[d]
        for i in range(begin, tokens.document[d + 1]):
            token = tokens.hash[i]
            counts[bucket(token, size)] += 1
            if longest > 1 and i > begin:
                if longest > 2 and i > begin + 1:
                    counts[bucket(extend(two, token), size)] += 1
                two = extend(one, token)
                counts[bucket(two, size)] += 1
            one = token
    return counts


@kernel
def weigh_ngrams(tokens: Tokens, longest: int, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The sum of the weights of each document's 1- to `longest`-grams: float64, (n), added in reading order.

    weights : float64, (buckets). n-grams of each length have a sum of their own, added at the end.
    """
    out = np.empty(len(tokens.document) - 1, np.float64)
    size = np.uint64(len(weights))
    for d in range(len(out)):
        one, two = np.uint64(0), np.uint64(0)
        ones, twos, threes = 0.0, 0.0, 0.0
        begin = tokens.document[d]
        for i in range(begin, tokens.document[d + 1]):
            token = tokens.hash[i]
            ones += weights[bucket(token, size)]
            if longest > 1 and i > begin:
                if longest > 2 and i > begin + 1:
                    threes += weights[bucket(extend(two, token), size)]
                two = extend(one, token)
                twos += weights[bucket(two, size)]
            one = token
        out[d] = ones + twos + threes
    return out


def ngram_totals(tokens: Tokens, longest: int) -> Int64:
    """How many 1- to `longest`-grams each document has: int64, (n)."""
    lengths = np.diff(tokens.document)
    return sum((np.maximum(lengths - n, 0) for n in range(longest)), np.zeros(len(lengths), np.int64))


@kernel
def hashed_vectors(tokens: Tokens, longest: int, dimensions: int) -> npt.NDArray[np.float32]:
    """Signed counts of 1- to `longest`-grams of words, at unit length: float32, (n, dimensions).

    Words are taken in a row, over punctuation; a document without words is the zero vector. Counts are integers and
    divided once by the root of their sum of squares, so vectors are the same to the bit everywhere. longest : 1 or 2.
    Source: Weinberger et al. 2009, Feature hashing for large scale multitask learning.
    """
    out = np.zeros((len(tokens.document) - 1, dimensions), np.float32)
    counts = np.zeros(dimensions, np.int64)
    size = np.uint64(dimensions)
    for d in range(len(out)):
        counts[:] = 0
        one, is_first = np.uint64(0), True
        for i in range(tokens.document[d], tokens.document[d + 1]):
            if not tokens.is_word[i]:
                continue
            token = tokens.hash[i]
            counts[bucket(token, size)] += 1 if token & SIGN_BIT else -1
            if longest > 1 and not is_first:
                two = extend(one, token)
                counts[bucket(two, size)] += 1 if two & SIGN_BIT else -1
            one, is_first = token, False
        square = np.int64(0)
        for j in range(dimensions):
            square += counts[j] * counts[j]
        if square:
            norm = np.sqrt(np.float64(square))
            for j in range(dimensions):
                out[d, j] = counts[j] / norm
    return out


def reference_bucket(ngram: Sequence[str], buckets: int) -> int:
    """The bucket that the DSIR reference gives an n-gram: SHA-256 of its tokens with spaces between, modulo buckets.

    A thousand times slower than `bucket`: for comparing with published numbers. Source: Xie et al. 2023.
    """
    digest = hashlib.sha256(" ".join(ngram).encode()).digest()
    return int.from_bytes(digest, "big") % buckets
