"""Exact duplicates: documents with the same words in the same order."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa

from tamis import seeds
from tamis.dedup.base import DECISION, Deduplicator, decide_clusters
from tamis.kernels.exact import exact_keys
from tamis.steps import Batch, Columns, Exchange, Pool, Steps


@dataclass(frozen=True, kw_only=True)
class Exact(Deduplicator):
    """Documents whose texts are equal in normal form C and lower case, whatever their punctuation and white space.

    A document without words is never a duplicate. Texts meet by 128-bit keys of their words.
    """

    version: ClassVar[int] = 3  # a similarity, ids of clusters by doc_id

    def steps(self, pool: Pool) -> Steps:
        decisions = yield Exchange(self.reads, partial(self._emit, pool), decide, dict(DECISION))
        return (yield from self.settle(pool, decisions))

    def _emit(self, pool: Pool, batch: Batch) -> Columns:
        high, low, has_words = exact_keys(batch.words)
        apart = seeds.hash64(0, "exact: no words", batch.doc_ids)  # spreads what has no key over the partitions
        return {
            "key": np.where(has_words, high ^ self.scope(batch), apart),
            "low": low,
            "has_words": has_words,
            "rank": self.rank(batch, pool),
            "doc_id": batch["doc_id"],
        }


def decide(table: pa.Table) -> pa.Table:
    """Decisions about the documents whose key is not theirs alone."""
    has_words = np.flatnonzero(table["has_words"].to_numpy())
    high, low = table["key"].to_numpy()[has_words], table["low"].to_numpy()[has_words]
    order = np.lexsort((low, high))
    high, low = high[order], low[order]
    starts = np.ones(len(order), bool)
    starts[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    number = np.cumsum(starts) - 1
    shared = np.bincount(number, minlength=1)[number] > 1
    _, renumbered = np.unique(number[shared], return_inverse=True)
    members = table.take(pa.array(has_words[order][shared])).combine_chunks()
    members = members.append_column("similarity", pa.array(np.ones(len(renumbered), np.float32)))
    return decide_clusters(members, renumbered)
