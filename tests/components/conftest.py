"""Drives one component's program over batches in memory, with exchanges that are as unkind as they may be."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from tamis.inline import Inline
from tamis.routing import sorted_by
from tamis.steps import Batch, Pool


class Unkind(Inline):
    """Cuts the documents where it is told, and decides about the lower and the upper half of the keys apart."""

    def __init__(self, batches):
        super().__init__(pa.Table.from_batches(batches), {}, max(1, sum(batch.num_rows for batch in batches)))
        self._edges = np.cumsum([0, *(batch.num_rows for batch in batches)]).tolist()

    def batched(self, table):
        if table.num_rows != self._edges[-1]:
            return super().batched(table)
        whole = table.combine_chunks().to_batches()
        if not whole:
            return super().batched(table)
        return [Batch(whole[0].slice(a, b - a)) for a, b in pairwise(self._edges)]

    def decided(self, step, sent):
        shuffled = sent.take(pa.array(np.random.default_rng(1).permutation(sent.num_rows)))
        low = shuffled["key"].to_numpy() < np.uint64(1 << 63)
        halves = [sorted_by(shuffled.filter(pa.array(half)), "key") for half in (low, ~low)]
        return pa.concat_tables(super(Unkind, self).decided(step, half) for half in halves)


def _batches(texts, ids=None, cuts=(), **columns) -> list[pa.RecordBatch]:
    ids = [f"d{i:03}" for i in range(len(texts))] if ids is None else ids
    whole = pa.record_batch({"doc_id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string()), **columns})
    edges = [0, *cuts, len(texts)]
    return [whole.slice(a, b - a) for a, b in pairwise(edges)]


@pytest.fixture(scope="session")
def batches():
    """texts, ids=None, cuts=(), other columns → record batches."""
    return _batches


@pytest.fixture(scope="session")
def run():
    """(component, batches, name="x", seed=0) → the table that its program writes."""
    return lambda component, batches, name="x", seed=0: Unkind(batches).run(component, Pool(name, seed))
