"""Documents → fixed rows of tokens: one stream, every document opened by the end token, cut every T tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32

_BLOCK_TOKENS = 1 << 20  # tokens whose int64 positions are held at once


def pack(ids: Tokens, offsets: Int64, row_tokens: int, end: int, order: Int64 | None = None) -> Tokens:
    """Rows for training: like `ids`, (rows, row_tokens + 1); inputs are row[:-1], targets are row[1:].

    The stream is `end d₀ end d₁ … end dₙ₋₁ end`. Row r holds its tokens r·T … r·T + T, so that neighbours share one
    token, every token but the first is a target exactly once, and the first token of a document is predicted from
    `end`, as in scoring. What does not fill a row at the end is dropped. Attention may look across documents in a row.

    ids : uint16 or uint32, (tokens). offsets : int64, (n + 1). end : the id between documents.
    order : int64, which documents to take and in which order; one may come several times. None: all, as they are.
    """
    if row_tokens < 1:
        raise ValueError(f"pack: row_tokens must be at least 1, got {row_tokens}")
    if order is None:
        order = np.arange(len(offsets) - 1, dtype=np.int64)
    lengths = offsets[order + 1] - offsets[order] + 1
    rows = int(lengths.sum()) // row_tokens  # the stream has one token more: the closing end
    stream = np.full(rows * row_tokens + 1 if rows else 0, end, ids.dtype)
    for at, block in _blocks(order, lengths):
        _place(stream[at:], ids, offsets, block)
    return pack_stream(stream, row_tokens)


def pack_stream(stream: Tokens, row_tokens: int) -> Tokens:
    """Rows of a stream that is already joined: like `stream`, (rows, row_tokens + 1)."""
    rows = max((len(stream) - 1) // row_tokens, 0)
    if not rows:
        return np.zeros((0, row_tokens + 1), stream.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(stream, row_tokens + 1)
    return np.ascontiguousarray(windows[: (rows - 1) * row_tokens + 1 : row_tokens])


def stream_of(ids: Tokens, offsets: Int64, end: int, order: Int64 | None = None) -> Tokens:
    """`end d₀ end d₁ …`, without a closing end: like `ids`, (tokens + documents). order : as of `pack`."""
    if order is None:
        order = np.arange(len(offsets) - 1, dtype=np.int64)
    lengths = offsets[order + 1] - offsets[order] + 1
    stream = np.full(int(lengths.sum()), end, ids.dtype)
    for at, block in _blocks(order, lengths):
        _place(stream[at:], ids, offsets, block)
    return stream


def _blocks(order: Int64, lengths: Int64) -> Iterator[tuple[int, Int64]]:
    """(place in the stream, documents), about `_BLOCK_TOKENS` at a time; a longer document is a block of its own."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    first = 0
    while first < len(order):
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + _BLOCK_TOKENS, side="right")) - 1)
        yield int(starts[first]), order[first:last]
        first = last


def _place(stream: Tokens, ids: Tokens, offsets: Int64, documents: Int64) -> None:
    """Writes `end d end d …` at the start of `stream`, which is full of end tokens; what is past its length is cut."""
    lengths = offsets[documents + 1] - offsets[documents]
    before = np.cumsum(lengths) - lengths  # tokens of this block before each document
    source = np.arange(int(lengths.sum())) + np.repeat(offsets[documents] - before, lengths)
    target = np.arange(len(source)) + np.repeat(np.arange(1, len(documents) + 1), lengths)
    fits = int(np.searchsorted(target, len(stream)))
    stream[target[:fits]] = ids[source[:fits]]
