r"""Character classes, lower case and normal form from one committed table, whatever Python runs.

An entry is an int32: bits 0 and 1 class (OTHER, WORD, SPACE), bit 2 "may not be in normal form C", bit 3 unassigned,
bits 4 to 11 canonical combining class, bits 12 and up the signed distance to the lower-case code point.
WORD is Python's `\w` (alphanumeric or underscore), SPACE is `str.isspace`. Lower case is one code point for one:
İ (U+0130) becomes a plain i, and a capital sigma becomes σ wherever it stands.

`python -m tamis.kernels.unicode_table` writes unicode.bin. The committed file holds Unicode 14.0, as in Python 3.11,
the oldest we support: characters that newer Pythons know are unassigned here, everywhere and always.
Writing it with another version changes results.
"""

import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FILE = Path(__file__).with_name("unicode.bin")
MAGIC = b"TAMISUC1"
POINTS = 0x110000
BLOCK = 128
OTHER, WORD, SPACE = 0, 1, 2
KIND = 3
NEVER_NFC = 4  # alone, or after some other character
UNASSIGNED = 8


class Table(NamedTuple):
    """The entry of code point c is `entries[blocks[c >> 7] << 7 | c & 127]`.

    blocks : int32, (8704). entries : int32, (blocks x 128).
    """

    blocks: npt.NDArray[np.int32]
    entries: npt.NDArray[np.int32]


def load_table(path: Path = FILE) -> Table:
    """The committed table, spread out for fast look-up. Raises ValueError if the file is not one of ours."""
    content = path.read_bytes()
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path}: not a Unicode table; write it with python -m tamis.kernels.unicode_table")
    head = np.frombuffer(content, "<u4", 5, len(MAGIC))
    at = len(MAGIC) + head.nbytes
    entries = np.frombuffer(content, "<i4", int(head[3]), at)
    at += entries.nbytes
    block_of = np.frombuffer(content, "<u2", POINTS // BLOCK, at)
    blocks = np.frombuffer(content, "<u2", int(head[4]) * BLOCK, at + block_of.nbytes)
    return Table(block_of.astype(np.int32), entries[blocks].astype(np.int32))


HANGUL_VOWELS_AND_TAILS = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # compose by rule, not by table


def second_halves() -> set[int]:
    """Code points that may compose with the one before them (quick check "maybe")."""
    seconds = set(HANGUL_VOWELS_AND_TAILS)
    for point in range(POINTS):
        parts = unicodedata.decomposition(chr(point)).split()
        if len(parts) == 2 and parts[0][0] != "<" and unicodedata.is_normalized("NFC", chr(point)):
            seconds.add(int(parts[1], 16))
    return seconds


def entry(point: int, seconds: set[int]) -> int:
    """One code point's facts in one integer; the layout is described above."""
    character = chr(point)
    kind = WORD if character.isalnum() or character == "_" else SPACE if character.isspace() else OTHER
    unsure = point in seconds or unicodedata.normalize("NFC", character) != character
    unassigned = unicodedata.category(character) == "Cn"
    lower = ord(character.lower()[0])  # U+0130 is the only one with two code points: the dot is dropped
    flags = kind | (NEVER_NFC if unsure else 0) | (UNASSIGNED if unassigned else 0)
    return (lower - point) << 12 | unicodedata.combining(character) << 4 | flags


def table() -> bytes:
    """The file: magic, Unicode version (3), number of entries, number of blocks; entries, block numbers, blocks."""
    seconds = second_halves()
    entries, which = np.unique([entry(point, seconds) for point in range(POINTS)], return_inverse=True)
    blocks, block_of = np.unique(which.reshape(-1, BLOCK), axis=0, return_inverse=True)
    version = [int(part) for part in unicodedata.unidata_version.split(".")]
    head = np.array([*version, len(entries), len(blocks)], "<u4")
    arrays = (head, entries.astype("<i4"), block_of.ravel().astype("<u2"), blocks.astype("<u2"))
    return MAGIC + b"".join(array.tobytes() for array in arrays)


if __name__ == "__main__":
    FILE.write_bytes(table())
