"""The bytes of a file, whatever they are wrapped in: retried reads, gzip, zstd and UTF-16 become pieces of UTF-8."""

from __future__ import annotations

import codecs
import re
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import chain

import zstandard
from fsspec.core import url_to_fs

from tamis.errors import ContractError
from tamis.ingest.sources import SourceFile

PIECE = 4 << 20  # bytes asked for at once; a piece of decompressed text is not larger either
ATTEMPTS = 5
FIRST_PAUSE = 0.1  # seconds, doubled after every failure in a row
GZIP_INPUT = 256 << 10  # bytes; after an error this much is replayed byte by byte
ZSTD_INPUT = 8 << 10  # bytes; at worst each 4 of them become 128 KiB, so this bounds a piece at 256 MB
LARGEST_WINDOW = 1 << 31  # what `zstd --long=31` needs

WRAPPINGS = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    "bzip2": re.compile(rb"BZh[1-9]"),
    "xz": re.compile(rb"\xfd7zX"),
    "zip": re.compile(rb"PK\x03\x04"),
    "Parquet": re.compile(rb"PAR1"),
    "utf-32": re.compile(rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff"),  # before utf-16, whose mark it begins with
    "utf-16": re.compile(rb"\xff\xfe|\xfe\xff"),
}
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class DamagedError(Exception):
    """The stream cannot be read beyond what it has given."""


def read_pieces(file: SourceFile, start: int = 0, stop: int | None = None, piece: int = PIECE) -> Iterator[bytes]:
    """The stored bytes [start, stop) of a file, in pieces; a read that fails is tried again where it stopped.

    Raises OSError after ATTEMPTS failures in a row, ContractError if the file is shorter than it was when listed.
    """
    fs, path = url_to_fs(file.url)
    end = stop if stop is not None else file.bytes if file.bytes >= 0 else None
    position, failures, handle = start, 0, None
    try:
        while end is None or position < end:
            try:
                if handle is None:
                    handle = fs.open(path, "rb")
                    handle.seek(position)
                content = handle.read(piece if end is None else min(piece, end - position))
            except PERMANENT:
                raise
            except OSError as error:
                failures += 1
                if failures == ATTEMPTS:
                    raise OSError(f"{file.url}: {ATTEMPTS} reads failed at byte {position}: {error}") from error
                time.sleep(FIRST_PAUSE * 2 ** (failures - 1))
                handle = None
                continue
            if not content:
                break
            failures = 0
            position += len(content)
            yield content
    finally:
        if handle is not None:
            handle.close()
    if end is not None and position < end:
        raise ContractError(f"{file.url}: listed with {file.bytes} bytes, ends at {position}; did it change meanwhile?")


def wrapping(head: bytes) -> str:
    """What the first four bytes say about a file: a key of WRAPPINGS, or "plain"."""
    return next((name for name, mark in WRAPPINGS.items() if mark.match(head)), "plain")


def text_pieces(file: SourceFile) -> Iterator[bytes]:
    """A whole file as UTF-8, decompressed and decoded as its first bytes ask for.

    Raises DamagedError where the wrapping breaks, after everything before it has been given.
    """
    kind, pieces = _sniff(read_pieces(file))
    if kind in ("gzip", "zstd"):
        kind, pieces = _sniff(_gunzip(pieces) if kind == "gzip" else _unzstd(pieces))
    if kind in ("utf-16", "utf-32"):
        pieces = _decode(pieces, kind)
    elif kind != "plain":
        raise DamagedError(f"{kind} data where JSON lines were promised")
    yield from pieces


def _sniff(pieces: Iterator[bytes]) -> tuple[str, Iterator[bytes]]:
    """What the bytes are wrapped in, and all of them."""
    pieces, head = filter(None, pieces), b""
    while len(head) < 4 and (piece := next(pieces, b"")):
        head += piece
    return wrapping(head), chain([head], pieces)


def _gunzip(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Gzip members one after the other; zeros after a member are padding."""
    member = None
    for piece in pieces:
        for start in range(0, len(piece), GZIP_INPUT):
            rest = piece[start : start + GZIP_INPUT]
            while rest:
                if member is None:
                    rest = rest.lstrip(b"\0")
                    member = zlib.decompressobj(wbits=31) if rest else None
                    continue
                before = member.copy()
                try:
                    yield member.decompress(rest, PIECE)
                except zlib.error as error:
                    yield from _bytewise(before.decompress, rest)
                    raise DamagedError(f"corrupt gzip data ({error}): the rest of the file is missing") from error
                rest, member = (member.unused_data, None) if member.eof else (member.unconsumed_tail, member)
    if member is not None:
        yield member.flush()
        raise DamagedError("the gzip data ends early: the rest of the file is missing")


def _bytewise(decompress: Callable[[bytes], bytes], content: bytes) -> Iterator[bytes]:
    """What comes out before the byte that fails: zlib withholds the output of a call that ends in an error."""
    try:
        for index in range(len(content)):
            yield decompress(content[index : index + 1])
    except zlib.error:
        return  # the caller raises the error it met first


def _unzstd(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Zstd frames one after the other."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
    frame = None
    for piece in pieces:
        for start in range(0, len(piece), ZSTD_INPUT):
            rest = piece[start : start + ZSTD_INPUT]
            while rest:
                frame = frame or decompressor.decompressobj()
                try:
                    yield frame.decompress(rest)
                except zstandard.ZstdError as error:
                    raise DamagedError(f"corrupt zstd data ({error}): the rest of the file is missing") from error
                rest, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise DamagedError("the zstd data ends early: the rest of the file is missing")


def _decode(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """UTF-8 of another encoding; a lone surrogate stays one, so that its line is found to be bad, and no other."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="surrogatepass")
    try:
        for piece in pieces:
            yield decoder.decode(piece).encode("utf-8", "surrogatepass")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise DamagedError(f"broken {encoding} ({error.reason}): the rest of the file is missing") from error
