"""Rank: the share of documents with a smaller value."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis import seeds
from tamis.expressions import Expression
from tamis.kernels.arrow import Int64, UInt64
from tamis.kernels.bits import GOLDEN
from tamis.kernels.order import ordered
from tamis.kernels.ranks import part_of, ranked
from tamis.scorers.base import OfExpression, Scores
from tamis.steps import Batch, Columns, Exchange, Fold, Pool, Steps, Summary

SPLITTERS = 1 << 14  # values drawn to part the others: of 10^10 documents, 6 · 10^5 between two of them


@dataclass(frozen=True)
class Rank(OfExpression):
    """The share of the documents whose value is smaller, plus half the share of those whose value is the same.

    Strictly between 0 and 1, and a half on average, whatever the values are: ranks of different scores can be added.
    It is exact: documents with different values have different ranks. Documents without a value have no rank and do
    not count.
    """

    def steps(self, pool: Pool) -> Steps:
        drawn = yield Fold(tuple(dict.fromkeys(("doc_id", *self.reads))), self._draw, merge=_least)
        splitters = np.unique(drawn["keys"])
        parts = (yield Fold(self.reads, partial(self._count, splitters)))["documents"]
        if not parts[::2].any():
            return self.map(pool, partial(self._tell, splitters, parts))
        returns = {"below": pa.uint32(), "equal": pa.uint32()}
        met = yield Exchange(self.reads, partial(self._send, splitters), _decide, returns)
        return replace(self.map(pool, partial(self._tell, splitters, parts)), joins=met)

    def _keys(self, batch: Batch) -> tuple[UInt64, Int64]:
        """(keys in the order of the values, the documents that have one)."""
        values = Expression(self.of).numbers(batch.table)
        known = np.flatnonzero(~np.isnan(values))
        return ordered(values[known]), known

    def _draw(self, batch: Batch) -> Summary:
        keys, known = self._keys(batch)
        return _first(seeds.hash64(0, "rank", batch.doc_ids)[known], keys)

    def _count(self, splitters: UInt64, batch: Batch) -> Summary:
        keys, _ = self._keys(batch)
        return {"documents": np.bincount(part_of(keys, splitters), minlength=2 * len(splitters) + 1)}

    def _send(self, splitters: UInt64, batch: Batch) -> Columns:
        """Those that lie between splitters; they meet the others of their part."""
        keys, known = self._keys(batch)
        part = part_of(keys, splitters)
        between = part % 2 == 0
        rows = batch["row"].to_numpy()[known[between]]
        return {"key": part[between].astype(np.uint64) * GOLDEN, "row": rows, "value": keys[between]}

    def _tell(self, splitters: UInt64, parts: Int64, batch: Batch) -> Scores:
        keys, known = self._keys(batch)
        part = part_of(keys, splitters)
        before, equal = (np.cumsum(parts) - parts)[part], parts[part]
        if "below" in batch.table.schema.names:
            below, same = (
                pc.fill_null(batch[name], 0).to_numpy()[known].astype(np.int64) for name in ("below", "equal")
            )
            between = part % 2 == 0
            before, equal = before + below, np.where(between, same, equal)
        ranks = np.full(len(batch), np.nan)
        ranks[known] = (before + equal / 2) / max(1, int(parts.sum()))
        return pa.array(ranks, from_pandas=True)


def _first(hashes: UInt64, keys: UInt64) -> Summary:
    """The values with the smallest hashes, at most so many as there are splitters."""
    order = np.lexsort((keys, hashes))[:SPLITTERS]
    return {"hashes": hashes[order], "keys": keys[order]}


def _least(one: Summary, other: Summary) -> Summary:
    return _first(*(np.concatenate([one[name], other[name]]) for name in ("hashes", "keys")))


def _decide(sent: pa.Table) -> pa.Table:
    below, equal = ranked(sent["key"].to_numpy(), sent["value"].to_numpy())
    return pa.table({"row": sent["row"], "below": below.astype(np.uint32), "equal": equal.astype(np.uint32)})
