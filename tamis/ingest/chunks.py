"""How a corpus is cut into tasks: large plain files by byte ranges, small files together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tamis.ingest.sources import SourceFile
from tamis.ingest.streams import read_pieces, wrapping

MOST_FILES = 64  # in one chunk, so that a task stays small when the files are tiny
COMPRESSION = 4  # guessed ratio of text to compressed bytes; only decides which small files share a chunk


@dataclass(frozen=True)
class Part:
    """The lines of a file that start in the stored bytes [start, end); end None: the whole file, however it is wrapped.

    first_line : number of its first line in the file, from 1; None until the lines before it are counted.
    """

    file: SourceFile
    start: int = 0
    end: int | None = None
    first_line: int | None = 1


@dataclass(frozen=True)
class Chunk:
    """What one task converts: one part of a large file, or several small files."""

    parts: tuple[Part, ...]

    @property
    def is_split(self) -> bool:
        """Whether this is a part of a file, whose lines have to be counted before it can be converted."""
        return self.parts[0].end is not None


def plan(files: Sequence[SourceFile], target_bytes: int) -> list[Chunk]:
    """Chunks of about `target_bytes` of text, in the order of the files."""
    if target_bytes < 1:
        raise ValueError(f"target_bytes: must be positive, got {target_bytes}")
    chunks: list[Chunk] = []
    small: list[Part] = []
    room = target_bytes
    for file in files:
        size = _text_bytes(file)
        if small and (size > room or len(small) == MOST_FILES):
            chunks.append(Chunk(tuple(small)))
            small, room = [], target_bytes
        if _can_split(file, target_bytes):
            chunks.extend(_ranges(file, target_bytes))
        else:
            small.append(Part(file))
            room -= size
    return [*chunks, Chunk(tuple(small))] if small else chunks


def count_lines(chunk: Chunk) -> int:
    """How many lines start in a chunk that is a part of a file."""
    (part,) = chunk.parts
    assert part.end is not None
    first = part.start == 0
    # A line starts after each newline: one byte earlier than the range, and its last byte starts nothing in it.
    pieces = read_pieces(part.file, max(part.start - 1, 0), part.end - 1)
    return first + sum(piece.count(b"\n") for piece in pieces)


def numbered(chunks: Sequence[Chunk], counts: Sequence[int]) -> list[Chunk]:
    """The chunks with their line numbers; counts: `count_lines` of those that are split, in order."""
    return list(_numbered(chunks, counts))


def _numbered(chunks: Sequence[Chunk], counts: Sequence[int]) -> Iterator[Chunk]:
    waiting = iter(counts)
    line = 1
    for chunk in chunks:
        if not chunk.is_split:
            yield chunk
            continue
        part = chunk.parts[0]
        line = 1 if part.start == 0 else line
        yield Chunk((replace(part, first_line=line),))
        line += next(waiting)


def _ranges(file: SourceFile, target_bytes: int) -> Iterator[Chunk]:
    ranges = -(-file.bytes // target_bytes)
    for index in range(ranges):
        start, end = file.bytes * index // ranges, file.bytes * (index + 1) // ranges
        yield Chunk((Part(file, start, end, 1 if start == 0 else None),))


def _can_split(file: SourceFile, target_bytes: int) -> bool:
    if file.bytes <= target_bytes or _looks_compressed(file):
        return False
    return wrapping(b"".join(read_pieces(file, 0, min(4, file.bytes)))) == "plain"


def _looks_compressed(file: SourceFile) -> bool:
    return file.url.endswith((".gz", ".zst"))


def _text_bytes(file: SourceFile) -> int:
    """The text to expect of a file; one of unknown size fills a chunk."""
    if file.bytes < 0:
        return 1 << 62
    return file.bytes * (COMPRESSION if _looks_compressed(file) else 1)
