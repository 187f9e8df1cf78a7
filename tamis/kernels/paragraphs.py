"""Paragraphs and their n-grams as hashes, and which of them an earlier place has: what paragraphs are deduplicated by.

A paragraph is a line of the original text with its newline; its words are those of the text in normal form C, which
has the same lines: no newline is ever composed with anything.
"""

from typing import NamedTuple

import numpy as np

from tamis.kernels.arrow import Int64, Text, UInt64
from tamis.kernels.bits import GOLDEN, MIX_A, longest, mix
from tamis.kernels.kernel import kernel
from tamis.kernels.lines import line_end
from tamis.kernels.ngrams import extend
from tamis.kernels.spans import UInt32
from tamis.kernels.words import Bool, Tokens


class Paragraphs(NamedTuple):
    """p paragraphs of n documents; document i has the paragraphs document[i] to document[i + 1].

    document : int64, (n + 1), from 0. start, end : uint32, (p), bytes of the document, the newline included.
    words : uint32, (p). first : int64, (p + 1), from 0; paragraph j has the hashes first[j] to first[j + 1].
    hash : uint64, (h).
    """

    document: Int64
    start: UInt32
    end: UInt32
    words: UInt32
    first: Int64
    hash: UInt64


def paragraphs(text: Text, tokens: Tokens, min_words: int, ngram_words: int | None = None) -> Paragraphs:
    """The paragraphs of at least `min_words` words, with one hash of all words, or one of each n-gram of words.

    text : the documents as they are; tokens : theirs. min_words : 1 or more. A paragraph of fewer than `ngram_words`
    words is one n-gram. An n-gram's hash is `mix` of the polynomial in MIX_A with its words' hashes as coefficients.
    """
    return _paragraphs(text, tokens, tokens.text is text, min_words, ngram_words or 0)


@kernel
def _paragraphs(text: Text, tokens: Tokens, is_same: bool, min_words: int, n: int) -> Paragraphs:
    document = np.zeros(len(text.offsets), np.int64)
    most = len(tokens.hash) // min_words + 1
    start, end, words = np.empty(most, np.uint32), np.empty(most, np.uint32), np.empty(most, np.uint32)
    first, hashes = np.zeros(most + 1, np.int64), np.empty(len(tokens.hash) if n else most, np.uint64)
    line = np.empty(longest(tokens.document), np.uint64)
    count = 0
    for d in range(len(document) - 1):
        begin, i, stop = text.offsets[d], text.offsets[d], text.offsets[d + 1]
        at, at_stop = tokens.text.offsets[d], tokens.text.offsets[d + 1]
        t, last = tokens.document[d], tokens.document[d + 1]
        while t < last:
            newline = line_end(text.data, i, stop)
            at_newline = at + newline - i if is_same else line_end(tokens.text.data, at, at_stop)
            size = 0
            while t < last and tokens.start[t] < at_newline:
                line[size] = tokens.hash[t]  # of a symbol too: the next word takes its place, no branch to guess
                size += tokens.is_word[t]
                t += 1
            after = min(newline + 1, stop)
            if size >= min_words:
                start[count], end[count], words[count] = i - begin, after - begin, size
                out = hashes[first[count] :]
                filled = _fill_grams(line[:size], n, out) if n else _fill_key(line[:size], out)
                first[count + 1] = first[count] + filled
                count += 1
            i, at = after, at_newline + 1
        document[d + 1] = count
    return Paragraphs(document, start[:count], end[:count], words[:count], first[: count + 1], hashes[: first[count]])


@kernel
def _fill_key(words: UInt64, out: UInt64) -> int:
    """Puts the hash of all words in out[0]; 1, for one hash."""
    state = GOLDEN
    for word in words:
        state = extend(state, word)
    out[0] = mix(state ^ np.uint64(len(words)))
    return 1


@kernel
def _fill_grams(words: UInt64, n: int, out: UInt64) -> int:
    """How many n-grams there are, their hashes in `out`; of fewer words than n, one."""
    leading, gram = np.uint64(1), np.uint64(0)
    for _ in range(n):
        leading *= MIX_A
    for i in range(len(words)):
        gram = gram * MIX_A + words[i]
        if i >= n:
            gram -= words[i - n] * leading
        if i >= n - 1:
            out[i - n + 1] = mix(gram)
    if len(words) < n:
        out[0] = mix(gram)
        return 1
    return len(words) - n + 1


class Places(NamedTuple):
    """m places where something stands: documents in an order of their own, and where in the document.

    order, row : uint64, (m), the document's rank and number, equal ranks by number. start : uint32, (m).
    """

    order: UInt64
    row: UInt64
    start: UInt32


@kernel
def _is_before(places: Places, i: int, j: int) -> bool:
    if places.order[i] != places.order[j]:
        return places.order[i] < places.order[j]  # type: ignore[no-any-return]
    if places.row[i] != places.row[j]:
        return places.row[i] < places.row[j]  # type: ignore[no-any-return]
    return places.start[i] < places.start[j]  # type: ignore[no-any-return]


@kernel
def stand_earlier(keys: UInt64, places: Places, counts: Bool, within: bool) -> tuple[Int64, Int64]:
    """(places whose key stands at an earlier place too, the earliest place of each): int64, (s) each.

    keys : uint64, (m), sorted. counts : bool, (m), whether a place may be the earlier one. within : whether an earlier
    place of the same document is one.
    """
    later, earliest = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    count, i = 0, 0
    while i < len(keys):
        j, owner = i, -1
        while j < len(keys) and keys[j] == keys[i]:
            if counts[j] and (owner < 0 or _is_before(places, j, owner)):
                owner = j
            j += 1
        if owner >= 0 and j > i + 1:
            for k in range(i, j):
                is_own = places.row[k] == places.row[owner]
                if _is_before(places, owner, k) and (within or not is_own):
                    later[count], earliest[count] = k, owner
                    count += 1
        i = j
    return later[:count], earliest[:count]


@kernel
def shares(found: Paragraphs, document: Int64, start: UInt32, owner: UInt64, count: UInt32) -> tuple[Int64, UInt64]:
    """(hashes of each paragraph that stand earlier: int64, (p); which document has most of them: uint64, (p)).

    document : int64, (n + 1), each document's entries; start, owner, count : (e), so many hashes of the paragraph
    that begins at `start` stand in `owner`; sorted by document, start and owner; equal ones add up.
    Of owners that have equally many, the smallest; 0 where no hash stands earlier.
    """
    contained, owners = np.zeros(len(found.start), np.int64), np.zeros(len(found.start), np.uint64)
    for d in range(len(document) - 1):
        j = found.document[d]
        i, last = document[d], document[d + 1]
        while i < last:
            while found.start[j] != start[i]:
                j += 1
            most = 0
            while i < last and start[i] == found.start[j]:
                of_owner, k = 0, i
                while k < last and start[k] == start[i] and owner[k] == owner[i]:
                    of_owner += np.int64(count[k])  # type: ignore[assignment]
                    k += 1
                contained[j] += of_owner
                if of_owner > most:
                    most, owners[j] = of_owner, owner[i]
                i = k
    return contained, owners


@kernel
def sums(bounds: Int64, values: Int64) -> Int64:
    """The sum of values[bounds[i]:bounds[i + 1]] for each i: int64, (n)."""
    out = np.zeros(len(bounds) - 1, np.int64)
    for i in range(len(out)):
        for j in range(bounds[i], bounds[i + 1]):
            out[i] += values[j]
    return out


@kernel
def longest_of(bounds: Int64, lengths: Int64) -> Int64:
    """Which of bounds[i] to bounds[i + 1] is longest, the first of equals: int64, (n); -1 where there is none."""
    out = np.full(len(bounds) - 1, -1, np.int64)
    for i in range(len(out)):
        for j in range(bounds[i], bounds[i + 1]):
            if out[i] < 0 or lengths[j] > lengths[out[i]]:
                out[i] = j
    return out
