"""Words between blanks and marks, hashed and numbered: what is dear to compute is then computed once per word.

A blank is a space, a tab, a newline or a carriage return. A mark is one of ASCII's 32 punctuation characters, and a
word of its own. No other character ends a word here.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Float32, Int64, Text, UInt64
from tamis.kernels.bits import GOLDEN, MIX_A, absorb, load8, load_tail, mix
from tamis.kernels.kernel import kernel

LONGEST = 1 << 16  # bytes: a longer word is cut, between characters


class Words(NamedTuple):
    """Room for w words. owner : int64, (w), the document. start, end : int64, (w), the bytes [start, end) of its text.

    first, second : uint64, (w), two hashes of the bytes: with 128 bits, equal hashes are taken for equal words.
    number : int64, (w), from `number_words`.
    """

    owner: Int64
    start: Int64
    end: Int64
    first: UInt64
    second: UInt64
    number: Int64


class Numbers(NamedTuple):
    """s slots, s a power of two, of which at most half may be used. number : int64, (s), plus one; 0 is a free slot."""

    first: UInt64
    second: UInt64
    number: Int64


def room_for(words: int) -> Words:
    return Words(*(np.empty(words, kind) for kind in (np.int64,) * 3 + (np.uint64,) * 2 + (np.int64,)))  # type: ignore[arg-type]


def empty_numbers(slots: int) -> Numbers:
    return Numbers(np.zeros(slots, np.uint64), np.zeros(slots, np.uint64), np.zeros(slots, np.int64))


@kernel
def _is_blank(byte: int) -> bool:
    return byte == 0x20 or byte == 0x0A or byte == 0x09 or byte == 0x0D  # noqa: PLR1714 - a set would be slower


@kernel
def _is_mark(byte: int) -> bool:
    return 0x21 <= byte <= 0x2F or 0x3A <= byte <= 0x40 or 0x5B <= byte <= 0x60 or 0x7B <= byte <= 0x7E


@kernel
def next_words(text: Text, document: int, at: int, words: Words) -> tuple[int, int, int]:
    """Fills `words` from byte `at` of a document on: (how many, the document and the byte to go on from).

    at : counted from the document's beginning. All is done when the document is `len(text)`.
    """
    count, room = 0, len(words.owner)
    n = len(text.offsets) - 1
    while document < n:
        i, stop = text.offsets[document] + at, text.offsets[document + 1]
        while i < stop and count < room:
            while i < stop and _is_blank(text.data[i]):
                i += 1
            begin = i
            while i < stop and not _is_blank(text.data[i]) and not (i > begin and _is_mark(text.data[i])):
                i += 1
                if _is_mark(text.data[i - 1]) or (i - begin >= LONGEST and i < stop and text.data[i] & 0xC0 != 0x80):
                    break
            if i > begin:
                words.owner[count], words.start[count], words.end[count] = document, begin, i
                words.first[count], words.second[count] = _hashes(text.data, begin, i)
                count += 1
        if i < stop:
            return count, document, i - text.offsets[document]
        document, at = document + 1, 0
    return count, document, 0


@kernel
def _hashes(data: npt.NDArray[np.uint8], begin: int, end: int) -> tuple[np.uint64, np.uint64]:
    one, two = GOLDEN, MIX_A
    i = begin
    while i + 8 <= end:
        word = load8(data, i)
        one, two = absorb(one, word), absorb(two, word)
        i += 8
    word = load_tail(data, i, end)
    size = np.uint64(end - begin)
    return mix(absorb(one, word) ^ size), mix(absorb(two, word) ^ size)


@kernel
def number_words(words: Words, count: int, numbers: Numbers, used: int, fresh: Int64) -> int:
    """Gives each of the first `count` words its number: the one it has, or the next from `used` on; how many are new.

    fresh : int64, (at least count), filled with the places of the new words, in the order of their numbers.
    """
    mask = len(numbers.number) - 1
    new = 0
    for w in range(count):
        at = np.int64(words.first[w] >> np.uint64(20)) & mask
        while numbers.number[at] and (numbers.first[at] != words.first[w] or numbers.second[at] != words.second[w]):
            at = (at + 1) & mask
        if numbers.number[at] == 0:
            numbers.first[at], numbers.second[at] = words.first[w], words.second[w]
            numbers.number[at] = used + new + 1
            fresh[new] = w
            new += 1
        words.number[w] = numbers.number[at] - 1
    return new


@kernel
def add_numbered_rows(
    table: Float32,
    ids: npt.NDArray[np.int32],
    ends: Int64,
    words: Words,
    count: int,
    sums: npt.NDArray[np.float64],
) -> None:
    """As `add_rows`, for words by their numbers: word number k picks the rows ids[ends[k - 1]:ends[k]].

    table : float32, (rows, d). ids : int32. ends : int64, one per number. sums : float64, (n, d), changed.
    """
    for w in range(count):
        number = words.number[w]
        total = sums[words.owner[w]]
        for t in range(ends[number - 1] if number else 0, ends[number]):
            row = table[ids[t]]
            for j in range(len(row)):
                total[j] += row[j]
