r"""Words and punctuation runs of documents, hashed: the one reading of the text that all components of a pass share.

The tokens are `\w+|[^\w\s]+` (WordPunct, as in DSIR) of the text in normal form C, with the character classes of
kernels/unicode_table.py. The hash of a token is that of its lower-cased UTF-8 bytes: `absorb` each eight bytes as a
little-endian integer, zeros after the end, starting from `GOLDEN`; then `mix(state ^ length in bytes)`. Tokens of
equal length up to eight bytes never collide.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Int64, Text, UInt8, UInt64
from tamis.kernels.bits import GOLDEN, HIGH_BITS, LOW_BITS, absorb, load8, load_tail, mix, trailing_zeros
from tamis.kernels.kernel import kernel
from tamis.kernels.unicode import TABLE, decode, entry_of, nfc
from tamis.kernels.unicode_table import KIND, SPACE, WORD, Table

Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

LEAST_BYTES_PER_TOKEN = 3  # first guess, untouched memory costs nothing; English prose has about 5

FIRST = np.uint64(0x80)  # the high bit of the first byte
BELOW = np.array([2 ** (8 * n) - 1 for n in range(9)], np.uint64)  # the first n bytes


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


class _Columns(NamedTuple):
    """Room for tokens, as in `Tokens`."""

    hash: UInt64
    start: Int64
    bytes: Int32
    chars: Int32
    is_word: Bool


def tokenize(text: Text) -> Tokens:
    """The tokens of all documents. Raises ValueError for a batch of 2 GiB or more."""
    size = int(text.offsets[-1] - text.offsets[0])
    if size >= 2**31:
        raise ValueError(f"tokenize: a batch is less than 2 GiB, got {size} bytes; read smaller batches")
    text = nfc(text)
    document = np.zeros(len(text) + 1, np.int64)
    columns = _columns(size // LEAST_BYTES_PER_TOKEN + 64)
    done = 0
    while done < len(text):
        done = _tokenize(text, TABLE, document, done, columns)
        if done < len(text):
            columns = _grown(columns, document[done])
    return Tokens(document, *(column[: document[-1]] for column in columns), text=text)  # type: ignore[arg-type,misc]


def _columns(capacity: int) -> _Columns:
    kinds = (np.uint64, np.int64, np.int32, np.int32, np.bool_)
    return _Columns(*(np.empty(capacity, kind) for kind in kinds))  # type: ignore[arg-type]


def _grown(columns: _Columns, used: int) -> _Columns:
    larger = _columns(2 * len(columns.hash))
    larger.hash[:used] = columns.hash[:used]
    larger.start[:used] = columns.start[:used]
    larger.bytes[:used] = columns.bytes[:used]
    larger.chars[:used] = columns.chars[:used]
    larger.is_word[:used] = columns.is_word[:used]
    return larger


@kernel
def between(word: np.uint64, first: int, last: int) -> np.uint64:
    """The high bit of each byte of `word` (all below 128) that lies in first..last."""
    ones = np.uint64(0x0101010101010101)
    return (word + ones * np.uint64(128 - first)) & ~(word + ones * np.uint64(127 - last)) & HIGH_BITS


@kernel
def ascii_words(word: np.uint64) -> np.uint64:
    """The high bit of each byte that is an ASCII letter, digit or underscore."""
    low = word & LOW_BITS
    letters = between(low | np.uint64(0x2020202020202020), 0x61, 0x7A)
    return (letters | between(low, 0x30, 0x39) | between(low, 0x5F, 0x5F)) & ~word


@kernel
def ascii_spaces(word: np.uint64) -> np.uint64:
    """The high bit of each byte that is ASCII white space (as `str.isspace` has it)."""
    low = word & LOW_BITS
    return (between(low, 0x09, 0x0D) | between(low, 0x1C, 0x20)) & ~word


@kernel
def ascii_lower(word: np.uint64) -> np.uint64:
    """The same bytes with A to Z in lower case."""
    return word | ((between(word & LOW_BITS, 0x41, 0x5A) & ~word) >> np.uint64(2))


@kernel
def wide_token(data: UInt8, i: int, end: int, table: Table) -> tuple[int, int, np.uint64, int]:
    """(end, code points, hash, class) of the token that starts at data[i], one code point at a time.

    White space is returned as a token too, of class SPACE.
    """
    point, size = decode(data, i, end)
    entry = entry_of(table, point)
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
        entry = entry_of(table, point)
    if filled:
        state = absorb(state, word)
    return i, chars, mix(state ^ np.uint64(length)), kind


@kernel
def _stops(word: np.uint64, words: np.uint64, spaces: np.uint64, is_letters: bool, left: int) -> tuple[np.uint64, int]:
    """The bytes that end a run of letters (or of symbols), and how many come before the first of them."""
    members = words if is_letters else ~(words | spaces | word)
    stops = ~members & HIGH_BITS
    if left < 8:
        stops |= HIGH_BITS << np.uint64(8 * left)
    return stops, np.int64(trailing_zeros(stops)) >> 3  # type: ignore[return-value]


@kernel
def _tokenize(text: Text, table: Table, document: Int64, done: int, columns: _Columns) -> int:
    """Tokens of the documents from `done` on; the number of documents done, stopping before one that overflows."""
    data = text.data
    count = document[done]
    for d in range(done, len(text.offsets) - 1):
        i, end = text.offsets[d], text.offsets[d + 1]
        while i < end:
            begin = i
            left = end - i
            word = load8(data, i) if left >= 8 else load_tail(data, i, end)
            words, spaces = ascii_words(word), ascii_spaces(word)
            if spaces & FIRST:
                i += 1
                continue
            is_letters = words & FIRST != 0
            stops, taken = _stops(word, words, spaces, is_letters, left)
            state = absorb(GOLDEN, ascii_lower(word) & BELOW[taken])
            while taken == 8 and left > 8:
                i += 8
                left -= 8
                word = load8(data, i) if left >= 8 else load_tail(data, i, end)
                words, spaces = ascii_words(word), ascii_spaces(word)
                stops, taken = _stops(word, words, spaces, is_letters, left)
                if taken:
                    state = absorb(state, ascii_lower(word) & BELOW[taken])
            i += taken
            points = i - begin
            if i < end and (word & stops) >> np.uint64(8 * taken) & FIRST != 0:
                i, points, digest, kind = wide_token(data, begin, end, table)
                if kind == SPACE:
                    continue
                is_letters = kind == WORD
                after = i
            else:
                digest = mix(state ^ np.uint64(points))
                after = i + np.int64((spaces >> np.uint64(8 * taken + 7)) & np.uint64(1)) if left > taken else i
            if count == len(columns.hash):
                return d
            columns.hash[count] = digest
            columns.start[count] = begin
            columns.bytes[count] = i - begin
            columns.chars[count] = points
            columns.is_word[count] = is_letters
            count += 1
            i = after
        document[d + 1] = count
    return len(text.offsets) - 1


@kernel
def count_words(tokens: Tokens) -> Int64:
    """How many tokens of each document are words: int64, (n)."""
    counts = np.zeros(len(tokens.document) - 1, np.int64)
    for d in range(len(counts)):
        for i in range(tokens.document[d], tokens.document[d + 1]):
            counts[d] += tokens.is_word[i]
    return counts
