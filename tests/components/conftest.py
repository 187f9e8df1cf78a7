"""Drives one component's program by hand, over batches in memory."""

from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from tamis.steps import Batch, Decisions, Documents, Exchange, Fold, Map, Pool


@dataclass
class Program:
    """A component, and the batches of the corpus it runs over; `row` counts through them."""

    component: object
    name: str = "x"
    seed: int = 0

    def over(self, batches: list[pa.RecordBatch]) -> pa.Table:
        """The columns of the final map, in the order of the batches."""
        generator = self.component.steps(Pool(self.name, self.seed))
        self.tables = {}
        sent = None
        while True:
            try:
                asked = generator.send(sent)
            except StopIteration as end:
                return self._apply(end.value, batches)
            sent = (
                [self._run(step, batches) for step in asked] if isinstance(asked, list) else self._run(asked, batches)
            )

    def _run(self, step, batches):
        if isinstance(step, Fold):
            source = batches if step.over is None else [_batch(step.over)]
            assert source, "a fold of nothing"
            return reduce(step.merge, [step.summarize(Batch(batch.select(list(step.reads)))) for batch in source])
        assert isinstance(step, Exchange)
        emitted = [pa.table(dict(step.emit(Batch(batch.select(list(step.reads)))))) for batch in batches]
        table = pa.concat_tables(emitted)
        table = table.append_column("row", pa.array(np.arange(table.num_rows, dtype=np.uint64)))
        key = f"decisions {len(self.tables)}"
        shuffled = table.take(pa.array(np.random.default_rng(1).permutation(table.num_rows)))
        half = np.uint64(1 << 63)
        low = shuffled["key"].to_numpy() < half
        parts = [step.decide(shuffled.filter(pa.array(low))), step.decide(shuffled.filter(pa.array(~low)))]
        self.tables[key] = pa.concat_tables(parts).select(["row", *step.returns])
        return Decisions(key, step.returns)

    def _apply(self, last: Map, batches):
        done, tables = 0, []
        for batch in batches:
            table = pa.table(batch.select(list(last.reads)))
            if last.joins is not None:
                decided = self.tables[last.joins.key]
                place = {row: i for i, row in enumerate(decided["row"].to_pylist())}
                index = pa.array([place.get(done + i) for i in range(batch.num_rows)], pa.int64())
                for column in last.joins.returns:
                    table = table.append_column(column, decided[column].combine_chunks().take(index))
            if last.reads or last.joins:
                values = last.apply(Batch(table.combine_chunks().to_batches()[0] if batch.num_rows else _none(table)))
            out = pa.table({name: pa.array(value) for name, value in values.items()})
            tables.append(out.select(list(last.writes)).cast(pa.schema(list(last.writes.items()))))
            assert set(values) == set(last.writes)
            assert out.num_rows == batch.num_rows
            done += batch.num_rows
        return pa.concat_tables(tables)


def _none(table):
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in table.schema], schema=table.schema)


def _batch(documents: Documents) -> pa.RecordBatch:
    ids = [str(i) for i in range(len(documents.texts))]
    return pa.record_batch({"doc_id": pa.array(ids, pa.string()), "text": pa.array(documents.texts, pa.string())})


def _batches(texts, ids=None, cuts=()) -> list[pa.RecordBatch]:
    ids = [f"d{i:03}" for i in range(len(texts))] if ids is None else ids
    whole = pa.record_batch({"doc_id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())})
    edges = [0, *cuts, len(texts)]
    return [whole.slice(a, b - a) for a, b in pairwise(edges)]


@pytest.fixture(scope="session")
def batches():
    """texts, ids=None, cuts=() → record batches."""
    return _batches


@pytest.fixture(scope="session")
def run():
    """(component, batches, name="x", seed=0) → the table that its program writes."""
    return lambda component, batches, name="x", seed=0: Program(component, name, seed).over(batches)
