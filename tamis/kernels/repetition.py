"""How much of a document is repeated phrases."""

import numpy as np

from tamis.kernels.arrow import Int64, UInt64
from tamis.kernels.bits import longest
from tamis.kernels.kernel import kernel
from tamis.kernels.ngrams import extend
from tamis.kernels.table import Slots, find, slots_for
from tamis.kernels.words import Int32, Tokens

SHORTEST, LONGEST = 2, 10
LONGEST_TOP = 4  # up to here the most frequent n-gram counts, from here on all repeated ones do


@kernel
def _gather_words(tokens: Tokens, d: int, grams: UInt64, words: UInt64, ends: Int64) -> int:
    """The number of words of document d; fills their hashes (twice) and the characters up to each."""
    count = 0
    for i in range(tokens.document[d], tokens.document[d + 1]):
        grams[count] = tokens.hash[i]
        words[count] = tokens.hash[i]
        ends[count + 1] = ends[count] + tokens.chars[i]
        count += tokens.is_word[i]
    return count


@kernel
def _pairs(grams: UInt64, words: UInt64, length: int, seen: UInt64, twice: UInt64, at: Int32) -> int:
    """How many positions may hold a repeated pair of words, listed in `at`; `grams` becomes the hash of each pair.

    All that repeat are listed: two positions of one pair set one bit twice. seen, twice : room for bits, one in
    eight of which are set at most.
    """
    filters = 1
    while 8 * filters < length:
        filters *= 2
    seen[:filters] = 0
    twice[:filters] = 0
    mask = np.uint64(64 * filters - 1)
    for i in range(length - 1):
        gram = extend(grams[i], words[i + 1])
        grams[i] = gram
        bit = (gram >> np.uint64(32)) & mask
        place, one = bit >> np.uint64(6), np.uint64(1) << (bit & np.uint64(63))
        twice[place] |= seen[place] & one
        seen[place] |= one
    count = 0
    for i in range(length - 1):
        bit = (grams[i] >> np.uint64(32)) & mask
        at[count] = i
        count += (twice[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1)
    return count


@kernel
def _group(slots: Slots, grams: UInt64, at: Int32, first: Int32, count: Int32) -> None:
    """For the positions `at`: the first position of the same n-gram, and there the number of its positions."""
    mask = 15
    while mask + 1 < 2 * len(at):
        mask = 2 * mask + 1
    slots.round[0] += 1
    for i in at:
        key = grams[i]
        slot = find(slots, key, mask)
        if slots.stamp[slot] == slots.round[0]:
            leader = slots.value[slot]
            first[i] = leader
            count[leader] += 1
        else:
            slots.stamp[slot] = slots.round[0]
            slots.key[slot] = key
            slots.value[slot] = i
            first[i] = i
            count[i] = 1


@kernel
def _covered_by_top(at: Int32, first: Int32, count: Int32, ends: Int64, n: int) -> int:
    """Characters inside the most frequent n-gram (the longest of equally frequent ones), if it repeats."""
    top, most, chars = -1, 1, 0
    for i in at:
        if first[i] == i and count[i] >= most and count[i] > 1:
            size = ends[i + n] - ends[i]
            if count[i] > most or size > chars:
                top, most, chars = i, count[i], size
    covered, done = 0, 0
    for i in at:
        if first[i] == top:
            covered += ends[i + n] - ends[max(i, done)]
            done = i + n
    return covered


@kernel
def _covered_by_repeats(at: Int32, first: Int32, ends: Int64, n: int) -> int:
    """Characters inside n-grams that stood earlier in the document."""
    covered, done = 0, 0
    for i in at:
        if first[i] != i:
            covered += ends[i + n] - ends[max(i, done)]
            done = i + n
    return covered


@kernel
def _next_candidates(at: Int32, first: Int32, count: Int32, beyond: int) -> int:
    """Keeps the positions below `beyond` whose n-gram and the one that follows both repeat; how many there are."""
    kept = 0
    for j in range(len(at) - 1):
        i = at[j]
        if at[j + 1] == i + 1 and i < beyond and count[first[i]] > 1 and count[first[i + 1]] > 1:
            at[kept] = i
            kept += 1
    return kept


@kernel
def repeated_ngrams(tokens: Tokens) -> tuple[Int64, Int64]:
    """(all characters of words, those covered for each n from 2 to 10): int64, (n) and int64, (n, 9).

    For n of 2, 3 and 4: characters inside the most frequent n-gram if it occurs twice or more; from 5 on: inside
    n-grams that stood earlier in the document. A character counts once, n-grams are of words alone.
    A longer n-gram repeats only where its two shorter parts do, so each length looks only there.
    """
    n_documents = len(tokens.document) - 1
    size = longest(tokens.document) + 1
    total, covered = np.zeros(n_documents, np.int64), np.zeros((n_documents, LONGEST - SHORTEST + 1), np.int64)
    grams, words, ends = np.zeros(size, np.uint64), np.zeros(size, np.uint64), np.zeros(size + 1, np.int64)
    first, count, at = np.zeros(size, np.int32), np.zeros(size, np.int32), np.zeros(size, np.int32)
    seen, twice = np.zeros(size // 4 + 1, np.uint64), np.zeros(size // 4 + 1, np.uint64)
    slots = slots_for(2 * size)
    for d in range(n_documents):
        length = _gather_words(tokens, d, grams, words, ends)
        total[d] = ends[length]
        candidates = _pairs(grams, words, length, seen, twice, at)
        for n in range(SHORTEST, LONGEST + 1):
            here = at[:candidates]
            if n > SHORTEST:
                for i in here:
                    grams[i] = extend(grams[i], words[i + n - 1])
            _group(slots, grams, here, first, count)
            if n <= LONGEST_TOP:
                covered[d, n - SHORTEST] = _covered_by_top(here, first, count, ends, n)
            else:
                covered[d, n - SHORTEST] = _covered_by_repeats(here, first, ends, n)
            candidates = _next_candidates(here, first, count, length - n)
            if candidates == 0:
                break
    return total, covered
