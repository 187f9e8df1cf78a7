"""Decoding, character entries and normal form C, from the committed table of kernels/unicode_table.py."""

import re
import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

from tamis.kernels.arrow import Text, UInt8
from tamis.kernels.bits import HIGH_BITS, load8
from tamis.kernels.kernel import kernel
from tamis.kernels.unicode_table import NEVER_NFC, UNASSIGNED, Table, load_table

TABLE = load_table()
REPLACEMENT = 0xFFFD
WIDE_RUN = re.compile(r"[\0-\x7f]?[^\0-\x7f]+")  # characters composed with or moved past stay inside


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
def unsure_nfc(text: Text, table: Table) -> npt.NDArray[np.bool_]:
    """Which documents fail the NFC quick check: bool, (n); the others are certainly in normal form.

    Source: Unicode Standard Annex 15, section 9.
    """
    data = text.data
    out = np.zeros(len(text.offsets) - 1, np.bool_)
    for d in range(len(out)):
        i, end = text.offsets[d], text.offsets[d + 1]
        last_class = 0
        while i < end:
            if data[i] < 0x80:
                last_class = 0
                i += 1
                while i + 8 <= end and load8(data, i) & HIGH_BITS == 0:
                    i += 8
                continue
            point, size = decode(data, i, end)
            entry = entry_of(table, point)
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
    unsure = np.flatnonzero(unsure_nfc(text, TABLE))
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
    parts = _newer().split(characters) if _has_unassigned(characters) else [characters]
    parts[::2] = [_composed(part) for part in parts[::2]]  # nothing moves across a newer character
    return "".join(parts).encode()


def _has_unassigned(characters: str) -> bool:
    points = np.frombuffer(characters.encode("utf-32-le"), np.uint32)
    points = points[points >= 0x80]
    return bool((TABLE.entries[(TABLE.blocks[points >> 7] << 7) | (points & 127)] & UNASSIGNED).any())


def _composed(part: str) -> str:
    """Most documents that the quick check doubts are in normal form after all."""
    return part if unicodedata.is_normalized("NFC", part) else WIDE_RUN.sub(_compose, part)


def _compose(run: re.Match[str]) -> str:
    return unicodedata.normalize("NFC", run[0])


@cache
def _newer() -> re.Pattern[str]:
    """A character that the table does not know (a newer Python might)."""
    unknown = (TABLE.entries.reshape(-1, 128)[TABLE.blocks].ravel() & UNASSIGNED) != 0
    edges = np.flatnonzero(np.diff(unknown, prepend=False, append=False)).reshape(-1, 2)
    return re.compile("([" + "".join(f"{chr(first)}-{chr(after - 1)}" for first, after in edges.tolist()) + "])")
