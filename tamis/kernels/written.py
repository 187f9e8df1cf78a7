"""Tokens as they are written: a text cut at white space and between words and symbols, with hashes of the bytes."""

from typing import NamedTuple

import numpy as np

from tamis.kernels.arrow import Int64, Text, UInt8, UInt64
from tamis.kernels.bits import GOLDEN, absorb, load8, load_tail, mix
from tamis.kernels.kernel import kernel
from tamis.kernels.unicode import TABLE, decode, entry_of
from tamis.kernels.unicode_table import KIND, SPACE, Table
from tamis.kernels.words import BELOW, Bool

LEAST_BYTES_PER_TOKEN = 3  # first guess, untouched memory costs nothing; English prose has about 5


class Written(NamedTuple):
    """t tokens of n documents as they are written; document i has tokens document[i] to document[i + 1].

    document : int64, (n + 1), from 0. start, end : int64, (t), the token is `data[start:end]` of the text.
    alone : uint64, (t), a hash of its bytes. joined : uint64, (t), one of the white space before it and its bytes.
    """

    document: Int64
    start: Int64
    end: Int64
    alone: UInt64
    joined: UInt64


def written(text: Text, wanted: Bool, is_character: bool) -> Written:
    r"""The tokens of the documents that are wanted; the others have none.

    Tokens are `\w+|[^\w\s]+` of the text as it is, not of a normal form, except that each Han or kana character is one
    token: those scripts put no spaces between words. With `is_character` every code point is a token, white space too.
    """
    document = np.zeros(len(text) + 1, np.int64)
    capacity = int(text.offsets[-1] - text.offsets[0]) // (1 if is_character else LEAST_BYTES_PER_TOKEN) + 64
    while True:
        out = Written(document, *_room(capacity))
        count = _write(text, TABLE, wanted, is_character, out)
        if count <= capacity:
            return Written(document, *(column[:count] for column in out[1:]))  # type: ignore[arg-type]
        capacity *= LEAST_BYTES_PER_TOKEN


def _room(capacity: int) -> tuple[Int64, Int64, UInt64, UInt64]:
    places, hashes = np.empty((2, capacity), np.int64), np.empty((2, capacity), np.uint64)
    return places[0], places[1], hashes[0], hashes[1]


@kernel
def hash_bytes(data: UInt8, i: int, end: int) -> np.uint64:
    """A hash of data[i:end]; of equal lengths up to eight bytes, no two are equal."""
    state, length = GOLDEN, np.uint64(end - i)
    while i < end:
        state = absorb(state, load8(data, i) if i + 8 <= end else load_tail(data, i, end))
        i += 8
    return mix(state ^ length)


@kernel
def is_unspaced(point: int) -> bool:
    """Whether a code point is a Han, Hiragana or Katakana letter: of a script without spaces between words."""
    return (
        0x3005 <= point <= 0x3007
        or 0x3040 <= point <= 0x30FF
        or 0x31F0 <= point <= 0x31FF
        or 0x3400 <= point <= 0x4DBF
        or 0x4E00 <= point <= 0x9FFF
        or 0xF900 <= point <= 0xFAFF
        or 0xFF66 <= point <= 0xFF9F
        or 0x1AFF0 <= point <= 0x1B16F
        or 0x20000 <= point <= 0x3FFFF
    )


@kernel
def _wide(data: UInt8, i: int, end: int, table: Table) -> tuple[int, int, bool]:
    """(class, bytes, whether it is always a token of its own) of the code point at data[i]."""
    point, size = decode(data, i, end)
    return entry_of(table, point) & KIND, size, is_unspaced(point)


@kernel
def _write(text: Text, table: Table, wanted: Bool, is_character: bool, out: Written) -> int:
    """Fills `out`; the number of tokens, or more than there is room for if they did not fit."""
    data, count, room = text.data, 0, len(out.start)
    kinds = np.empty(128, np.int32)  # of ASCII: calls with arrays cost more than the look-up
    for byte in range(128):
        kinds[byte] = entry_of(table, byte) & KIND
    nothing = mix(GOLDEN)  # the hash of no bytes
    whole = len(data) - 8  # eight bytes can be read at once up to here
    for d in range(len(wanted)):
        i, end = text.offsets[d], text.offsets[d + 1]
        if not wanted[d]:
            i = end
        after = i  # the end of the last token
        while i < end:
            byte = int(data[i])
            kind, size, is_apart = (kinds[byte], 1, False) if byte < 0x80 else _wide(data, i, end, table)
            start = i
            i += size
            if kind == SPACE and not is_character:
                continue
            is_apart |= is_character
            while i < end and not is_apart:
                byte = int(data[i])
                other, size, stops = (kinds[byte], 1, False) if byte < 0x80 else _wide(data, i, end, table)
                if other != kind or stops:
                    break
                i += size
            if count == room:
                return room + 1
            length, gap = i - start, start - after
            if length <= 8 and start <= whole:
                alone = mix(absorb(GOLDEN, load8(data, start) & BELOW[length]) ^ np.uint64(length))
            else:
                alone = hash_bytes(data, start, i)
            if gap == 0:
                before = nothing
            elif gap == 1:
                before = mix(absorb(GOLDEN, np.uint64(data[after])) ^ np.uint64(1))
            else:
                before = hash_bytes(data, after, start)
            out.start[count], out.end[count] = start, i
            out.alone[count], out.joined[count] = alone, mix(absorb(before, alone))
            count += 1
            after = i
        out.document[d + 1] = count
    return count
