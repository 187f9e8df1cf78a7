"""Passages of documents as bytes [start, end) of their UTF-8: united, measured, and left out of the text."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.kernels.arrow import Int64, Text, UInt8, one_array
from tamis.kernels.kernel import kernel

UInt32 = npt.NDArray[np.uint32]


class Spans(NamedTuple):
    """s spans of n documents; document i has the spans document[i] to document[i + 1].

    document : int64, (n + 1), from 0. start, end : uint32, (s), bytes of the document, start <= end.
    *Sorted* spans rise by start within a document; spans *apart* are sorted, not empty, and touch no other.
    """

    document: Int64
    start: UInt32
    end: UInt32

    def __len__(self) -> int:
        return len(self.document) - 1


def spans_of(column: pa.Array | pa.ChunkedArray) -> Spans:
    """The spans of a list column of structs `start`, `end`; a null is a document without spans."""
    array = one_array(column)
    values = array.flatten()  # of this slice, without what lies under nulls
    start, end = (values.field(name).cast(pa.uint32()).to_numpy() for name in ("start", "end"))
    return Spans(list_bounds(array), start, end)


def list_bounds(array: pa.ListArray) -> Int64:
    """Where each list begins in `array.flatten()`, and the end: int64, (n + 1); a null is an empty list."""
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def span_column(spans: Spans) -> pa.ListArray:
    """Spans as a list column of structs of two uint32."""
    values = pa.StructArray.from_arrays([pa.array(spans.start), pa.array(spans.end)], names=["start", "end"])
    return pa.ListArray.from_arrays(pa.array(spans.document.astype(np.int32)), values)


def united(parts: Sequence[Spans]) -> Spans:
    """The bytes that any of the parts covers, as spans apart: several stages' spans of the same n documents.

    Raises ValueError for parts that are about different numbers of documents.
    """
    if len(sizes := {len(part) for part in parts}) != 1:
        raise ValueError(f"united: expected spans of the same documents, got parts of {sorted(sizes)} documents")
    owner = np.concatenate([np.repeat(np.arange(len(part)), np.diff(part.document)) for part in parts])
    start, end = (np.concatenate([getattr(part, name) for part in parts]) for name in ("start", "end"))
    order = np.lexsort((start, owner))
    counts = np.bincount(owner, minlength=len(parts[0]))
    return apart(Spans(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), start[order], end[order]))


@kernel
def apart(spans: Spans) -> Spans:
    """The same bytes as spans apart. spans : sorted; they may overlap, touch or be empty."""
    document = np.zeros(len(spans.document), np.int64)
    start, end = np.empty(len(spans.start), np.uint32), np.empty(len(spans.start), np.uint32)
    count = 0
    for d in range(len(document) - 1):
        first = count
        for i in range(spans.document[d], spans.document[d + 1]):
            if spans.start[i] >= spans.end[i]:
                continue
            if count > first and spans.start[i] <= end[count - 1]:
                end[count - 1] = max(end[count - 1], spans.end[i])
            else:
                start[count], end[count] = spans.start[i], spans.end[i]
                count += 1
        document[d + 1] = count
    return Spans(document, start[:count], end[:count])


@kernel
def covered_bytes(spans: Spans) -> Int64:
    """How many bytes of each document its spans cover: int64, (n). spans : apart."""
    covered = np.zeros(len(spans.document) - 1, np.int64)
    for d in range(len(covered)):
        for i in range(spans.document[d], spans.document[d + 1]):
            covered[d] += np.int64(spans.end[i]) - np.int64(spans.start[i])
    return covered


@kernel
def _inward(data: UInt8, i: int, j: int, stop: int) -> tuple[int, int]:
    """The part of data[i:j] that no character crosses into, before `stop`, where the document ends."""
    i, j = min(i, stop), min(j, stop)
    while i < j and data[i] & 0xC0 == 0x80:
        i += 1
    while j > i and j < stop and data[j] & 0xC0 == 0x80:
        j -= 1
    return i, j


@kernel
def _cut(text: Text, spans: Spans, offsets: Int64, out: UInt8) -> Int64:
    """Copies what is outside the spans to `out`, which is as long as the text; bytes left out: int64, (n)."""
    left_out = np.zeros(len(spans.document) - 1, np.int64)
    data, at = text.data, 0
    for d in range(len(left_out)):
        begin, stop = text.offsets[d], text.offsets[d + 1]
        done = begin
        for s in range(spans.document[d], spans.document[d + 1]):
            i, j = _inward(data, begin + np.int64(spans.start[s]), begin + np.int64(spans.end[s]), stop)
            if i < j:
                out[at : at + i - done] = data[done:i]
                at += i - done
                left_out[d] += j - i
                done = j
        out[at : at + stop - done] = data[done:stop]
        at += stop - done
        offsets[d + 1] = at
    return left_out


def without_spans(text: Text, spans: Spans) -> tuple[Text, Int64]:
    """(the documents without their spans, bytes left out of each: int64, (n)). spans : apart.

    A character of which a span covers some bytes only stays whole, so that UTF-8 stays UTF-8; what a span covers
    beyond the end of its document is nothing.
    Raises ValueError for spans of another number of documents.
    """
    if len(text) != len(spans):
        raise ValueError(f"without_spans: expected spans of {len(text)} documents, got spans of {len(spans)}")
    offsets = np.zeros(len(text) + 1, np.int64)
    out = np.empty(int(text.offsets[-1] - text.offsets[0]), np.uint8)
    left_out = _cut(text, spans, offsets, out)
    out.setflags(write=False)  # read-only like all text: one compiled kernel serves all
    return Text(offsets, out), left_out
