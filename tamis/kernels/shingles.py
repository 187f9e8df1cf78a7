"""Shingles: n units of text in a row, hashed; a unit is a word, or a character of a word where words have no spaces."""

from typing import NamedTuple

import numpy as np

from tamis.kernels.arrow import Int64, UInt64
from tamis.kernels.bits import MIX_A, longest, mix
from tamis.kernels.kernel import kernel
from tamis.kernels.table import find, slots_for
from tamis.kernels.unicode import TABLE, decode, entry_of
from tamis.kernels.unicode_table import Table
from tamis.kernels.words import Tokens


class Units(NamedTuple):
    """u units of n documents; document i has units document[i] to document[i + 1].

    document : int64, (n + 1), from 0. hash : uint64, (u).
    """

    document: Int64
    hash: UInt64


@kernel
def words_of(tokens: Tokens) -> Units:
    """The words of all documents, without punctuation."""
    document, hashes = np.zeros(len(tokens.document), np.int64), np.empty(len(tokens.hash), np.uint64)
    count = 0
    for d in range(len(document) - 1):
        for i in range(tokens.document[d], tokens.document[d + 1]):
            hashes[count] = tokens.hash[i]
            count += tokens.is_word[i]
        document[d + 1] = count
    return Units(document, hashes[:count])


def characters_of(tokens: Tokens) -> Units:
    """The lower-cased characters of all words, without what stands between them."""
    return _characters_of(tokens, TABLE)


@kernel
def _characters_of(tokens: Tokens, table: Table) -> Units:
    size = 0
    for i in range(len(tokens.hash)):
        size += tokens.chars[i] * tokens.is_word[i]
    document, hashes = np.zeros(len(tokens.document), np.int64), np.empty(size, np.uint64)
    data = tokens.text.data
    count = 0
    for d in range(len(document) - 1):
        for t in range(tokens.document[d], tokens.document[d + 1]):
            if not tokens.is_word[t]:
                continue
            i = tokens.start[t]
            end = i + tokens.bytes[t]
            while i < end:
                point, width = decode(data, i, end)
                hashes[count] = mix(np.uint64(point + (entry_of(table, point) >> 12)))
                count += 1
                i += width
        document[d + 1] = count
    return Units(document, hashes)


@kernel
def fill_shingles(units: Units, d: int, n: int, out: UInt64) -> int:
    """How many shingles document d has; their hashes go to `out`, which has room for its units.

    A document of fewer than n units has one shingle, of all of them; one without units has none. The hash of a
    shingle is `mix` of the polynomial in MIX_A with the units' hashes as coefficients: the next one takes two
    multiplications whatever n.
    """
    begin, end = units.document[d], units.document[d + 1]
    length = min(n, end - begin)
    if length == 0:
        return 0
    leading, gram = np.uint64(1), np.uint64(0)
    for _ in range(length):
        leading *= MIX_A
    for i in range(begin, begin + length):
        gram = gram * MIX_A + units.hash[i]
    out[0] = mix(gram)
    count = 1
    for i in range(begin + length, end):
        gram = gram * MIX_A + units.hash[i] - units.hash[i - length] * leading
        out[count] = mix(gram)
        count += 1
    return count


@kernel
def shingle_sets(units: Units, n: int) -> tuple[Int64, UInt64]:
    """(document, hash) of all shingles, each once per document: int64, (n + 1) and uint64, (s).

    Document i has the hashes document[i] to document[i + 1], in the order in which they first occur.
    """
    document, hashes = np.zeros(len(units.document), np.int64), np.empty(len(units.hash), np.uint64)
    grams = np.empty(longest(units.document), np.uint64)
    slots = slots_for(2 * len(grams))
    mask = len(slots.key) - 1
    count = 0
    for d in range(len(document) - 1):
        slots.round[0] += 1
        for gram in grams[: fill_shingles(units, d, n, grams)]:
            at = find(slots, gram, mask)
            if slots.stamp[at] != slots.round[0]:
                slots.stamp[at] = slots.round[0]
                slots.key[at] = gram
                hashes[count] = gram
                count += 1
        document[d + 1] = count
    return document, hashes[:count]
