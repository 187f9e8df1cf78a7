"""Lines and paragraphs: how many, and how much of a document repeats earlier ones."""

import numpy as np

from tamis.kernels.arrow import Int64, Text, UInt8
from tamis.kernels.bits import GOLDEN, HIGH_BITS, LOW_BITS, MIX_A, absorb, load8, load_tail, mix, trailing_zeros
from tamis.kernels.kernel import kernel
from tamis.kernels.table import Slots, find, slots_for

NEWLINE = 10
NEWLINES = np.uint64(0x0A0A0A0A0A0A0A0A)
PARAGRAPH = MIX_A  # sets paragraphs apart from lines in one hash table
# columns of `repeated_lines`
LINES, LINE_CHARS, PARAGRAPHS, PARAGRAPH_CHARS = 0, 1, 2, 3


@kernel
def line_end(data: UInt8, i: int, end: int) -> int:
    """The position of the first newline of data[i:end], or `end`."""
    while i + 8 <= end:
        different = load8(data, i) ^ NEWLINES
        found = ~(((different & LOW_BITS) + LOW_BITS) | different) & HIGH_BITS
        if found:
            return i + (np.int64(trailing_zeros(found)) >> 3)  # type: ignore[return-value]
        i += 8
    while i < end and data[i] != NEWLINE:
        i += 1
    return i


@kernel
def code_points(data: UInt8, i: int, end: int) -> int:
    """The number of UTF-8 characters of data[i:end]: of bytes that continue none."""
    count = end - i
    while i + 8 <= end:
        word = load8(data, i)
        if word & HIGH_BITS:
            for j in range(i, i + 8):
                count -= data[j] & 0xC0 == 0x80
        i += 8
    for j in range(i, end):
        count -= data[j] & 0xC0 == 0x80
    return count


@kernel
def count_lengths(text: Text) -> tuple[Int64, Int64]:
    """(code points, lines) of each document: int64, (n) each; a last line without a newline counts as one."""
    n = len(text.offsets) - 1
    chars, lines = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for d in range(n):
        i, end = text.offsets[d], text.offsets[d + 1]
        chars[d] = code_points(text.data, i, end)
        while i < end:
            i = line_end(text.data, i, end) + 1
            lines[d] += 1
    return chars, lines


@kernel
def _is_blank(byte: int) -> bool:
    return byte == 32 or 9 <= byte <= 13


@kernel
def _hash_bytes(data: UInt8, i: int, end: int) -> np.uint64:
    state = GOLDEN ^ np.uint64(end - i)
    while i + 8 <= end:
        state = absorb(state, load8(data, i))
        i += 8
    return mix(absorb(state, load_tail(data, i, end)))


@kernel
def _repeats(slots: Slots, key: np.uint64, mask: int) -> bool:
    """Whether `key` was there before; it is from now on."""
    at = find(slots, key, mask)
    if slots.stamp[at] == slots.round[0]:
        return True
    slots.stamp[at] = slots.round[0]
    slots.key[at] = key
    return False


@kernel
def repeated_lines(text: Text) -> tuple[Int64, Int64]:
    """(all, repeated) lines, their characters, paragraphs and their characters: int64, (n, 4) each.

    A line ends at a newline and is taken without ASCII white space at its ends; blank lines part paragraphs and count
    for nothing. A line or paragraph is repeated if it equals an earlier one of its document: what could be deleted.
    """
    n = len(text.offsets) - 1
    total, repeated = np.zeros((n, 4), np.int64), np.zeros((n, 4), np.int64)
    slots = slots_for(16)
    for d in range(n):
        i, end = text.offsets[d], text.offsets[d + 1]
        lines = 1
        while i < end:
            i = line_end(text.data, i, end) + 1
            lines += 1
        if 4 * lines > len(slots.key):
            slots = slots_for(4 * lines)
        mask = 15
        while mask + 1 < 4 * lines:
            mask = 2 * mask + 1
        slots.round[0] += 1
        i = text.offsets[d]
        paragraph, paragraph_chars = PARAGRAPH, 0
        while i <= end:
            stop = line_end(text.data, i, end)
            first, last = i, stop
            while first < last and _is_blank(text.data[first]):
                first += 1
            while last > first and _is_blank(text.data[last - 1]):
                last -= 1
            chars = 0
            if first < last:
                chars = code_points(text.data, first, last)
                key = _hash_bytes(text.data, first, last)
                total[d, LINES] += 1
                total[d, LINE_CHARS] += chars
                if _repeats(slots, key, mask):
                    repeated[d, LINES] += 1
                    repeated[d, LINE_CHARS] += chars
                paragraph = absorb(paragraph ^ (paragraph >> np.uint64(7)), key)
                paragraph_chars += chars
            i = stop + 1
            if paragraph_chars and (chars == 0 or i > end):
                total[d, PARAGRAPHS] += 1
                total[d, PARAGRAPH_CHARS] += paragraph_chars
                if _repeats(slots, mix(paragraph), mask):
                    repeated[d, PARAGRAPHS] += 1
                    repeated[d, PARAGRAPH_CHARS] += paragraph_chars
                paragraph, paragraph_chars = PARAGRAPH, 0
    return total, repeated
