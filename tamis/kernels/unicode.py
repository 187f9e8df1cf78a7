"""Decoding, character entries and normal form C, from the committed table of kernels/unicode_table.py."""

import unicodedata

import numpy as np
import numpy.typing as npt
from numba import njit

from tamis.kernels.arrow import Int64, Text, UInt8
from tamis.kernels.bits import HIGH_BITS, load8
from tamis.kernels.unicode_table import NEVER_NFC, UNASSIGNED, Table, load_table

TABLE = load_table()
REPLACEMENT = 0xFFFD


@njit(cache=True, nogil=True)
def entry_of(blocks: npt.NDArray[np.int32], entries: npt.NDArray[np.int32], point: int) -> int:
    """The table entry of one code point."""
    return entries[(blocks[point >> 7] << 7) | (point & 127)]


@njit(cache=True, nogil=True)
def decode(data: UInt8, i: int, end: int) -> tuple[int, int]:
    """(code point, bytes) at data[i:end]; a byte that starts no UTF-8 sequence is U+FFFD of one byte."""
    a = np.int64(data[i])
    if a < 0x80:
        return a, 1
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
    return point, size


@njit(cache=True, nogil=True)
def unsure_nfc(
    offsets: Int64, data: UInt8, blocks: npt.NDArray[np.int32], entries: npt.NDArray[np.int32]
) -> npt.NDArray[np.bool_]:
    """Which documents fail the NFC quick check: bool, (n); the others are certainly in normal form.

    Source: Unicode Standard Annex 15, section 9.
    """
    out = np.zeros(len(offsets) - 1, np.bool_)
    for d in range(len(out)):
        i, end = offsets[d], offsets[d + 1]
        last_class = 0
        while i < end:
            if data[i] < 0x80:
                last_class = 0
                i += 1
                while i + 8 <= end and load8(data, i) & HIGH_BITS == 0:
                    i += 8
                continue
            point, size = decode(data, i, end)
            entry = entry_of(blocks, entries, point)
            combining = (entry >> 4) & 0xFF
            if entry & NEVER_NFC or (combining != 0 and combining < last_class):
                out[d] = True
                break
            last_class = combining
            i += size
    return out


def nfc(text: Text) -> Text:
    """The same documents in Unicode normal form C; `text` itself when the quick check passes for all of them.

    A document with invalid UTF-8 keeps its bytes. The normal form is that of the table's Unicode version.
    """
    unsure = np.flatnonzero(unsure_nfc(text.offsets, text.data, *TABLE))
    pieces: list[bytes | memoryview] = []
    growth = np.zeros(len(text), np.int64)
    copied = int(text.offsets[0])
    for d in unsure:
        start, end = int(text.offsets[d]), int(text.offsets[d + 1])
        old = text.data[start:end].tobytes()
        new = _normalize(old)
        if new != old:
            pieces += [text.data[copied:start].data, new]
            growth[d], copied = len(new) - len(old), end
    if not pieces:
        return text
    pieces.append(text.data[copied : int(text.offsets[-1])].data)
    offsets = text.offsets - text.offsets[0]
    offsets[1:] += np.cumsum(growth)
    return Text(offsets, np.frombuffer(b"".join(pieces), np.uint8))


def _normalize(old: bytes) -> bytes:
    try:
        characters = old.decode()
    except UnicodeDecodeError:
        return old
    points = np.frombuffer(characters.encode("utf-32-le"), np.uint32)
    entries = TABLE.entries[(TABLE.blocks[points >> 7] << 7) | (points & 127)]
    pieces, start = [], 0
    for i in np.flatnonzero(entries & UNASSIGNED):  # newer characters stay, and nothing moves across them
        pieces += [unicodedata.normalize("NFC", characters[start:i]), characters[i]]
        start = i + 1
    pieces.append(unicodedata.normalize("NFC", characters[start:]))
    return "".join(pieces).encode()
