"""Text cut at newlines: blocks of whole lines, each with the byte where it starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from tamis.ingest.chunks import Part
from tamis.ingest.streams import DamagedError, read_pieces, text_pieces

LONGEST_LINE = 256 << 20  # bytes; a longer one is quarantined, so that memory stays bounded
TAIL = 64 << 10  # bytes read at once beyond the end of a range, to finish its last line
SHOWN = 1024  # bytes kept of what cannot be read


class Block(NamedTuple):
    """Lines without their newlines, one after the other from byte `offset` of the text.

    reason : why the only line of this block, which may be shortened, is no document; None for lines to be parsed.
    """

    offset: int
    lines: list[bytes]
    reason: str | None = None


def blocks(part: Part) -> Iterator[Block]:
    """The lines of a part. A stream that breaks ends with a block that says why, holding the line it broke in."""
    if part.end is None:
        return cut(text_pieces(part.file))
    skipped, pieces = _owned(part, part.end)
    return cut(pieces, part.start + skipped)


def _owned(part: Part, end: int) -> tuple[int, Iterator[bytes]]:
    """The lines that start in a range of bytes: how many bytes of the range they leave out first, and the lines."""
    pieces = read_pieces(part.file, part.start, end)
    if part.start == 0:
        return 0, _finished(pieces, part, end)
    (before,) = read_pieces(part.file, part.start - 1, part.start)
    skipped = 0
    if before == b"\n":
        return 0, _finished(pieces, part, end)
    for piece in pieces:
        newline = piece.find(b"\n")
        if newline >= 0:
            skipped += newline + 1
            if part.start + skipped == end:
                return skipped, iter(())
            return skipped, _finished(chain([piece[newline + 1 :]], pieces), part, end)
        skipped += len(piece)
    return skipped, iter(())


def _finished(pieces: Iterator[bytes], part: Part, end: int) -> Iterator[bytes]:
    """The pieces of a range that begins with a line, and what its last line has beyond the end."""
    last = b""
    for piece in pieces:
        last = piece or last
        yield piece
    if last.endswith(b"\n"):
        return
    for piece in read_pieces(part.file, end, piece=TAIL):
        newline = piece.find(b"\n")
        if newline >= 0:
            yield piece[: newline + 1]
            return
        yield piece


def cut(pieces: Iterable[bytes], offset: int = 0, longest_line: int = LONGEST_LINE) -> Iterator[Block]:
    """Blocks of whole lines, from pieces that break anywhere; only a line within one piece may be any length."""
    held: list[bytes] = []  # what has come of a line without its newline; no more than SHOWN bytes once it is too long
    length = 0
    try:
        for piece in pieces:
            first, last = piece.find(b"\n"), piece.rfind(b"\n")
            if first >= 0:
                yield _line(offset, [*held, piece[:first]], length + first, longest_line)
                offset += length + first + 1
                if last > first:
                    yield Block(offset, piece[first + 1 : last].split(b"\n"))
                    offset += last - first
                held, length = [], 0
            held.append(piece[last + 1 :])
            length += len(held[-1])
            if length > longest_line:
                held = [b"".join(held)[:SHOWN]]
    except DamagedError as error:
        yield Block(offset, [b"".join(held)[:SHOWN]], str(error))
        return
    if length:
        yield _line(offset, held, length, longest_line)


def _line(offset: int, held: list[bytes], length: int, longest_line: int) -> Block:
    if length > longest_line:
        return Block(offset, [b"".join(held)[:SHOWN]], f"a line of {length} bytes, longer than {longest_line}")
    return Block(offset, [b"".join(held)])
