r"""Words and punctuation runs of documents, hashed: the one reading of the text that all components of a pass share.

The tokens are `\w+|[^\w\s]+` (WordPunct, as in DSIR) of the text in normal form C, with the character classes of
kernels/unicode_table.py. The hash of a token is that of its lower-cased UTF-8 bytes: `absorb` each eight bytes as a
little-endian integer, zeros after the end, starting from `GOLDEN`; then `mix(state ^ length in bytes)`. Tokens of
equal length up to eight bytes never collide.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from tamis.kernels.arrow import Int64, Text, UInt8, UInt64
from tamis.kernels.bits import GOLDEN, HIGH_BITS, absorb, load8, load_tail, mix, trailing_zeros
from tamis.kernels.unicode import TABLE, decode, entry_of, nfc
from tamis.kernels.unicode_table import KIND, SPACE, WORD

Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

LEAST_BYTES_PER_TOKEN = 3  # first guess, untouched memory costs nothing; English prose has about 5


class Tokens(NamedTuple):
    """t tokens of n documents; document i has tokens document[i] to document[i + 1].

    document : int64, (n + 1), from 0. hash : uint64, (t), of the lower-cased token.
    start : int64, (t), where the token begins in `text.data`. bytes, chars : int32, (t), its length in bytes and in
    code points. is_word : bool, (t), False for punctuation and other symbols.
    text : the documents in normal form C, which the positions refer to: the batch's own text if that already was.
    """

    document: Int64
    hash: UInt64
    start: Int64
    bytes: Int32
    chars: Int32
    is_word: Bool
    text: Text

    def __len__(self) -> int:
        return len(self.document) - 1


def tokenize(text: Text) -> Tokens:
    """The tokens of all documents. Raises ValueError for a batch of 2 GiB or more."""
    text = nfc(text)
    size = int(text.offsets[-1] - text.offsets[0])
    if size >= 2**31:
        raise ValueError(f"tokenize: a batch is less than 2 GiB, got {size} bytes; read smaller batches")
    document = np.zeros(len(text) + 1, np.int64)
    columns = _columns(size // LEAST_BYTES_PER_TOKEN + 64)
    done, count = 0, 0
    while True:
        done, count = _tokenize(*text, *TABLE, done, count, document, *columns)
        if done == len(text):
            return Tokens(document, *(column[:count] for column in columns), text)  # type: ignore[arg-type]
        larger = _columns(2 * len(columns[0]))
        for old, new in zip(columns, larger, strict=True):
            new[:count] = old[:count]
        columns = larger


def _columns(capacity: int) -> tuple[UInt64, Int64, Int32, Int32, Bool]:
    return (
        np.empty(capacity, np.uint64),
        np.empty(capacity, np.int64),
        np.empty(capacity, np.int32),
        np.empty(capacity, np.int32),
        np.empty(capacity, np.bool_),
    )


LOW_BITS = ~HIGH_BITS


@njit(cache=True, nogil=True)
def between(word: np.uint64, first: int, last: int) -> np.uint64:
    """The high bit of each byte of `word` (all below 128) that lies in first..last."""
    ones = np.uint64(0x0101010101010101)
    return (word + ones * np.uint64(128 - first)) & ~(word + ones * np.uint64(127 - last)) & HIGH_BITS


@njit(cache=True, nogil=True)
def ascii_words(word: np.uint64) -> np.uint64:
    """The high bit of each byte that is an ASCII letter, digit or underscore."""
    low = word & LOW_BITS
    letters = between(low | np.uint64(0x2020202020202020), 0x61, 0x7A)
    return (letters | between(low, 0x30, 0x39) | between(low, 0x5F, 0x5F)) & ~word


@njit(cache=True, nogil=True)
def ascii_spaces(word: np.uint64) -> np.uint64:
    """The high bit of each byte that is ASCII white space (as `str.isspace` has it)."""
    low = word & LOW_BITS
    return (between(low, 0x09, 0x0D) | between(low, 0x1C, 0x20)) & ~word


@njit(cache=True, nogil=True)
def ascii_lower(word: np.uint64) -> np.uint64:
    """The same bytes with A to Z in lower case."""
    return word | ((between(word & LOW_BITS, 0x41, 0x5A) & ~word) >> np.uint64(2))


@njit(cache=True, nogil=True)
def wide_token(data: UInt8, i: int, end: int, blocks: Int32, entries: Int32) -> tuple[int, int, np.uint64, int]:
    """(end, code points, hash, class) of the token that starts at data[i], one code point at a time.

    White space is returned as a token too, of class SPACE.
    """
    point, size = decode(data, i, end)
    entry = entry_of(blocks, entries, point)
    kind = entry & KIND
    state, word, filled, length, chars = GOLDEN, np.uint64(0), 0, 0, 0
    while entry & KIND == kind:
        i += size
        chars += 1
        lower = point + (entry >> 12)
        width = 1 if lower < 0x80 else 2 if lower < 0x800 else 3 if lower < 0x10000 else 4
        for j in range(width):
            shift = 6 * (width - 1 - j)
            if width == 1:
                unit = lower
            elif j == 0:
                unit = (lower >> shift) | (0xF00 >> width & 0xFF)
            else:
                unit = (lower >> shift & 0x3F) | 0x80
            word |= np.uint64(unit) << np.uint64(8 * filled)
            filled += 1
            if filled == 8:
                state, word, filled = absorb(state, word), np.uint64(0), 0
        length += width
        if i >= end:
            break
        point, size = decode(data, i, end)
        entry = entry_of(blocks, entries, point)
    if filled:
        state = absorb(state, word)
    return i, chars, mix(state ^ np.uint64(length)), kind


@njit(cache=True, nogil=True)
def _tokenize(
    offsets: Int64,
    data: UInt8,
    blocks: Int32,
    entries: Int32,
    done: int,
    count: int,
    document: Int64,
    hashes: UInt64,
    starts: Int64,
    sizes: Int32,
    chars: Int32,
    is_word: Bool,
) -> tuple[int, int]:
    """Tokens of the documents from `done` on: (documents done, tokens so far); stops before a document that overflows."""
    capacity = len(hashes)
    for d in range(done, len(offsets) - 1):
        i, end = offsets[d], offsets[d + 1]
        while i < end:
            begin = i
            state, kind_of_word, is_wide, is_done = GOLDEN, False, False, False
            members = np.uint64(0)
            while not is_done:
                left = end - i
                word = load8(data, i) if left >= 8 else load_tail(data, i, end)
                words = ascii_words(word)
                spaces = ascii_spaces(word)
                if i == begin:
                    if spaces & np.uint64(0x80):
                        break
                    kind_of_word = words & np.uint64(0x80) != 0
                members = words if kind_of_word else ~(words | spaces | word)
                stops = ~members & HIGH_BITS
                if left < 8:
                    stops |= HIGH_BITS << np.uint64(8 * left)
                taken = np.int64(trailing_zeros(stops)) >> 3
                if taken == 8:
                    state = absorb(state, ascii_lower(word))
                    i += 8
                    is_done = i == end
                    continue
                if taken:
                    state = absorb(state, ascii_lower(word) & ((np.uint64(1) << np.uint64(8 * taken)) - np.uint64(1)))
                    i += taken
                is_wide = (word >> np.uint64(8 * taken)) & np.uint64(0x80) != 0 and taken < left
                is_done = True
            if not is_done:
                i += 1  # ASCII white space
                continue
            if is_wide:
                i, points, digest, kind = wide_token(data, begin, end, blocks, entries)
                if kind == SPACE:
                    continue
                kind_of_word = kind == WORD
            else:
                points = i - begin
                digest = mix(state ^ np.uint64(points))
            if count == capacity:
                return d, document[d]
            hashes[count] = digest
            starts[count] = begin
            sizes[count] = i - begin
            chars[count] = points
            is_word[count] = kind_of_word
            count += 1
        document[d + 1] = count
    return len(offsets) - 1, count
