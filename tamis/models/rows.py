"""Documents as training rows, in an order that belongs to the documents: by a hash of their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.models.packing import pack
from tamis.models.tokenizer import Tokenizer

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Tokens = npt.NDArray[np.unsignedinteger[Any]]  # uint16 or uint32

Chosen = tuple[list[str], UInt64, Int64]  # texts, hashes of their ids, how often each is used


@dataclass(frozen=True)
class Drawn:
    """Encoded documents, and their order by hash. ids, offsets : as of `Tokenizer.encode`, as they came.

    hashes : uint64, (n). uses : int64, (n), how often each is used. bytes : int64, (n), of its text.
    order : int64, (k), which documents, in the order of their hashes.
    """

    ids: Tokens
    offsets: Int64
    hashes: UInt64
    uses: Int64
    bytes: Int64
    order: Int64

    def __len__(self) -> int:
        return len(self.order)

    def first(self, tokens: int) -> Drawn:
        """The first documents, as many as hold `tokens` tokens, end tokens counted; all, if they hold fewer."""
        have = np.cumsum((np.diff(self.offsets) + 1)[self.order] * self.uses[self.order])
        count = int(np.searchsorted(have, tokens)) + 1
        return replace(self, order=self.order[:count])

    def rows(self, row_tokens: int, end: int) -> Tokens:
        """Training rows, as `packing.pack` makes them; a document that is used twice follows itself."""
        return pack(self.ids, self.offsets, row_tokens, end, np.repeat(self.order, self.uses[self.order]))

    def arranged(self) -> tuple[Tokens, Int64]:
        """(ids, offsets) of the documents in their order, each once: a copy, for what fits in memory twice."""
        lengths = np.diff(self.offsets)[self.order]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return self.ids[np.arange(offsets[-1]) + np.repeat(self.offsets[self.order] - offsets[:-1], lengths)], offsets


def draw(batches: Iterable[Any], choose: Callable[[Any], Chosen], tokenizer: Tokenizer) -> Drawn:
    """The documents that `choose` takes of each batch; those of one hash follow each other by size, then by tokens.

    What comes of it is the same however the documents were cut into batches, and in whatever order these came.
    """
    parts: list[list[Any]] = [[], [], [], [], []]
    for batch in batches:
        texts, hashes, uses = choose(batch)
        ids, offsets = tokenizer.encode(texts)
        sizes = np.array([len(text.encode()) for text in texts], np.int64)
        for part, values in zip(parts, (ids, np.diff(offsets), hashes, uses, sizes), strict=True):
            part.append(values)
    ids, lengths, hashes, uses, sizes = (np.concatenate(part) for part in parts)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Drawn(ids, offsets, hashes, uses.astype(np.int64), sizes, _order(ids, offsets, sizes, hashes))


def _order(ids: Tokens, offsets: Int64, sizes: Int64, hashes: UInt64) -> Int64:
    """Documents by hash, those that share an id by what is in them: int64, (n)."""
    keys = (sizes, np.diff(offsets), hashes)
    order = np.lexsort(keys)
    same = np.all([np.diff(key[order]) == 0 for key in keys], axis=0)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], same, [0]])))
    for start, stop in edges.reshape(-1, 2).tolist():
        run = slice(start, stop + 1)
        order[run] = sorted(order[run], key=lambda i: ids[offsets[i] : offsets[i + 1]].tobytes())
    return np.asarray(order, np.int64)
