"""Decoding, character entries and normal form C, from the committed table of kernels/unicode_table.py."""

import re
import unicodedata
from functools import cache, lru_cache

import numpy as np

from tamis.kernels.arrow import Int64, Text, UInt8
from tamis.kernels.bits import HIGH_BITS, load8
from tamis.kernels.kernel import kernel
from tamis.kernels.unicode_table import NEVER_NFC, UNASSIGNED, Table, load_table

TABLE = load_table()
REPLACEMENT = 0xFFFD


@kernel
def entry_of(table: Table, point: int) -> int:
    """The table entry of one code point."""
    return table.entries[(table.blocks[point >> 7] << 7) | (point & 127)]  # type: ignore[no-any-return]


@kernel
def decode(data: UInt8, i: int, end: int) -> tuple[int, int]:
    """(code point, bytes) at data[i:end]; a byte that starts no UTF-8 sequence is U+FFFD of one byte."""
    a = np.int64(data[i])
    if a < 0x80:
        return a, 1  # type: ignore[return-value]
    size = 2 if a < 0xE0 else 3 if a < 0xF0 else 4
    if a < 0xC2 or a > 0xF4 or i + size > end:
        return REPLACEMENT, 1
    point = a & (0x7F >> size)
    for j in range(1, size):
        b = np.int64(data[i + j])
        if b & 0xC0 != 0x80:
            return REPLACEMENT, 1
        point = (point << 6) | (b & 0x3F)
    if point > 0x10FFFF:
        return REPLACEMENT, 1
    return point, size  # type: ignore[return-value]


@kernel
def doubtful_runs(text: Text, table: Table) -> tuple[Int64, Int64, Int64]:
    """(document, start, end) of the runs that fail the NFC quick check: int64, (r) each; all others are in normal form.

    A run is non-ASCII characters in a row and the ASCII character before them, which nothing that is composed or
    reordered crosses. Documents that are not UTF-8 have none. start, end : positions in `text.data`.
    Source: Unicode Standard Annex 15, section 9.
    """
    data = text.data
    size, count = 64, 0
    found = np.empty((3, size), np.int64)
    for d in range(len(text.offsets) - 1):
        i, end = text.offsets[d], text.offsets[d + 1]
        before = count
        while i < end:
            if data[i] < 0x80:
                i += 1
                while i + 8 <= end and load8(data, i) & HIGH_BITS == 0:
                    i += 8
                continue
            start = i - 1 if i > text.offsets[d] else i
            is_doubtful, last_class = False, 0
            while i < end and data[i] >= 0x80:
                point, width = decode(data, i, end)
                if point == REPLACEMENT and width == 1:
                    count, i = before, end  # not UTF-8: nothing of this document is touched
                    is_doubtful = False
                    break
                entry = entry_of(table, point)
                combining = (entry >> 4) & 0xFF
                if entry & NEVER_NFC or (combining != 0 and combining < last_class):
                    is_doubtful = True
                last_class = combining
                i += width
            if is_doubtful:
                if count == size:
                    found = np.concatenate((found, np.empty((3, size), np.int64)), axis=1)
                    size *= 2
                found[0, count], found[1, count], found[2, count] = d, start, i
                count += 1
    return found[0, :count], found[1, :count], found[2, :count]


def nfc(text: Text) -> Text:
    """The same documents in Unicode normal form C; `text` itself when the quick check passes for all of them.

    A document with invalid UTF-8 keeps its bytes. The normal form is that of the table's Unicode version.
    """
    pieces: list[bytes | memoryview] = []
    growth = np.zeros(len(text), np.int64)
    copied = int(text.offsets[0])
    runs = doubtful_runs(text, TABLE)
    for document, start, end in zip(*(column.tolist() for column in runs), strict=True):
        old = text.data[start:end].tobytes()
        new = _normalize(old)
        if new is not old:
            pieces += [text.data[copied:start].data, new]
            growth[document] += len(new) - len(old)
            copied = end
    if not pieces:
        return text
    pieces.append(text.data[copied : int(text.offsets[-1])].data)
    offsets = text.offsets - text.offsets[0]
    offsets[1:] += np.cumsum(growth)
    return Text(offsets, np.frombuffer(b"".join(pieces), np.uint8))


@lru_cache(maxsize=1 << 16)
def _normalize(old: bytes) -> bytes:
    """A run in normal form C; itself if it is. Texts of one language have few that the quick check doubts."""
    characters = old.decode()
    parts = _newer().split(characters) if _has_unassigned(characters) else [characters]
    parts[::2] = [unicodedata.normalize("NFC", part) for part in parts[::2]]  # nothing moves across a newer character
    new = "".join(parts).encode()
    return old if new == old else new


def _has_unassigned(characters: str) -> bool:
    points = np.frombuffer(characters.encode("utf-32-le"), np.uint32)
    points = points[points >= 0x80]
    return bool((TABLE.entries[(TABLE.blocks[points >> 7] << 7) | (points & 127)] & UNASSIGNED).any())


@cache
def _newer() -> re.Pattern[str]:
    """A character that the table does not know (a newer Python might)."""
    unknown = (TABLE.entries.reshape(-1, 128)[TABLE.blocks].ravel() & UNASSIGNED) != 0
    edges = np.flatnonzero(np.diff(unknown, prepend=False, append=False)).reshape(-1, 2)
    return re.compile("([" + "".join(f"{chr(first)}-{chr(after - 1)}" for first, after in edges.tolist()) + "])")
